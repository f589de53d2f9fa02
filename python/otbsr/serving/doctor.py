"""Checks that OTB, the compiled applications and TensorFlow are found and work together."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from otbsr.errors import OtbsrError
from otbsr.serving import otb

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


def checks() -> Iterator[Check]:
    """Yield the findings one by one; never raises for what is only missing."""
    launcher = shutil.which("otbApplicationLauncherCommandLine")
    yield Check("OTB", launcher is not None, launcher or "not found: apt-get install otb-bin")
    try:
        folder = otb.application_folder()
        yield Check("applications", True, str(folder))
        environment = otb.otb_environment()
    except OtbsrError as error:
        yield Check("applications", False, str(error))
        return
    library = environment.get("OTB_TF_LIBRARY", "")
    found = bool(library) and Path(library).is_file()
    yield Check("TensorFlow", found, library if found else "not found: pip install tensorflow-cpu")
    if launcher is None:
        return
    for name in APPLICATIONS:
        # The status of -help is 1 even when it works: look at what it prints.
        run = subprocess.run([launcher, name, "-help"], env=environment, capture_output=True, text=True, timeout=60, check=False)
        text = run.stdout + run.stderr
        wrong = [line for line in text.splitlines() if "not find" in line or "FATAL" in line or "ERROR" in line]
        yield Check(name, "Parameters:" in text, "loads" if "Parameters:" in text else (wrong or ["does not load; install otbsr again"])[0].strip())
