"""A study's maps: maps.json and the files that it names, and what is counted from every map.

The sums of each map are kept beside it (`<map>_statistics.npz`, with a hash of all that they were counted from), so that a second call
counts only what is new.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import InputError, first_line
from otbsr.evaluation import accuracy
from otbsr.evaluation.accuracy import Array, Legend, Sums
from otbsr.files import digest, new_file
from otbsr.grid import Grid
from otbsr.serving.reliability import parts

MAPS = "maps.json"
FORMAT = 2
"""Of maps.json and study.json."""
VERSION = 1
"""Of the sums: raise it when `accuracy.count` counts something else."""
WINDOW = 1024
"""Side of the windows that are counted at once, pixels."""


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

    def windows(self, side: int | None = None) -> list[Window]:
        """Squares of `side` [WINDOW] pixels that cover it, those at the right and lower edge smaller."""
        return parts(Window(0, 0, self.grid.width, self.grid.height), side or WINDOW)

    @cached_property
    def count(self) -> int:
        """Number of blocks."""
        with rasterio.open(self.blocks) as dataset:
            return max((int(dataset.read(1, window=window).max()) for window in self.windows()), default=-1) + 1


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
        path = folder / MAPS
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
        for window in area.windows(WINDOW // area.cell * area.cell) if wanted else ():
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
            try:
                hashes[path] = digest(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); run `otbsr study` again") from error
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
    """Write sums; raises `OutputError`."""
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), **sums)  # type: ignore[arg-type]
