"""Long runs of `apply`: what is finished is kept, what is not whole is made again, and the product is that of an unbroken run."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import typer
from image_files import at, write_random

from otbsr.cli import app
from otbsr.errors import InputError, ModelError, OutputError, ProcessingError, UsageError
from otbsr.methods.model_folder import SIDECAR
from otbsr.serving import apply as module
from otbsr.serving.apply import apply
from otbsr.serving.options import ApplyOptions
from otbsr.serving.windows import Made, leave_record, shared_folder, window_folder

ROOT = Path(__file__).parents[3]
NEAREST, BICUBIC = ROOT / "models" / "nearest-x4", ROOT / "models" / "bicubic-x4"
serves = pytest.mark.usefixtures("serving")
IDENTITY = {"source": "a", "model": 1}


def image(path: Path, height: int = 700, width: int = 1300) -> Path:
    """A random 4-band image of 2 x 3 windows of 512; the window in the middle of the first row has no data."""
    return write_random(path, height, width, np.s_[:, :512, 512:1024])


def finished(folder: Path) -> dict[str, dict]:
    """The manifest's windows; none when there is none yet."""
    try:
        return json.loads((folder / "manifest.json").read_text())["windows"]
    except (OSError, ValueError):
        return {}


def interrupted(source: Path, out: Path, sign: int, windows: int) -> tuple[int, int]:
    """Start the command, send `sign` when `windows` windows are finished and the next one runs: (exit status, finished windows)."""
    words = [sys.executable, "-m", "otbsr", "apply", source, "--model", NEAREST, "-o", out, "--window", 512, "--quiet", "--threads", 1]
    process = subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, text=True)
    folder, end = out.with_name(f"{out.name}.windows"), time.monotonic() + 120
    while len(finished(folder)) < windows or not list(folder.glob("*part_out*")):
        assert process.poll() is None and time.monotonic() < end, process.stderr.read() if process.poll() is not None else "too slow"
        time.sleep(0.02)
    process.send_signal(sign)
    status = process.wait(60)
    process.stderr.close()
    return status, len(finished(folder))


@serves
def test_killed_and_interrupted_runs_go_on_to_the_same_bytes(tmp_path: Path) -> None:
    source, out = image(tmp_path / "lr.tif"), tmp_path / "sr.tif"
    status, first = interrupted(source, out, signal.SIGKILL, 1)
    assert status == -signal.SIGKILL and not out.exists()
    status, second = interrupted(source, out, signal.SIGINT, 3)
    assert status == 130 and second >= 3 > first >= 1 and not out.exists()
    folder = tmp_path / "sr.tif.windows"
    name, entry = next((name, entry) for name, entry in sorted(finished(folder).items()) if entry["bytes"])
    with (folder / f"{name}.tif").open("r+b") as file:  # rot on the disk
        file.seek(entry["bytes"] // 2)
        file.write(b"rot")
    done = apply(source, NEAREST, out, window=512, threads=1)
    assert (done.windows, done.reused) == (6, second - 1) and not folder.exists()
    whole = apply(source, NEAREST, tmp_path / "whole.tif", window=512, threads=1)
    assert whole.reused == 0 and out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    with rasterio.open(source) as lr, rasterio.open(out) as sr:
        assert np.array_equal(sr.read(), lr.read().repeat(4, 1).repeat(4, 2)) and sr.transform == at(2.5)
    time.sleep(0.2)
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert not left, "the killed run's application goes on"


@serves
def test_windows_do_not_show_and_a_mosaic_keeps_them(tmp_path: Path) -> None:
    source = image(tmp_path / "lr.tif", 530, 600)
    with rasterio.open(source, "r+") as dataset:  # data across the seams
        dataset.write(np.random.default_rng(6).integers(0, 5000, (4, 530, 600)).astype(np.int16))
    one = apply(source, BICUBIC, tmp_path / "one.tif", validity=True, against=NEAREST)
    many = apply(source, BICUBIC, tmp_path / "many.tif", validity=True, against=NEAREST, window=512)
    mosaic = apply(source, BICUBIC, tmp_path / "many.vrt", validity=True, window=512)
    assert (one.windows, many.windows, mosaic.windows) == (1, 4, 4)
    for key in ("out", "validity", "disagreement"):
        with rasterio.open(getattr(one, key)) as a, rasterio.open(getattr(many, key)) as b:
            assert np.array_equal(a.read(), b.read()), key
            assert a.transform == b.transform and a.crs == b.crs and a.descriptions == b.descriptions and a.overviews(1) == b.overviews(1) == [2, 4, 8]
            if key != "disagreement":
                with rasterio.open(getattr(mosaic, key)) as c:
                    assert np.array_equal(a.read(), c.read()) and a.nodata == c.nodata and a.scales == c.scales
    assert (tmp_path / "many.vrt.windows").is_dir() and not (tmp_path / "many.tif.windows").exists()


@serves
def test_windows_without_data_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    real = module.run_otb
    monkeypatch.setattr(module, "run_otb", lambda *words, **more: runs.append(words[0]) or real(*words, **more))
    apply(image(tmp_path / "lr.tif", 512, 1100), NEAREST, tmp_path / "sr.tif", window=512)
    assert len(runs) == 2
    with rasterio.open(tmp_path / "lr.tif", "r+") as dataset:
        dataset.write(np.full((4, 512, 1100), -10000, np.int16))
    with pytest.raises(InputError, match="no valid pixel"):
        apply(tmp_path / "lr.tif", NEAREST, tmp_path / "none.tif", window=512)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr.tif", "sr.tif"]


def test_memory_that_does_not_suffice_halves_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[int | None] = []

    def out_of_memory(_name: str, parameters: dict, *_rest: object) -> str:
        blocks.append(parameters["block"])
        if len(blocks) < 3:
            raise ProcessingError("SuperResolution: OOM when allocating tensor with shape [1,64,512,512]")
        raise ProcessingError("SuperResolution: something else")

    monkeypatch.setattr(module, "run_otb", out_of_memory)
    with pytest.raises(ProcessingError, match="something else"):
        apply(image(tmp_path / "lr.tif", 60, 60), NEAREST, tmp_path / "sr.tif")
    assert blocks == [None, 256, 128]


def without_hash(folder: Path) -> Path:
    """A copy of a model whose sidecar does not list the hash of its graph."""
    subprocess.run(["cp", "-r", str(NEAREST), str(folder)], check=True)
    side = json.loads((folder / SIDECAR).read_text())
    del side["sha256"]["saved_model.pb"]
    (folder / SIDECAR).write_text(json.dumps(side))
    return folder


def test_a_model_without_hashes_is_not_run_unless_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = without_hash(tmp_path / "model")
    source = image(tmp_path / "lr.tif", 60, 60)
    with pytest.raises(ModelError, match=r"no sha256 of saved_model\.pb.*--trust-model"):
        apply(source, folder, tmp_path / "sr.tif")

    def ran(*_words: object) -> str:
        raise ProcessingError("it ran")

    monkeypatch.setattr(module, "run_otb", ran)
    with pytest.raises(ProcessingError, match="it ran"):
        apply(source, folder, tmp_path / "sr.tif", trust_model=True)
    with pytest.raises(UsageError, match="multiple of 512"):
        apply(source, NEAREST, tmp_path / "sr.tif", window=700)


def test_options_of_the_command_and_of_python_are_the_same(tmp_path: Path) -> None:
    command = typer.main.get_command(app).commands["apply"]
    flags = {flag: one.default for one in command.params for flag in one.opts}
    for one in dataclasses.fields(ApplyOptions):
        assert (flags[f"--{one.name.replace('_', '-')}"] or None) == (one.default or None), one.name
    source = image(tmp_path / "lr.tif", 60, 60)
    with pytest.raises(UsageError, match="window of 700"):
        apply(source, NEAREST, tmp_path / "sr.tif", ApplyOptions(window=512), window=700)
    with pytest.raises(UsageError, match="window of 800"):
        apply(source, NEAREST, tmp_path / "sr.tif", ApplyOptions(window=800), validity=True)
    with pytest.raises(TypeError, match="windows"):
        apply(source, NEAREST, tmp_path / "sr.tif", windows=512)


def test_two_runs_and_other_runs_on_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sr.tif.windows"
    with window_folder(folder, IDENTITY) as kept:
        with pytest.raises(OutputError, match="another run is writing"), window_folder(folder, IDENTITY):
            pass
        for name, content in (("a", b"1"), ("b", b"2"), ("c", b"3")):
            kept.partial(name).write_bytes(content)
            kept.finish(name, kept.partial(name))
        kept.finish("d", None)
    (folder / "b.tif").write_bytes(b"x")
    (folder / "c.tif").unlink()
    (folder / "part_e.tif").write_bytes(b"half")
    with pytest.raises(OutputError, match=r"holds windows of another run \(other model\)"), window_folder(folder, {**IDENTITY, "model": 2}):
        pass
    assert (folder / "a.tif").exists()
    with window_folder(folder, IDENTITY) as kept:
        assert sorted(kept.found) == ["a", "d"] and kept.path("d") is None and kept.path("a") == folder / "a.tif"
        assert sorted(path.name for path in folder.iterdir()) == ["a.tif", "lock", "manifest.json"]
    with window_folder(folder, {**IDENTITY, "model": 2}, overwrite=True) as kept:
        assert not kept.found and not (folder / "a.tif").exists()
    assert not folder.exists(), "a folder without windows goes away"


def test_windows_that_others_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts at once at the same window; a record that is true, one of another run, one of a file that has rotted, one that leads out."""
    monkeypatch.setattr("otbsr.serving.windows.PATIENCE", 0.3)
    folder, outside = tmp_path / "w", tmp_path / "other.tif"
    outside.write_bytes(b"keep")
    with shared_folder(folder, IDENTITY) as one, shared_folder(folder, IDENTITY) as two:
        for attempt, names in ((one, "ab"), (two, "ac")):
            for name in names:
                attempt.partial(name).write_bytes(name.encode())
            leave_record(attempt, IDENTITY, {name: Made.of(attempt.partial(name)) for name in names} | {"e": Made(None)})
        with pytest.raises(OutputError, match="another run"), window_folder(folder, IDENTITY):
            pass
        two.partial("c").write_bytes(b"rot")
    with shared_folder(folder, IDENTITY) as known, pytest.raises(OutputError, match=r"other model"), shared_folder(folder, {**IDENTITY, "model": 2}):
        assert set(known.done) == set("abce")
    with pytest.raises(ValueError, match="x"), shared_folder(folder, IDENTITY) as failing:
        failing.partial("f").write_bytes(b"half")
        raise ValueError("x")
    with shared_folder(folder, IDENTITY) as stranger:
        stranger.partial("g").write_bytes(b"g")
        leave_record(stranger, {**IDENTITY, "model": 2}, {"g": Made.of(stranger.partial("g"))})
        (folder / "made_evil.json").write_text(
            (folder / f"made_{one.mark}.json").read_text().replace(f'"part{one.mark}_b.tif"', '"../other.tif"').replace('"b"', '"h"')
        )
    with window_folder(folder, IDENTITY) as kept:
        assert sorted(kept.found) == ["a", "b", "e"] and kept.path("e") is None and kept.path("b").read_bytes() == b"b"
        assert sorted(path.name for path in folder.iterdir()) == ["a.tif", "b.tif", "lock", "manifest.json"] and outside.read_bytes() == b"keep"
        (folder / "part1_k.tif").write_bytes(b"k")
        made = Made.of(folder / "part1_k.tif")
        kept.adopt({"k": made, "l": Made(None)})
        with pytest.raises(OutputError, match="all machines must see this folder"):
            kept.adopt({"m": Made("part2_m.tif", 3, "0")})
    with window_folder(folder, IDENTITY) as kept:
        assert sorted(kept.found) == ["a", "b", "e", "k", "l"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": 1}', '{"identity": null, "windows": 7}'])
def test_a_manifest_that_cannot_be_read_is_an_empty_one(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "manifest.json").write_text(text)
    (folder / "a.tif").write_bytes(b"1")
    with window_folder(folder, IDENTITY) as kept:
        assert not kept.found and not (folder / "a.tif").exists()


@serves
def test_a_disk_that_fills_up_keeps_what_is_finished(tmp_path: Path, mount_disk: Callable[[str], Path]) -> None:
    source, small = image(tmp_path / "lr.tif"), mount_disk("12m")
    with pytest.raises(OutputError, match="space"):
        apply(source, NEAREST, small / "sr.tif", window=512, threads=1)
    windows = len(finished(small / "sr.tif.windows"))
    assert windows >= 1 and not (small / "sr.tif").exists()
    subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
    assert apply(source, NEAREST, small / "sr.tif", window=512, threads=1).reused == windows
    assert [path.name for path in small.iterdir()] == ["sr.tif"]
