"""Pixel geometry: corners, nesting, comparison."""

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine
from rasterio.windows import Window

from otbsr.errors import GridError, InputError
from otbsr.grid import Grid

grids = st.builds(
    Grid,
    left=st.integers(100_000, 900_000).map(float),
    top=st.integers(0, 9_999_999).map(float),
    dx=st.sampled_from([10.0, 20.0, 6.0, 1.5, 10 / 3]),
    dy=st.sampled_from([10.0, 20.0, 6.0, 1.5, 10 / 3]),
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
)
factors = st.sampled_from([1, 2, 3, 4, 5, 6, 8])


@given(grids, factors)
def test_refined_grid_keeps_the_footprint_and_nests(grid, factor):
    fine = grid.refined(factor)
    assert (fine.width, fine.height) == (grid.width * factor, grid.height * factor)
    assert np.allclose(fine.bounds, grid.bounds, rtol=0, atol=1e-6)
    assert grid.factor_to(fine) == factor
    assert fine.coarsened(factor).same(grid)


@given(grids, factors, st.integers(0, 100), st.integers(0, 100))
def test_centre_of_a_coarse_pixel_is_the_mean_of_its_children(grid, factor, column, row):
    fine = grid.refined(factor)
    children = [fine.centre(column * factor + i, row * factor + j) for i in range(factor) for j in range(factor)]
    assert np.allclose(np.mean(children, axis=0), grid.centre(column, row), rtol=0, atol=1e-5)
    assert np.allclose(grid.position(*grid.corner(column, row)), (column, row), atol=1e-5)


@given(grids, st.floats(0.01, 0.99))
def test_a_shift_of_a_part_of_a_pixel_is_seen(grid, share):
    moved = Grid(grid.left + share * grid.dx, grid.top, grid.dx, grid.dy, grid.width, grid.height)
    assert not grid.same(moved)
    with pytest.raises(GridError, match="grids differ: corner"):
        grid.require_same(moved, "test")


def test_upstreams_displacement_is_refused():
    coarse = Grid(300_000, 4_900_020, 10, 10, 100, 90)
    fine = Grid(300_003.75, 4_900_016.25, 2.5, 2.5, 400, 360)
    with pytest.raises(GridError, match="do not nest"):
        coarse.factor_to(fine)


def test_grid_of_files(tmp_path):
    def write(name, transform):
        with rasterio.open(tmp_path / name, "w", driver="GTiff", width=5, height=4, count=1, dtype="uint8", transform=transform, crs="EPSG:32631") as f:
            f.write(np.ones((1, 4, 5), "uint8"))
        return tmp_path / name

    grid = Grid.read(write("a.tif", Affine(10, 0, 600_000, 0, -10, 4_900_020)))
    assert grid.bounds == (600_000, 4_899_980, 600_050, 4_900_020)
    assert grid.cropped(Window(1, 2, 3, 2)).bounds == (600_010, 4_899_980, 600_040, 4_900_000)
    with pytest.raises(GridError, match="rotated"):
        Grid.read(write("b.tif", Affine(10, 1, 600_000, 1, -10, 4_900_020)))
    with pytest.raises(GridError, match="not north-up"):
        Grid.read(write("c.tif", Affine(10, 0, 600_000, 0, 10, 4_900_020)))
    with pytest.raises(InputError, match="cannot be read"):
        Grid.read(tmp_path / "absent.tif")
