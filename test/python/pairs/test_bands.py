"""Ten bands all the way: landscape, pairs, a tiny network trained on them, and the simulator's own SAFE product served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from image_files import read

from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder
from otbsr.products import open_product, stack
from otbsr.world.simulate import BAND_SETS, BANDS, WorldSettings, grid_of, simulate, write_image

TEN = BAND_SETS["ten"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ten") / "world"
    simulate(folder, WorldSettings.parse(seed=5, extent=720, bands=("ten",), products=("safe",)))
    return folder


def test_the_product_gives_the_images_that_were_trained_on(world, tmp_path):
    """A SAFE's bands of 10 and 20 m stacked are the simulator's stack to the digit, in any window."""
    product = open_product(next(world.glob("S2A_*.SAFE")))
    grid = stack(product, TEN, tmp_path / "s.vrt")
    assert grid.same(Grid.read(world / "sentinel2_stack_10m.tif"))
    expected = read(world / "sentinel2_stack_10m.tif")
    np.testing.assert_array_equal(read(tmp_path / "s.vrt"), expected)
    with rasterio.open(tmp_path / "s.vrt") as dataset:
        assert dataset.descriptions == TEN
        for row, column, height, width in ((1, 3, 7, 5), (7, 0, 1, 1), (33, 41, 2, 31), (0, 71, 72, 1)):
            window = rasterio.windows.Window(column, row, width, height)
            np.testing.assert_array_equal(dataset.read(window=window), expected[:, row : row + height, column : column + width])


def test_pairs_train_a_network_that_serves_the_product(world, serving, tmp_path):
    pytest.importorskip("tensorflow")
    from otbsr.methods.patches import read_pairs
    from otbsr.methods.settings import TrainingSettings
    from otbsr.methods.training import train
    from otbsr.pairs.patches import PatchSettings, extract_pairs
    from otbsr.serving.apply import apply
    from otbsr.serving.otb import run_otb

    extract_pairs(world / "sentinel2_stack_10m.tif", world / "reference_stack_2m5.tif", tmp_path / "pairs", PatchSettings(patch=16, step=16, block=24))
    training, validation, common = read_pairs([tmp_path / "pairs"])
    assert common["bands"] == list(TEN) and training.lr.shape[1:] == (16, 16, 10) and training.target.shape[1:] == (64, 64, 10)
    np.testing.assert_array_equal(training.lr[:][:, ::2, ::2, 4:], training.lr[:][:, 1::2, 1::2, 4:], "a 20 m pixel begins with each patch")
    small = {"bands": TEN, "channels": 6, "blocks": 2}
    settings = TrainingSettings.model_validate({"network": small, "steps": 4, "validate_every": 2, "batch": 4, "border": 4, "augmentation": {"anew": 0.5}})
    model = train(training, validation, settings, tmp_path / "ten", **common)
    assert model.sidecar.input.bands == model.sidecar.output.bands == TEN
    done = apply(next(world.glob("S2A_*.SAFE")), model.path, tmp_path / "sr.tif")
    assert done.bands == TEN and Grid.read(tmp_path / "sr.tif").same(Grid.read(world / "reference_stack_2m5.tif"))
    served = read(tmp_path / "sr.tif").astype(int)
    whole = ModelFolder.open(model.path)(read(world / "sentinel2_stack_10m.tif").transpose(1, 2, 0)).transpose(2, 0, 1)
    assert np.abs(served - whole).max() <= 1
    stack(open_product(next(world.glob("S2A_*.SAFE"))), TEN, tmp_path / "s.vrt")
    run_otb("SuperResolution", {"in": tmp_path / "s.vrt", "model": model.path, "out": [tmp_path / "tiled.tif", "int16"], "block": 17})
    assert np.abs(read(tmp_path / "tiled.tif") - served).max() <= 1
    again = ModelFolder.open(model.path)(read(world / "sentinel2_stack_10m.tif")[:, 1:, 1:].transpose(1, 2, 0)).transpose(2, 0, 1)
    cut = 4 * (model.sidecar.margin + 1)
    assert np.abs(again[:, cut:, cut:] - whole[:, cut + 4 :, cut + 4 :]).max() <= 1, "where the image begins makes no difference"


def test_thirteen_bands_in_and_four_out(serving, tmp_path):
    """Pairs, training and serving, at x2: the file's bands are found by name, and the outputs are the four."""
    from otbsr.methods.patches import read_pairs
    from otbsr.methods.settings import TrainingSettings
    from otbsr.methods.training import train
    from otbsr.pairs.patches import PatchSettings, extract_pairs
    from otbsr.serving.apply import apply

    random = np.random.default_rng(3)
    planes = list(random.uniform(0.02, 0.4, (13, 48, 48)).astype(np.float32))
    write_image(tmp_path / "lr.tif", planes, grid_of(480, 10.0), BAND_SETS["all"])
    write_image(tmp_path / "target.tif", [plane.repeat(2, 0).repeat(2, 1) for plane in planes[:4]], grid_of(480, 5.0), BANDS)
    extract_pairs(tmp_path / "lr.tif", tmp_path / "target.tif", tmp_path / "pairs", PatchSettings(patch=16, step=16, block=16, buffer=0, valid=0.3))
    training, validation, common = read_pairs([tmp_path / "pairs"])
    small = {"bands": BAND_SETS["all"], "outputs": BANDS, "factor": 2, "channels": 6, "blocks": 2}
    settings = TrainingSettings.model_validate({"network": small, "steps": 2, "validate_every": 2, "batch": 2, "border": 4})
    model = train(training, validation, settings, tmp_path / "model", **common)
    assert (model.sidecar.input.bands, model.sidecar.output.bands) == (BAND_SETS["all"], BANDS)
    with rasterio.open(tmp_path / "lr.tif") as dataset:  # in another order: put right by name
        profile, pixels = dataset.profile, dataset.read()
    with rasterio.open(tmp_path / "turned.tif", "w", **profile) as dataset:
        dataset.write(pixels[::-1])
        dataset.descriptions = BAND_SETS["all"][::-1]
    done = apply(tmp_path / "turned.tif", model.path, tmp_path / "sr.tif")
    assert done.bands == BANDS and (done.grid.dx, done.grid.width) == (5.0, 96)
    assert np.abs(read(tmp_path / "sr.tif") - model(pixels.transpose(1, 2, 0)).transpose(2, 0, 1)).max() <= 1
