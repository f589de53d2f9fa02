"""SuperResolution and TensorflowModelServe from GeoTIFF to compressed GeoTIFF, against TensorFlow alone on the same blocks in memory.

    python benchmark/serving.py [--model models/f-light-x4] [--size 2048] [--repeats 3]

All run in child processes, in turn, with the same threads. TensorFlow alone has its blocks (with the same margins) in memory already and
throws its results away; its import and loading are not counted. The applications' time includes their start, reading, compression and
writing; what they take for an image of 64 x 64 pixels is printed as `start`, and `ratio_without_start` leaves it out. One line of JSON for each
case: `ratio` is that of the medians, 1 would be as fast as TensorFlow alone; `processor_ratio` is the same of processor time, which a busy
machine disturbs less. Sides of blocks are in input pixels.

The applications make the model's variables constants, and on processors with AVX2 but without AVX512-VNNI they switch oneDNN's convolutions
on; TensorFlow by itself does neither. `ratio` is to TensorFlow as it comes, `ratio_same_kernels` to TensorFlow with both (what streaming costs).
--kernels own leaves the choice of oneDNN to TensorFlow for both.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
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
loaded = tf.saved_model.load(folder)
model = loaded.signatures[signature]
if sys.argv[5] == "constants":
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    model = convert_variables_to_constants_v2(model)
name = sidecar["input"]["name"]
rng = np.random.default_rng(0)
blocks = [
    tf.constant(rng.integers(0, 9000, (1, min(side, size - y) + 2 * margin, min(side, size - x) + 2 * margin, bands)).astype(np.float32))
    for y in range(0, size, side)
    for x in range(0, size, side)
]
start, processor = time.perf_counter(), time.process_time()
for block in blocks:
    model(block) if sys.argv[5] == "constants" else model(**{name: block})
print("SECONDS", time.perf_counter() - start, time.process_time() - processor)
"""


ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
DEFAULT = "import tensorflow; from tensorflow.python.util import _pywrap_util_port as port; print(port.IsMklEnabled())"


def image(path: Path, size: int) -> None:
    """A 4-band uint16 GeoTIFF with the correlation of a landscape, so that compression works as on real images."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (4, size // 8, size // 8)).repeat(8, axis=1).repeat(8, axis=2)
    pixels = (2000 + 500 * coarse + 60 * rng.normal(0, 1, (4, size, size))).clip(1, 12000).astype(np.uint16)
    profile = {"driver": "GTiff", "count": 4, "height": size, "width": size, "dtype": "uint16", "crs": "EPSG:32631", "tiled": True}
    with rasterio.open(path, "w", transform=Affine(10, 0, 300000, 0, -10, 4900020), **profile) as dataset:
        dataset.write(pixels)


def image_apart(path: Path, size: int) -> None:
    """`image` in a process of its own: a child's peak memory, as Linux counts it, is at least what its parent had when it started."""
    process = multiprocessing.get_context("spawn").Process(target=image, args=(path, size))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{path}: the test image could not be written")


def processor() -> str:
    """The processor's name, and which of the sets of instructions it has that decide which kernels TensorFlow takes."""
    lines = dict(re.findall(r"^(model name|flags)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_tile") if name in lines.get("flags", "").split()]
    return f"{lines.get('model name', 'unknown')}, {os.cpu_count()} cores, {' '.join(sets) or 'no AVX2'}"


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


def light(model: Path, folder: Path) -> Path:
    """A model about a tenth as heavy as `model`, untrained: time does not depend on weights."""
    code = (
        "import sys; from pathlib import Path; from otbsr.methods import networks as n; from otbsr.methods.model_folder import *;"
        "s = n.NetworkSettings(channels=10, blocks=2, back_projection=0); m = n.fuse(n.network(s), s);"
        "given, made = ModelInput(bands=s.bands, spacing=10), ModelOutput(bands=s.bands);"
        "side = Sidecar(name='light', method='fidelity', factor=4, margin=n.margin(s), input=given, output=made);"
        "save_model(m, sys.argv[1], side); print(n.operations(s))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder / "light")], capture_output=True, text=True, check=True)
    print(f"the light model multiplies {done.stdout.split()[-1]} times per input pixel", flush=True)
    return folder / "light"


def main() -> None:
    """Run all cases in turn and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "f-light-x4")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", default="", help="only the cases whose name matches this regular expression")
    parser.add_argument("--kernels", choices=["ours", "own"], default="ours", help="own: the applications do not choose oneDNN either")
    parser.add_argument("--memory", action="store_true", help="also the peak memory for images of 1024 to 8192 pixels")
    options = parser.parse_args()
    plain = {name: value for name, value in os.environ.items() if name != ONEDNN}
    kernels = {"as it comes": plain, "same kernels": {**plain, ONEDNN: "1"}}
    print(json.dumps({"processor": processor()}), flush=True)
    environment = {**plain, **otb.otb_environment(), "TF_CPP_MIN_LOG_LEVEL": "2"}
    if options.kernels == "own":
        del kernels["same kernels"]
        environment[ONEDNN] = str(int("True" in timed([sys.executable, "-c", DEFAULT], plain)[3]))
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        source, small, out = folder / "in.tif", folder / "small.tif", folder / "out.tif"
        image_apart(source, options.size)
        image_apart(small, 64)
        lighter = light(options.model, folder)

        def super_resolution(model: Path, block: int, file: Path = source) -> list[str]:
            words = [otb.LAUNCHER, "SuperResolution", "-in", file, "-model", model, "-out", out, "-block", block, "-threads", options.threads]
            return [str(word) for word in words]

        def model_serve(model: Path, block: int, extended: str) -> list[str]:
            margin, field = json.loads((model / "model.json").read_text())["margin"], 4 * block
            words = [otb.LAUNCHER, "TensorflowModelServe", "-source1.il", source, "-model.dir", model, "-model.fullyconv", "on", "-output.spcscale", 0.25]
            for axis in "xy":
                words += [f"-source1.rfield{axis}", block + 2 * margin, f"-output.efield{axis}", field, f"-optim.tilesize{axis}", field]
            return [str(word) for word in [*words, "-out", f"{out}{extended}", "int16"]]

        tiled, strips = "?&gdal:co:TILED=YES&gdal:co:COMPRESS=DEFLATE&gdal:co:ZLEVEL=1", "?&gdal:co:COMPRESS=DEFLATE&gdal:co:ZLEVEL=1"
        cases = {
            "SuperResolution, blocks of 512": (super_resolution(options.model, 512), (options.model, 512)),
            "SuperResolution, blocks from the memory, against 512": (super_resolution(options.model, 0), (options.model, 512)),
            "TensorflowModelServe, blocks of 512, tiled": (model_serve(options.model, 512, tiled), (options.model, 512)),
            "TensorflowModelServe, tiles of 512 output pixels, default output": (model_serve(options.model, 128, ""), (options.model, 128)),
            "TensorflowModelServe, tiles of 512 output pixels, tiled": (model_serve(options.model, 128, tiled), (options.model, 128)),
            "TensorflowModelServe, tiles of 512 output pixels, strips": (model_serve(options.model, 128, strips), (options.model, 128)),
            "SuperResolution, light model, blocks of 512": (super_resolution(lighter, 512), (lighter, 512)),
        }
        cases = {name: case for name, case in cases.items() if re.search(options.cases, name)}
        served: dict[str, list[tuple[float, float, float]]] = {name: [] for name in cases}
        alone: dict[tuple[str, tuple[Path, int]], list[tuple[float, float, float]]] = {(k, reference): [] for k in kernels for _, reference in cases.values()}
        starts: dict[Path, list[float]] = {model: [] for _, (model, _) in cases.values()}
        for repeat in range(options.repeats):
            for model, seconds in starts.items():
                seconds.append(timed(super_resolution(model, 512, small), environment)[0])
            for (kernel, (model, block)), results in alone.items():
                graph = "constants" if kernel == "same kernels" else "variables"
                child = [sys.executable, "-c", ALONE, str(model), str(options.size), str(block), str(options.threads), graph]
                _, _, peak, log = timed(child, {**kernels[kernel], "TF_CPP_MIN_LOG_LEVEL": "2"})
                found = re.search(r"SECONDS ([\d.]+) ([\d.]+)", log)
                assert found is not None, log
                results.append((float(found[1]), float(found[2]), peak))
            for case, (command, _) in cases.items():
                out.unlink(missing_ok=True)  # a file system waits for the disk when a new file takes an old one's name
                wall, used, peak, _ = timed(command, environment)
                served[case].append((wall, used, peak))
            print(f"repeat {repeat + 1} of {options.repeats}", flush=True)
        for case, (_, reference) in cases.items():
            ours, theirs, *same = (
                [statistics.median(column) for column in zip(*rows, strict=True)] for rows in (served[case], *(alone[kernel, reference] for kernel in kernels))
            )
            start = statistics.median(starts[reference[0]])
            result = {
                "name": case,
                "ratio": round(ours[0] / theirs[0], 3),
                "ratio_without_start": round((ours[0] - start) / theirs[0], 3),
                "processor_ratio": round(ours[1] / theirs[1], 3),
                **{
                    key: round(value, 3)
                    for rows in same
                    for key, value in {
                        "ratio_same_kernels": ours[0] / rows[0],
                        "ratio_same_kernels_without_start": (ours[0] - start) / rows[0],
                        "processor_ratio_same_kernels": ours[1] / rows[1],
                    }.items()
                },
                "seconds": round(ours[0], 2),
                "start": round(start, 2),
                "peak_mb": round(ours[2]),
                "baseline_seconds": round(theirs[0], 2),
                "baseline_peak_mb": round(theirs[2]),
            }
            print(json.dumps(result), flush=True)
        for size in (1024, 2048, 4096, 8192) if options.memory else ():
            image_apart(source, size)
            peak = timed(super_resolution(lighter, 512), environment)[2]
            print(json.dumps({"name": f"SuperResolution, light model, blocks of 512, image of {size}", "peak_mb": round(peak)}), flush=True)


if __name__ == "__main__":
    main()
