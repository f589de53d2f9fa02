"""Every model in `models/`: whole, described, trained on nothing that tests it, the same in blocks as whole, and true to its input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

from otbsr.methods.baselines import write_baseline
from otbsr.methods.model_folder import ModelFolder, ModelInput, ModelOutput, Sidecar, save_model
from otbsr.methods.networks import NetworkSettings, fuse, margin, network
from otbsr.methods.sensor import spacing_ratio
from otbsr.world.sensors import SENTINEL2, degrade

MODELS = Path(__file__).resolve().parents[3] / "models"
NAMES = sorted(path.parent.name for path in MODELS.glob("*/model.json"))
SEEDS = {*range(100, 144), *range(1000, 3000)}
"""The landscapes of the first F-light, and what tools/training_data.py draws from (training and validation): tests and benchmarks use others."""


def scene(bands: tuple[str, ...], rows: int = 75, columns: int = 61) -> np.ndarray:
    """Fields and edges of several sizes, DN [rows, columns, bands]; bands of 20 m as pairs of equal pixels on their own grid."""
    random = np.random.default_rng(11)
    fields = [gaussian_filter(random.standard_normal((rows, columns)), size) * size for size in (0.7, 2, 5)]
    image = np.empty((rows, columns, len(bands)), np.int16)
    for index, band in enumerate(bands):
        mix = sum(weight * field for weight, field in zip(random.uniform(0.3, 1, 3), fields, strict=True))
        plane = gaussian_filter(1500 + 900 * np.tanh(mix) + 600 * (mix > 0.5), 0.6)  # no sensor sees steps from pixel to pixel
        ratio = spacing_ratio(band)
        image[..., index] = plane[::ratio, ::ratio].repeat(ratio, 0).repeat(ratio, 1)[:rows, :columns]
    return image


def test_the_promised_models_are_there_and_small():
    assert {"bicubic-x4", "nearest-x4", "f-light-x4", "f-base-x4", "p-base-x4", "f-light-x4-10bands", "f-light-x2"} <= set(NAMES)
    assert sorted(path.name for path in MODELS.iterdir() if path.is_dir()) == NAMES, "the tests below try every folder"
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 40e6


@pytest.mark.parametrize("name", NAMES)
def test_sidecar_card_and_seeds(name):
    side = ModelFolder.open(MODELS / name).sidecar
    assert side.name == name and (MODELS / name / "README.md").read_text(encoding="utf-8").startswith("# ")
    if side.method != "baseline":
        training = side.training
        assert training["settings"]["seed"] >= 0 and training["curve"] and training["data"] and side.metrics["gain_over_bicubic_db"] > 0
        assert training["seeds"] and set(training["seeds"]) <= SEEDS
        assert training["areas_complete"] and bool(training["footprints"]) == ("aerial" in training["data"])


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_the_whole_and_the_input_is_kept(run_application, name, tmp_path):
    model = ModelFolder.open(MODELS / name)
    image, whole = served_in_blocks(run_application, model, tmp_path)
    side = model.sidecar
    if side.method != "baseline":
        own = [index for index, band in enumerate(side.output.bands) if spacing_ratio(band) == 1]
        bands = tuple(side.output.bands[index] for index in own)
        seen = degrade(whole[..., own].astype(np.float32), side.factor, bands)
        given = image[..., [side.input.bands.index(band) for band in bands]]
        error = (seen - given)[4:-4, 4:-4] * 1e-4
        assert np.sqrt((error**2).mean((0, 1))).max() < 0.003


@pytest.mark.parametrize(("kind", "factor"), [("nearest", 6), ("bicubic", 5), ("lanczos", 3), ("unsharp", 4), ("unsharp", 8)])
def test_baselines_are_served_as_networks_are(run_application, kind, factor, tmp_path):
    """By SuperResolution, in blocks as whole; what sharpens brings the image nearer to its input, as the sensor sees it, than bicubic does."""
    model = write_baseline(kind, tmp_path / kind, factor)
    image, whole = served_in_blocks(run_application, model, tmp_path)
    if kind == "unsharp":
        plain = write_baseline("bicubic", tmp_path / "plain", factor)(image)
        misses = [np.abs((degrade(result.astype(np.float32), factor, model.sidecar.output.bands) - image)[4:-4, 4:-4]).mean() for result in (whole, plain)]
        assert misses[0] < 0.7 * misses[1]


def test_thirteen_bands_in_some_out(run_application, tmp_path):
    """10, 20 and 60 m, repeated pixels and all, in blocks as whole; a constant of each band comes out as itself under its own name."""
    bands, outputs = tuple(SENTINEL2), ("B10", "B8", "B5", "B1")
    settings = NetworkSettings(bands=bands, outputs=outputs, factor=2, channels=8, blocks=2)
    sidecar = Sidecar(
        name="thirteen", method="fidelity", factor=2, margin=margin(settings), input=ModelInput(bands=bands, spacing=10), output=ModelOutput(bands=outputs)
    )
    net = network(settings)
    model = save_model(fuse(net, settings), tmp_path / "thirteen", sidecar)
    served_in_blocks(run_application, model, tmp_path)
    assert len(bands) == 13 and json.loads((model.path / "model.json").read_text())["output"]["bands"] == list(outputs)
    net.get_layer("phases").set_weights([0 * weight for weight in net.get_layer("phases").get_weights()])
    flat = np.broadcast_to(np.arange(1, 14, dtype=np.float32) * 100, (1, 64, 64, 13))
    expected = [100.0 * (bands.index(band) + 1) for band in outputs]
    np.testing.assert_allclose(net(flat).numpy()[0, 60:-60, 60:-60], np.broadcast_to(expected, (8, 8, 4)), rtol=1e-4)


def served_in_blocks(run_application, model, tmp_path):
    """A scene of odd sides and the model's result for it, after SuperResolution in small blocks has given the same within 1 DN."""
    side = model.sidecar
    image = scene(side.input.bands)
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    profile = {"driver": "GTiff", "crs": "EPSG:32631", "transform": Affine(10, 0, 600000, 0, -10, 4900020), "dtype": "int16", "count": image.shape[2]}
    with rasterio.open(source, "w", height=image.shape[0], width=image.shape[1], **profile) as dataset:
        dataset.write(image.transpose(2, 0, 1))
    process = run_application("SuperResolution", "-in", source, "-model", model.path, "-out", out, "-block", 23)
    assert process.returncode == 0, process.stdout + process.stderr
    whole = np.rint(model(image))
    with rasterio.open(out) as dataset:
        tiled = dataset.read().transpose(1, 2, 0)
        assert dataset.transform.almost_equals(profile["transform"] @ Affine.scale(1 / side.factor), 1e-9)
    assert np.abs(tiled - whole).max() <= 1
    return image, whole
