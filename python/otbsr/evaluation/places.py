"""Where an arm gains and loses: examples of each class, scenes for the report's viewer, and a map of the changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import rasterio

from otbsr.evaluation import accuracy
from otbsr.evaluation.accuracy import Array
from otbsr.evaluation.answer import PRIMARY
from otbsr.evaluation.study_maps import Area, Maps, read
from otbsr.raster import new_raster

CHIP = 64
"""Side of an example, pixels: 160 m at 2.5 m."""
SCENE = 320
"""Side of a scene of the viewer, pixels: 800 m at 2.5 m."""
SCENES = 3
CHANGE_NODATA = -32768


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
        for window in area.windows():
            labels = read(area.reference, window)
            change = np.zeros(labels.shape)
            for one, other in files:
                change += (read(one, window) == labels).astype(np.float64) - (read(other, window) == labels)
            dataset.write(np.where(labels > 0, np.rint(100 * change / len(files)), CHANGE_NODATA).astype(np.int16), 1, window=window)
