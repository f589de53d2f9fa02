"""Footprints: what they cover, and what shares ground."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.warp
from hypothesis import given
from hypothesis import strategies as st
from shapely import Point, box

from otbsr.errors import InputError, UsageError
from otbsr.grid import Grid
from otbsr.pairs.footprints import rectangles, require_apart, same_place, validation_footprints
from otbsr.pairs.patches import write_points

GROUND = {"crs": "EPSG:32631", "bounds": [600000.0, 4800000.0, 601000.0, 4801000.0]}


@pytest.fixture
def cut(tmp_path):
    """Folders of pairs on 1 km: rectangles (left, bottom, right, top) that one trains on, and the lower left corners of 320 m that it validates with."""

    def folder(name, trained, validated, seed=None, footprint=GROUND, source="a"):
        path = tmp_path / name
        path.mkdir()
        places = [Point(600000 + x + 160, 4800000 + y + 160) for x, y in validated]
        geopandas.GeoDataFrame({"patch": range(len(places))}, geometry=places, crs="EPSG:32631").to_file(path / "valid.gpkg")
        parts = [{"crs": "EPSG:32631", "bounds": [600000 + a, 4800000 + b, 600000 + c, 4800000 + d]} for a, b, c, d in trained]
        splits = {"train": {"accepted": len(trained)}, "valid": {"accepted": len(validated), "points": "valid.gpkg"}}
        return path, {"spacing": 10.0, "patch": 32, "seed": seed, "footprint": footprint, "footprints": parts, "splits": splits, "input": {"sha256": source}}

    return folder


def test_validation_on_what_another_folder_trains_on_is_refused(cut):
    """By the ground, in any CRS; what only touches, or is another landscape, is apart."""
    west, east = [(0, 0, 500, 1000)], [(500, 0, 1000, 1000)]
    first, alike = cut("first", west, [(500, 0), (660, 600)]), cut("alike", west, [(500, 300)], source="b")
    require_apart([first, alike, first])
    other = cut("other", east, [(100, 100)], source="d")
    with pytest.raises(UsageError, match=r"first: 2 of 2 validation patches lie on ground that .*other trains on"):
        require_apart([first, other])
    require_apart([first, cut("touching", west, [], source="e")])
    zone = cut("zone", [(170, 0, 1000, 1000)], [], source="f")  # the same ground in the next zone's coordinates
    for part in (zone[1]["footprints"][0], place := dict(GROUND)):
        part |= {"crs": "EPSG:32630", "bounds": list(rasterio.warp.transform_bounds("EPSG:32631", "EPSG:32630", *part["bounds"]))}
    with pytest.raises(UsageError, match="2 of 2 validation patches"):
        require_apart([first, (zone[0], zone[1] | {"footprint": place})])
    landscapes = [cut(f"seed{seed}", part, [place], seed=seed, footprint=None) for seed, part, place in ((1, west, (600, 0)), (2, east, (0, 0)))]
    require_apart(landscapes)
    again = cut("again", east, [], seed=1, footprint=None)
    with pytest.raises(UsageError, match="seed1: 1 of 1 validation patches"):
        require_apart([*landscapes, again])


def test_an_aerial_image_in_two_sizes_does_not_judge_itself(cut):
    """Coordinates of what is made of it say nothing of the ground: one size trains, the other validates."""
    place = {"crs": "EPSG:26917", "bounds": [0.0, 0.0, 300.0, 300.0]}
    small = cut("small", [(0, 0, 500, 1000)], [(600, 0)], footprint=place)
    large = cut("large", [(0, 0, 400, 1000)], [], footprint=place, source="b")
    with pytest.raises(UsageError, match=r"small and .*large: show the same aerial image in two ways"):
        require_apart([small, large])
    require_apart([small, small])
    elsewhere = cut("elsewhere", [(500, 0, 1000, 1000)], [], footprint=place | {"bounds": [300.0, 0.0, 600.0, 300.0]}, source="c")
    require_apart([small, elsewhere])


@pytest.mark.parametrize("patch", [4, 5])
@pytest.mark.parametrize("factor", [2, 4])
def test_footprints_of_validation_are_within_their_patches_alone(tmp_path, patch, factor):
    """Of the points that PatchesExtraction is given: each patch's ground holds its own square but for less than a pixel, and none of a neighbour's."""
    coarse = Grid(300000.0, 4900020.0, 10.0, 10.0, 4 * patch, 4 * patch, "EPSG:32631")
    corners = np.array([(row * patch, column * patch) for row in range(4) for column in range(4)])
    write_points(tmp_path / "valid.gpkg", corners, coarse, coarse.refined(factor), patch)
    manifest = {"patch": patch, "spacing": 10.0, "splits": {"valid": {"accepted": 16, "points": "valid.gpkg"}}}
    for square, (row, column) in zip(validation_footprints(tmp_path, manifest), corners, strict=True):
        patch_ground = box(*coarse.corner(column, row + patch), *coarse.corner(column + patch, row))
        assert patch_ground.contains_properly(square) and square.area == pytest.approx(((patch - 1) * 10.0) ** 2)
    manifest["splits"]["valid"]["points"] = "gone.gpkg"
    assert validation_footprints(tmp_path, manifest) is None
    (tmp_path / "gone.gpkg").write_text("no points")
    with pytest.raises(InputError, match=r"gone\.gpkg: cannot be read"):
        validation_footprints(tmp_path, manifest)


def test_one_place_in_any_coordinates():
    def at(crs, *bounds, seed=None):
        return {"seed": seed, "footprint": {"crs": crs, "bounds": list(bounds)}}

    here, beside = at("EPSG:32631", 6e5, 4.8e6, 6.01e5, 4.801e6), at("EPSG:32631", 6.01e5, 4.8e6, 6.02e5, 4.801e6)
    zone = at("EPSG:32630", *rasterio.warp.transform_bounds("EPSG:32631", "EPSG:32630", *here["footprint"]["bounds"]))
    assert same_place(here, here) and same_place(here, zone) and same_place(zone, here) and not same_place(here, beside)
    nowhere = 'LOCAL_CS["drawing",UNIT["metre",1]]'
    assert not same_place(here, at(nowhere, *here["footprint"]["bounds"])) and same_place(at(nowhere, 0, 0, 2, 2), at(nowhere, 1, 1, 3, 3))
    assert not same_place(here, at("", *here["footprint"]["bounds"])) and not same_place(here, {"seed": None, "footprint": None})
    landscapes = [{"seed": seed, "footprint": None} for seed in (1, 1, 2)]
    assert same_place(*landscapes[:2]) and not same_place(*landscapes[1:]) and not same_place(landscapes[0], here)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=12), st.integers(1, 5))
def test_rectangles_cover_the_patches_once(corners, patch):
    expected = np.zeros((20, 20), int)
    for row, column in corners:
        expected[row : row + patch, column : column + patch] = 1
    found = np.zeros_like(expected)
    for top, left, bottom, right in rectangles(np.array(corners, np.int64).reshape(-1, 2), patch):
        found[top:bottom, left:right] += 1
    np.testing.assert_array_equal(found, expected)
