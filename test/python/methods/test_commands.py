"""`otbsr pairs` and `otbsr train`, from two images to a model folder."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio

from otbsr.errors import MissingToolError
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder
from otbsr.progress import bars
from otbsr.world.sensors import degrade


def otbsr(*arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "otbsr", *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A scene of random rectangles and what Sentinel-2 sees of it."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    fine = Grid(500040.0, 4800000.0, 2.5, 2.5, 384, 384, "EPSG:32631")
    scene = np.full((fine.height, fine.width, 4), 1000.0, np.float32)
    for _ in range(60):
        row, column = random.integers(0, 340, 2)
        scene[row : row + random.integers(4, 60), column : column + random.integers(4, 60)] = random.uniform(200, 3500, 4)
    paths = []
    for name, grid, pixels in (("lr", fine.coarsened(4), degrade(scene, 4)), ("target", fine, scene)):
        paths.append(folder / f"{name}.tif")
        with rasterio.open(
            paths[-1], "w", driver="GTiff", width=grid.width, height=grid.height, count=4, dtype="int16", crs=grid.crs, transform=grid.transform
        ) as dataset:
            dataset.write(np.rint(pixels).transpose(2, 0, 1).astype(np.int16))
            dataset.descriptions = ("B4", "B3", "B2", "B8")
    return paths


def test_from_images_to_model(images, tmp_path):
    from otbsr.serving.otb import application_folder

    try:
        if not (application_folder() / "otbapp_PatchesExtraction.so").exists():
            pytest.skip("PatchesExtraction is not built")
    except MissingToolError as error:
        pytest.skip(str(error))
    cut = otbsr(
        "pairs", *images, "-o", tmp_path / "pairs", "--patch", 16, "--step", 8, "--block", 32, "--valid", 0.2, "--json", "--quiet", "--data", "rectangles"
    )
    assert cut.returncode == 0, cut.stderr
    assert json.loads(cut.stdout)["train_accepted"] > 10
    (tmp_path / "settings.yaml").write_text("network: {channels: 8, blocks: 2}\nbatch: 4\nborder: 3\n")
    done = otbsr("train", tmp_path / "pairs", "-o", tmp_path / "tiny", "--settings", tmp_path / "settings.yaml", "--steps", 3, "--seed", 4, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    model = ModelFolder.open(tmp_path / "tiny")
    assert result["psnr"] == model.sidecar.metrics["psnr"]
    assert model.sidecar.input.bands == ("B4", "B3", "B2", "B8")
    assert (model.sidecar.training["seed"], model.sidecar.training["steps"], model.sidecar.training["data"]) == (4, 3, "rectangles")
    assert '{"step": "training", "percent": 100}' in done.stderr
    again = otbsr("train", tmp_path / "pairs", "-o", tmp_path / "tiny", "--steps", 3)
    assert again.returncode == 73
    assert again.stderr.strip().splitlines()[-1] == f"otbsr: error: {tmp_path / 'tiny'}: exists already; choose another name or give --overwrite"


@pytest.mark.parametrize("command", ["pairs", "train"])
def test_help_ends_with_an_example(command):
    done = otbsr(command, "--help")
    assert done.returncode == 0
    assert f"Example: otbsr {command} " in " ".join(done.stdout.split())


def test_not_a_folder_of_pairs(tmp_path):
    done = otbsr("train", tmp_path, "-o", tmp_path / "model")
    assert done.returncode == 65
    assert "no readable manifest.json" in done.stderr
    assert "expected a folder that `otbsr pairs` wrote" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_bar_for_all_validations(capsys):
    with bars() as report:
        for gain in ("+0.10", "+0.20"):
            report("training", 0.5)
            report(f"validation: {gain} dB over bicubic", 1.0)
    shown = capsys.readouterr().err
    assert shown.count("validation") == 1
    assert "validation: +0.20 dB over bicubic" in shown


def test_baselines_are_model_folders(tmp_path):
    """What an interpolation gives for a constant is the constant, at every factor; wrong words are one line."""
    done = otbsr("baseline", "lanczos", "-o", tmp_path / "lanczos", "--factor", 3, "--bands", "B8,B4", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["factor"] == 3, done.stderr
    model = ModelFolder.open(tmp_path / "lanczos")
    assert model.sidecar.input.bands == ("B8", "B4")
    np.testing.assert_allclose(model(np.full((6, 7, 2), 1500.0, np.float32)), np.full((18, 21, 2), 1500.0), atol=0.01)
    for arguments, message in (
        (("sinc",), "baseline is 'sinc', expected one of nearest, bicubic, lanczos, unsharp"),
        (("bicubic", "--factor", 9), "factor is 9, expected 2 to 8"),
        (("bicubic", "--bands", "B4,B4"), "expected names that differ"),
    ):
        done = otbsr("baseline", *arguments, "-o", tmp_path / "none")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and message in done.stderr, done.stderr
