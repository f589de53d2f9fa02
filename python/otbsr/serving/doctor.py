"""Checks that OTB, the compiled applications and TensorFlow are found and work together."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from otbsr.errors import OtbsrError
from otbsr.serving import otb

MEMORY, DISK = 2, 10
"""Gigabytes below which there is a remark."""

APPLICATIONS = (
    "SuperResolution",
    "TensorflowModelServe",
    "TensorflowModelTrain",
    "TrainClassifierFromDeepFeatures",
    "ImageClassifierFromDeepFeatures",
    "PatchesExtraction",
    "PatchesSelection",
    "LabelImageSampleSelection",
    "DensePolygonClassStatistics",
)


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it is right, and the detail or the remedy."""

    name: str
    passed: bool
    detail: str
    needed: bool = True


def machine() -> Iterator[Check]:
    """Processor, memory and disk: what TensorFlow's wheel cannot do without, and what makes things slow."""
    flags = set(next((line.split() for line in read("/proc/cpuinfo").splitlines() if line.startswith("flags")), []))
    if flags:
        quick = [name for name in ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile") if name in flags]
        said = f"{os.cpu_count()} processors, {' '.join(quick) or 'no avx2'}"
        yield Check("processor", "avx" in flags, said if "avx" in flags else "no AVX: TensorFlow's wheels end with 'illegal instruction'; use another machine")
        if "avx" in flags and "avx2" not in flags:
            yield Check("speed", False, "without AVX2 super-resolution takes several times as long", needed=False)
    found = re.search(r"MemAvailable:\s+(\d+)", read("/proc/meminfo"))
    if found:
        free = int(found[1]) / 2**20
        yield Check(
            "memory", free >= MEMORY, f"{free:.1f} GB free" + ("" if free >= MEMORY else f", {MEMORY} expected; give `otbsr apply --max-memory 512`"), False
        )
    for what, folder in {"disk here": Path.cwd(), "disk for temporary files": Path(tempfile.gettempdir())}.items():
        free = shutil.disk_usage(folder).free / 2**30
        lack = "" if free >= DISK else f", {DISK} expected for a whole tile; free some space" + (" or set TMPDIR" if "temporary" in what else "")
        yield Check(what, free >= DISK, f"{free:.1f} GB free in {folder}{lack}", needed=False)
        if not os.access(folder, os.W_OK):
            yield Check(what, False, f"{folder} is not writable; go to another folder" + (" (TMPDIR)" if "temporary" in what else ""), needed=False)


def packages() -> Iterator[Check]:
    """The Python packages that otbsr asks for, and TensorFlow's."""
    yield Check("Python", sys.version_info >= (3, 10), f"{sys.version.split()[0]} in {sys.prefix}")
    try:
        wanted = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in importlib.metadata.requires("otbsr") or [] if "extra ==" not in text]
    except importlib.metadata.PackageNotFoundError:
        yield Check("otbsr", False, "run from the sources, not installed: make install, or pip install '.[cpu]'", needed=False)
        wanted = []
    missing = [name for name in [*wanted, "keras"] if not version_of(name)]
    yield Check("packages", not missing, f"{len(wanted) + 1} found" if not missing else f"not found: pip install {' '.join(missing)}")


def version_of(name: str) -> str:
    """A distribution's version, '' when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def read(path: str) -> str:
    """A small file's text, '' when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def otb_version(launcher: str) -> Check:
    """OTB's version, as the launcher tells it with any application's -version, and whether it is one that was tried."""
    try:
        run = subprocess.run([launcher, "BandMath", "-version"], env=otb.otb_environment(), capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("OTB", False, f"{launcher} does not start ({error}); install it again: {otb.APT}")
    found = re.search(r"version (\d+(?:\.\d+)+)", run.stdout + run.stderr)
    if not found:
        return Check("OTB", False, f"{launcher} does not run OTB's BandMath; install it again: {otb.APT}")
    tried = "" if found[1].startswith("8.1") else "; otbsr was run with 8.1 only"
    return Check("OTB", tuple(map(int, found[1].split(".")[:2])) >= (8, 1), f"{found[1]} ({launcher}){tried}")


def checks() -> Iterator[Check]:
    """Yield the findings one by one; never raises for what is only missing."""
    yield from machine()
    yield from packages()
    launcher = shutil.which(otb.LAUNCHER)
    yield otb_version(launcher) if launcher else Check("OTB", False, f"not found: {otb.APT}")
    try:
        folder = otb.application_folder()
        yield Check("applications", True, str(folder))
        environment = otb.otb_environment()
    except OtbsrError as error:
        yield Check("applications", False, str(error))
        return
    library = environment.get("OTB_TF_LIBRARY", "")
    found = bool(library) and Path(library).is_file()
    named = next((f"{version} " for name in ("tensorflow-cpu", "tensorflow") if (version := version_of(name))), "")
    yield Check("TensorFlow", found, f"{named}({library})" if found else "not found: pip install 'otbsr[cpu]' (or gpu)")
    if launcher is None:
        return
    for name in APPLICATIONS:
        # The status of -help is 1 even when it works: look at what it prints.
        run = subprocess.run([launcher, name, "-help"], env=environment, capture_output=True, text=True, timeout=60, check=False)
        text = run.stdout + run.stderr
        wrong = [line for line in text.splitlines() if "not find" in line or "FATAL" in line or "ERROR" in line]
        yield Check(name, "Parameters:" in text, "loads" if "Parameters:" in text else (wrong or ["does not load; install otbsr again"])[0].strip())
