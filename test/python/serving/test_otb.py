"""Running OTB: what worked, what only seemed to, and what is left behind."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from image_files import write

from otbsr.errors import MissingToolError, OutputError, ProcessingError
from otbsr.raster import damage
from otbsr.serving import otb

pytestmark = pytest.mark.skipif(shutil.which(otb.LAUNCHER) is None, reason="OTB is not installed")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write(tmp_path / "in put.tif", np.arange(300 * 200, dtype=np.int16).reshape(1, 300, 200) % 1000)


def test_a_run_gives_the_product_the_log_and_progress(image: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    out = tmp_path / "negated image.tif"
    log = otb.run_otb("BandMath", {"il": [image], "exp": "0 - im1b1", "out": [out, "int16"], "ram": None}, lambda *at: seen.append(at), [out], "negation")
    with rasterio.open(out) as made, rasterio.open(image) as given:
        assert np.array_equal(made.read(), -given.read())
        assert made.transform == given.transform
    assert "BandMath" in log and "\r" not in log
    assert {step for step, _ in seen} == {"negation"}
    shares = [share for _, share in seen]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(shares) > 3


@pytest.mark.parametrize(
    ("parameters", "expected", "words"),
    [
        ({"il": ["missing.tif"], "exp": "im1b1", "out": "o.tif"}, ProcessingError, "missing.tif"),
        ({"il": ["IMAGE"], "nosuchkey": 1}, ProcessingError, "nosuchkey"),
        ({"il": ["IMAGE"], "exp": "im1b1", "out": "/nonexistent/o.tif"}, OutputError, "/nonexistent/o.tif"),
    ],
)
def test_failures_are_one_clear_line(image: Path, parameters: dict[str, object], expected: type[Exception], words: str) -> None:
    given = {key: [str(image)] if value == ["IMAGE"] else value for key, value in parameters.items()}
    with pytest.raises(expected, match=words) as caught:
        otb.run_otb("BandMath", given)
    assert "\n" not in str(caught.value) and "(FATAL)" not in str(caught.value)


def test_missing_application_and_missing_otb(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingToolError, match="NoSuchApplication"):
        otb.run_otb("NoSuchApplication", {})
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingToolError, match="apt-get install otb-bin"):
        otb.run_otb("BandMath", {})


def test_a_product_that_was_not_written_is_noticed(image: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="was not written"):
        otb.run_otb("BandMath", {"il": [image], "exp": "im1b1", "out": tmp_path / "a.tif"}, products=[tmp_path / "b.tif"])


def test_full_disk_is_an_error_though_otb_ends_with_zero(tmp_path: Path, mount_disk: Callable[[str], Path]) -> None:
    image, small = write(tmp_path / "in.tif", np.random.default_rng(0).integers(0, 9999, (1, 600, 600)).astype(np.int16)), mount_disk("200k")
    with pytest.raises(OutputError, match="no space left"):
        otb.run_otb("BandMath", {"il": [image], "exp": "im1b1", "out": [small / "o.tif", "int16"]}, products=[small / "o.tif"])
    with rasterio.open(small / "o.tif") as dataset:  # why the log is read: the file opens, with holes that read as zeros
        assert (dataset.read() == 0).all((0, 2)).sum() > 300


def test_an_interrupt_ends_the_application(tmp_path: Path) -> None:
    image = write(tmp_path / "in.tif", np.random.default_rng(0).integers(0, 9999, (3, 1000, 1000)).astype(np.int16))
    script = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from otbsr.serving.otb import run_otb
run_otb("MeanShiftSmoothing", {{"in": {str(image)!r}, "fout": {str(tmp_path / "o.tif")!r}, "spatialr": 30, "ranger": 5000, "maxiter": 200}})
"""
    runner = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)

    def running() -> list[str]:
        found = subprocess.run(["pgrep", "-f", f"MeanShiftSmoothing.*{tmp_path}"], capture_output=True, text=True).stdout.split()
        return [pid for pid in found if pid != str(runner.pid)]

    deadline = time.monotonic() + 20
    while not running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running()
    runner.send_signal(signal.SIGINT)
    assert runner.wait(15) != 0
    assert not running()


@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 64, "blockysize": 64}, {"compress": "deflate"}, {"interleave": "pixel"}])
def test_files_cut_anywhere_are_found(tmp_path: Path, layout: dict[str, object]) -> None:
    whole = write(tmp_path / "whole.tif", np.random.default_rng(1).integers(0, 9999, (4, 200, 150)).astype(np.int16), **layout)
    assert damage(whole) == ""
    content = whole.read_bytes()
    for share in (0.0, 0.3, 0.6, 0.95, 0.999):
        cut = tmp_path / f"cut{share}.tif"
        cut.write_bytes(content[: int(share * len(content))])
        assert damage(cut), share


def test_environment_puts_ours_before_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "otbapp_X.so").touch()
    monkeypatch.setenv("OTBSR_APPLICATIONS", str(tmp_path))
    monkeypatch.setenv("OTB_APPLICATION_PATH", "/mine")
    monkeypatch.setenv("PROJ_LIB", "/x/site-packages/rasterio/proj_data")
    environment = otb.otb_environment()
    folders = environment["OTB_APPLICATION_PATH"].split(":")
    assert folders[:2] == [str(tmp_path), "/mine"] and str(otb.system_folders()[0]) in folders
    assert "PROJ_LIB" not in environment
    monkeypatch.setenv("OTBSR_APPLICATIONS", str(tmp_path / "none"))
    with pytest.raises(MissingToolError, match="none"):
        otb.application_folder()
