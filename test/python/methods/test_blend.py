"""The blend of two models is their linear combination, in Python and served, whatever blocks it is served in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from otbsr.errors import ModelError, OutputError, UsageError
from otbsr.methods.baselines import write_baseline
from otbsr.methods.blend import blend
from otbsr.methods.import_model import import_model
from otbsr.methods.model_folder import ModelFolder
from otbsr.serving.apply import apply

BANDS = ("B4", "B3", "B2", "B8")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 5000, (23, 31, 4)).astype(np.int16)


@pytest.fixture(scope="module")
def cropping(tmp_path_factory) -> Path:
    """An imported TensorFlow 1 model that leaves out 6 fine pixels on each side, with a variable: 3 times the mean of 3 x 3 input pixels, plus 1."""
    import tensorflow as tf

    v1, folder = tf.compat.v1, tmp_path_factory.mktemp("models") / "saved"
    with tf.Graph().as_default(), v1.Session() as session:
        lr = v1.placeholder(tf.float32, (None, None, None, 4), name="lr_input")
        weight = v1.get_variable("weight", initializer=tf.constant(3.0))
        mean = tf.nn.avg_pool2d(lr, 3, 1, "SAME") * weight + 1.0
        fine = tf.repeat(tf.repeat(mean, 4, 1), 4, 2)[:, 6:-6, 6:-6]
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {"lr": lr}, {"out": fine})
    return import_model(folder, folder.with_name("cropping"), bands=BANDS, method="perceptual").folder.path


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_it_is_the_linear_combination(tmp_path, models, image, share):
    nearest, bicubic = models / "nearest-x4", models / "bicubic-x4"
    mixed = blend(nearest, bicubic, share, tmp_path / "mixed")
    f, p = (ModelFolder.open(path)(image) for path in (nearest, bicubic))
    expected = (1 - share) * f.astype(np.float64) + share * p
    if share in (0, 1):
        np.testing.assert_array_equal(mixed(image), expected)
    np.testing.assert_allclose(mixed(image), expected, rtol=1e-6, atol=1e-3)
    assert np.abs(f - p).max() > 100
    side = mixed.sidecar
    assert (side.margin, side.method, side.factor, side.output.dtype) == (2, "baseline", 4, "int16")
    assert [source["name"] for source in side.training["sources"]] == ["nearest-x4", "bicubic-x4"]
    assert side.training["sources"][1]["sha256"] == ModelFolder.open(bicubic).sidecar.sha256
    assert f"share {share:g}" in (mixed.path / "README.md").read_text()


def test_a_trained_model_and_an_imported_one_that_crops(tmp_path, models, image, cropping):
    """Both lie on each other pixel by pixel, although one leaves out a border; weights of either are in the blend alone."""
    light = models / "f-light-x4"
    mixed = blend(light, cropping, 0.25, tmp_path / "mixed")
    f, p = (ModelFolder.open(path)(image) for path in (light, cropping))
    np.testing.assert_allclose(mixed(image), 0.75 * f + 0.25 * p, rtol=1e-4, atol=0.05)
    assert np.abs(p - f).mean() > 1000
    assert (mixed.sidecar.margin, mixed.sidecar.method) == (ModelFolder.open(light).sidecar.margin, "perceptual")
    own = ModelFolder.open(light).sidecar.training
    assert [mixed.sidecar.training[key] for key in ("seeds", "footprints")] == [own["seeds"], own["footprints"]], "no judge may take what one has seen"
    assert mixed.sidecar.training["areas_complete"] is False, "what else the imported one has seen is not known"
    with_baseline = blend(light, models / "bicubic-x4", 0.5, tmp_path / "with_baseline").sidecar
    assert with_baseline.method == "fidelity"
    assert with_baseline.training["seeds"] == own["seeds"]
    assert with_baseline.training["areas_complete"] is True, "a baseline was trained nowhere"
    assert mixed.sidecar.training["sources"][0]["metrics"] == ModelFolder.open(light).sidecar.metrics


def test_phases_of_both_are_blended(tmp_path, models, image, cropping):
    """The faster signature for the applications: depth to space of it is the blend inside its border. Only where both models have it."""
    import tensorflow as tf

    light = models / "f-light-x4"
    mixed = blend(light, light, 0.25, tmp_path / "mixed")
    assert mixed.phases is not None
    border = mixed.sidecar.margin
    lr = tf.constant(np.pad(image, ((border, border), (border, border), (0, 0)), mode="symmetric")[None], tf.float32)
    inner = mixed.signature(lr=lr)["sr"][:, 4 * border : -4 * border, 4 * border : -4 * border]
    np.testing.assert_allclose(tf.nn.depth_to_space(mixed.phases(lr=lr)["sr"], 4), inner, atol=1e-2)
    assert blend(light, cropping, 0.25, tmp_path / "other").phases is None


@pytest.mark.usefixtures("serving")
def test_served_equals_python_in_any_blocks(tmp_path, models, image, cropping, run_application):
    mixed = blend(models / "bicubic-x4", cropping, 0.5, tmp_path / "mixed")
    path = tmp_path / "in.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=31, height=23, count=4, dtype="int16", crs="EPSG:32631", transform=Affine(10, 0, 6e5, 0, -10, 4.9e6)
    ) as dataset:
        dataset.write(image.transpose(2, 0, 1))
        dataset.descriptions = BANDS
    apply(path, mixed.path, tmp_path / "whole.tif")
    for block in (5, 8):
        done = run_application("SuperResolution", "-in", path, "-model", mixed.path, "-block", block, "-out", tmp_path / f"{block}.tif", "int16")
        assert done.returncode == 0, done.stdout + done.stderr
    pixels = [rasterio.open(tmp_path / f"{name}.tif").read() for name in ("whole", "5", "8")]
    assert np.abs(pixels[0] - mixed(image).transpose(2, 0, 1)).max() <= 0.51
    np.testing.assert_array_equal(pixels[1], pixels[0])
    np.testing.assert_array_equal(pixels[2], pixels[0])


def test_models_that_do_not_fit_are_refused(tmp_path, models):
    x2 = write_baseline("nearest", tmp_path / "x2", factor=2).path
    rgb = write_baseline("nearest", tmp_path / "rgb", bands=("B4", "B3", "B2")).path
    nearest = models / "nearest-x4"
    with pytest.raises(ModelError, match=f"{x2}: factor is 2, {nearest} has 4; only models of one factor, bands and units can be blended"):
        blend(nearest, x2, 0.5, tmp_path / "out")
    with pytest.raises(ModelError, match=r"input\.bands is B4 B3 B2, .* has B4 B3 B2 B8"):
        blend(nearest, rgb, 0.5, tmp_path / "out")
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match=r"expected 0 \(the first model alone\) to 1"):
            blend(nearest, nearest, share, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match="exists already"):
        blend(nearest, nearest, 0.5, x2)


def test_command(tmp_path, models):
    command = [sys.executable, "-m", "otbsr", "blend", str(models / "nearest-x4"), str(models / "bicubic-x4"), "--share", "0.3", "-o", str(tmp_path / "m")]
    done = subprocess.run([*command, "--json", "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"out": str(tmp_path / "m"), "factor": 4, "margin": 2, "method": "baseline", "share": 0.3}
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (
        73,
        f"otbsr: error: {tmp_path / 'm'}: exists already; choose another name or give --overwrite",
    )
