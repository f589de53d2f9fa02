"""`--dry-run`: the printed lines, pasted into a shell, make the pixels that the command makes; and they are the lines that it runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tomllib
from typer.testing import CliRunner
from world_folder import world

from otbsr.cli import app

ROOT = Path(__file__).parents[3]


def otbsr(*words):
    """The command in this process: what it prints."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def image(path):
    with rasterio.open(path) as file:
        return file.read()


@pytest.fixture(scope="module")
def paste(tmp_path_factory, serving):
    """Run lines of sh with an otbcli_ of these sources in PATH for each of our applications."""
    shims = tmp_path_factory.mktemp("bin")
    for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]:
        code = f"import sys; sys.argv[0] = '{name}'; from otbsr.serving.otb import otbcli; otbcli()"
        (shims / name).write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
        (shims / name).chmod(0o755)

    def sh(text):
        environment = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-e"], input=text, capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    return sh


@pytest.mark.parametrize("kind", ["image", "SAFE"])
def test_dry_run_of_apply_is_ready_to_be_copied(kind, tmp_path, paste):
    place = tmp_path / "with space's"
    place.mkdir()
    source = world() / "sentinel2_10m.tif" if kind == "image" else next(world().glob("*.SAFE"))
    given = ["apply", source, "--model", ROOT / "models" / "bicubic-x4"]
    lines = otbsr(*given, "-o", place / "copied.tif", "--dry-run", "--threads", 1)
    assert not list(place.iterdir())
    assert "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 otbcli_SuperResolution -in " in lines
    paste(lines)
    otbsr(*given, "-o", place / "made.tif", "--quiet")
    with rasterio.open(place / "copied.tif") as copied, rasterio.open(place / "made.tif") as made:
        assert copied.transform == made.transform and np.array_equal(copied.read(), made.read())


@pytest.mark.parametrize("learner", ["rf", "knn"])
def test_dry_run_of_classify_is_ready_to_be_copied(learner, tmp_path, paste):
    given = ["classify", world() / "sentinel2_10m.tif", "--polygons", world() / "polygons.gpkg", "--learner", learner, "--samples", 60, "--smooth", 1]
    lines = otbsr(*given, "--out", tmp_path / "copied.tif", "--dry-run")
    assert not (tmp_path / "copied.steps").exists()
    paste(lines)
    otbsr(*given, "--out", tmp_path / "made.tif", "--quiet")
    made = image(tmp_path / "made.tif")
    assert np.array_equal(image(tmp_path / "copied.tif"), made) and made.any()


def test_dry_run_of_aligned_pairs(tmp_path, paste):
    lr, target = world() / "sentinel2_10m.tif", world() / "reference_2m5.tif"
    where = ["--patch", 16, "--step", 8, "--block", 24]
    lines = otbsr("pairs", lr, target, "-o", tmp_path / "copied pairs", *where, "--dry-run")
    assert not list(tmp_path.iterdir()) and lines.count("OTB_TF_NSOURCES=2 otbcli_PatchesExtraction -vec ") == 2
    paste(lines)
    otbsr("pairs", lr, target, "-o", tmp_path / "made", *where, "--quiet")
    for name in ("train_lr.tif", "train_target.tif", "valid_lr.tif", "valid_target.tif"):
        made = image(tmp_path / "made" / name)
        assert np.array_equal(image(tmp_path / "copied pairs" / name), made) and made.any()


def test_dry_run_of_products_pairs(tmp_path, paste):
    """The lines between the steps that otbsr does itself, run again where it kept its files."""
    given = [next(world().glob("*.SAFE")), world() / "PROD_SPOT6_001", "-o", tmp_path / "pairs", "--patch", 16, "--step", 8, "--block", 24]
    before = otbsr("pairs", *given, "--dry-run")
    assert not list(tmp_path.iterdir())
    otbsr("pairs", *given, "--keep", "--quiet")
    assert otbsr("pairs", *given, "--dry-run", "--overwrite") == before
    steps, kept = tmp_path / "pairs.steps", tmp_path / "kept.tif"
    (steps / "sharp.tif").rename(kept)
    paste(before)
    assert np.array_equal(image(steps / "sharp.tif"), image(kept))
    for split in ("train", "valid"):
        for key in ("lr", "target"):
            assert np.array_equal(image(steps / f"{split}_{key}.tif"), image(tmp_path / "pairs" / f"{split}_{key}.tif"))


@pytest.fixture(scope="module")
def studied(tmp_path_factory, serving):
    """A small study of two learners: (its folder, the lines of its dry run, the lines that it ran, its options)."""
    sys.path.insert(0, str(ROOT / "test" / "python" / "evaluation"))
    try:
        from drawn_area import draw_area, town
    finally:
        sys.path.pop(0)
    place = tmp_path_factory.mktemp("dry")
    area = draw_area(place / "town", town(160))
    given = ["study", area, "--out", place / "out", "--model", ROOT / "models" / "bicubic-x4", "--arms", "f,native", "--learners", "rf,libsvm"]
    given += ["--folds", 2, "--block", 100, "--buffer", 10, "--samples", 160, "--repeats", 1]
    lines = otbsr(*given, "--dry-run")
    assert [path.name for path in place.iterdir()] == ["town"]
    log = place / "commands.sh"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTBSR_COMMANDS", str(log))
        otbsr(*given, "--quiet")
    return place / "out", lines, log.read_text(), given


def test_dry_run_of_a_study_has_the_lines_that_it_runs(studied):
    """All but those of images (by windows in the study) and of adding up; files of the folds, which the study uses in turn, have names of their own."""
    out, lines, log, _ = studied

    def plain(text):
        text = re.sub(rf"{re.escape(str(out))}(/\.scratch-\d+|\.steps)", "STEPS", text)
        text = re.sub(r"/(town-\d|map)\.tif", "/FOLD.tif", text)
        text = re.sub(r"/(town-\d-confidence|confidence)\.tif", "/SURE.tif", text)
        return text.replace("/town-confusion.csv", "/confusion.csv").replace("/whole.tif", "/town.tif")

    def of_learning(text):
        found = (line.removeprefix("# ") for line in plain(text).splitlines())
        return sorted(line for line in found if "otbcli_" in line and not re.search("otbcli_(SuperResolution|BandMath|ImageClassifier -version)", line))

    assert of_learning(lines) == of_learning(log)
    assert len(of_learning(lines)) == 2 * 2 + 2 * 4 * (1 + 2 * 2 + 1) + 4  # statistics and selection; arms x learners; scaling


@pytest.mark.parametrize("smooth", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_dry_run_of_a_study_is_ready_to_be_copied(smooth, studied, paste):
    if shutil.which("ogr2ogr") is None:
        pytest.skip("the lines need ogr2ogr (gdal-bin)")
    out, lines, _, given = studied
    if smooth:  # the other lines were run already
        lines = otbsr(*given, "--smooth", smooth, "--dry-run")
        otbsr(*given, "--smooth", smooth, "--quiet")
    steps = out.with_name("out.steps")
    shutil.rmtree(steps, ignore_errors=True)
    super_resolved = out / "arms" / "town" / "f" / "image_2m5.tif"
    pixels = image(super_resolved)
    super_resolved.unlink()
    paste(lines)
    assert np.array_equal(image(super_resolved), pixels)
    for arm in ("f", "native", "bicubic", "bicubic-context"):
        for learner in ("rf", "libsvm"):
            made = image(out / "maps" / "town" / arm / f"{learner}_0.tif")
            assert np.array_equal(image(steps / f"0-{arm}-{learner}-0" / "town.tif"), made) and made.any(), (arm, learner)
