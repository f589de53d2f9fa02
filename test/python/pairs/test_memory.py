"""Memory that does not grow with the scene: made by windows, the same pixels as at once."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.env import getenv, hasenv
from scipy import ndimage

from otbsr.errors import OutputError
from otbsr.grid import Grid
from otbsr.pairs import chain, orthorectification, rejection, resample
from otbsr.pairs.alignment import AlignmentSettings, Array, Field
from otbsr.pairs.manifest import Steps
from otbsr.pairs.memory import CACHE, Shelf, bounded_cache
from otbsr.pairs.patches import PatchSettings, block_splits, split_of, write_features
from otbsr.products import open_product
from otbsr.progress import silent
from otbsr.serving import otb

BANDS = ("B4", "B3", "B2", "B8")


def write(path, values, spacing, names=BANDS):
    """[bands, h, w] int16 on a map, in blocks of 256."""
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": "int16", "nodata": -10000}
    profile |= {
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "crs": "EPSG:32631",
        "transform": rasterio.Affine(spacing, 0, 500040, 0, -spacing, 4800000),
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values.astype(np.int16))
        file.descriptions = names
    return path


def images(folder, side, seed=0):
    """Input of `side` pixels and its target, in which things lie 2.5 m east of where they are in the input; of texture that goes on without seams."""
    random = np.random.default_rng(seed)
    tile = ndimage.gaussian_filter(random.standard_normal((4, 480, 480)), (0, 1.5, 1.5), mode="wrap")
    fine = np.tile(2000 + 2500 * tile, (1, -(-side // 120), -(-side // 120)))[:, : 4 * side, : 4 * side]
    blurred = ndimage.gaussian_filter(fine, (0, 1.6, 1.6), mode="wrap")
    folder.mkdir()
    lr = write(folder / "lr.tif", np.rint(blurred.reshape(4, side, 4, side, 4).mean((2, 4)) + random.normal(0, 10, (4, side, side))), 10.0)
    return lr, write(folder / "target.tif", np.rint(np.roll(fine, 1, 2)), 2.5)


def small_windows(monkeypatch, side):
    """Windows of `side` pixels, so that small scenes have many."""
    for module in (chain, orthorectification, resample):
        monkeypatch.setattr(module, "WINDOW", side)
    monkeypatch.setattr(rejection, "SIDE", side)


def test_a_scene_of_four_times_the_area_takes_no_more_memory(tmp_path, monkeypatch):
    """All that Python and NumPy hold at a time while images are made, aligned and compared; GDAL's cache and OTB's buffers have their own bounds."""
    small_windows(monkeypatch, 64)
    how = chain.ChainSettings(alignment=AlignmentSettings(window=16, most=8))
    peaks = []
    for side in (128, 128, 256):  # the first run imports what is needed
        folder = tmp_path / f"{len(peaks)}"
        lr, target = (open_product(path) for path in images(folder, side))
        tracemalloc.start()
        steps = chain.Chain(lr, target, how, PatchSettings(patch=16), Steps(folder / "steps"), silent)
        steps.input()
        sharp = steps.sharp()
        found = steps.align(sharp)
        blurred = steps.target(sharp, found)
        paths = (steps.path(name) for name in ("input.tif", "target.tif", "masks.tif", "quality.tif"))
        lr_path, target_path, mask, quality = paths
        rejection.compare(lr_path, [1, 2, 3, 4], target_path, mask, quality, found, blurred)
        rejection.patch_measures(quality, np.stack(np.meshgrid(range(0, side - 15, 16), range(0, side - 15, 16)), -1).reshape(-1, 2), 16, 5.0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        np.testing.assert_allclose(found.shift, (2.5, 0), atol=0.1)
    assert peaks[2] < 1.5 * peaks[1], peaks  # 4 to 5 MB; all of the larger target image would be 17 MB, of 16 bits 8 MB


def test_windows_make_the_same_pixels(tmp_path, monkeypatch):
    """Reflectance, resampled and measured in windows of 64 pixels and at once."""
    lr, target = images(tmp_path / "images", 120)
    grid = Grid.read(target)
    found = []
    for side in (64, 1024):
        small_windows(monkeypatch, side)
        names = [tmp_path / f"{name}_{side}.tif" for name in ("calibrated", "map", "target", "quality")]
        orthorectification.calibrate(open_product(lr), list(BANDS), names[0])
        orthorectification.reproject(target, names[1], "EPSG:32630")
        with rasterio.open(target) as file:
            source = Array(file.read() * 1e-4, grid, BANDS)
        resample.resample(source, names[2], grid, Field(grid.bounds, (1.2,), (0.4,)), 1.0, (1.1,) * 4, (0.01,) * 4, block=64)
        random = np.random.default_rng(1)
        write(names[3], random.integers(0, 9000, (6, 120, 120)) * np.array([0, 0, 1, 1, 1, 1])[:, None, None], 10.0, ("",) * 6)
        corners = np.stack(np.meshgrid(range(0, 105, 7), range(0, 105, 7), indexing="ij"), -1).reshape(-1, 2)
        measures = rejection.patch_measures(names[3], corners, 16, 5.0)
        planes = [rasterio.open(name).read().astype(int) for name in names[:3]]
        found.append((planes, measures))
    (few, some), (many, same) = found
    for name, values in some.items():
        np.testing.assert_array_equal(values, same[name], err_msg=name)
    np.testing.assert_array_equal(few[0], many[0])
    np.testing.assert_array_equal(few[2], many[2])
    # GDAL's way from one map to another is exact to a twentieth of a pixel; it is followed in shorter pieces by smaller windows.
    assert few[1].shape == many[1].shape
    assert np.abs(few[1] - many[1])[:, 30:-30, 30:-30].mean() < 3


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 30), st.integers(1, 16), st.integers(0, 4), st.floats(0, 1), st.integers(0, 99))
@settings(deadline=None)
def test_splits_are_those_that_pixels_tell(height, width, block, patch, buffer, valid, seed):
    """The split by blocks against one that paints them and looks at every pixel of each patch."""
    patch = min(patch, height, width)
    how = PatchSettings(patch=max(patch, 4), block=block, buffer=buffer, valid=valid, seed=seed)
    if min(height, width) < how.patch:
        return
    grid = Grid(0.0, 0.0, 10.0, 10.0, width, height)
    mask = block_splits(-(-height // block), -(-width // block), valid, seed)
    pixels = np.kron(mask, np.ones((block, block), bool))[:height, :width]
    corners = np.random.default_rng(seed).integers(0, (height - how.patch + 1, width - how.patch + 1), (20, 2))
    for (row, column), split in zip(corners, split_of(grid, corners, how), strict=True):
        inside = pixels[row : row + how.patch, column : column + how.patch]
        around = pixels[max(0, row - buffer) : row + how.patch + buffer, max(0, column - buffer) : column + how.patch + buffer]
        assert split == (0 if not around.any() else 1 if inside.all() else -1)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 60))
def test_windows_cover_a_grid_once(width, height, side):
    seen = np.zeros((height, width), int)
    for window in Grid(0.0, 0.0, 1.0, 1.0, width, height).windows(side):
        assert max(window.width, window.height) <= side
        seen[window.row_off : window.row_off + window.height, window.col_off : window.col_off + window.width] += 1
    assert (seen == 1).all()


def test_arrays_wait_in_a_file(tmp_path):
    first, second = (np.random.default_rng(seed).random((2, 30, 20), np.float32) for seed in (1, 2))
    with Shelf(tmp_path) as shelf:
        kept = [shelf.put(first), shelf.put(second[:, ::2])]
        np.testing.assert_array_equal(kept[1].get(), second[:, ::2])
        kept[0].put(second[:, 3:, 4:])
        np.testing.assert_array_equal(kept[0].get(), second[:, 3:, 4:])
        np.testing.assert_array_equal(kept[1].get(), second[:, ::2])
        with pytest.raises(ValueError, match="do not fit"):
            kept[1].put(first)
        assert not list(tmp_path.iterdir()), "the file has no name that could stay behind"


def test_a_full_disk_is_told(small_disk):
    with pytest.raises(OutputError, match=r"temporary files cannot be written .* free some space"), Shelf(small_disk) as shelf:
        shelf.put(np.zeros(1 << 20, np.float32))
    with pytest.raises(OutputError, match=r"no temporary file can be made .*; set TMPDIR"):
        Shelf(small_disk / "nothing")


def test_gdal_keeps_little_here_and_in_otb(monkeypatch):
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    with bounded_cache():
        assert getenv()["GDAL_CACHEMAX"] == CACHE << 20
        assert otb.otb_environment()["GDAL_CACHEMAX"] == str(CACHE)
        with bounded_cache(1):
            assert getenv()["GDAL_CACHEMAX"] == CACHE << 20, "the outer bound holds"
    assert "GDAL_CACHEMAX" not in os.environ
    assert "GDAL_CACHEMAX" not in (getenv() if hasenv() else {})
    monkeypatch.setenv("GDAL_CACHEMAX", "200")
    with bounded_cache():
        assert otb.otb_environment()["GDAL_CACHEMAX"] == "200", "the user's own"


def test_features_are_written_in_parts(tmp_path, monkeypatch):
    """Three parts make one layer, in order, and are read back in parts."""
    from shapely import points

    monkeypatch.setattr("otbsr.pairs.patches.FEATURES", 10)
    monkeypatch.setattr(chain, "FEATURES", 7)
    x, y = np.arange(25.0), np.arange(25.0)[::-1]
    write_features(tmp_path / "p.gpkg", "points", "EPSG:32631", 25, lambda rows: ({"n": np.arange(rows.start, rows.stop)}, points(x[rows], y[rows])))
    np.testing.assert_array_equal(np.stack(chain.read_points(tmp_path / "p.gpkg")), np.stack([x, y]))
