"""What a study's work needs, whatever the work is: its folder, threads, seeds, keys of what is finished, rasters and vectors."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from otbsr import __version__
from otbsr.errors import OutputError
from otbsr.evaluation import learners
from otbsr.grid import Grid
from otbsr.progress import Report
from otbsr.raster import new_raster
from otbsr.serving.windows import LOCK, alone


def parallel(tasks: Sequence[Callable[[Report], None]], jobs: int, step: str, report: Report, done: int = 0) -> None:
    """Run tasks, `jobs` at once, reporting their mean share; `done`: how many others count as finished. The first error ends the work."""
    total = len(tasks) + done
    report(step, 1.0 if not tasks else done / total)
    shares = [0.0] * len(tasks)

    def progress(index: int) -> Report:
        def advance(_step: str, share: float) -> None:
            shares[index] = max(shares[index], share)
            report(step, min((done + sum(shares)) / total, 1.0))

        return advance

    def run(index: int) -> None:
        tasks[index](progress(index))
        progress(index)("", 1.0)

    with ThreadPoolExecutor(max_workers=min(jobs, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(run, index) for index in range(len(tasks))]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
    for future in futures:
        if not future.cancelled():
            future.result()


def seed_of(*parts: object) -> int:
    """A seed of 31 bits from anything printable, the same on every machine; never 0, which OTB takes for the clock."""
    return zlib.crc32("/".join(map(str, parts)).encode()) % (2**31 - 1) + 1


def refuse_foreign(out: Path) -> None:
    """Raise `OutputError` when `out` is a folder of somebody else's files."""
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()) and not (out / "study.yaml").is_file():
        raise OutputError(f"{out}: is not empty and not a study's folder; choose another folder")


@contextmanager
def prepared_folder(out: Path, overwrite: bool) -> Iterator[None]:
    """Make `out` and hold it alone; empty it of a study's files with `overwrite`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made ({error.strerror}); choose another folder") from error
    with alone(out, "study"):
        if overwrite:
            for name in ("areas", "arms", "samples", "maps"):
                shutil.rmtree(out / name, ignore_errors=True)
        yield


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A folder for what is not finished; those of killed runs are removed."""
    for old in out.glob(".scratch-*"):
        if not process_runs(old.name.rpartition("-")[2]):
            shutil.rmtree(old, ignore_errors=True)
    scratch = out / f".scratch-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def process_runs(number: str) -> bool:
    """Whether a process of that number is there."""
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def write_raster(path: Path, values: NDArray[Any], grid: Grid, nodata: float | None) -> None:
    """Write one band under a temporary name, check it, rename it; raises `OutputError`."""
    profile = {"driver": "GTiff", "width": grid.width, "height": grid.height, "count": 1, "crs": grid.crs or None, "transform": grid.transform}
    with (
        new_raster(path) as temporary,
        rasterio.open(temporary, "w", dtype=values.dtype, nodata=nodata, compress="deflate", zlevel=1, **profile) as dataset,
    ):
        dataset.write(values, 1)


def read_band(path: Path) -> NDArray[Any]:
    """The first band of a raster of the study."""
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def versions() -> dict[str, str]:
    """What ran: otbsr, OTB, Python and the libraries that counted."""
    from importlib.metadata import PackageNotFoundError, version

    known = {"otbsr": __version__, "otb": learners.otb_version(), "python": platform.python_version(), "gdal (rasterio)": rasterio.__gdal_version__}
    for name in ("numpy", "scipy", "rasterio", "tensorflow", "tensorflow-cpu", "keras"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return known


def file_hash(*paths: Path) -> str:
    """SHA-256 over names and content of files, in order; files that are not there do not count."""
    total = hashlib.sha256()
    for path in paths:
        if path.is_file():
            total.update(path.name.encode())
            with path.open("rb") as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    total.update(piece)
    return total.hexdigest()


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 of what decides a result, as sorted JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def read_key(path: Path) -> str | None:
    """The key in a unit's JSON file, None when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("key") if isinstance(content, dict) else None
