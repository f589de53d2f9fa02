"""A whole Sentinel-2 tile through `otbsr apply`, against TensorFlow alone on the same blocks in memory; then again, killed twice.

    python benchmark/tile.py [--model models/f-light-x4] [--size 10980] [--max-memory 2048] [--kills 2] [--folder DIR]

The tile is texture with a power spectrum like the ground's and noise, 4 bands of int16, made by pieces. TensorFlow alone computes a part of
the tile (--part, input pixels; its blocks lie in memory already and its results are thrown away) before and after `apply`, and its mean
seconds for a pixel are taken for the whole. `apply` is timed from its start to its end, writing, overviews, checksums and COG included; its memory is
the largest sum over its processes, read twice a second (each page counted by how many share it). The second run is killed (-9, with all its processes)
at random moments and started again; its product must have the first one's bytes. One line of JSON for each part. Needs 2 GB of disk for
every 10 million input pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from processes import shared_megabytes
from rasterio.windows import Window
from serving import ALONE, ONEDNN, ROOT

SEED, PIECE = 3, 1024


def texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """[4, size, size] int16 DN: a field with amplitudes falling with frequency, shared by the bands in part, and 30 DN of noise."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf

    def field() -> np.ndarray:
        amplitudes = frequency**-1.2 * np.exp(2j * np.pi * rng.random(frequency.shape))
        values = np.fft.irfft2(amplitudes, s=(size, size))
        return values / values.std()

    common = field()
    bands = [1500 + 500 * band + 400 * (0.8 * common + 0.6 * field()) + 30 * rng.standard_normal((size, size)) for band in range(4)]
    return np.rint(bands).clip(1, 12000).astype(np.int16)


def make(path: Path, size: int) -> None:
    """The tile: one texture of `PIECE` pixels, turned and flipped from piece to piece."""
    rng = np.random.default_rng(SEED)
    piece = texture(PIECE, rng)
    profile = {"driver": "GTiff", "count": 4, "height": size, "width": size, "dtype": "int16", "nodata": -10000, "crs": "EPSG:32631", "tiled": True}
    profile |= {"blockxsize": 512, "blockysize": 512, "interleave": "pixel"}
    with rasterio.open(path, "w", **profile, transform=Affine(10, 0, 300000, 0, -10, 4900020)) as dataset:
        for row in range(0, size, PIECE):
            for column in range(0, size, PIECE):
                turned = np.rot90(piece, rng.integers(4), (1, 2))[:, :: rng.choice((-1, 1))]
                height, width = min(PIECE, size - row), min(PIECE, size - column)
                dataset.write(turned[:, :height, :width], window=Window(column, row, width, height))
        dataset.descriptions = ("B4", "B3", "B2", "B8")


def alone(model: Path, side: int, block: int, threads: int, kernels: bool) -> float:
    """TensorFlow's seconds for a square of `side` input pixels by blocks of `block`."""
    environment = {name: value for name, value in os.environ.items() if name != ONEDNN} | ({ONEDNN: "1"} if kernels else {}) | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    graph = "constants" if kernels else "variables"
    command = [sys.executable, "-c", ALONE, str(model), str(side), str(block), str(threads), graph]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"SECONDS ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    return float(found[1])


def command(source: Path, out: Path, options: argparse.Namespace) -> list[str]:
    """The command that is measured."""
    words = [sys.executable, "-m", "otbsr", "apply", source, "--model", options.model, "-o", out, "--max-memory", options.max_memory, "--quiet"]
    return [str(word) for word in [*words, *(["--threads", options.threads] if options.threads else [])]]


def started(words: list[str]) -> subprocess.Popen[bytes]:
    """A child in a session of its own, so that it can be killed with all that it started."""
    return subprocess.Popen(words, start_new_session=True)


def timed(words: list[str]) -> dict[str, float]:
    """Seconds and peak memory of a run that must succeed."""
    begin, peak, child = time.perf_counter(), 0.0, started(words)
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.5):
            peak = max(peak, shared_megabytes(child.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(child.pid, 0)
    over.set()
    watcher.join()
    if status:
        raise SystemExit(f"apply failed ({status})")
    return {"seconds": round(time.perf_counter() - begin, 1), "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1), "peak_mb": round(peak)}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def killed(words: list[str], out: Path, count: int, seconds: float) -> dict[str, object]:
    """The same run killed `count` times at random moments of what is left of it, then let go on to its end."""
    chance, done, moments = random.Random(SEED), 0.0, []
    for number in range(count):
        child = started(words)
        span = (seconds - done) / (count - number)
        wait = chance.uniform(0.2, 0.9) * span
        try:
            child.wait(wait)
            raise SystemExit(f"apply ended by itself after {wait:.0f} s, before it could be killed")
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        done += wait
        if out.exists():
            raise SystemExit(f"{out}: there although the run was killed")
        windows = len(list(out.with_name(f"{out.name}.windows").glob("out_*.tif")))
        moments.append({"killed_after": round(wait, 1), "finished_windows": windows})
    return {"kills": moments, **timed(words)}


def facts(out: Path, source: Path) -> dict[str, object]:
    """What the product is: layout, size, footprint as the input's, overviews."""
    with rasterio.open(out) as dataset, rasterio.open(source) as given:
        return {
            "layout": dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT"),
            "width": dataset.width,
            "height": dataset.height,
            "same_footprint": dataset.bounds == given.bounds and dataset.crs == given.crs,
            "overviews": dataset.overviews(1),
            "checksum_of_smallest": int(dataset.read(1, out_shape=(64, 64)).astype(np.int64).sum()),
            "gigabytes": round(out.stat().st_size / 1e9, 2),
        }


def main() -> None:
    """Run all parts in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "f-light-x4")
    parser.add_argument("--size", type=int, default=10980)
    parser.add_argument("--part", type=int, default=2048, help="side of what TensorFlow alone computes, input pixels")
    parser.add_argument("--block", type=int, default=512, help="side of TensorFlow's blocks alone, input pixels")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--max-memory", type=int, default=2048)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where files are made and the product is kept; default: temporary")
    options = parser.parse_args()
    part = min(options.part, options.size)
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        source, out = folder / "tile.tif", folder / "sr.tif"
        make(source, options.size)
        pixels, load = (options.size / part) ** 2, os.getloadavg()[0]
        before = {kernels: alone(options.model, part, options.block, options.threads, kernels) * pixels for kernels in (False, True)}
        run = timed([*command(source, out, options), "--overwrite"])
        after = {kernels: alone(options.model, part, options.block, options.threads, kernels) * pixels for kernels in (True, False)}
        plain, same = ((before[kernels] + after[kernels]) / 2 for kernels in (False, True))
        result = {"name": f"{options.size} x {options.size} through apply", "ratio": round(run["seconds"] / plain, 3), **run}
        result |= {"ratio_same_kernels": round(run["seconds"] / same, 3), "tensorflow_seconds": round(plain, 1), "same_kernels_seconds": round(same, 1)}
        result |= {"before": [round(value, 1) for value in before.values()], "after": [round(after[kernels], 1) for kernels in (False, True)]}
        print(json.dumps(result | {"load_before": round(load, 2), **facts(out, source)}), flush=True)
        if options.kills:
            first = digest(out)
            out.unlink()
            again = killed(command(source, out, options), out, options.kills, run["seconds"])
            print(json.dumps({"name": "killed and resumed", "same_bytes": digest(out) == first, **again}), flush=True)
            left = sorted(path.name for path in folder.iterdir() if path not in (source, out))
            print(json.dumps({"name": "left beside the product", "files": left}), flush=True)


if __name__ == "__main__":
    main()
