"""The spatial split: blocks, the folds that judge them, what each fold may train on, and the refusal of leaks.

Neighbouring pixels are alike, so a test pixel beside a training pixel measures memory: whole blocks are tested by learners that saw none
of them nor their surroundings (Karasiak et al. 2022; Roberts et al. 2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from otbsr.errors import ModelError, UsageError
from otbsr.evaluation.area import Area
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder

LEAST_BLOCK = 500.0
"""Metres below which neighbouring blocks are too alike to count as independent; smaller ones are allowed with a warning."""
TRIES = 2000


@dataclass(frozen=True)
class Blocks:
    """An area cut into blocks: index (height, width) int32 of each pixel's block, row by row from 0; their outlines; metres a side."""

    index: NDArray[np.int32]
    outlines: tuple[shapely.Polygon, ...]
    size: float

    @classmethod
    def cut(cls, fine: Grid, size: float) -> Blocks:
        """As many equal blocks of about `size` metres as fit into the grid, at least one."""
        rows, columns = (max(1, round(pixels * spacing / size)) for pixels, spacing in ((fine.height, fine.dy), (fine.width, fine.dx)))
        row = np.minimum(np.arange(fine.height) * rows // fine.height, rows - 1)
        column = np.minimum(np.arange(fine.width) * columns // fine.width, columns - 1)
        index = (row[:, None] * columns + column[None, :]).astype(np.int32)
        outlines = []
        for number in range(rows * columns):
            inside = [np.flatnonzero(axis == place) for axis, place in ((row, number // columns), (column, number % columns))]
            window = Window(int(inside[1][0]), int(inside[0][0]), inside[1].size, inside[0].size)
            outlines.append(shapely.box(*fine.cropped(window).bounds))
        return cls(index, tuple(outlines), size)

    def count(self, labels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
        """Pixels of each block and class (blocks, classes) of labels 1..classes; 0 does not count."""
        flat = np.bincount((self.index.astype(np.int64) * (classes + 1) + labels).ravel(), minlength=len(self.outlines) * (classes + 1))
        return flat.reshape(len(self.outlines), classes + 1)[:, 1:]


def assign_folds(content: NDArray[np.integer], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold (blocks,) that judges each block, as many blocks in each as can be, classes as evenly spread as can be found.

    content: (blocks, columns) how much of a class (training polygons, test pixels) is in each block. Of `TRIES` random assignments with
    equal numbers the one is taken whose folds have the most equal shares of every column; a column that lies in one fold wholly, so that
    nothing of it is left to train on there, counts most. Raises `UsageError` for fewer than 2 blocks or folds.
    """
    blocks = len(content)
    folds = min(folds, blocks)
    if folds < 2:
        raise UsageError(f"{blocks} blocks and {folds} folds, expected 2 at least of both; take a larger area, a smaller --block, or more areas with pool")
    held = content[:, content.sum(axis=0) > 0].astype(np.float64)
    share = held / held.sum(axis=0)
    random = np.random.default_rng([seed, 21])
    best, least = np.arange(blocks) % folds, np.inf
    for _ in range(TRIES):
        tried = random.permutation(np.arange(blocks) % folds)
        parts = np.stack([share[tried == fold].sum(axis=0) for fold in range(folds)])
        cost = float(((parts - 1 / folds) ** 2).sum() + 10 * (parts > 1 - 1e-9).sum())
        if cost < least:
            best, least = tried, cost
    return np.asarray(best)


def training_polygons(polygons: gpd.GeoDataFrame, outlines: Sequence[BaseGeometry], buffer: float) -> gpd.GeoDataFrame:
    """Polygons less what lies within `buffer` metres of a test block, whose `outlines` are given."""
    forbidden = shapely.union_all(list(outlines)).buffer(buffer) if outlines else shapely.Polygon()
    kept = polygons.copy()
    kept["geometry"] = polygons.geometry.difference(forbidden) if not forbidden.is_empty else polygons.geometry
    kept = kept.explode(index_parts=False)
    return kept[~kept.is_empty & kept.geometry.geom_type.eq("Polygon")].reset_index(drop=True)


def refuse_samples_in_test(area: Area, blocks: Blocks, tested: Sequence[int], points: gpd.GeoSeries, buffer: float) -> None:
    """Raise `UsageError` with the block's number when a training sample lies in a test block or nearer to it than `buffer` metres."""
    for block in tested:
        near = points.distance(blocks.outlines[block])
        if (near < buffer).any() or (near == 0).any():
            where = points[near.idxmin()]
            raise UsageError(
                f"{area.path}: a training sample at ({where.x:.1f}, {where.y:.1f}) lies {near.min():.1f} m from test block {block}, expected {buffer:g} m at "
                "least; training and test areas must be apart: delete the study's folder samples and run again"
            )


def training_record(folder: ModelFolder) -> dict[str, Any]:
    """What model.json says of where the network was trained: seeds of landscapes, footprints, both with those of earlier trainings.

    `known`: which of the lists it has; none when it says itself that they are not complete. Raises `ModelError` for lists that cannot be read.
    """
    training = folder.sidecar.training
    seeds: set[int] = set()
    footprints: list[tuple[str, tuple[float, ...]]] = []
    lists = list(found(training))
    for key, values in lists:
        for value in values:
            try:
                if key == "footprints":
                    bounds = tuple(float(edge) for edge in value["bounds"])
                    if len(bounds) != 4 or not (bounds[0] < bounds[2] and bounds[1] < bounds[3]):
                        raise ValueError("bounds are not left, bottom, right, top")
                    footprints.append((str(value["crs"] or ""), bounds))
                else:
                    seeds.add(int(value))
            except (TypeError, ValueError, KeyError) as error:
                expected = "integers" if key != "footprints" else '{"crs": ..., "bounds": [left, bottom, right, top]}'
                raise ModelError(f"{folder.path}: model.json lists {value!r} in training.{key} ({error}), expected {expected}; correct the list") from error
    known = {key for key, values in lists if values or key == "footprints"} if training.get("areas_complete", True) else set()
    return {"seeds": sorted(seeds), "footprints": footprints, "known": known}


def found(content: object) -> Iterator[tuple[str, list[Any]]]:
    """Lists of seeds and footprints at any depth of a sidecar's training record: blends and earlier trainings hold their own."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("seeds", "world_seeds", "footprints") and isinstance(value, list):
                yield key, value
            else:
                yield from found(value)
    elif isinstance(content, list):
        for value in content:
            yield from found(value)


def refuse_leak(area: Area, blocks: Blocks, folder: ModelFolder) -> str:
    """What the sidecar says of this area: "untrained" (a baseline), "unseen", or "unknown" when it does not list where it was trained.

    Raises `UsageError`, naming the block, when the network was trained on it: by the seed of a simulated landscape, whatever its other
    settings, or by a footprint that meets the block.
    """
    if folder.sidecar.method == "baseline":
        return "untrained"
    record, name = training_record(folder), folder.sidecar.name
    if area.seed is not None:  # all simulated landscapes have the same coordinates
        if area.seed in record["seeds"]:
            which = f"block 0 (and the {len(blocks.outlines) - 1} others)" if len(blocks.outlines) > 1 else "block 0"
            raise UsageError(
                f"{area.path}: {which} of the landscape of seed {area.seed} is among those that {name} was trained on; simulate an area with another seed"
            )
        return "unseen" if record["known"] & {"seeds", "world_seeds"} else "unknown"
    for crs, bounds in record["footprints"]:
        if bool(crs) != bool(area.fine.crs):
            continue  # coordinates of an image without a CRS are no place
        try:
            here = (
                transform_bounds(crs, area.fine.crs, *bounds)
                if crs and rasterio.CRS.from_user_input(crs) != rasterio.CRS.from_string(area.fine.crs)
                else bounds
            )
        except (RasterioError, ValueError) as error:
            raise ModelError(f"{folder.path}: model.json has a training footprint in CRS {crs!r} ({error}); correct it") from error
        trained = shapely.box(*here)
        for block, outline in enumerate(blocks.outlines):
            if outline.intersection(trained).area > 0:
                ground = ", ".join(f"{edge:.0f}" for edge in outline.bounds)
                raise UsageError(
                    f"{area.path}: block {block} ({ground}) lies in the training area of {name} ({', '.join(f'{edge:.0f}' for edge in here)}); "
                    "choose another area, or a model that was not trained here"
                )
    return "unseen" if "footprints" in record["known"] else "unknown"
