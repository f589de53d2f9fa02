"""Time and memory of `otbsr pairs` on scenes of growing side: memory must not grow with them.

    python benchmark/pairs.py [--sides 2520 5040 10080] [--folder scenes]

A square of 2520 m is simulated once as Sentinel-2 (SAFE) and Spot-6 (DIMAP bundle) see it, Spot displaced, of another gain, with clouds and
changed parcels; larger scenes repeat it, so that a larger one differs in nothing but its size. Each run is a process of its own. `process_mb` is the
most memory that it held (its high-water mark, VmHWM), `applications_mb` the same of each OTB application that it started, each counted from
the moment when it became that program: the system's own figure for children (ru_maxrss) would hold the parent's. One line of JSON for each
scene, and a last one with the growth from the first scene to the last. The limits: 300 s for 5 km, and a tenth of growth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import rasterio
from processes import family, most_megabytes

from otbsr.grid import Grid
from otbsr.products import open_product
from otbsr.serving.otb import LAUNCHER
from otbsr.world.materials import SENTINEL2_BANDS
from otbsr.world.products import Acquisition, write_dimap, write_safe
from otbsr.world.simulate import WorldSettings, simulate

SIDE = 2520
SETTINGS = WorldSettings(seed=12, extent=SIDE, urban=0.3, shift=(6.3, -4.1), gain=1.08, bias=0.01, cloud_cover=0.06, changed=0.08, products=("safe", "dimap"))
SPOT = {"pan": "PAN", "B4": "B2", "B3": "B1", "B2": "B0", "B8": "B3"}
"""Spot's own names of its bands, by Sentinel-2's."""
GROWTH, SECONDS = 1.1, 300


def make(folder: Path, side: int) -> tuple[Path, Path]:
    """SAFE and DIMAP of a scene, made unless they are there: the simulated square, repeated."""
    world, scene = folder / f"world_{SIDE}", folder / f"scene_{side}"
    if side % SIDE:
        raise SystemExit(f"a side of {side} m: expected multiples of {SIDE} m")
    simulate(world, SETTINGS)
    times, spot = side // SIDE, "PROD_SPOT6_001"
    if not (scene / spot).exists():
        scene.mkdir(parents=True, exist_ok=True)
        sun = json.loads((world / "world.json").read_text())["sun"]
        look = SETTINGS.day, (sun["elevation"], sun["azimuth"])
        source = open_product(next(world.glob("*.SAFE")))
        names = [name for name in SENTINEL2_BANDS if name in source.bands]
        with rasterio.open(next(world.rglob("*_SCL_20m.jp2"))) as file:
            classes = np.tile(file.read(1), (times, times))
        planes, grids = repeated(source, {name: name for name in names}, times)
        write_safe(scene, Acquisition(planes, grids, *look), classes)
        planes, grids = repeated(open_product(world / spot).renamed(), SPOT, times)
        write_dimap(scene, Acquisition(planes, grids, *look))
    return next(scene.glob("*.SAFE")), scene / spot


def repeated(product, names: dict[str, str], times: int) -> tuple[dict[str, np.ndarray], dict[str, Grid]]:
    """Bands of a product as reflectance, and their grids, repeated to the right and below; by their new names."""
    planes = {new: np.tile(product.read([name])[0], (times, times)) for name, new in names.items()}
    own = {new: product.grid([name]) for name, new in names.items()}
    return planes, {name: replace(grid, width=grid.width * times, height=grid.height * times) for name, grid in own.items()}


def program(process: psutil.Process) -> str:
    """The name of what runs: python, or the OTB application; empty when the process has ended."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    return words[1] if words and Path(words[0]).name == LAUNCHER else Path(words[0]).name if words else ""


def watched(words: list[str]) -> dict[str, object]:
    """Run a command; its seconds, processor seconds and peaks of memory."""
    begin, load = time.perf_counter(), os.getloadavg()[0]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    own, applications = 0, {}
    while process.poll() is None:
        for one in family(process.pid):
            name, most = program(one), most_megabytes(one)
            if one.pid == process.pid:
                own = max(own, most)
            elif name and not name.startswith(("python", "setpriv")):
                applications[name] = max(applications.get(name, 0), most)
        time.sleep(0.05)
    seconds, used = time.perf_counter() - begin, os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {process.returncode}")
    found = json.loads(process.stdout.read())
    return {
        "seconds": round(seconds, 1), "cpu": round(used.children_user + used.children_system, 1), "load_before": round(load, 2),
        "process_mb": own, "applications_mb": applications, "shift": found["shift"], "patches": found["train_accepted"] + found["valid_accepted"],
    }  # fmt: skip


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[SIDE, 2 * SIDE, 4 * SIDE], help=f"metres, multiples of {SIDE}")
    parser.add_argument("--folder", type=Path, help="where the scenes are made and kept, or taken from when they are there; default: temporary")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, before = options.folder or Path(name), 0.0
        for side in options.sides:
            products = make(folder, side)
            words = [sys.executable, "-m", "otbsr", "pairs", *map(str, products), "-o", str(Path(name) / f"pairs_{side}"), "--quiet", "--json"]
            row = {"side": side, **watched(words)}
            row["cpu"], before = round(row["cpu"] - before, 1), row["cpu"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    most = [max(row["applications_mb"].values()) for row in rows]
    growth = {"process": round(rows[-1]["process_mb"] / rows[0]["process_mb"], 3), "applications": round(most[-1] / most[0], 3)}
    met = max(growth.values()) < GROWTH and all(row["seconds"] < SECONDS for row in rows if row["side"] <= 5040)
    print(json.dumps({"growth": growth, "met": met}))


if __name__ == "__main__":
    main()
