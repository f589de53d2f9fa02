"""Speed and memory of `otbsr quality` on large images, a group of scores at a time, against a plain numpy pass that reads both images.

    python benchmark/streamed_quality.py [--size 10000] [--groups basic pixels windows ...] [--compress none deflate]

The plain pass reads windows of 512 pixels of image and reference with rasterio and sums the squared difference of each band, in one
thread. Each run is a process of its own, so that its peak of memory is its own; the plain pass runs before and after the groups, and
the ratio is to the mean of the two. The limit: no less than a third of the plain pass's speed, in less than 2 GB. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window
from scipy import ndimage

GROUPS = ("basic", "pixels", "consistency", "noise", "shift", "spectra", "windows", "all")
LIMIT = 2.0
TILE = 1024


def make(folder: Path, size: int, compress: str) -> list[Path]:
    """Image, reference and input: int16, 4 bands, tiles of 512, texture with noise; repeated tile by tile."""
    random = np.random.default_rng(0)
    ground = ndimage.gaussian_filter(random.standard_normal((TILE, TILE, 4)), (1.5, 1.5, 0), mode="wrap")
    planes = np.moveaxis(2500 + 1500 * ground + 60 * random.standard_normal(ground.shape), -1, 0)
    other = planes + 50 * random.standard_normal(planes.shape)
    coarse = planes.reshape(4, TILE // 4, 4, TILE // 4, 4).mean((2, 4))
    paths = []
    for name, tile, factor in (("image", other, 1), ("reference", planes, 1), ("input", coarse, 4)):
        path, side, values = folder / f"{name}.tif", TILE // factor, np.rint(tile).astype(np.int16)
        profile = {"driver": "GTiff", "count": 4, "height": size // factor, "width": size // factor, "dtype": "int16", "crs": "EPSG:32631"}
        profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel"}
        profile |= {} if compress == "none" else {"compress": compress, "predictor": 2}
        with rasterio.open(path, "w", **profile, transform=from_origin(500000, 4800000, 2.5 * factor, 2.5 * factor)) as dataset:
            for row in range(0, size // factor, side):
                for column in range(0, size // factor, side):
                    height, width = min(side, size // factor - row), min(side, size // factor - column)
                    dataset.write(values[:, :height, :width], window=Window(column, row, width, height))
            dataset.descriptions = ("B4", "B3", "B2", "B8")
        paths.append(path)
    return paths


def plain(image: Path, reference: Path, window: int = 512) -> list[float]:
    """Mean squared difference of each band, by windows."""
    with rasterio.open(image) as one, rasterio.open(reference) as two:
        total, number = np.zeros(one.count), 0
        for row in range(0, one.height, window):
            for column in range(0, one.width, window):
                place = Window(column, row, min(window, one.width - column), min(window, one.height - row))
                error = one.read(window=place).astype(np.float32) - two.read(window=place)
                total += np.sum(error * error, axis=(1, 2), dtype=np.float64)
                number += error[0].size
    return list(total / number)


def child(group: str, folder: Path) -> None:
    """Run one pass and print its seconds, processor seconds and peak of memory in GB."""
    paths = [folder / f"{name}.tif" for name in ("image", "reference", "input")]
    if group == "plain":
        begin, used = time.perf_counter(), time.process_time()
        plain(*paths[:2])
    else:
        from otbsr.evaluation.streams import measure

        begin, used = time.perf_counter(), time.process_time()
        measure(*paths, groups=[group])
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    print(json.dumps({"seconds": seconds, "cpu": cpu, "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def run(group: str, folder: Path) -> dict[str, float]:
    """One pass in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--child", group, "--folder", str(folder)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print a line a group, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10000, help="side of the images, pixels; a multiple of 4")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), help="groups and sets of `otbsr quality --scores`")
    parser.add_argument("--compress", nargs="+", default=["none", "deflate"], help="GeoTIFF compressions")
    parser.add_argument("--folder", type=Path, help="where the images are made and kept, or taken from when they are there; default: temporary")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder)
        return
    rows = []
    for compress in options.compress:
        with tempfile.TemporaryDirectory() as name:
            folder = (options.folder or Path(name)) / f"{options.size}_{compress}"
            if not (folder / "input.tif").exists():
                folder.mkdir(parents=True, exist_ok=True)
                make(folder, options.size, compress)
            run("plain", folder)  # files are in the system's cache from here on
            before = run("plain", folder)
            print(f"{compress:8} plain pass   {before['seconds']:8.2f} s ({before['cpu']:.2f} s of processor)", flush=True)
            found = {}
            for group in options.groups:
                found[group] = run(group, folder)
                print(f"{compress:8} {group:12} {before['seconds'] / found[group]['seconds']:.2f} of the plain pass's speed so far", flush=True)
            after = run("plain", folder)
            base, processor = ((before[key] + after[key]) / 2 for key in ("seconds", "cpu"))
            for group, one in found.items():
                speed = base / one["seconds"]
                met = speed >= 1 / 3 and one["gigabytes"] < LIMIT
                rows.append({"compress": compress, "group": group, "plain_seconds": base, "plain_cpu": processor, "speed": speed, "met": met, **one})
                print(
                    f"{compress:8} {group:12} {one['seconds']:8.2f} s ({one['cpu']:.2f} s of processor, {one['cpu'] / processor:.1f} times the plain pass's), "
                    f"{speed:.2f} of the plain pass's speed, {one['gigabytes']:.2f} GB: {'within the limit' if met else 'NOT within the limit'}",
                    flush=True,
                )
    print(json.dumps({"size": options.size, "bands": 4, "rows": rows}))


if __name__ == "__main__":
    main()
