"""From a study's maps to its answer: reads maps.json, counts every map, compares the arms, writes study.json and its tables."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from otbsr.evaluation.answer import answer
from otbsr.evaluation.arm_comparison import compare
from otbsr.evaluation.places import choose_examples, choose_scenes, write_changes
from otbsr.evaluation.study_maps import Maps
from otbsr.files import write_text
from otbsr.progress import Report, silent


def evaluate(folder: str | Path, report: Report = silent) -> dict[str, Any]:
    """Count and compare the maps of `folder`/maps.json; write study.json, measures.csv, differences.csv, changes/<area>.tif; return study.json.

    Raises `InputError` when maps.json, a map or a label is not what it should be, `GridError` when a map is not on its area's grid,
    `OutputError` when a product cannot be written.
    """
    study = Maps.open(Path(folder))
    for number, area in enumerate(study.areas):
        study.count_area(area)
        report("measures", 0.7 * (number + 1) / len(study.areas))
    content = compare(study, report)
    content["answer"] = answer(content)
    content = clean(content)
    content["examples"], content["scenes"] = choose_examples(study), choose_scenes(study, content)
    for area in study.areas:
        write_changes(study, area)
    write_tables(study.folder, content)
    write_text(study.folder / "study.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    report("measures", 1.0)
    return content


def clean(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinities become None, NumPy's numbers Python's, tuples lists."""
    if isinstance(value, dict):
        return {str(key): clean(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(one) for one in value]
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def write_tables(folder: Path, content: dict[str, Any]) -> None:
    """measures.csv and differences.csv: a line for each learner, arm, measure and class; class is empty for the whole map."""
    names = [one["name"] for one in content["classes"]]
    values, changes = io.StringIO(), io.StringIO()
    numbers = ["value", "low", "high"]
    tests = [*numbers, "error", "p", "holm", "wilcoxon", "median", "detectable", "clusters"]
    first, second = csv.writer(values, lineterminator="\n"), csv.writer(changes, lineterminator="\n")
    first.writerow(["learner", "arm", "measure", "class", *numbers])
    second.writerow(["learner", "arm", "against", "measure", "class", *tests])
    for learner, rows in content["results"].items():
        for arm, row in rows.items():
            for key, one in row["values"].items():
                first.writerow([learner, arm, key, "", *[one[name] for name in numbers]])
            for key, each in row["class"].items():
                for name, one in zip(names, each, strict=True):
                    first.writerow([learner, arm, key, name, *[one[number] for number in numbers]])
            for other, found in row["difference"].items():
                for key, one in found.items():
                    second.writerow([learner, arm, other, key, "", *[one.get(name) for name in tests]])
            for other, found in row["class_difference"].items():
                for key, each in found.items():
                    for name, one in zip(names, each, strict=True):
                        second.writerow([learner, arm, other, key, name, *[one.get(test) for test in tests]])
    write_text(folder / "measures.csv", values.getvalue())
    write_text(folder / "differences.csv", changes.getvalue())
