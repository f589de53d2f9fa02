"""PatchesSelection, run as users run it: grid, no-data, strategies, files, messages."""

from __future__ import annotations

import os
import re

import geopandas
import image_files
import numpy as np
import pytest
import rasterio
from application import CRS, LEFT, TOP, cells, expected_centres, extraction, needs, otb, pair_scene, points, read, select, write
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from shapely.geometry import Point

pytestmark = needs("PatchesSelection", "PatchesExtraction")


@pytest.mark.parametrize(("size", "step", "offset"), [(5, 5, 0), (4, 4, 0), (6, 3, 0), (1, 1, 0), (4, 5, 2), (3, 1, 0)])
def test_selection_places_otbtfs_grid(tmp_path, size, step, offset):
    image = write(tmp_path / "image.tif", np.ones((23, 31, 1), np.float32), 10.0)
    more = {"strategy": "all", "grid.offsetx": offset, "grid.offsety": 0}
    status, log = select(tmp_path, image, step, size, **more)
    assert status == 0, log
    columns, rows = expected_centres(31, size, step, offset), expected_centres(23, size, step)
    assert cells(tmp_path / "train.gpkg", size) == [(c, r) for r in rows for c in columns]
    assert geopandas.read_file(tmp_path / "train.gpkg")["id"].tolist() == list(range(len(columns) * len(rows)))
    # A no-data value that is nowhere changes nothing, whatever the strips' height.
    os.remove(tmp_path / "train.gpkg")
    status, log = select(tmp_path, image, step, size, nodata=-1, **more)
    assert status == 0, log
    assert cells(tmp_path / "train.gpkg", size) == [(c, r) for r in rows for c in columns]


def test_selected_patches_are_inside_and_free_of_no_data(tmp_path):
    """§9: no-data in all bands; a mask at the centre without no-data, in the whole patch with it."""
    random = np.random.default_rng(5)
    pixels = random.integers(1, 100, (60, 70, 2)).astype(np.int16)
    holes = random.random((60, 70)) < 0.01
    pixels[holes] = 0
    pixels[5::7, 3::9, 0] = 0  # no-data in one band only: not no-data for the selection
    mask = np.ones((60, 70, 1), np.uint8)
    mask[:, 50:] = 0
    image, mask_file = write(tmp_path / "image.tif", pixels, 10.0), write(tmp_path / "mask.tif", mask, 10.0)
    status, log = select(tmp_path, image, 2, 6, strategy="all", nodata=0, mask=mask_file)
    assert status == 0, log
    bad = holes | (mask[..., 0] == 0)
    expected = [(c, r) for r in expected_centres(60, 6, 2) for c in expected_centres(70, 6, 2) if not bad[r - 3 : r + 4, c - 3 : c + 4].any()]
    assert cells(tmp_path / "train.gpkg", 6) == expected and expected
    # The mask alone counts at the centre.
    status, log = select(tmp_path, image, 2, 6, strategy="all", mask=mask_file, outtrain=tmp_path / "masked.gpkg")
    assert status == 0, log
    assert cells(tmp_path / "masked.gpkg", 6) == [(c, r) for r in expected_centres(60, 6, 2) for c in expected_centres(70, 6, 2) if c < 50]


def test_no_data_may_be_nan(tmp_path):
    pixels = np.ones((20, 20, 1), np.float32)
    pixels[9, 12] = np.nan
    image = write(tmp_path / "image.tif", pixels, 10.0)
    status, log = select(tmp_path, image, 1, 4, strategy="all", nodata="nan")
    assert status == 0, log
    whole = expected_centres(20, 4, 1)
    assert cells(tmp_path / "train.gpkg", 4) == [(c, r) for r in whole for c in whole if not (abs(r - 9) <= 2 and abs(c - 12) <= 2)]


def test_chessboard_and_split(tmp_path):
    """§9: (x + y) % 2 of the grid position; shares; ids that run on over the groups."""
    image = write(tmp_path / "image.tif", np.ones((100, 100, 1), np.float32), 10.0)
    out = {"outvalid": tmp_path / "valid.gpkg", "outtest": tmp_path / "test.gpkg"}
    everything = [(c, r) for r in expected_centres(100, 5, 5) for c in expected_centres(100, 5, 5)]

    status, log = select(tmp_path, image, strategy="chessboard", outvalid=out["outvalid"])
    assert status == 0, log
    train, valid = cells(tmp_path / "train.gpkg", 5), cells(out["outvalid"], 5)
    assert sorted(train + valid) == sorted(everything)
    assert all((c // 5 + r // 5) % 2 == 0 for c, r in train) and all((c // 5 + r // 5) % 2 == 1 for c, r in valid)
    numbers = [geopandas.read_file(path)["id"].tolist() for path in (tmp_path / "train.gpkg", out["outvalid"])]
    assert [k for group in numbers for k in group] == list(range(len(everything)))

    shares = {"strategy": "split", "strategy.split.trainprop": 60, "strategy.split.validprop": 30, "strategy.split.testprop": 10}
    orders = []
    for random in (False, True, True):
        status, log = select(tmp_path, image, **shares, **out, **{"strategy.split.random": random})
        assert status == 0, log
        groups = [cells(path, 5) for path in (tmp_path / "train.gpkg", *out.values())]
        assert sorted(cell for group in groups for cell in group) == sorted(everything)
        for group, share in zip(groups, (0.6, 0.3, 0.1), strict=True):
            assert abs(len(group) - share * len(everything)) <= 2
        orders.append(groups)
    assert orders[1] == orders[2] != orders[0]  # random, and the same in every run


def test_selected_points_are_the_centres_of_equal_footprints(tmp_path):
    coarse, fine, pixels = pair_scene(tmp_path)
    status, log = select(tmp_path, coarse, 4, 4, strategy="all")
    assert status == 0, log
    status, log = otb("PatchesExtraction", extraction(tmp_path, coarse, fine, tmp_path / "train.gpkg", size=4), sources=2)
    assert status == 0, log
    assert "rejected 0" in log
    corners = [(c - 2, r + 1 - 2) for c, r in cells(tmp_path / "train.gpkg", 4)]
    np.testing.assert_array_equal(read(tmp_path / "lr.tif", 4), np.stack([pixels[r : r + 4, c : c + 4] for c, r in corners]))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_grid_is_the_rules_by_brute_force(tmp_path_factory, data):
    """§9: the grid rule, no-data in all bands, the mask, even and odd sizes, offsets of any sign; and the points, as PatchesExtraction sees them."""
    folder = tmp_path_factory.mktemp("grid")
    rows, columns = data.draw(st.integers(3, 25)), data.draw(st.integers(3, 25))
    size, step = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 7))
    offsets = data.draw(st.tuples(st.integers(-9, 9), st.integers(-9, 9)))
    random = np.random.default_rng(data.draw(st.integers(0, 100)))
    pixels = random.integers(0, 3, (rows, columns, 2)).astype(np.int16)
    pixels[random.random((rows, columns)) < 0.01] = 0
    mask = (random.random((rows, columns, 1)) > 0.02).astype(np.uint8) * random.integers(1, 3, dtype=np.uint8)
    with_nodata, with_mask = data.draw(st.booleans()), data.draw(st.booleans())
    keys = {"strategy": "all", "grid.offsetx": offsets[0], "grid.offsety": offsets[1]}
    valid = np.ones((rows, columns), bool)
    if with_nodata:
        keys["nodata"] = 0
        valid &= ~(pixels == 0).all(axis=2)
    if with_mask:
        keys["mask"] = write(folder / "mask.tif", mask, 10.0)
        valid &= mask[..., 0] != 0
    r, expected = size // 2, []
    for i in range(r, rows - r):
        for j in range(r, columns - r):
            first = [step > 1 and k == r for k in (i, j)]
            on_grid = (i - (r + 1) - offsets[1]) % step == 0 and (j - (r + 1) - offsets[0]) % step == 0 and not any(first)
            around = valid[i - r : i + r + 1, j - r : j + r + 1].all()
            kept = around if with_nodata else not with_mask or mask[i, j, 0] == 1
            if on_grid and kept:
                expected.append((j, i))
    status, log = select(folder, write(folder / "image.tif", pixels, 10.0), step, size, **keys)
    if expected:
        assert status == 0, log
        assert cells(folder / "train.gpkg", size) == expected
    else:
        assert status != 0 and "can be placed" in log
        assert not (folder / "train.gpkg").exists()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_south_up_image_and_image_without_georeference(tmp_path):
    """§9: the point of an even patch is half a pixel towards smaller x and y; PatchesExtraction finds the patch again."""
    pixels = np.arange(16 * 20, dtype=np.float32).reshape(16, 20, 1)
    south_up = write(tmp_path / "south.tif", pixels, 10.0, north_up=False)
    plain = tmp_path / "plain.tif"
    with rasterio.open(plain, "w", driver="GTiff", width=20, height=16, count=1, dtype="float32") as image:
        image.write(pixels.transpose(2, 0, 1))
    for path in (south_up, plain):
        status, log = select(tmp_path, path, 4, 4, strategy="all")
        assert status == 0, log
        keys = {"source1.il": [path], "source1.patchsizex": 4, "source1.patchsizey": 4, "source1.out": tmp_path / "p.tif"}
        status, log = otb("PatchesExtraction", {**keys, "vec": tmp_path / "train.gpkg", "field": "id"})
        assert status == 0, log
        corners = [(c - 2, r - 2) for r in expected_centres(16, 4, 4) for c in expected_centres(20, 4, 4)]
        np.testing.assert_array_equal(read(tmp_path / "p.tif", 4), np.stack([pixels[r : r + 4, c : c + 4] for c, r in corners]))


def test_outputs_that_a_strategy_does_not_fill_are_ignored_with_a_warning(tmp_path):
    """§9: outtest with chessboard, outvalid and outtest with all."""
    image = write(tmp_path / "image.tif", np.ones((30, 30, 1), np.float32), 10.0)
    out = {"outvalid": tmp_path / "valid.gpkg", "outtest": tmp_path / "test.gpkg"}
    status, log = select(tmp_path, image, strategy="chessboard", **out)
    assert status == 0 and "outtest is ignored: strategy chessboard does not fill it" in log, log
    assert out["outvalid"].exists() and not out["outtest"].exists()
    out["outvalid"].unlink()
    status, log = select(tmp_path, image, strategy="all", **out)
    assert status == 0 and "outvalid is ignored" in log and "outtest is ignored" in log, log
    assert not out["outvalid"].exists() and not out["outtest"].exists()
    # Split: shares of outputs that are not given count as 0, and shares are relative.
    status, log = select(tmp_path, image, strategy="split", outtest=out["outtest"], **{"strategy.split.trainprop": 1, "strategy.split.testprop": 3})
    assert status == 0, log
    train, test = (len(geopandas.read_file(path)) for path in (tmp_path / "train.gpkg", out["outtest"]))
    assert train + test == len(expected_centres(30, 5, 5)) ** 2 and abs(test - 3 * train) <= 3 and not out["outvalid"].exists()


@pytest.mark.parametrize(("ending", "driver"), [("gpkg", "GPKG"), ("shp", "ESRI Shapefile"), ("sqlite", "SQLite"), ("json", "GeoJSON")])
def test_point_files_of_any_format_replace_whole_files(tmp_path, ending, driver):
    """Field, layer name and projection; an older file, with all that is beside it, is replaced, and nothing else is left."""
    image = write(tmp_path / "image.tif", np.ones((30, 30, 1), np.float32), 10.0)
    out = tmp_path / f"my points.{ending}"
    geopandas.GeoDataFrame({"other": [1, 2, 3]}, geometry=[Point(LEFT, TOP)] * 3, crs=CRS).to_file(out, driver=driver)
    if ending == "shp":
        out.with_suffix(".qix").write_bytes(b"stale spatial index")
    status, log = select(tmp_path, image, strategy="all", outtrain=out)
    assert status == 0, log
    frame = geopandas.read_file(out)
    assert list(frame.columns) == ["id", "geometry"] and len(frame) == len(expected_centres(30, 5, 5)) ** 2
    assert frame["id"].tolist() == list(range(len(frame)))
    assert frame.crs.to_epsg() == 32631 and geopandas.list_layers(out)["name"].tolist() == ["my points"]
    suffixes = {path.suffix for path in tmp_path.iterdir()} - {".tif"}
    assert suffixes == ({".shp", ".shx", ".dbf", ".prj"} if ending == "shp" else {f".{ending}"})


def test_a_failed_selection_leaves_the_older_files(tmp_path):
    image = write(tmp_path / "image.tif", np.ones((30, 30, 1), np.float32), 10.0)
    old = points(tmp_path / "train.gpkg", [(LEFT, TOP)])
    before = old.read_bytes()
    for change, message in (({"outvalid": tmp_path / "absent" / "valid.gpkg"}, "absent"), ({"outvalid": tmp_path / "valid.unknown"}, "ending of the name")):
        status, log = select(tmp_path, image, strategy="chessboard", **change)
        assert status != 0 and message in log, log
        assert old.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"image.tif", "train.gpkg"}


def test_balanced_evens_out_the_classes(tmp_path):
    """§9 balanced: of 400 patches of one class each (320, 60 and 20), 42 are 14 of each; of mixed ones, far more even than the image."""
    random = np.random.default_rng(8)
    size, side = 4, 20
    kinds = random.permutation(np.repeat([0, 1, 2], [320, 60, 20])).reshape(side, side)
    labels = np.full((size * side + 3, size * side + 3), 7, np.uint8)
    # The first centre is r + 1 = 3: patches of even size cover rows and columns [1 + 4 k, 5 + 4 k[, rows one lower.
    labels[2 : 2 + size * side, 1 : 1 + size * side] = kinds.repeat(size, 0).repeat(size, 1)
    image = write(tmp_path / "image.tif", np.ones((*labels.shape, 1), np.float32), 10.0)
    label_image = write(tmp_path / "labels.tif", labels[..., None], 10.0)
    keys = {"strategy": "balanced", "strategy.balanced.nclasses": 3, "strategy.balanced.labelimage": label_image}
    status, log = select(tmp_path, image, size, size, **keys, **{"strategy.balanced.sp": 42 / 400}, outvalid=tmp_path / "valid.gpkg")
    assert status == 0 and "0: 224, 1: 224, 2: 224" in log and "outvalid is ignored" in log, log
    chosen = cells(tmp_path / "train.gpkg", size)
    assert len(chosen) == 42 and len({row // 20 for _, row in chosen}) >= 4  # from all over the image
    counts = np.bincount([kinds[(row - 3) // size, (column - 3) // size] for column, row in chosen])
    assert counts.tolist() == [14, 14, 14]
    first = (tmp_path / "train.gpkg").read_bytes()
    # The same in every run; the default share is a quarter, and the rare class runs out.
    status, log = select(tmp_path, image, size, size, **keys, **{"strategy.balanced.sp": 42 / 400})
    assert status == 0 and cells(tmp_path / "train.gpkg", size) == chosen and len(first) > 0
    status, log = select(tmp_path, image, size, size, **keys)
    assert status == 0, log
    counts = np.bincount([kinds[(row - 3) // size, (column - 3) // size] for column, row in cells(tmp_path / "train.gpkg", size)])
    assert counts.sum() == 100 and counts[2] == 20 and abs(counts[0] - counts[1]) <= 4, counts


def test_balanced_with_overlapping_mixed_patches(tmp_path):
    random = np.random.default_rng(9)
    labels = (random.random((60, 60)) ** 3 * 4).astype(np.uint8)[..., None].repeat(3, 0).repeat(3, 1)
    image, label_image = (write(tmp_path / f"{name}.tif", values, 10.0) for name, values in (("i", labels.astype(np.float32)), ("l", labels)))
    keys = {"strategy": "balanced", "strategy.balanced.nclasses": 4, "strategy.balanced.labelimage": label_image, "strategy.balanced.sp": 0.05}
    status, log = select(tmp_path, image, 3, 7, **keys)
    assert status == 0, log
    patches = [labels[row - 3 : row + 4, column - 3 : column + 4] for column, row in cells(tmp_path / "train.gpkg", 7)]
    assert len(patches) == round(0.05 * len(expected_centres(180, 7, 3)) ** 2)
    counts = np.bincount(np.ravel(patches), minlength=4)
    said = [int(count) for count in re.search(r"chosen patches: 0: (\d+), 1: (\d+), 2: (\d+), 3: (\d+)", log).groups()]
    assert counts.tolist() == said
    image_counts = np.bincount(labels.ravel(), minlength=4)
    assert counts.min() / counts.max() > 4 * image_counts.min() / image_counts.max(), (counts, image_counts)


def test_balanced_refuses_what_it_cannot_do(tmp_path):
    image = write(tmp_path / "image.tif", np.ones((20, 20, 1), np.float32), 10.0)
    labels = write(tmp_path / "labels.tif", np.full((20, 20, 1), 9, np.uint8), 10.0)
    small = write(tmp_path / "small.tif", np.ones((10, 10, 1), np.uint8), 10.0)
    elsewhere = write(tmp_path / "elsewhere.tif", np.ones((20, 20, 1), np.uint8), 10.0, left=LEFT + 3.0)
    good = {"strategy": "balanced", "strategy.balanced.nclasses": 3, "strategy.balanced.labelimage": labels}
    cases = [
        ({}, "no label from 0 to 2"),
        ({"strategy.balanced.labelimage": small}, "10 x 10"),
        ({"strategy.balanced.labelimage": elsewhere}, "grids differ"),
        ({"mask": elsewhere}, "grids differ"),
        ({"strategy.balanced.sp": 0}, "above 0"),
        ({"strategy.balanced.sp": 25}, "strategy.balanced.sp is 25, expected a number from 0 to 1"),
        ({"strategy.balanced.nclasses": 0}, "strategy.balanced.nclasses is 0, expected an integer of 1 or more"),
    ]
    for change, message in cases:
        status, log = select(tmp_path, image, **{**good, **change})
        assert status != 0 and log.count("(FATAL)") == 1 and message in log, log
        assert not (tmp_path / "train.gpkg").exists()


def test_selection_refuses_what_it_cannot_do(tmp_path):
    image = write(tmp_path / "image.tif", np.zeros((20, 20, 1), np.float32), 10.0)
    other = write(tmp_path / "mask.tif", np.ones((10, 10, 1), np.uint8), 10.0)
    turned = tmp_path / "turned.tif"
    image_files.write(turned, np.ones((1, 20, 20), np.uint8), transform=Affine(10, 1, LEFT, 1, -10, TOP))
    wide = write(tmp_path / "wide.tif", np.ones((20, 20, 1), np.int64), 10.0)
    cases = [
        ({"in": turned}, "rotated or sheared"),  # OTB would not look: the points would be elsewhere
        ({"in": wide}, "wide.tif: band 1 has integers of 64 bits (Int64)"),
        ({"nodata": 0}, "no patch of 5 pixels can be placed"),
        ({"size": 50}, "no patch of 50 pixels can be placed"),
        ({"mask": other}, "10 x 10"),
        ({"strategy": "split", "strategy.split.trainprop": 0}, "shares"),
        ({"outtrain": tmp_path / "absent" / "train.gpkg"}, "absent"),
        ({"step": 0}, "grid.step is 0, expected an integer of 1 or more"),
        ({"size": -2}, "grid.psize is -2, expected an integer of 1 or more"),
        ({"strategy": "split", "strategy.split.trainprop": -1}, "strategy.split.trainprop is -1, expected a number from 0"),
        ({"outvalid": tmp_path / "train.gpkg"}, "outtrain and outvalid are one file"),
    ]
    for change, message in cases:
        status, log = select(tmp_path, image, **change)
        assert status != 0 and message in log, log


def test_a_full_disk_is_an_error_and_leaves_no_half_product(tmp_path, small_disk):
    image = write(tmp_path / "image.tif", np.ones((400, 400, 1), np.float32), 10.0)
    status, log = select(small_disk, image, 1, 5, strategy="all")
    assert status != 0 and "train.gpkg: cannot be written" in log and "free space" in log
    assert list(small_disk.iterdir()) == []
