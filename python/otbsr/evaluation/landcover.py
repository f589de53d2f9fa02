"""Land-cover maps by OTB's own learners, and the confusion matrix that OTB counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otbsr.errors import ProcessingError
from otbsr.progress import Report, silent
from otbsr.serving.otb import run_otb

FIELD = "label"
FOREST: Mapping[str, object] = {"classifier": "rf", "classifier.rf.nbtrees": 50, "classifier.rf.max": 12, "classifier.rf.min": 5, "classifier.rf.var": 2}


def otb_version() -> str:
    """OTB's version as its ImageClassifier says, "unknown" when it says none."""
    try:
        said = run_otb("ImageClassifier", {"version": []})
    except ProcessingError as error:  # the launcher says its version and ends with status 1
        said = str(error)
    found = re.search(r"version (\d+(?:\.\d+)+)", said)
    return found[1] if found else "unknown"


def train(image: Path, polygons: Path, out: Path, samples: int, seed: int, learner: Mapping[str, object] = FOREST, threads: int | None = None) -> str:
    """Train a learner on at most `samples` pixels a class within `polygons` (integer field "label") of `image`; return OTB's log.

    Equal seeds, polygons and grids give the same pixels, whatever the image holds.
    """
    parameters = {
        "io.il": [image],
        "io.vd": [polygons],
        "sample.vfn": FIELD,
        "sample.vtr": 0,
        "sample.mt": samples,
        "sample.bm": 0,
        "rand": seed,
        "io.out": out,
    }
    return run_otb("TrainImagesClassifier", {**parameters, **learner}, silent, [out], threads=threads)


def classify(image: Path, model: Path, out: Path, mask: Path | None = None, report: Report = silent, step: str = "", threads: int | None = None) -> str:
    """Map `image` with a trained `model` into `out` (uint8; 0 where `mask` is 0); return OTB's log."""
    parameters = {"in": image, "model": model, "mask": mask, "out": [f"{out}?&gdal:co:COMPRESS=DEFLATE", "uint8"]}
    return run_otb("ImageClassifier", parameters, report, [out], step, threads)


def confusion_of(mapped: Path, reference: Path, out: Path, classes: int) -> NDArray[np.int64]:
    """OTB's confusion matrix (classes, classes) of labels 1..classes, rows = reference; pixels where either is 0 do not count."""
    run_otb(
        "ComputeConfusionMatrix",
        {"in": mapped, "out": out, "ref": "raster", "ref.raster.in": reference, "ref.raster.nodata": 0, "nodatalabel": 0},
        silent,
        [out],
    )
    return read_confusion(out, classes)


def read_confusion(path: Path, classes: int) -> NDArray[np.int64]:
    """A ComputeConfusionMatrix CSV as (classes, classes); labels it does not list are zero. Raises `ProcessingError`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        rows, columns = ([int(label) for label in line.split(":", 1)[1].split(",")] for line in lines[:2])
        values = np.array([[int(float(value)) for value in line.split(",")] for line in lines[2:] if line.strip()], dtype=np.int64)
        matrix = np.zeros((classes, classes), np.int64)
        matrix[np.ix_(np.array(rows) - 1, np.array(columns) - 1)] = values
    except (IndexError, ValueError) as error:
        raise ProcessingError(f"{path}: not a confusion matrix of OTB with labels 1 to {classes} ({error}); delete it and run again") from error
    return matrix
