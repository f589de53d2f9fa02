"""The training set's script: it goes on where it stopped, adds what is asked more, and refuses to mix sets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "training_data.py"


@pytest.fixture
def aerial(tmp_path):
    """Noise at 1 m, 200 x 190 m: too small for a patch but at zoom 2, where it is 36 x 34 input pixels."""
    path = tmp_path / "aerial.tif"
    profile = {"driver": "GTiff", "width": 200, "height": 190, "count": 4, "dtype": "uint8", "crs": "EPSG:26917", "transform": (1, 0, 0, 0, -1, 190)}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(np.random.default_rng(0).integers(50, 200, (4, 190, 200), np.uint8))
    return path


def make(out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, out, "--extent", 480, "--factor", 2, "--valid-landscapes", 1, *options]
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


def manifest(folder: str) -> dict:
    return json.loads((Path(folder) / "manifest.json").read_text())


def test_a_set_grows_and_goes_on(run_application, aerial, tmp_path):
    out = tmp_path / "set"
    done = make(out, "--landscapes", 1, "--aerial", aerial)
    assert done.returncode == 0, done.stderr
    folders = (out / "pairs.list").read_text().split()
    names = [Path(folder).name for folder in folders]
    assert names == ["aerial-aerial-2-0-0", "2000", "1000"]
    assert done.stdout.count("left out") == 8 and "aerial-aerial-1-0-0: left out" in done.stdout
    kinds = {
        name: (manifest(folder)["splits"]["train"]["accepted"], manifest(folder)["splits"]["valid"]["accepted"])
        for name, folder in zip(names, folders, strict=True)
    }
    assert kinds == {names[0]: (1, 0), "2000": (0, 1), "1000": (1, 0)}
    assert [manifest(folder)["seed"] for folder in folders[-2:]] == [2000, 1000] and {manifest(folder)["factor"] for folder in folders} == {2}
    assert not list((out / "worlds").iterdir())

    # as after a kill: a world without its pairs, pairs under a hidden name, one folder missing
    kept = {folder: (Path(folder) / "manifest.json").stat().st_mtime_ns for folder in folders[:-1]}
    before = manifest(folders[-1])
    (Path(folders[-1])).rename(out / "pairs" / ".1000-abc")
    (out / "worlds" / ".1000.7.partial").mkdir()
    again = make(out, "--landscapes", 1, "--aerial", aerial)
    assert again.returncode == 0 and (out / "pairs.list").read_text().split() == folders, again.stderr
    assert {folder: (Path(folder) / "manifest.json").stat().st_mtime_ns for folder in kept} == kept
    assert manifest(folders[-1]) == before, "the same seed gives the same pairs"
    assert not list((out / "worlds").iterdir()) and not list((out / "pairs").glob(".*"))

    other = make(out, "--landscapes", 1, "--bands", "ten")
    assert other.returncode and "holds a set with" in other.stderr and other.stderr.count("\n") == 1
    mixed = make(tmp_path / "mixed", "--bands", "ten", "--aerial", aerial)
    assert mixed.returncode and "aerial images have B4,B3,B2,B8 only" in mixed.stderr
