"""What workers bring: sixteen windows on one and on two local workers of one thread each; and whether random kills change a pixel.

    python benchmark/cluster.py [--model models/f-light-x4] [--repeats 1]
    python benchmark/cluster.py --kills 10 [--model models/nearest-x4]

One line of JSON for each. `speedup` is one worker's time over two workers' for the windows (the cluster's start and the putting together of the product,
which are no work of the workers, are told apart); the load of the machine before the run stands beside it: on two cores that others use
too it says little. With --kills four workers of one thread have one of them killed (-9) in the middle of a window, so many times at random
moments, and the product is compared with that of a run without a cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from serving import image_apart

from otbsr.serving.apply import Work, apply
from otbsr.serving.cluster import ClusterSettings, open_cluster
from otbsr.serving.windows import WindowFolder

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "python" / "serving"))
SIDE, WINDOW = 2048, 512


def timed(source: Path, model: Path, out: Path, workers: int) -> dict[str, float]:
    """Seconds of a run: cluster's start, windows, all the rest of the product."""
    begin = time.perf_counter()
    spent: list[float] = []
    with open_cluster(ClusterSettings("local", (workers, workers), threads=1)) as farm:
        while len(farm.workers()) < workers:
            time.sleep(0.05)
        started = time.perf_counter()

        def run(kept: WindowFolder, work: Work, report: object) -> None:
            start = time.perf_counter()
            farm.run(kept, work, lambda *_: None)
            spent.append(time.perf_counter() - start)

        apply(source, model, out, window=WINDOW, overwrite=True, run=run)
        whole = time.perf_counter() - started
    return {"start": started - begin, "windows": spent[0], "rest": whole - spent[0]}


def speedup(source: Path, model: Path, folder: Path, repeats: int) -> dict[str, object]:
    """One worker against two, in turn."""
    load = os.getloadavg()[0]
    runs = {workers: [] for workers in (1, 2)}
    for _ in range(repeats):
        for workers, results in runs.items():
            results.append(timed(source, model, folder / f"{workers}.tif", workers))
    median = {workers: {key: statistics.median(run[key] for run in results) for key in results[0]} for workers, results in runs.items()}
    return {
        "name": "sixteen windows, two workers of one thread against one",
        "speedup": round(median[1]["windows"] / median[2]["windows"], 3),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        **{f"{key}_{workers}": round(value, 2) for workers, values in median.items() for key, value in values.items()},
        "same_bytes": (folder / "1.tif").read_bytes() == (folder / "2.tif").read_bytes(),
    }


def kills(source: Path, model: Path, folder: Path, count: int, seed: int = 1) -> dict[str, object]:
    """Kill workers of four at random moments within their windows, `count` times, starting the run again when it ends before."""
    from processes import kill_a_worker

    expected = apply(source, model, folder / "whole.tif", window=WINDOW, threads=1).out.read_bytes()
    chance, killed, wrong, runs = random.Random(seed), [], 0, 0
    begin = time.perf_counter()
    with open_cluster(ClusterSettings("local", (4, 4), threads=1)) as farm:
        while len(killed) < count:
            ended = threading.Event()

            def strike(ended: threading.Event = ended) -> None:
                while not ended.is_set() and len(killed) < count:
                    time.sleep(chance.uniform(0.1, 1.0))
                    if not ended.is_set():
                        killed.append(kill_a_worker(folder / "cluster.tif", chance.randrange(4), ended.is_set))

            striking = threading.Thread(target=strike)
            striking.start()
            apply(source, model, folder / "cluster.tif", window=WINDOW, overwrite=True, run=farm.run)
            ended.set()
            striking.join()
            killed[:] = [worker for worker in killed if worker]
            runs += 1
            wrong += (folder / "cluster.tif").read_bytes() != expected
    return {"name": f"{count} random kills, four workers", "kills": len(killed), "runs": runs, "wrong": wrong, "seconds": round(time.perf_counter() - begin, 1)}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder, source = Path(name), Path(name) / "in.tif"
        image_apart(source, SIDE)
        if options.kills:
            result = kills(source, options.model or ROOT / "models" / "nearest-x4", folder, options.kills)
        else:
            result = speedup(source, options.model or ROOT / "models" / "f-light-x4", folder, options.repeats)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
