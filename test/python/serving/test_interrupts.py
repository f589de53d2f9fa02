"""An application that is interrupted while it writes: it ends by the signal, and nothing unfinished is left."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import geopandas
import numpy as np
import pytest
from image_files import TRANSFORM, write_random
from processes import until
from shapely.geometry import Point

from otbsr.serving import otb

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start(application: str, *arguments: object, ignored: int | None = None) -> subprocess.Popen[str]:
    """The application in a process group of its own, with the signals as a terminal's shell leaves them, but for one that is ignored."""

    def set_signals() -> None:
        for sign in SIGNALS:
            signal.signal(sign, signal.SIG_IGN if sign == ignored else signal.SIG_DFL)

    words = [otb.LAUNCHER, application, *map(str, arguments)]
    environment = {**os.environ, **otb.otb_environment(), "OTB_TF_NSOURCES": "2" if application == "PatchesExtraction" else "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=set_signals)


def interrupt(process: subprocess.Popen[str], begun: Path, folder: Path, sign: int) -> int:
    """Send the signal as soon as a file of that pattern is there; the exit status."""
    until(lambda: process.poll() is not None or list(folder.glob(begun.name)), every=0.002)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, sign)
    process.communicate(timeout=120)
    return process.returncode


@pytest.mark.usefixtures("run_application")
@pytest.mark.parametrize(("name", "sign"), [*(("out.tif", sign) for sign in SIGNALS), ("out.img", signal.SIGTERM)])
def test_serving_leaves_nothing_unfinished(models: Path, tmp_path: Path, name: str, sign: int) -> None:
    """Under its hidden name or, in formats that are written in place, its own; an older product that is not written over stays."""
    source, folder = write_random(tmp_path / "in.tif", 600, 600), tmp_path / "products"
    folder.mkdir()
    hidden = name == "out.tif"
    if hidden:
        (folder / name).write_text("mine")
    process = start("SuperResolution", "-in", source, "-model", models / "bicubic-x4", "-out", folder / name, "-block", 32)
    assert interrupt(process, folder / (".out.partial-*" if hidden else name), folder, sign) == -sign
    assert [path.name for path in folder.iterdir()] == ([name] if hidden else [])
    assert not hidden or (folder / name).read_text() == "mine"


@pytest.mark.usefixtures("run_application")
def test_an_ignored_signal_is_left_alone(models: Path, tmp_path: Path) -> None:
    """A shell's background job ignores SIGINT, and goes on."""
    source, folder = write_random(tmp_path / "in.tif", 200, 200), tmp_path / "products"
    folder.mkdir()
    process = start("SuperResolution", "-in", source, "-model", models / "nearest-x4", "-out", folder / "out.tif", ignored=signal.SIGINT)
    assert interrupt(process, folder / "*out*", folder, signal.SIGINT) == 0
    assert [path.name for path in folder.iterdir()] == ["out.tif"]


@pytest.mark.usefixtures("run_application")
@pytest.mark.parametrize("sign", SIGNALS)
def test_patches_come_together_or_not_at_all(tmp_path: Path, sign: int) -> None:
    """Neither the images of patches that are whole nor the one that is being written are of use; what was there before and was not begun is."""
    source, folder = write_random(tmp_path / "in.tif", 300, 300), tmp_path / "products"
    folder.mkdir()
    (folder / "b.tif").write_text("mine")
    corners = np.random.default_rng(2).uniform(200, 2800, (5000, 2))
    centres = [Point(TRANSFORM.c + x, TRANSFORM.f - y) for x, y in corners]
    vec = tmp_path / "points.gpkg"
    geopandas.GeoDataFrame({"id": np.arange(5000)}, geometry=centres, crs="EPSG:32631").to_file(vec)
    words: list[object] = ["-vec", vec, "-field", "id"]
    for number, name in enumerate(("a.tif", "b.tif"), 1):
        key = f"-source{number}"
        words += [f"{key}.il", source, f"{key}.patchsizex", 24, f"{key}.patchsizey", 24, f"{key}.out", folder / name, "float"]
    assert interrupt(start("PatchesExtraction", *words), folder / "a.tif", folder, sign) == -sign
    assert [path.name for path in folder.iterdir()] == ["b.tif"] and (folder / "b.tif").read_text() == "mine"
