"""PatchesExtraction against plain windowed reads of the same patches in Python (rasterio), from compressed tiled GeoTIFFs.

    python benchmark/patches.py [--pairs 2000 8000] [--size 2048] [--order scan|random] [--repeats 3]

Pairs of 32 and 128 pixels (4 bands, uint16) out of an image of SIZE pixels and one of 4 SIZE pixels. Both run in child processes, in turn, each
with nothing left to be written to the disk, so that none pays for another's patches. The baseline reads each window once and throws it away
(one thread, the whole image in GDAL's cache, Python's start not counted); a second one writes them as well. PatchesExtraction's time includes
its start, the points, and writing all patches. The last line is one JSON object: for each number of pairs `ratio`, the ratio of the medians (1
would be as fast as the bare reads), `processor_ratio`, the same of processor time, which a busy machine disturbs less, both again with the
writing baseline, and the peak memories. With more pairs than (SIZE / 32)^2 the patches overlap, and the bare reads cost next to nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window
from serving import timed

from otbsr.serving import otb

LEFT, TOP, COARSE, FACTOR, SIDE, BANDS = 300000.0, 4900020.0, 10.0, 4, 32, 4

PYTHON = """
import contextlib, sys, time
import numpy as np, rasterio
from rasterio.windows import Window
corners, is_writing = np.load(sys.argv[1]), sys.argv[4] == "write"
with contextlib.ExitStack() as stack:
    sources = [(stack.enter_context(rasterio.open(path)), factor, 32 * factor) for path, factor in ((sys.argv[2], 1), (sys.argv[3], 4))]
    outputs = []
    start, processor = time.perf_counter(), time.process_time()
    for source, _, side in sources if is_writing else []:
        profile = dict(driver="GTiff", width=side, height=len(corners) * side, count=source.count, dtype=source.dtypes[0], blockysize=side)
        outputs.append(stack.enter_context(rasterio.open(f"{sys.argv[5]}/python_{side}.tif", "w", interleave="pixel", **profile)))
    for k, (column, row) in enumerate(corners.tolist()):
        for n, (source, factor, side) in enumerate(sources):
            pixels = source.read(window=Window(factor * column, factor * row, side, side))
            if is_writing:
                outputs[n].write(pixels, window=Window(0, k * side, side, side))
    for output in outputs:
        output.close()
    print("SECONDS", time.perf_counter() - start, time.process_time() - processor)
"""


def image(path: Path, size: int, spacing: float) -> None:
    """A tiled, compressed uint16 GeoTIFF with noise over a coarse pattern, written in strips."""
    rng = np.random.default_rng(size)
    profile = {"driver": "GTiff", "count": BANDS, "height": size, "width": size, "dtype": "uint16", "crs": "EPSG:32631"}
    profile.update(tiled=True, blockxsize=512, blockysize=512, compress="deflate", predictor=2, zlevel=1, num_threads=2)
    with rasterio.open(path, "w", transform=Affine(spacing, 0, LEFT, 0, -spacing, TOP), **profile) as dataset:
        for row in range(0, size, 512):
            coarse = rng.normal(0, 1, (BANDS, 64, size // 8)).repeat(8, axis=1).repeat(8, axis=2)
            pixels = (2000 + 500 * coarse + 60 * rng.standard_normal((BANDS, 512, size), dtype=np.float32)).clip(1, 12000)
            dataset.write(pixels.astype(np.uint16), window=Window(0, row, size, 512))


def points(folder: Path, count: int, size: int, order: str) -> np.ndarray:
    """Corners (column, row) of `count` distinct patches, also written as points at their centres."""
    import geopandas

    rng = np.random.default_rng(1)
    last = size - SIDE + 1
    corners = np.stack(np.divmod(rng.choice(last * last, count, replace=False), last)[::-1], axis=1)
    if order == "scan":
        corners = corners[np.lexsort((corners[:, 0], corners[:, 1]))]
    # Even size: any point inside the pixel right of and below the centre names the patch.
    x, y = LEFT + COARSE * (corners[:, 0] + SIDE / 2 + 0.5), TOP - COARSE * (corners[:, 1] + SIDE / 2 + 0.5)
    frame = geopandas.GeoDataFrame({"id": np.arange(count)}, geometry=geopandas.points_from_xy(x, y), crs="EPSG:32631")
    frame.to_file(folder / f"{count}.gpkg", engine="pyogrio")
    np.save(folder / f"{count}.npy", corners)
    return corners


def settle(folder: Path) -> None:
    """Remove the products of the run before and wait for the disk."""
    for path in folder.glob("*_*.tif"):
        path.unlink()
    os.sync()


def check(folder: Path, corners: np.ndarray) -> None:
    """Stop unless a few patches of both products are the windows that the baseline reads."""
    with rasterio.open(folder / "hr.tif") as hr, rasterio.open(folder / "patches_hr.tif") as patches:
        assert patches.height == len(corners) * SIDE * FACTOR
        for k in range(0, len(corners), max(1, len(corners) // 20)):
            side = SIDE * FACTOR
            expected = hr.read(window=Window(*(FACTOR * corners[k]).tolist(), side, side))
            np.testing.assert_array_equal(patches.read(window=Window(0, k * side, side, side)), expected)


def main() -> None:
    """Run both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--order", choices=["scan", "random"], default="scan")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    environment = {**os.environ, **otb.otb_environment(), "OTB_TF_NSOURCES": "2"}
    result: dict[str, object] = {"name": f"patches {SIDE}/{SIDE * FACTOR} of {options.size}/{options.size * FACTOR} {options.order} order"}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        # In a process of its own: a child's peak memory is at least its parent's size.
        with ProcessPoolExecutor(1) as pool:
            pool.submit(image, folder / "lr.tif", options.size, COARSE).result()
            pool.submit(image, folder / "hr.tif", options.size * FACTOR, COARSE / FACTOR).result()
        for count in options.pairs:
            corners = points(folder, count, options.size, options.order)
            application: list[object] = [otb.LAUNCHER, "PatchesExtraction", "-vec", folder / f"{count}.gpkg", "-field", "id"]
            for source, (kind, side) in enumerate((("lr", SIDE), ("hr", SIDE * FACTOR)), 1):
                key = f"-source{source}."
                application += [key + "il", folder / f"{kind}.tif", key + "out", folder / f"patches_{kind}.tif", "uint16"]
                application += [key + "patchsizex", side, key + "patchsizey", side]
            child = [sys.executable, "-c", PYTHON, *(str(folder / name) for name in (f"{count}.npy", "lr.tif", "hr.tif"))]
            ours: list[tuple[float, float, float]] = []
            reads: list[tuple[float, float, float]] = []
            copies: list[tuple[float, float, float]] = []
            for _ in range(options.repeats):
                settle(folder)
                ours.append(timed([str(word) for word in application], environment)[:3])
                check(folder, corners)
                for kind, results in (("read", reads), ("write", copies)):
                    settle(folder)
                    _, _, peak, log = timed([*child, kind, name], dict(os.environ))
                    wall, used = map(float, log.split("SECONDS")[1].split())
                    results.append((wall, used, peak))
                texts = (f"{what} {r[-1][0]:.2f} s, {r[-1][2]:.0f} MB" for what, r in (("PatchesExtraction", ours), ("reads", reads), ("and writes", copies)))
                print(f"{count} pairs: {'; '.join(texts)}", flush=True)

            def median(results: list[tuple[float, float, float]], column: int) -> float:
                return statistics.median(values[column] for values in results)

            result[str(count)] = {
                "ratio": round(median(ours, 0) / median(reads, 0), 3),
                "processor_ratio": round(median(ours, 1) / median(reads, 1), 3),
                "ratio_with_writing": round(median(ours, 0) / median(copies, 0), 3),
                "processor_ratio_with_writing": round(median(ours, 1) / median(copies, 1), 3),
                "seconds": round(median(ours, 0), 2),
                "peak_mb": round(median(ours, 2)),
                "baseline_seconds": round(median(reads, 0), 2),
                "baseline_peak_mb": round(median(reads, 2)),
            }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
