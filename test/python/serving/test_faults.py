"""Faults that really happen: one clear message, an exit status that is not 0, nothing half-made under its final name, and the same command goes on.

Also: a kill of the command itself, SIGINT, rot in a finished window and a disk that fills up (test_windows.py), OTB's exit status 0 on a full
disk (test_otb.py), a disk too small from the start (test_apply.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from image_files import TRANSFORM, at, write, write_random

from otbsr.errors import InputError, OutputError, ProcessingError
from otbsr.evaluation.work import prepared_folder
from otbsr.methods.model_folder import ModelFolder, save_model
from otbsr.products import open_product
from otbsr.raster import new_raster
from otbsr.serving import apply as module
from otbsr.serving import otb
from otbsr.serving.apply import Watched, apply
from otbsr.serving.windows import window_folder

NEAREST = Path(__file__).parents[3] / "models" / "nearest-x4"
serves = pytest.mark.usefixtures("serving")


def image(path: Path, height: int = 24, width: int = 1500) -> Path:
    """A random 4-band image, by default of three windows of 512."""
    return write_random(path, height, width)


def refined(source: Path, out: Path) -> bool:
    """Whether `out` is what the nearest model makes of `source`."""
    with rasterio.open(source) as lr, rasterio.open(out) as sr:
        return np.array_equal(sr.read(), lr.read().repeat(4, 1).repeat(4, 2))


def command(source: Path, out: Path) -> list[str]:
    words = [sys.executable, "-m", "otbsr", "apply", source, "--model", NEAREST, "-o", out, "--window", 512, "--quiet", "--threads", 1]
    return list(map(str, words))


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command(source, out), stderr=subprocess.PIPE, text=True)


def wait_for(what: object, process: subprocess.Popen[str], patience: float = 120) -> object:
    """The first true answer of `what()` while the process runs."""
    end = time.monotonic() + patience
    while not (found := what()):
        assert process.poll() is None and time.monotonic() < end, "the run ended, or was too slow"
        time.sleep(0.02)
    return found


def application_of(process: subprocess.Popen[str]) -> list[int]:
    """Process numbers of the run's OTB application."""
    return [int(one) for one in subprocess.run(["pgrep", "-P", str(process.pid), "-f", "SuperResolution"], capture_output=True, text=True).stdout.split()]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit status, the one line of its message)."""
    _, said = process.communicate(timeout=120)
    assert said.count("\n") == 1, said
    return process.returncode, said


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A disk of 100 KB."""
    return mount_disk("100k")


@serves
def test_killed_application_and_second_run_on_one_output(tmp_path: Path) -> None:
    source, out = image(tmp_path / "lr.tif"), tmp_path / "sr.tif"
    folder = tmp_path / "sr.tif.windows"
    run = start(source, out)
    wait_for((folder / "lock").exists, run)
    os.kill(run.pid, signal.SIGSTOP)  # or it may be over before the second has started
    second = subprocess.run(command(source, out), capture_output=True, text=True)
    os.kill(run.pid, signal.SIGCONT)
    assert second.returncode == 73 and second.stderr.count("\n") == 1 and "another run is writing this product" in second.stderr
    wait_for(lambda: list(folder.glob("out_*.tif")), run)
    for number in wait_for(lambda: application_of(run), run):  # the next window's
        os.kill(number, signal.SIGKILL)
    status, said = ended(run)
    assert status == 70 and "ended by signal 9" in said and "--max-memory" in said and not out.exists()
    done = apply(source, NEAREST, out, window=512, threads=1)
    assert 1 <= done.reused < done.windows == 3 and refined(source, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr.tif", "sr.tif"]


@serves
def test_input_that_is_taken_away(tmp_path: Path) -> None:
    source, out = image(tmp_path / "lr.tif"), tmp_path / "sr.tif"
    run = start(source, out)
    wait_for(lambda: list((tmp_path / "sr.tif.windows").glob("out_*.tif")), run)
    source.rename(tmp_path / "away.tif")
    status, said = ended(run)
    assert status == 65 and "lr.tif: was removed while" in said and not out.exists()
    (tmp_path / "away.tif").rename(source)
    assert apply(source, NEAREST, out, window=512, threads=1).reused >= 1 and refined(source, out)


def test_input_or_model_that_changes_is_no_longer_the_same(tmp_path: Path) -> None:
    source = image(tmp_path / "lr.tif", 8, 8)
    folder = tmp_path / "model"
    subprocess.run(["cp", "-r", str(NEAREST), str(folder)], check=True)
    watched = Watched(open_product(source), [ModelFolder.open(folder)])
    watched.check()
    with (folder / "saved_model.pb").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"saved_model\.pb: changed while"):
        watched.check()
    with pytest.raises(InputError, match="was removed while") as caught, Watched(open_product(source), []):
        source.unlink()
        rasterio.open(source)
    assert caught.value.__cause__ is not None
    with pytest.raises(ProcessingError, match="something else"), Watched(open_product(image(source)), []):
        raise ProcessingError("something else")


def test_windows_made_of_a_changed_input_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes while the second window runs: that one must not be in the manifest, even when the old input is put back."""
    source, made = image(tmp_path / "lr.tif"), []

    def run(_name: str, parameters: dict, *_rest: object) -> str:
        made.append(1)
        if len(made) == 2:
            os.utime(source, ns=(1, 1))
        target = Path(parameters["out"][0].partition("?")[0])
        size = int(parameters["out"][0].split("box=")[1].split("&")[0].split(":")[2])
        where = at(2.5, TRANSFORM.c + (len(made) - 1) * 5120)
        write(target, np.zeros((4, 96, size), np.int16), transform=where, nodata=-10000, tiled=True, blockxsize=512, blockysize=512, bigtiff="yes")
        return ""

    monkeypatch.setattr(module, "run_otb", run)
    with pytest.raises(InputError, match=r"lr\.tif: changed while"):
        apply(source, NEAREST, tmp_path / "sr.tif", window=512)
    assert [path.name for path in (tmp_path / "sr.tif.windows").glob("out_*")] == ["out_000000_000000.tif"] and not (tmp_path / "sr.tif").exists()


def test_read_only_folder(tmp_path: Path, small_disk: Path) -> None:
    source = image(tmp_path / "lr.tif", 8, 8)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    status, said = ended(start(source, small_disk / "sr.tif"))
    assert status == 73 and "is not writable; choose another folder" in said
    with pytest.raises(OutputError, match=r"cannot be written \(Read-only file system\)"), window_folder(small_disk / "w", {}):
        pass
    with pytest.raises(OutputError, match=r"cannot be written \(.*[Rr]ead-only"), new_raster(small_disk / "a.tif") as path:
        image(path, 8, 8)
    assert not list(small_disk.iterdir())


def test_a_full_disk_leaves_the_former_file(small_disk: Path) -> None:
    out = small_disk / "a.tif"
    with new_raster(out) as path:
        image(path, 8, 8)
    before = out.read_bytes()
    with pytest.raises(OutputError, match=r"a\.tif: .*check the free space"), new_raster(out) as path:
        image(path, 200, 200)
    assert out.read_bytes() == before and [one.name for one in small_disk.iterdir()] == ["a.tif"]
    with pytest.raises(InputError, match="mine"), new_raster(out) as path:
        image(path, 8, 8)
        raise InputError("mine")
    assert out.read_bytes() == before and [one.name for one in small_disk.iterdir()] == ["a.tif"]


def test_two_studies_in_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "study"
    with prepared_folder(out, overwrite=False):
        (out / "arms").mkdir()
        with pytest.raises(OutputError, match="another run is writing this study"), prepared_folder(out, overwrite=True):
            pass
        assert (out / "arms").is_dir()
    with prepared_folder(out, overwrite=True):
        assert not (out / "arms").exists()


def hungry(folder: Path) -> Path:
    """The nearest model by way of 64 copies of its result: 1.5 GB for 300 x 300 input pixels, 0.27 GB for 128 x 128."""
    import tensorflow as tf

    def model(lr: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.tile(tf.repeat(tf.repeat(lr, 4, 1), 4, 2)[..., None], [1, 1, 1, 1, 64]), -1)

    return save_model(model, folder, ModelFolder.open(NEAREST).sidecar.model_copy(update={"name": "hungry"})).path


@serves
def test_memory_of_tensorflow_that_really_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application gets 2 GB of addresses: the whole image does not fit, a part of it does."""
    source, blocks = image(tmp_path / "lr.tif", 300, 300), []
    real = module.run_otb

    def run(name: str, parameters: dict, *rest: object) -> str:
        blocks.append(parameters["block"])
        return real(name, parameters, *rest)

    monkeypatch.setattr(module, "run_otb", run)
    monkeypatch.setattr(otb, "mortal", lambda: ["prlimit", f"--as={2 * 10**9}"])
    apply(source, hungry(tmp_path / "model"), tmp_path / "sr.tif", threads=1)
    assert len(blocks) >= 2 and blocks[:2] == [None, 256] and refined(source, tmp_path / "sr.tif")
