"""Pairs of patches: splits that share no ground, and patches whose two halves cover the same ground."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import geopandas
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from otbsr.errors import GridError, InputError, MissingToolError, OutputError, UsageError
from otbsr.grid import Grid
from otbsr.pairs.patches import PatchSettings, block_splits, extract_pairs, ground, place, read_patches_image, write_points

COARSE = Grid(500040.0, 4800000.0, 10.0, 10.0, 150, 130, "EPSG:32631")


def extraction_available() -> bool:
    try:
        from otbsr.serving.otb import application_folder
    except ImportError:
        return False
    try:
        return (application_folder() / "otbapp_PatchesExtraction.so").exists()
    except MissingToolError:
        return False


needs_extraction = pytest.mark.skipif(not extraction_available(), reason="PatchesExtraction is not built")


def write_image(path, grid: Grid, pixels, nodata=None, names=("B4", "B3", "B2", "B8")):
    """Write [h, w, bands] int16 pixels on a grid."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=grid.width,
        height=grid.height,
        count=pixels.shape[2],
        dtype="int16",
        crs=grid.crs,
        transform=grid.transform,
        nodata=nodata,
    ) as dataset:
        dataset.write(pixels.transpose(2, 0, 1).astype(np.int16))
        dataset.descriptions = names[: pixels.shape[2]]
    return path


@settings(max_examples=40, deadline=None)
@given(
    patch=st.sampled_from([4, 8, 16, 32]),
    step=st.integers(3, 20),
    block=st.integers(16, 80),
    buffer=st.integers(0, 6),
    valid=st.floats(0.05, 0.6),
    seed=st.integers(0, 1000),
)
def test_splits_share_no_ground(patch, step, block, buffer, valid, seed):
    corners = place(COARSE, PatchSettings(patch=patch, step=step, block=block, buffer=buffer, valid=valid, seed=seed))
    ground = {name: np.zeros((COARSE.height, COARSE.width), bool) for name in corners}
    for name, many in corners.items():
        for row, column in many:
            assert 0 <= row <= COARSE.height - patch
            assert 0 <= column <= COARSE.width - patch
            widen = buffer if name == "train" else 0
            ground[name][max(0, row - widen) : row + patch + widen, max(0, column - widen) : column + patch + widen] = True
    assert not (ground["train"] & ground["valid"]).any()


def test_splits_are_repeatable_and_depend_on_the_seed():
    masks = [block_splits(6, 7, 0.2, seed) for seed in (1, 1, 2)]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()
    assert masks[0].sum() == round(0.2 * 42)
    assert block_splits(1, 1, 0.2, 0).sum() == 0, "one block: nothing is left to train on if it validates"
    assert block_splits(1, 2, 0.01, 0).sum() == 1
    assert block_splits(3, 3, 0.0, 0).sum() == 0


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("patch", [4, 32])
def test_points_give_equal_footprints(tmp_path, factor, patch):
    """PatchesExtraction's rule (n pixels from floor(n / 2) before the point's pixel), applied to both grids."""
    fine = COARSE.refined(factor)
    corners = np.array([[0, 0], [17, 40], [COARSE.height - patch, COARSE.width - patch]])
    write_points(tmp_path / "p.gpkg", corners, COARSE, fine, patch)
    frame = geopandas.read_file(tmp_path / "p.gpkg")
    assert frame.crs == "EPSG:32631"
    assert list(frame["patch"]) == [0, 1, 2]
    for (row, column), point in zip(corners, frame.geometry, strict=True):
        for grid, size, scale in ((COARSE, patch, 1), (fine, patch * factor, factor)):
            x, y = grid.position(point.x, point.y)
            assert min(x % 1, 1 - x % 1, y % 1, 1 - y % 1) > 0.05, "a point near an edge is at the mercy of rounding"
            assert (math.floor(y) - size // 2, math.floor(x) - size // 2) == (row * scale, column * scale)


def test_bad_requests(tmp_path):
    with pytest.raises(UsageError, match="patch is 15 input pixels; expected an even number"):
        place(COARSE, PatchSettings(patch=15))
    with pytest.raises(InputError, match="image of 150 x 130 pixels is smaller than a patch of 140"):
        place(COARSE, PatchSettings(patch=140))
    lr = write_image(tmp_path / "lr.tif", COARSE, np.zeros((130, 150, 4)))
    shifted = Grid(COARSE.left + 1.25, COARSE.top, 2.5, 2.5, 600, 520, COARSE.crs)
    with pytest.raises(GridError, match="grids do not nest"):
        extract_pairs(lr, write_image(tmp_path / "t.tif", shifted, np.zeros((520, 600, 4))), tmp_path / "out")
    with pytest.raises(InputError, match=r"has 2 bands \(B4 B3\), .* has 3 \(B4 B3 B2\), no B2 in the input; give images with the same bands"):
        few = write_image(tmp_path / "lr2.tif", COARSE, np.zeros((130, 150, 2)))
        extract_pairs(few, write_image(tmp_path / "t3.tif", COARSE.refined(4), np.zeros((520, 600, 3))), tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        extract_pairs(lr, lr, tmp_path)
    assert not (tmp_path / "out").exists()


@needs_extraction
def test_patches_are_the_images_pixels(tmp_path):
    """Every pair is cut where the manifest's points say; patches with no-data are rejected in pairs and counted."""
    random = np.random.default_rng(0)
    fine = COARSE.refined(4)
    target = random.integers(100, 9000, (fine.height, fine.width, 4))
    lr = target.reshape(COARSE.height, 4, COARSE.width, 4, 4).mean((1, 3)).astype(np.int16)
    target[300, 250, 2] = -10000
    how = PatchSettings(patch=16, step=16, block=32, buffer=1, valid=0.25, seed=3)
    images = write_image(tmp_path / "lr.tif", COARSE, lr, -10000), write_image(tmp_path / "target.tif", fine, target, -10000)
    manifest = extract_pairs(*images, tmp_path / "pairs", how, data="random numbers")
    assert manifest == json.loads((tmp_path / "pairs" / "manifest.json").read_text())
    assert (manifest["bands"], manifest["factor"], manifest["spacing"]) == (["B4", "B3", "B2", "B8"], 4, 10.0)
    total = 0
    for split, corners in place(COARSE, how).items():
        kept = [(r, c) for r, c in corners if not (r <= 300 // 4 < r + 16 and c <= 250 // 4 < c + 16)]
        entry = manifest["splits"][split]
        assert (entry["placed"], entry["accepted"], entry["rejected"]) == (len(corners), len(kept), len(corners) - len(kept))
        total += entry["rejected"]
        for key, image, size in (("lr", lr, 16), ("target", target, 64)):
            patches = read_patches_image(tmp_path / "pairs" / entry[key], size)
            expected = [image[size // 16 * r : size // 16 * r + size, size // 16 * c : size // 16 * c + size] for r, c in kept]
            np.testing.assert_array_equal(patches, np.stack(expected))
    assert total == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lr.tif", "pairs", "target.tif"]


@needs_extraction
def test_otbtf_reads_the_pairs_in_order(tmp_path):
    pytest.importorskip("tensorflow")
    from otbsr.methods.patches import read_pairs

    random = np.random.default_rng(1)
    fine = COARSE.refined(4)
    target = random.integers(100, 9000, (fine.height, fine.width, 4))
    lr = target.reshape(COARSE.height, 4, COARSE.width, 4, 4).mean((1, 3)).astype(np.int16)
    how = PatchSettings(patch=16, step=16, block=32, valid=0.25)
    images = write_image(tmp_path / "lr.tif", COARSE, lr), write_image(tmp_path / "target.tif", fine, target)
    manifest = extract_pairs(*images, tmp_path / "pairs", how)
    training, validation, common = read_pairs([tmp_path / "pairs", tmp_path / "pairs"])
    assert common["bands"] == ["B4", "B3", "B2", "B8"]
    assert common["footprints"] == [{"crs": "EPSG:32631", "bounds": list(COARSE.bounds)}], "once, although the folder is given twice"
    for patches, split in ((training, "train"), (validation, "valid")):
        once = read_patches_image(tmp_path / "pairs" / manifest["splits"][split]["target"], 64)
        np.testing.assert_array_equal(patches.target[:], np.concatenate([once, once]))
        np.testing.assert_allclose(patches.lr[:], patches.target[:].reshape(-1, 16, 4, 16, 4, 4).mean((2, 4)), atol=1)


def test_the_ground_of_pairs_is_kept(tmp_path):
    """A simulated world has its seed and lies nowhere; an aerial image's world names the image's ground; a plain image its own; else nobody knows."""
    image, grid = tmp_path / "lr.tif", COARSE
    own = {"crs": "EPSG:32631", "bounds": [500040.0, 4798700.0, 501540.0, 4800000.0]}
    assert ground(image, grid) == {"seed": None, "footprint": own}
    assert ground(image, replace(grid, crs="")) == {"seed": None}
    worlds = [
        ({"settings": {"seed": 5}}, {"seed": 5, "footprint": None}),
        ({"settings": {"seed": None}, "ground": {"crs": "EPSG:26917", "bounds": [0, 0, 9, 9]}}, None),
        ({"settings": {"seed": None}}, {"seed": None}),
    ]
    for world, expected in worlds:
        (tmp_path / "world.json").write_text(json.dumps(world))
        assert ground(image, grid) == (expected or {"seed": None, "footprint": world["ground"]})


@needs_extraction
@pytest.mark.parametrize("factor", [2, 5])
def test_other_factors_and_a_target_of_some_of_the_bands(tmp_path, factor):
    """13 bands in, 4 of them out, in another order: each patch is the images' pixels."""
    random = np.random.default_rng(2)
    fine = COARSE.refined(factor)
    lr, target = random.integers(100, 9000, (COARSE.height, COARSE.width, 13)), random.integers(100, 9000, (fine.height, fine.width, 4))
    names = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
    how = PatchSettings(patch=16, step=32, block=32, valid=0.25)
    images = write_image(tmp_path / "lr.tif", COARSE, lr, names=names), write_image(tmp_path / "target.tif", fine, target)
    manifest = extract_pairs(*images, tmp_path / "pairs", how)
    assert (manifest["bands"], manifest["outputs"], manifest["factor"]) == (list(names), ["B4", "B3", "B2", "B8"], factor)
    for split, corners in place(COARSE, how).items():
        assert len(corners)
        for key, image, scale in (("lr", lr, 1), ("target", target, factor)):
            patches = read_patches_image(tmp_path / "pairs" / manifest["splits"][split][key], 16 * scale)
            expected = [image[scale * r : scale * (r + 16), scale * c : scale * (c + 16)] for r, c in corners]
            np.testing.assert_array_equal(patches, np.stack(expected))
