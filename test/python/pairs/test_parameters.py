"""The parameters of the applications are OTBTF's: key, type, whether mandatory, default."""

from __future__ import annotations

import re
import subprocess

import pytest
from application import needs

from otbsr.serving.otb import command_line, otb_environment

MANDATORY, OPTIONAL = "mandatory", "optional, off by default"
RAM = ("int32", f"{OPTIONAL}, default value is 256")
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
    "ram": RAM,
}
LABELS = {
    "inref": ("string", MANDATORY),
    "strategy": ("string", f"[constant/total/smallest/all] {MANDATORY}, default value is constant"),
    "strategy.constant.nb": ("int32", f"{MANDATORY}, default value is 1000"),
    "strategy.total.v": ("int32", f"{MANDATORY}, default value is 1000"),
    "nodata": ("int32", f"{MANDATORY}, default value is -1"),
    "pad": ("int32", f"{OPTIONAL}, default value is 0"),
    "outvec": ("string", MANDATORY),
    "ram": RAM,
}
POLYGONS = {
    "in": ("string", MANDATORY),
    "vec": ("string", MANDATORY),
    "out": ("string", MANDATORY),
    "field": ("string", MANDATORY),
    "ram": RAM,
    "elev.dem": ("string", OPTIONAL),
    "elev.geoid": ("string", OPTIONAL),
    "elev.default": ("float", f"{MANDATORY}, default value is 0"),
}
SERVED = {
    **{f"source{k}.il": ("string list", MANDATORY) for k in (1, 2)},
    **{f"source{k}.rfield{axis}": ("int32", f"{MANDATORY}, default value is 1") for k in (1, 2) for axis in "xy"},
    **{f"source{k}.placeholder": ("string", OPTIONAL) for k in (1, 2)},
    **{f"source{k}.nodata": ("float", OPTIONAL) for k in (1, 2)},
    "output.spcscale": ("float", f"{MANDATORY}, default value is 1"),
    "output.names": ("string list", OPTIONAL),
    "output.bv": ("float", f"{MANDATORY}, default value is 0"),
    "output.efieldx": ("int32", f"{MANDATORY}, default value is 1"),
    "output.efieldy": ("int32", f"{MANDATORY}, default value is 1"),
    "output.rounding": ("string", f"[nearest/truncate] {MANDATORY}, default value is nearest"),  # ours: integers are rounded
    "optim.disabletiling": ("boolean", f"{OPTIONAL}, default value is false"),
    "optim.tilesizex": ("int32", f"{MANDATORY}, default value is 16"),
    "optim.tilesizey": ("int32", f"{MANDATORY}, default value is 16"),
}


def model(group):
    return {
        f"{group}.dir": ("string", MANDATORY),
        f"{group}.userplaceholders": ("string list", OPTIONAL),
        f"{group}.fullyconv": ("boolean", f"{OPTIONAL}, default value is false"),
        f"{group}.tagsets": ("string list", OPTIONAL),
    }


SERVE = {**SERVED, **model("model"), "out": ("string", MANDATORY)}
DEEP_TRAIN = {
    **SERVED,
    **model("model"),
    "ram": RAM,
    "vd": ("string list", MANDATORY),
    "valid": ("string list", OPTIONAL),
    "out": ("string", MANDATORY),
    "confmatout": ("string", OPTIONAL),
    "sample.mt": ("int32", f"{MANDATORY}, default value is 1000"),
    "sample.mv": ("int32", f"{MANDATORY}, default value is 1000"),
    "sample.bm": ("int32", f"{MANDATORY}, default value is 1"),
    "sample.vtr": ("float", f"{MANDATORY}, default value is 0.5"),
    "sample.vfn": ("string", MANDATORY),
    "classifier": ("string", f"[libsvm/boost/dt/ann/bayes/rf/knn] {MANDATORY}, default value is libsvm"),
    "rand": ("int32", OPTIONAL),
}
DEEP_CLASSIFY = {
    **SERVED,
    **model("deepmodel"),
    "model": ("string", MANDATORY),
    "imstat": ("string", OPTIONAL),
    "nodatalabel": ("int32", f"{OPTIONAL}, default value is 0"),
    "out": ("string", MANDATORY),
    "confmap": ("string", OPTIONAL),
    "ram": RAM,
}
TRAIN = {
    "model.dir": ("string", MANDATORY),
    "model.restorefrom": ("string", OPTIONAL),
    "model.saveto": ("string", OPTIONAL),
    "model.tagsets": ("string list", OPTIONAL),
    "training.batchsize": ("int32", f"{MANDATORY}, default value is 100"),
    "training.epochs": ("int32", f"{MANDATORY}, default value is 100"),
    "training.userplaceholders": ("string list", OPTIONAL),
    "training.targetnodes": ("string list", MANDATORY),
    "training.outputtensors": ("string list", OPTIONAL),
    "training.usestreaming": ("boolean", f"{OPTIONAL}, default value is false"),
    "validation.step": ("int32", f"{MANDATORY}, default value is 10"),
    "validation.mode": ("string", f"[none/class/rmse] {MANDATORY}, default value is none"),
    "validation.userplaceholders": ("string list", OPTIONAL),
    "validation.usestreaming": ("boolean", f"{OPTIONAL}, default value is false"),
    "rand": ("int32", OPTIONAL),  # ours: upstream's order cannot be repeated
    **{f"training.source{k}.il": ("string list", MANDATORY) for k in (1, 2, 3)},
    **{f"training.source{k}.patchsize{axis}": ("int32", MANDATORY) for k in (1, 2, 3) for axis in "xy"},
    **{f"training.source{k}.placeholder": ("string", MANDATORY) for k in (1, 2, 3)},
    **{f"validation.source{k}.il": ("string list", OPTIONAL) for k in (1, 2, 3)},  # upstream: mandatory, whatever validation.mode is
    **{f"validation.source{k}.name": ("string", OPTIONAL) for k in (1, 2, 3)},
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
            ("TensorflowModelServe", SERVE),
            ("TensorflowModelTrain", TRAIN),
            ("TrainClassifierFromDeepFeatures", DEEP_TRAIN),
            ("ImageClassifierFromDeepFeatures", DEEP_CLASSIFY),
        )
    ],
)
def test_parameters_are_otbtfs(application, parameters):
    """Interface, "Parameters": nothing is missing, and nothing is added but what is marked. Parameters of a strategy show only while it is chosen;
    those of OTB's learners, and of OTB's elevation in composite applications, are OTB's own."""
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
    if "classifier" in parameters:
        found = {key: value for key, value in found.items() if not key.startswith(("classifier.", "elev."))}
    assert found == parameters
