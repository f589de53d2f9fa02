"""The parameters of the applications are OTBTF's: key, type, whether mandatory, default."""

from __future__ import annotations

import re
import subprocess

import pytest
from application import needs

from otbsr.serving.otb import command_line, otb_environment

MANDATORY, OPTIONAL = "mandatory", "optional, off by default"
EXTRACTION = {"vec": ("string", MANDATORY), "outlabels": ("string", OPTIONAL), "field": ("string", MANDATORY)}
for source in ("source1", "source2"):
    EXTRACTION[f"{source}.il"] = ("string list", MANDATORY)
    EXTRACTION[f"{source}.out"] = ("string", MANDATORY)
    EXTRACTION[f"{source}.patchsizex"] = EXTRACTION[f"{source}.patchsizey"] = ("int32", MANDATORY)
    EXTRACTION[f"{source}.nodata"] = ("float", OPTIONAL)
SELECTION = {
    "in": ("string", MANDATORY),
    "mask": ("string", OPTIONAL),
    "nodata": ("float", OPTIONAL),
    "grid.step": ("int32", MANDATORY),
    "grid.psize": ("int32", MANDATORY),
    "grid.offsetx": ("int32", f"{MANDATORY}, default value is 0"),
    "grid.offsety": ("int32", f"{MANDATORY}, default value is 0"),
    "strategy": ("string", f"[chessboard/split/all/balanced] {MANDATORY}, default value is chessboard"),
    "strategy.split.random": ("boolean", f"{OPTIONAL}, default value is false"),
    "strategy.split.trainprop": ("float", f"{MANDATORY}, default value is 50"),
    "strategy.split.validprop": ("float", f"{MANDATORY}, default value is 25"),
    "strategy.split.testprop": ("float", f"{MANDATORY}, default value is 25"),
    "strategy.balanced.sp": ("float", f"{MANDATORY}, default value is 0.25"),
    "strategy.balanced.nclasses": ("int32", MANDATORY),
    "strategy.balanced.labelimage": ("string", MANDATORY),
    "outtrain": ("string", MANDATORY),
    "outvalid": ("string", OPTIONAL),
    "outtest": ("string", OPTIONAL),
    "ram": ("int32", f"{OPTIONAL}, default value is 256"),
}
LABELS = {
    "inref": ("string", MANDATORY),
    "strategy": ("string", f"[constant/total/smallest/all] {MANDATORY}, default value is constant"),
    "strategy.constant.nb": ("int32", f"{MANDATORY}, default value is 1000"),
    "strategy.total.v": ("int32", f"{MANDATORY}, default value is 1000"),
    "nodata": ("int32", f"{MANDATORY}, default value is -1"),
    "pad": ("int32", f"{OPTIONAL}, default value is 0"),
    "outvec": ("string", MANDATORY),
    "ram": ("int32", f"{OPTIONAL}, default value is 256"),
}
POLYGONS = {
    "in": ("string", MANDATORY),
    "vec": ("string", MANDATORY),
    "out": ("string", MANDATORY),
    "field": ("string", MANDATORY),
    "ram": ("int32", f"{OPTIONAL}, default value is 256"),
    "elev.dem": ("string", OPTIONAL),
    "elev.geoid": ("string", OPTIONAL),
    "elev.default": ("float", f"{MANDATORY}, default value is 0"),
}


@pytest.mark.parametrize(
    ("application", "parameters"),
    [
        pytest.param(name, parameters, marks=needs(name), id=name)
        for name, parameters in (
            ("PatchesExtraction", EXTRACTION),
            ("PatchesSelection", SELECTION),
            ("LabelImageSampleSelection", LABELS),
            ("DensePolygonClassStatistics", POLYGONS),
        )
    ],
)
def test_parameters_are_otbtfs(application, parameters):
    """Interface, "Parameters": nothing is missing, nothing is added. Parameters of a strategy show only while it is chosen."""
    found = {}
    choices = re.findall(r"\w+", parameters.get("strategy", ("", ""))[1].split("]")[0])
    for choice in [None, *choices]:
        command = command_line(application, {"strategy": choice} if choice else {})
        environment = {**otb_environment(), "OTB_TF_NSOURCES": "2"}
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=60)
        assert done.returncode == 1
        for line in done.stderr.splitlines():
            parts = re.match(r"(?:MISSING|\s)\s*-([\w.]+)\s+<([\w ]+)>\s+(.*) \(([^()]*)\)$", line)
            if parts:
                key, kind, description, rest = parts.groups()
                values = re.search(r"\[\w+(/\w+)+\]", description)
                rest = rest.removesuffix(", no default value")
                found.setdefault(key, (kind, f"{values[0]} {rest}" if values else rest))
    assert found == parameters
