"""SuperResolution over a GeoTIFF to a compressed GeoTIFF, against TensorFlow alone on the same blocks in memory.

    python benchmark/serving.py [--model models/f-light-x4] [--size 2048] [--block 512] [--repeats 5]

Both run in child processes, in turn, with the same threads. TensorFlow alone has its blocks (with the same margins) in memory already and
throws its results away;
SuperResolution's time includes its start, reading, compression and writing. The last line is one JSON object; `ratio` is the ratio of the medians, 1 would
be as fast as TensorFlow alone; `processor_ratio` is the same of processor time, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from otbsr.serving import otb

ROOT = Path(__file__).resolve().parents[1]

ALONE = """
import json, sys, time
import numpy as np, tensorflow as tf
folder, size, side, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sidecar = json.load(open(folder + "/model.json"))
margin, bands, signature = sidecar["margin"], len(sidecar["input"]["bands"]), sidecar["input"].get("signature", "serving_default")
if threads:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
model = tf.saved_model.load(folder).signatures[signature]
name = sidecar["input"]["name"]
rng = np.random.default_rng(0)
blocks = [
    tf.constant(rng.integers(0, 9000, (1, min(side, size - y) + 2 * margin, min(side, size - x) + 2 * margin, bands)).astype(np.float32))
    for y in range(0, size, side)
    for x in range(0, size, side)
]
start, processor = time.perf_counter(), time.process_time()
for block in blocks:
    model(**{name: block})
print("SECONDS", time.perf_counter() - start, time.process_time() - processor)
"""


def image(path: Path, size: int) -> None:
    """A 4-band uint16 GeoTIFF with the correlation of a landscape, so that compression works as on real images."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (4, size // 8, size // 8)).repeat(8, axis=1).repeat(8, axis=2)
    pixels = (2000 + 500 * coarse + 60 * rng.normal(0, 1, (4, size, size))).clip(1, 12000).astype(np.uint16)
    profile = {"driver": "GTiff", "count": 4, "height": size, "width": size, "dtype": "uint16", "crs": "EPSG:32631", "tiled": True}
    with rasterio.open(path, "w", transform=Affine(10, 0, 300000, 0, -10, 4900020), **profile) as dataset:
        dataset.write(pixels)


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, float, str]:
    """Wall seconds, processor seconds, peak memory in MB and output of a child process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{command[0]} failed:\n{output}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output


def main() -> None:
    """Run both in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "f-light-x4")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    environment = {**os.environ, **otb.otb_environment(), "TF_CPP_MIN_LOG_LEVEL": "2"}
    served: list[float] = []
    alone: list[float] = []
    processor: list[tuple[float, float]] = []
    peak_served = peak_alone = 0.0
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        source, out = Path(folder) / "in.tif", Path(folder) / "out.tif"
        image(source, options.size)
        application = [otb.LAUNCHER, "SuperResolution", "-in", source, "-model", options.model, "-out", out]
        application += ["-block", options.block, "-threads", options.threads]
        for repeat in range(options.repeats):
            seconds, used, peak, _ = timed([str(word) for word in application], environment)
            peak_served = max(peak_served, peak)
            served.append(seconds)
            child = [sys.executable, "-c", ALONE, str(options.model), str(options.size), str(options.block), str(options.threads)]
            _, _, peak, log = timed(child, environment)
            peak_alone = max(peak_alone, peak)
            found = re.search(r"SECONDS ([\d.]+) ([\d.]+)", log)
            assert found is not None, log
            alone.append(float(found[1]))
            processor.append((used, float(found[2])))
            print(
                f"{repeat + 1}/{options.repeats}: SuperResolution {seconds:.2f} s, processor {used:.2f} s; TensorFlow {found[1]} s, processor {found[2]} s",
                flush=True,
            )
    result = {
        "name": f"serving {options.model.name} {options.size}x{options.size}x4 blocks {options.block}",
        "ratio": round(statistics.median(served) / statistics.median(alone), 3),
        "seconds": round(statistics.median(served), 2),
        "peak_mb": round(peak_served),
        "baseline_seconds": round(statistics.median(alone), 2),
        "baseline_peak_mb": round(peak_alone),
        "processor_ratio": round(statistics.median(p[0] for p in processor) / statistics.median(p[1] for p in processor), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
