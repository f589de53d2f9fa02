"""A study's arms compared: measures with intervals, differences, tests, controls and risk, from the sums of their maps."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otbsr.evaluation import accuracy, statistics
from otbsr.evaluation.accuracy import Array, Measure, Sums
from otbsr.evaluation.answer import CONTROLLED, PRIMARY, SECOND
from otbsr.evaluation.statistics import Difference
from otbsr.evaluation.study_maps import FORMAT, Maps
from otbsr.progress import Report, silent

REPLICATES = 4000
NOT_DRAWN = ("discordant", "disagreement")
CURVE_REPLICATES = 500
LEARNERS = {
    "rf": "random forest",
    "libsvm": "support vector machine",
    "boost": "boosted trees",
    "knn": "nearest neighbours",
    "sharkrf": "random forest (Shark)",
}


class Comparison:
    """The arms of one learner, resampled alike."""

    def __init__(self, study: Maps, learner: str) -> None:
        self.study, self.learner = study, learner
        protocol = study.content.get("protocol", {})
        self.replicates, self.seed = int(protocol.get("replicates") or REPLICATES), int(protocol.get("seed") or 0)
        self.tables = {arm: found for arm in study.arms if (found := study.table(arm, learner)) is not None}
        self.drawn: dict[tuple[str, tuple[int, ...]], tuple[statistics.Draws, Sums]] = {}

    def resampled(self, arm: str, areas: tuple[int, ...]) -> tuple[statistics.Draws, Sums]:
        """The draws of the clusters of `areas`, and the arm's sums in them."""
        if (arm, areas) not in self.drawn:
            sums, places = self.within(arm, areas)
            draws = statistics.draw(places, len(sums["confusion"]), self.replicates, self.seed)
            if draws.unit == "area":  # whole areas are drawn: add their blocks up first
                starts = np.flatnonzero(np.diff(places, prepend=-1))
                sums = {key: np.add.reduceat(table, starts, axis=1) for key, table in sums.items()}
                draws = statistics.Draws(draws.unit, draws.number, draws.weights[:, starts], draws.repeats)
            self.drawn[arm, areas] = draws, statistics.resample({key: table for key, table in sums.items() if key not in NOT_DRAWN}, draws)
        return self.drawn[arm, areas]

    def within(self, arm: str, areas: tuple[int, ...]) -> tuple[Sums, NDArray[np.int64]]:
        """The arm's sums and clusters in some areas."""
        sums, places = self.tables[arm]
        kept = np.isin(places, areas)
        return {key: table[:, kept] for key, table in sums.items()}, places[kept]

    def areas(self, *arms: str) -> tuple[int, ...]:
        """Areas that all these arms have maps of."""
        return tuple(sorted(set.intersection(*(set(self.tables[arm][1].tolist()) for arm in arms))))

    def value(self, arm: str, measure: Measure) -> list[Difference]:
        """The measure of an arm with its interval; one for each class where the measure is of classes."""
        areas = self.areas(arm)
        draws, drawn = self.resampled(arm, areas)
        return estimates(measure.of(statistics.pooled(self.within(arm, areas)[0])), measure.of(drawn), draws.number)

    def difference(self, first: str, second: str, measure: Measure) -> list[Difference]:
        """measure(first) - measure(second) in the areas that both have."""
        areas = self.areas(first, second)
        values = [measure.of(statistics.pooled(self.within(arm, areas)[0])) for arm in (first, second)]
        (draws, one), (_, other) = (self.resampled(arm, areas) for arm in (first, second))
        return estimates(values[0] - values[1], measure.of(one) - measure.of(other), draws.number)

    def wilcoxon(self, first: str, second: str, measure: Measure) -> dict[str, float]:
        """Wilcoxon's p and the median of the differences of the clusters that are drawn, the measure taken in each by itself."""
        areas = self.areas(first, second)
        unit = self.resampled(first, areas)[0].unit
        changes = [measure.of(statistics.by_cluster(*self.within(arm, areas), unit)) for arm in (first, second)]
        change = changes[0] - changes[1]
        known = change[np.isfinite(change)]
        return {"wilcoxon": statistics.wilcoxon(change), "median": float(np.median(known)) if known.size else float("nan")}

    def mcnemar(self, first: str) -> dict[str, float]:
        """McNemar's test against the baseline on the thinned pixels of the first repeat."""
        sums, _ = self.within(first, self.areas(first, self.study.baseline))
        if "discordant" not in sums:
            return {}
        better, worse = (float(one) for one in sums["discordant"][0].sum(0))
        return {"only_arm": better, "only_baseline": worse, "p": statistics.mcnemar(better, worse)}


def estimates(values: Array, drawn: Array, clusters: int) -> list[Difference]:
    """One estimate for each value: () or (K,) with its replicates (n,) or (n, K)."""
    columns = drawn.reshape(len(drawn), -1).T
    return [statistics.estimate(float(value), column, clusters) for value, column in zip(np.ravel(values), columns, strict=True)]


def compare(study: Maps, report: Report = silent) -> dict[str, Any]:
    """The content of study.json but for the answer, examples and scenes."""
    protocol = dict(study.content.get("protocol", {}))
    spacing = study.areas[0].grid.dx * study.areas[0].grid.dy
    every = accuracy.measures(study.legend, spacing / 1e4)
    results, comparisons = {}, {}
    for number, learner in enumerate(study.learners):
        comparisons[learner] = Comparison(study, learner)
        results[learner] = compare_learner(comparisons[learner], every)
        report("measures", 0.7 + 0.25 * (number + 1) / len(study.learners))
    first = comparisons[study.learners[0]]
    draws = first.resampled(study.baseline, first.areas(study.baseline))[0]
    return {
        "format": FORMAT,
        "baseline": study.baseline,
        "lead": study.lead,
        "primary": PRIMARY,
        "classes": sorted(study.content["classes"], key=lambda one: int(one["code"])),
        "arms": [study.arm(name) | {"areas": sorted({area for area, arm, _, _ in study.runs if arm == name})} for name in study.arms],
        "learners": study.learners,
        "learner_names": {one: LEARNERS.get(one, one) for one in study.learners},
        "measures": {key: {"name": one.name, "unit": one.unit, "better": one.better} for key, one in every.items()},
        "class_measures": {key: {"name": one.name, "unit": one.unit, "better": one.better} for key, one in accuracy.CLASS_MEASURES.items()},
        "bins": {"sizes": accuracy.bin_names(accuracy.SIZES, "m²"), "widths": accuracy.bin_names(accuracy.WIDTHS, "m")},
        "bins_reference": reference_bins(first, study),
        "clusters": {
            "unit": draws.unit,
            "number": draws.number,
            "blocks": int(first.tables[study.baseline][0]["confusion"].shape[1]),
            "areas": len(study.areas),
            "replicates": first.replicates,
            "repeats": {one: len(study.repeats(one)) for one in study.learners},
        },
        "thinning": study.thinning,
        "results": results,
        "by_area": by_area(study, first, every),
        "areas": [describe_area(study, first, number) for number in range(len(study.areas))],
        "controls": controls(study, comparisons, every),
        "risk": {learner: risk(study, one) for learner, one in comparisons.items()},
        "protocol": protocol,
        "settings": {
            "tolerances": accuracy.TOLERANCES,
            "sizes": accuracy.SIZES,
            "widths": accuracy.WIDTHS,
            "smallest_building_pixels": accuracy.SMALLEST,
            "near_pixels": accuracy.NEAR,
            "halo_pixels": accuracy.HALO,
            "detected_share": accuracy.DETECTED,
            "enough_areas": statistics.ENOUGH_AREAS,
            "level": statistics.LEVEL,
            "power": statistics.POWER,
        },
        "counts": study.content.get("counts", {}),
        "images": study.content.get("images", {}),
        "models": study.content.get("models", []),
        "versions": study.content.get("versions", {}),
        "command": study.content.get("command", ""),
        "warnings": [*study.content.get("warnings", []), *missing_maps(study)],
    }


def compare_learner(comparison: Comparison, every: dict[str, Measure]) -> dict[str, Any]:
    """Values, differences, calibration and tests of each arm of a learner."""
    study, rows = comparison.study, {}
    names = study.legend.names
    others = [one for one in (study.baseline, "bicubic") if one in comparison.tables]
    for arm, (sums, _) in comparison.tables.items():
        usable = {key: one for key, one in every.items() if all(name in sums for name in one.reads)}
        row: dict[str, Any] = {
            "values": {key: interval(comparison.value(arm, one)[0]) for key, one in usable.items()},
            "class": {key: [interval(each) for each in comparison.value(arm, one)] for key, one in accuracy.CLASS_MEASURES.items()},
            "difference": {},
            "class_difference": {},
            "mcnemar": comparison.mcnemar(arm) if arm != study.baseline else {},
            "confusion": statistics.pooled(sums)["confusion"].astype(np.int64).tolist(),
        }
        if "confidence" in sums:
            row["calibration"] = dict(
                zip(("pixels", "confidence", "right"), (part.tolist() for part in accuracy.calibration(sums["confidence"].sum((0, 1)))), strict=True)
            )
        for other in others:
            if arm == other:
                continue
            both = {key: one for key, one in usable.items() if one.compared and all(name in comparison.tables[other][0] for name in one.reads)}
            row["difference"][other] = {
                key: asdict(comparison.difference(arm, other, one)[0]) | comparison.wilcoxon(arm, other, one) for key, one in both.items()
            }
            row["class_difference"][other] = {
                key: [asdict(each) for each in comparison.difference(arm, other, accuracy.CLASS_MEASURES[key])] for key in ("f1", "iou", "boundary_f1_1")
            }
        rows[arm] = row
    for other in others:
        for key in every:
            correct_for_arms([row["difference"][other][key] for row in rows.values() if key in row["difference"].get(other, {})])
        for key in ("f1", "iou", "boundary_f1_1"):
            for number in range(len(names)):
                correct_for_arms([row["class_difference"][other][key][number] for row in rows.values() if other in row["class_difference"]])
    return rows


def correct_for_arms(family: list[dict[str, Any]]) -> None:
    """Add `holm`, p adjusted over the arms of one measure, and `shown`: whether the interval leaves out zero."""
    for one, adjusted in zip(family, statistics.holm([one["p"] for one in family]), strict=True):
        one["holm"] = adjusted
        one["shown"] = bool(one["low"] > 0 or one["high"] < 0)


def interval(one: Difference) -> dict[str, float]:
    """Value and ends."""
    return {"value": one.value, "low": one.low, "high": one.high}


def reference_bins(comparison: Comparison, study: Maps) -> dict[str, list[float]]:
    """How many reference buildings, and hectares of road, each bin holds."""
    total, area = statistics.pooled(comparison.tables[study.baseline][0]), study.areas[0].grid
    repeats = len(study.repeats(comparison.learner))
    found = {}
    if "sizes" in total:
        found["buildings"] = (total["sizes"][:, 2] / repeats).tolist()
    if "widths" in total:
        found["road_hectares"] = (total["widths"][:, 0] / repeats * area.dx * area.dy / 1e4).tolist()
    return found


def by_area(study: Maps, comparison: Comparison, every: dict[str, Measure]) -> list[dict[str, Any]]:
    """Each area by itself: the lead arm, the baseline and their difference with intervals over the area's blocks."""
    rows: list[dict[str, Any]] = []
    if study.lead not in comparison.tables:
        return rows
    for number in comparison.areas(study.baseline, study.lead):
        row: dict[str, Any] = {"area": study.areas[number].name, "measures": {}}
        for key in (PRIMARY, "accuracy", SECOND):
            if key not in every:
                continue
            measure = every[key]
            parts, places = zip(*(comparison.within(arm, (number,)) for arm in (study.lead, study.baseline)), strict=True)
            draws = statistics.draw(places[0], len(parts[0]["confusion"]), min(1000, comparison.replicates), comparison.seed)
            values = [float(measure.of(statistics.pooled(part))) for part in parts]
            drawn = [measure.of(statistics.resample({name: part[name] for name in measure.reads}, draws)) for part in parts]
            change = statistics.estimate(values[0] - values[1], drawn[0] - drawn[1], draws.number)
            row["measures"][key] = {"lead": values[0], "baseline": values[1], **interval(change)}
        rows.append(row)
    return rows


def describe_area(study: Maps, comparison: Comparison, number: int) -> dict[str, Any]:
    """maps.json's entry of an area with its grid, judged blocks and hectares of each class."""
    area = study.areas[number]
    sums, places = comparison.tables[study.baseline]
    inside = sums["confusion"][0, places == number]
    hectares = inside.sum((0, 2)) * area.grid.dx * area.grid.dy / 1e4
    return area.entry | {"grid": area.grid.describe(), "crs": bool(area.grid.crs), "judged_blocks": len(inside), "class_hectares": hectares.tolist()}


def controls(study: Maps, comparisons: dict[str, Comparison], every: dict[str, Measure]) -> dict[str, Any]:
    """The lead arm against each negative control, by learner; `information`: whether it gains more than all that add no information."""
    names = [name for name in study.arms if name in CONTROLLED or study.arm(name).get("control")]
    found: dict[str, Any] = {}
    for learner, one in comparisons.items():
        rows = {}
        for name in names:
            if name in (study.lead, study.baseline) or name not in one.tables or study.lead not in one.tables:
                continue
            keys = [key for key in (PRIMARY, "accuracy", SECOND, "boundary_f1_1") if key in every]
            rows[name] = {key: asdict(one.difference(study.lead, name, every[key])[0]) for key in keys}
            rows[name]["beaten"] = rows[name][PRIMARY]["low"] > 0
        judged = [rows[name]["beaten"] for name in CONTROLLED if name in rows]
        found[learner] = {"arms": rows, "information": all(judged) if judged else None}
    return found


def risk(study: Maps, comparison: Comparison) -> dict[str, Any]:
    """Risk-coverage curves of the lead arm: pixels are accepted from the lowest disagreement, or the highest confidence, on.

    area: mean risk over all coverages, with its interval; `random`: that of accepting in any order, the share of wrong pixels.
    """
    if study.lead not in comparison.tables:
        return {"random": None, "curves": {}}
    areas = comparison.areas(study.lead)
    sums, places = comparison.within(study.lead, areas)
    draws = statistics.draw(places, len(sums["confusion"]), CURVE_REPLICATES, comparison.seed)
    total = statistics.pooled(sums)["confusion"]
    found: dict[str, Any] = {"random": 1 - float(accuracy.accuracy(total)), "curves": {}}
    tables = {}
    if "disagreement" in sums:
        tables["disagreement"] = sums["disagreement"]
    if "confidence" in sums:
        pixels, right = sums["confidence"][..., ::-1, 0], sums["confidence"][..., ::-1, 2]
        tables["confidence"] = np.stack([pixels, pixels - right], -1)
    for key, table in tables.items():
        counts = table.sum((0, 1))
        coverage, curve = accuracy.risk_coverage(counts[:, 0], counts[:, 1])
        drawn = statistics.resample({key: table}, draws)[key]
        overall = accuracy.ratio(drawn[..., 1].sum(-1), drawn[..., 0].sum(-1))
        mean = np.array([accuracy.area_under_risk(one[:, 0], one[:, 1]) for one in drawn])
        value = accuracy.area_under_risk(counts[:, 0], counts[:, 1])
        share = float(accuracy.ratio(counts[:, 1].sum(), counts[:, 0].sum()))
        found["curves"][key] = {
            "coverage": coverage.tolist(),
            "risk": curve.tolist(),
            "area": interval(statistics.estimate(value, mean, draws.number)),
            "gain": interval(statistics.estimate(share - value, overall - mean, draws.number)),
        }
    return found


def missing_maps(study: Maps) -> list[str]:
    """A warning for each arm that lacks areas which the baseline has."""
    lines = []
    for learner in study.learners:
        whole = {area for area, arm, one, _ in study.runs if arm == study.baseline and one == learner}
        for name in study.arms:
            lacks = whole - {area for area, arm, one, _ in study.runs if arm == name and one == learner}
            if lacks:
                lines.append(f"Arm {name} has no map by {learner} of {len(lacks)} of {len(whole)} areas; it is compared in the others only.")
    return lines
