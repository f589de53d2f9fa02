"""Pairs in files: the same as in memory, whatever their number, and where they come from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import rasterio.warp

from otbsr.errors import InputError, UsageError
from otbsr.methods import patches as module
from otbsr.methods.model_folder import trained_areas
from otbsr.methods.patches import Patches, StackedPatches, read_manifests, read_pairs, read_patches
from otbsr.pairs.footprints import image_footprints

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write_stack(path, pixels):
    """Write patches [n, p, p, bands] as PatchesExtraction does: stacked along rows, int16."""
    image = pixels.reshape(-1, *pixels.shape[2:]).transpose(2, 0, 1)
    with rasterio.open(path, "w", driver="GTiff", width=image.shape[2], height=image.shape[1], count=image.shape[0], dtype="int16") as dataset:
        dataset.write(image.astype(np.int16))
    return path


@pytest.fixture
def stacks(tmp_path):
    """Two pairs of images with 3 and 2 patches, and their pixels."""
    random = np.random.default_rng(1)
    lr, target = (random.integers(-50, 9000, (5, side, side, 4)).astype(np.float32) for side in (6, 24))
    parts = (slice(0, 3), slice(3, 5))
    files = [[write_stack(tmp_path / f"{name}{k}.tif", pixels[part]) for k, part in enumerate(parts)] for name, pixels in (("lr", lr), ("target", target))]
    return files, Patches(lr, target)


def test_patches_in_files_are_those_in_memory(stacks, monkeypatch):
    monkeypatch.setattr(module, "OPEN_FILES", 1)  # each image is closed before the next is opened
    (lr, target), memory = stacks
    found = read_patches(lr, target)
    assert isinstance(found.lr, StackedPatches)
    assert (len(found), found.factor, found.lr.shape, found.target.shape) == (5, 4, memory.lr.shape, memory.target.shape)
    for which in (slice(None), slice(1, 4), slice(None, None, 2), np.array([4, 0, 3, 0]), [2], slice(5, 9)):
        for part, expected in ((found.lr, memory.lr), (found.target, memory.target)):
            np.testing.assert_array_equal(part[which], expected[which])
            assert part[which].dtype == np.float32
            assert len(part.opened) <= 1
    with pytest.raises(IndexError):
        found.lr[np.array([5])]
    assert found.hash() == memory.hash(), "a run of patches in memory goes on with patches in files"
    chosen, expected = (patches.select([0, 1, 2, 3], [3, 1]) for patches in (found, memory))
    assert chosen.lr is found.lr
    np.testing.assert_array_equal(chosen.target[:], expected.target)
    np.testing.assert_array_equal(chosen.select([1], [1]).target[:], expected.target[..., 1:])
    assert chosen.hash() == expected.hash() != memory.hash()


def test_images_that_are_no_patches_are_named(stacks, tmp_path):
    (lr, target), memory = stacks
    with rasterio.open(tmp_path / "odd.tif", "w", driver="GTiff", width=6, height=13, count=4, dtype="int16") as dataset:
        dataset.write(np.zeros((4, 13, 6), np.int16))
    other = write_stack(tmp_path / "other.tif", memory.lr[..., :3])
    (tmp_path / "text.tif").write_text("no image")
    for images, message in (
        (lr[:1], "2 target patches images; expected one target for each input"),
        ([lr[0], tmp_path / "none.tif"], "none.tif: no such patches image"),
        ([lr[0], tmp_path / "text.tif"], "text.tif: cannot be read as a patches image"),
        ([lr[0], tmp_path / "odd.tif"], "odd.tif: 13 rows, expected a multiple of the patches' 6"),
        ([lr[0], other], "other.tif: patches of 6 pixels and 3 bands, .*lr0.tif has 6 and 4"),
        ([lr[0], lr[0]], "6 input and 5 target patches; expected as many"),
    ):
        with pytest.raises(InputError, match=message):
            read_patches(images, target)
    with pytest.raises(InputError, match="target patches of 6 pixels are no whole multiple of input patches of 24"):
        read_patches(target, lr)
    whole = read_patches(lr, target)
    lr[1].unlink()
    with pytest.raises(InputError, match=r"lr1\.tif: is gone or cannot be read"):
        whole.lr[3:5]


def test_where_pairs_come_from_reaches_the_model(stacks, tmp_path):
    """Footprints of all folders, each once; none when one of them does not tell."""
    here, there = ({"crs": "EPSG:26917", "bounds": [x, 0.0, x + 9.0, 9.0]} for x in (0.0, 5.0))
    names = iter("abcd")

    def folder(**also):
        path = tmp_path / next(names)
        path.mkdir()
        splits = {}
        for split in ("train", "valid"):
            for key, pixels in (("lr", stacks[1].lr), ("target", stacks[1].target)):
                write_stack(path / f"{split}_{key}.tif", pixels)
            splits[split] = {"lr": f"{split}_lr.tif", "target": f"{split}_target.tif", "accepted": 5}
        manifest = {"bands": ["B4", "B3", "B2", "B8"], "spacing": 10.0, "factor": 4, "patch": 6, "data": "noise", "seed": None, "splits": splits}
        (path / "manifest.json").write_text(json.dumps(manifest | also))
        return path

    told = [folder(footprint=here), folder(footprint=None, seed=7), folder(footprint=there)]
    common = read_pairs([*told, told[0]])[2]
    assert (common["footprints"], common["seeds"]) == ([here, there], [7])
    assert image_footprints([manifest for _, manifest in read_manifests([*told, folder()])]) is None


def test_a_split_that_no_folder_has_is_named(tmp_path):
    """What the command says of `otbsr pairs --valid 0`, and of a folder to validate with alone."""
    for kind, trained, validated in (("validation", 3, 0), ("training", 0, 2)):
        path = tmp_path / kind
        path.mkdir()
        splits = {"train": {"accepted": trained}, "valid": {"accepted": validated}}
        (path / "manifest.json").write_text(json.dumps({"bands": ["B4"], "spacing": 10.0, "factor": 4, "patch": 32, "splits": splits}))
        with pytest.raises(UsageError, match=rf"no {kind} pair in .*{kind}; expected at least one: run `otbsr pairs` with another --valid"):
            read_pairs([path])


def test_areas_of_several_trainings():
    here, there = ({"crs": "EPSG:26917", "bounds": [x, 0.0, x + 9.0, 9.0]} for x in (0.0, 5.0))
    first, second = {"seeds": [3, 1], "footprints": [here]}, {"seeds": [2, 3], "footprints": [there, here]}
    assert trained_areas([first, second]) == {"seeds": [1, 2, 3], "footprints": [here, there], "areas_complete": True}
    for silent in ({}, {"seeds": [1]}, {"footprints": None}, trained_areas([first, {}]) | {"footprints": [here]}):
        assert trained_areas([first, silent]) == {"seeds": [1, 3], "footprints": [here], "areas_complete": False}
    assert trained_areas([]) == {"seeds": [], "footprints": [], "areas_complete": True}
