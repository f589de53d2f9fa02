"""From a study's maps to its answer: reads maps.json, counts every map, compares the arms, writes study.json.

The sums of each map are kept beside it (`<map>_statistics.npz`, with a hash of all that they were counted from), so that a second call
counts only what is new.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import InputError, OutputError
from otbsr.evaluation import accuracy, statistics
from otbsr.evaluation.accuracy import Array, Legend, Measure, Sums
from otbsr.evaluation.statistics import Difference
from otbsr.grid import Grid
from otbsr.progress import Report, silent
from otbsr.raster import first_line, new_raster

FORMAT = 2
VERSION = 1
"""Of the sums: raise it when `accuracy.count` counts something else."""
WINDOW = 1024
"""Side of the windows that are counted at once, pixels."""
REPLICATES = 4000
PRIMARY = "macro_f1"
"""The measure that the answer is given in, chosen before any result."""
SECOND = "artificial_f1"
CONTROLLED = ("unsharp", "shuffled")
"""Arms without new information: gaining as much as they do shows none."""
NOT_DRAWN = ("discordant", "disagreement")
CURVE_REPLICATES = 500
CHIP = 64
"""Side of an example, pixels: 160 m at 2.5 m."""
SCENE = 320
"""Side of a scene of the viewer, pixels: 800 m at 2.5 m."""
SCENES = 3
ALPHA = 1 - statistics.LEVEL
CHANGE_NODATA = -32768
LEARNERS = {
    "rf": "random forest",
    "libsvm": "support vector machine",
    "boost": "boosted trees",
    "knn": "nearest neighbours",
    "sharkrf": "random forest (Shark)",
}


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
    content["examples"], content["scenes"] = choose_examples(study), choose_scenes(study, content)
    for area in study.areas:
        write_changes(study, area)
    write_tables(study.folder, content)
    write_json(study.folder / "study.json", content)
    report("measures", 1.0)
    return content


# --- the maps -------------------------------------------------------------------------------------------------------------------


@dataclass
class Area:
    """An area of maps.json: its name, entry, files and grids."""

    name: str
    entry: dict[str, Any]
    reference: Path
    blocks: Path
    disagreement: Path | None
    grid: Grid
    cell: int

    @cached_property
    def count(self) -> int:
        """Number of blocks."""
        with rasterio.open(self.blocks) as dataset:
            return max((int(dataset.read(1, window=window).max()) for window in windows(self.grid, WINDOW)), default=-1) + 1


def windows(grid: Grid, side: int) -> Iterator[Window]:
    """Squares of `side` pixels that cover the grid, those at the right and lower edge smaller."""
    for top in range(0, grid.height, side):
        for left in range(0, grid.width, side):
            yield Window(left, top, min(side, grid.width - left), min(side, grid.height - top))


@dataclass
class Maps:
    """maps.json and the files that it names. `runs`: (area, arm, learner, repeat) -> entry."""

    folder: Path
    content: dict[str, Any]
    legend: Legend
    areas: list[Area]
    runs: dict[tuple[str, str, str, int], dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> Maps:
        """Read and check maps.json; raises `InputError`."""
        path = folder / "maps.json"
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no finished maps in it (maps.json: {error}); run `otbsr study` first") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise InputError(f"{path}: format {found}, expected {FORMAT}; run `otbsr study` of this version again")
        missing = [key for key in ("baseline", "classes", "areas", "arms", "learners", "runs") if not content.get(key)]
        if missing:
            raise InputError(f"{path}: without {', '.join(missing)}; run `otbsr study` again")
        try:
            legend = Legend.of(content["classes"])
            areas = [cls.area(folder, entry) for entry in content["areas"]]
            runs = {(one["area"], one["arm"], one["learner"], int(one["repeat"])): one for one in content["runs"]}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: {error!r} is not as expected; run `otbsr study` again") from error
        study = cls(folder, content, legend, areas, runs)
        if not any(arm == study.baseline for _, arm, _, _ in runs):
            raise InputError(f"{path}: no map of the baseline {study.baseline}; run `otbsr study` with that arm")
        return study

    @staticmethod
    def area(folder: Path, entry: dict[str, Any]) -> Area:
        """An area's files, on one grid that nests in its input's."""
        reference, blocks = folder / entry["reference"], folder / entry["blocks"]
        disagreement = folder / entry["disagreement"] if entry.get("disagreement") else None
        grid = Grid.read(reference)
        for other in (blocks, disagreement):
            if other is not None:
                grid.require_same(Grid.read(other), f"{reference} and {other}")
        return Area(entry["name"], entry, reference, blocks, disagreement, grid, Grid.read(folder / entry["input"]).factor_to(grid))

    @property
    def baseline(self) -> str:
        """The arm that all are compared with."""
        return str(self.content["baseline"])

    @property
    def arms(self) -> list[str]:
        """Names of the arms that have maps, in the order of maps.json."""
        return [one["name"] for one in self.content["arms"] if any(arm == one["name"] for _, arm, _, _ in self.runs)]

    def arm(self, name: str) -> dict[str, Any]:
        """maps.json's entry of an arm."""
        return next(one for one in self.content["arms"] if one["name"] == name)

    @property
    def learners(self) -> list[str]:
        """Learners that mapped the baseline, the first one leading."""
        return [one for one in self.content["learners"] if any(arm == self.baseline and learner == one for _, arm, learner, _ in self.runs)]

    @cached_property
    def lead(self) -> str:
        """The arm that the answer is about: F, else the first model, else the first arm that is neither baseline nor control."""
        others = [name for name in self.arms if name != self.baseline]
        models = [name for name in others if self.arm(name).get("kind") == "model"]
        plain = [name for name in others if not self.arm(name).get("control") and not self.arm(name).get("oracle")]
        chosen = ["f"] if "f" in others else models or plain or others
        if not chosen:
            raise InputError(f"{self.folder}: only the baseline {self.baseline} was mapped; run `otbsr study` with another arm")
        return chosen[0]

    def repeats(self, learner: str) -> list[int]:
        """The repeats of a learner, by the baseline's maps."""
        return sorted({repeat for _, arm, one, repeat in self.runs if arm == self.baseline and one == learner})

    def path(self, area: str, arm: str, learner: str, repeat: int) -> Path | None:
        """The map of a run, None when there is none."""
        entry = self.runs.get((area, arm, learner, repeat))
        return self.folder / entry["map"] if entry else None

    @cached_property
    def thinning(self) -> float:
        """Metres between the pixels of McNemar's test: maps.json's `protocol.thinning`, else the median over areas of the errors' correlation length."""
        given = self.content.get("protocol", {}).get("thinning")
        if given:
            return float(given)
        lengths = []
        for area in self.areas:
            path = next((self.path(area.name, self.baseline, one, self.repeats(one)[0]) for one in self.learners), None)
            if path is None:
                continue
            side = 2 * WINDOW
            middle = Window(
                max(0, (area.grid.width - side) // 2), max(0, (area.grid.height - side) // 2), min(side, area.grid.width), min(side, area.grid.height)
            )
            labels, mapped = read(area.reference, middle), read(path, middle)
            limit = max(1, min(labels.shape) // 4, round(float(area.entry.get("block_size") or 500) / area.grid.dx / 2))
            lengths.append(accuracy.correlation_length((mapped != labels) & (labels > 0), labels > 0, limit) * area.grid.dx)
        return float(np.median(lengths)) if lengths else 0.0

    # --- counting ---

    def count_area(self, area: Area) -> None:
        """Count the maps of an area that have no sums of the same files yet; write them beside the maps."""
        hashes: dict[Path, str] = {}
        wanted = []
        for (name, arm, learner, repeat), entry in self.runs.items():
            if name != area.name:
                continue
            files = self.files(area, entry, learner, repeat)
            key = fingerprint(self, area, files, hashes)
            if stored(self.sums_path(entry), key) is None:
                area.grid.require_same(Grid.read(files["map"]), f"{area.reference} and {files['map']}")
                wanted.append((entry, files, key, f"{arm}, {learner}, repeat {repeat}"))
        totals: list[Sums] = [{} for _ in wanted]
        for window in windows(area.grid, WINDOW // area.cell * area.cell) if wanted else ():
            truth, outer = self.truth(area, window)
            disagreement = read(area.disagreement, outer) if area.disagreement else None
            for total, (_, files, _, what) in zip(totals, wanted, strict=True):
                layers = {key: read(path, outer) for key, path in files.items() if key in ("map", "confidence", "baseline")}
                try:
                    counted = accuracy.count(
                        truth, layers["map"], layers.get("confidence"), disagreement, layers.get("baseline"), max(1, round(self.thinning / area.grid.dx))
                    )
                except ValueError as error:
                    raise InputError(f"{files['map']} ({what}): {error}; delete it and run `otbsr study` again") from error
                for key, table in counted.items():
                    total[key] = total[key] + table if key in total else table
        for total, (entry, _, key, _) in zip(totals, wanted, strict=True):
            store(self.sums_path(entry), key, total)

    def truth(self, area: Area, window: Window) -> tuple[accuracy.Truth, Window]:
        """The reference of a window with its halo, and that larger window."""
        outer = grown(window, accuracy.HALO, area.grid)
        top, left = int(window.row_off - outer.row_off), int(window.col_off - outer.col_off)
        core = (slice(top, top + int(window.height)), slice(left, left + int(window.width)))
        labels, blocks = read(area.reference, outer), read(area.blocks, outer).astype(np.int64)
        origin = (int(outer.row_off), int(outer.col_off))
        try:
            return accuracy.Truth(labels, blocks, area.count, self.legend, area.grid.dx, core, area.cell, origin), outer
        except ValueError as error:
            raise InputError(f"{area.reference}: {error}; run `otbsr study` again") from error

    def files(self, area: Area, entry: dict[str, Any], learner: str, repeat: int) -> dict[str, Path]:
        """What a run's sums are counted from."""
        found = {"map": self.folder / entry["map"], "reference": area.reference, "blocks": area.blocks}
        if entry.get("confidence"):
            found["confidence"] = self.folder / entry["confidence"]
        if area.disagreement:
            found["disagreement"] = area.disagreement
        other = self.path(area.name, self.baseline, learner, repeat)
        if other is not None:
            found["baseline"] = other
        return found

    def sums_path(self, entry: dict[str, Any]) -> Path:
        """Where a run's sums are kept."""
        path = self.folder / entry["map"]
        return path.with_name(f"{path.stem}_statistics.npz")

    def table(self, arm: str, learner: str) -> tuple[Sums, NDArray[np.int64]] | None:
        """(sums, areas): the sums (repeats, clusters, ...) of an arm's maps, and the area's index of each cluster, blocks without judged pixels left out.

        Areas where the arm lacks a repeat are left out; None when that leaves nothing.
        """
        repeats, parts, places = self.repeats(learner), [], []
        for number, area in enumerate(self.areas):
            entries = [self.runs.get((area.name, arm, learner, repeat)) for repeat in repeats]
            if any(entry is None for entry in entries):
                continue
            rows = [stored(self.sums_path(entry)) for entry in entries if entry is not None]
            kept = [row for row in rows if row is not None]
            judged = kept[0]["confusion"].sum((1, 2)) > 0
            parts.append({key: np.stack([row[key][judged] for row in kept]) for key in kept[0] if all(key in row for row in kept)})
            places.append(np.full(int(judged.sum()), number))
        if not parts:
            return None
        common = [key for key in parts[0] if all(key in part for part in parts)]
        return {key: np.concatenate([part[key] for part in parts], 1) for key in common}, np.concatenate(places)


def grown(window: Window, by: int, grid: Grid) -> Window:
    """The window with `by` pixels more on each side, within the grid."""
    left, top = max(0, int(window.col_off) - by), max(0, int(window.row_off) - by)
    right, bottom = min(grid.width, int(window.col_off + window.width) + by), min(grid.height, int(window.row_off + window.height) + by)
    return Window(left, top, right - left, bottom - top)


def read(path: Path, window: Window | None = None) -> Array:
    """The first band of a window; raises `InputError`."""
    try:
        with rasterio.open(path) as dataset:
            pixels: Array = dataset.read(1, window=window)
            return pixels
    except RasterioError as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); delete it and run `otbsr study` again") from error


def fingerprint(study: Maps, area: Area, files: dict[str, Path], hashes: dict[Path, str]) -> str:
    """SHA-256 of all that decides a run's sums."""
    total = hashlib.sha256(repr((VERSION, study.legend, study.thinning, area.cell, sorted(files))).encode())
    for key in sorted(files):
        path = files[key]
        if path not in hashes:
            found = hashlib.sha256()
            try:
                with path.open("rb") as stream:
                    while part := stream.read(1 << 20):
                        found.update(part)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); run `otbsr study` again") from error
            hashes[path] = found.hexdigest()
        total.update(hashes[path].encode())
    return total.hexdigest()


def stored(path: Path, key: str | None = None) -> Sums | None:
    """The sums in an .npz, None when it is missing, broken or, with `key`, of other files."""
    try:
        with np.load(path) as content:
            if key is not None and str(content["key"]) != key:
                return None
            return {name: content[name] for name in content.files if name != "key"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def store(path: Path, key: str, sums: Sums) -> None:
    """Write sums under a temporary name, then move them."""
    temporary = path.with_name(f".{path.name}.part.npz")
    try:
        np.savez_compressed(temporary, key=np.array(key), **sums)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check the free space") from error


# --- the comparison -------------------------------------------------------------------------------------------------------------


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
    """The content of study.json but for examples and scenes."""
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
    content: dict[str, Any] = {
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
    content["answer"] = answer(content)
    return clean(content)  # type: ignore[no-any-return]


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


# --- words ----------------------------------------------------------------------------------------------------------------------


def points(value: float | None) -> str:
    """A share's change as points: 0.0123 -> +1.2."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:+.1f}".replace("-", "−")


def spread(change: dict[str, Any]) -> str:
    """An interval as points: [-0.4, +2.1]."""
    return f"[{points(change['low'])}, {points(change['high'])}]"


def verdict(change: dict[str, Any]) -> str:
    """`none`, `better` or `worse`: which side of zero the interval lies on."""
    low, high = change["low"], change["high"]
    return "better" if low is not None and low > 0 else "worse" if high is not None and high < 0 else "none"


def answer(content: dict[str, Any]) -> dict[str, Any]:
    """The answer: two sentences with their numbers, its sign, and a caution where a control gains as much or Holm's correction takes it back."""
    learner, lead, base = content["learners"][0], content["lead"], content["baseline"]
    rows, titles = content["results"][learner], {one["name"]: one["title"] for one in content["arms"]}
    if lead not in rows:
        return {"sentences": [f"{titles[lead]} was not mapped by {learner}: there is no answer."], "verdict": "none", "cautions": []}
    sentences = []
    for key, what in ((PRIMARY, "land-cover map"), (SECOND, "map of artificial surfaces")):
        if key not in rows[lead]["difference"][base]:
            continue
        change = rows[lead]["difference"][base][key]
        numbers = (
            f"{points(change['value'])} points of {'macro-F1' if key == PRIMARY else 'F1'} over {titles[base]} "
            f"({100 * rows[lead]['values'][key]['value']:.1f} against {100 * rows[base]['values'][key]['value']:.1f} %; 95 % interval {spread(change)})"
        )
        start = {"better": f"{titles[lead]} helped the {what}", "worse": f"{titles[lead]} harmed the {what}"}
        start["none"] = f"No difference shown for the {what}: {titles[lead]} changes it by"
        said = verdict(change)
        sentences.append(f"{start[said]} {numbers}." if said == "none" else f"{start[said]}: {numbers}.")
    change = rows[lead]["difference"][base][PRIMARY]
    cautions = []
    if verdict(change) != "none" and change["holm"] is not None and change["holm"] >= ALPHA:
        cautions.append(
            f"Corrected for the {len(rows) - 1} arms compared (Holm), p is {change['holm']:.2f}: the difference is not shown if all arms are looked at."
        )
    control = content["controls"][learner]
    equal = [titles[name] for name in CONTROLLED if name in control["arms"] and not control["arms"][name]["beaten"]]
    if equal and change["value"] > 0:
        cautions.append(f"{' and '.join(equal)} gained as much as {titles[lead]}: no information was shown to be added.")
    return {"sentences": sentences, "verdict": verdict(change), "cautions": cautions, "learner": learner}


# --- where ----------------------------------------------------------------------------------------------------------------------


def box_sums(table: Array, side: int) -> Array:
    """Sums over squares of `side`, half a square apart, (rows, columns) from (height, width); what does not fill half a square is left out."""
    half = side // 2
    rows, columns = table.shape[0] // half, table.shape[1] // half
    small = table[: rows * half, : columns * half].reshape(rows, half, columns, half).sum((1, 3), dtype=np.int64)
    total: Array = small[1:, 1:] + small[:-1, 1:] + small[1:, :-1] + small[:-1, :-1]
    return total


def choose_examples(study: Maps) -> list[dict[str, Any]]:
    """For each class the square where the lead arm mends, and where it spoils, most pixels of the class against the baseline (first maps)."""
    learner = study.learners[0]
    best: dict[tuple[int, str], dict[str, Any]] = {}
    for area in study.areas:
        pair = [study.path(area.name, arm, learner, study.repeats(learner)[0]) for arm in (study.lead, study.baseline)]
        side = min(CHIP, area.grid.width, area.grid.height)
        if pair[0] is None or pair[1] is None or side < 2:
            continue
        labels, lead, base = read(area.reference), read(pair[0]), read(pair[1])
        judged = box_sums(labels > 0, side) >= 0.9 * side**2
        for code in range(1, study.legend.number + 1):
            truth = labels == code
            gain = ((base == code) != truth).astype(np.int8) - ((lead == code) != truth).astype(np.int8)
            gain[labels == 0] = 0
            change = box_sums(gain, side) * judged
            for kind, sign in (("helps", 1), ("harms", -1)):
                place = int((sign * change).argmax())
                amount = int(sign * change.flat[place])
                if amount > best.get((code, kind), {"pixels": 0})["pixels"]:
                    row, column = divmod(place, change.shape[1])
                    window = [column * (side // 2), row * (side // 2), side, side]
                    best[code, kind] = {"class": code, "kind": kind, "area": area.name, "window": window, "pixels": amount}
    return [best[key] for key in sorted(best, key=lambda key: (key[0], key[1] != "helps"))]


def choose_scenes(study: Maps, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Squares for the viewer: of the areas where the lead arm gains most, least, and the middle, those with most edges of artificial surfaces.

    With fewer areas than scenes, the last area gives several.
    """
    ranked = sorted(content["by_area"], key=lambda one: -(one["measures"][PRIMARY]["value"] or 0.0))
    chosen = [ranked[0], ranked[-1], ranked[len(ranked) // 2]] if len(ranked) >= SCENES else ranked
    words = ["largest gain of the areas", "smallest gain of the areas", "an area in the middle"] if len(ranked) >= SCENES else [""] * len(ranked)
    scenes: list[dict[str, Any]] = []
    for number, (one, why) in enumerate(zip(chosen, words, strict=True)):
        area = next(area for area in study.areas if area.name == one["area"])
        labels = read(area.reference)
        side = min(SCENE, area.grid.width, area.grid.height)
        mask = accuracy.within(labels, study.legend.artificial or (0,))
        score = box_sums(accuracy.boundary(mask, labels > 0), side).astype(np.float64) * (box_sums(labels > 0, side) > 0.5 * side**2)
        wanted = SCENES - len(chosen) + 1 if number == len(chosen) - 1 and len(ranked) < SCENES else 1
        for _ in range(wanted):
            row, column = np.unravel_index(int(score.argmax()), score.shape)
            if score[row, column] <= 0 and len(scenes) > number:
                break
            score[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = -1
            scenes.append({"area": area.name, "window": [int(column) * (side // 2), int(row) * (side // 2), side, side], "why": why})
    return scenes


def write_changes(study: Maps, area: Area) -> None:
    """changes/<area>.tif: where the lead arm is right more often than the baseline, over the first learner's repeats: -100 to 100 %."""
    learner = study.learners[0]
    pairs = [[study.path(area.name, arm, learner, repeat) for arm in (study.lead, study.baseline)] for repeat in study.repeats(learner)]
    files = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not files:
        return
    path = study.folder / "changes" / f"{area.name}.tif"
    path.parent.mkdir(exist_ok=True)
    profile = {
        "driver": "GTiff", "dtype": "int16", "count": 1, "width": area.grid.width, "height": area.grid.height, "crs": area.grid.crs or None,
        "transform": area.grid.transform, "nodata": CHANGE_NODATA, "compress": "deflate", "tiled": True,
    }  # fmt: skip
    with new_raster(path) as temporary, rasterio.open(temporary, "w", **profile) as dataset:
        dataset.descriptions = (f"{study.lead} right - {study.baseline} right, %",)
        for window in windows(area.grid, WINDOW):
            labels = read(area.reference, window)
            change = np.zeros(labels.shape)
            for one, other in files:
                change += (read(one, window) == labels).astype(np.float64) - (read(other, window) == labels)
            dataset.write(np.where(labels > 0, np.rint(100 * change / len(files)), CHANGE_NODATA).astype(np.int16), 1, window=window)


# --- files ----------------------------------------------------------------------------------------------------------------------


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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON under a temporary name, then move it; raises `OutputError`."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name, then move it; raises `OutputError`."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check the free space") from error


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
