"""Footprints: the ground that images and patches cover, and whether two of them share some.

A footprint is {"crs": name or WKT, "bounds": [left, bottom, right, top] in its units}, as JSON files hold it. A simulated landscape has none: all of
them have the same coordinates, so that its seed says which place it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
from geopandas import GeoSeries
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.warp import transform_bounds
from shapely import STRtree, box

from otbsr.errors import InputError, UsageError, first_line
from otbsr.grid import Grid, reach_of_centres


def patch_footprints(grid: Grid, corners: NDArray[np.int64], patch: int) -> list[dict[str, Any]]:
    """The ground of patches as rectangles that do not overlap: [{"crs", "bounds": [left, bottom, right, top]}, ...].

    corners: upper-left pixels (row, column) [n, 2] on `grid`; patch: side in pixels.
    """
    return [{"crs": grid.crs, "bounds": [*grid.corner(left, bottom), *grid.corner(right, top)]} for top, left, bottom, right in rectangles(corners, patch)]


def rectangles(corners: NDArray[np.int64], patch: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of disjoint rectangles that cover exactly the squares at `corners`: runs of rows, joined where alike."""
    by_row: dict[int, list[int]] = {}
    for row, column in corners.tolist():
        by_row.setdefault(row, []).append(column)
    edges = sorted({edge for row in by_row for edge in (row, row + patch)})
    opened: dict[tuple[int, int], int] = {}
    rows = sorted(by_row)
    for top, bottom in zip(edges, [*edges[1:], *edges[-1:]], strict=True):
        columns = sorted({column for row in rows if row <= top < row + patch for column in by_row[row]}) if bottom > top else []
        runs: list[list[int]] = []
        for column in columns:
            if runs and column <= runs[-1][1]:
                runs[-1][1] = column + patch
            else:
                runs.append([column, column + patch])
        now = {(left, right) for left, right in runs}
        for run in sorted(set(opened) - now):
            yield opened.pop(run), run[0], top, run[1]
        for run in now - set(opened):
            opened[run] = top


def require_apart(manifests: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Raise `UsageError` where validation patches of one folder lie on ground that another trains on: their score would measure memory.

    Within a folder the blocks keep them apart; two images of one place that were cut differently do not know of each other.
    """
    trained = [(folder, manifest) for folder, manifest in manifests if manifest["splits"]["train"]["accepted"] and manifest.get("footprints")]
    for folder, manifest in manifests:
        validated = validation_footprints(folder, manifest) if len(trained) > 1 or (trained and trained[0][0] != folder) else None
        if validated is None:
            continue
        for other, its in trained:
            if other == folder or not same_place(manifest, its):
                continue
            if its.get("input") != manifest.get("input") and not (on_ground(its) and on_ground(manifest)):
                raise UsageError(
                    f"{folder} and {other}: show the same aerial image in two ways, one to train on and one to validate with, so that the score would "
                    "measure memory; leave one of the two out, or cut one with --valid 1 and the others from other images"
                )
            ground = GeoSeries([box(*part["bounds"]) for part in its["footprints"]], crs=its["footprints"][0]["crs"] or None)
            if ground.crs and validated.crs and ground.crs != validated.crs:
                ground = ground.to_crs(validated.crs)
            patch, part = STRtree(ground.values).query(validated.values, "intersects")
            overlap = validated.values[patch].intersection(ground.values[part]).area > 0
            if count := len(set(patch[overlap].tolist())):
                raise UsageError(
                    f"{folder}: {count} of {len(validated)} validation patches lie on ground that {other} trains on, so that the score would measure "
                    "memory; leave one of the two out, or cut both with the same --block, --valid and --seed from images of the same footprint"
                )


def validation_footprints(folder: Path, manifest: Mapping[str, Any]) -> GeoSeries | None:
    """The ground of a folder's validation patches, those included that were rejected; None when there are none, or nobody can tell."""
    path = folder / str(manifest["splits"]["valid"].get("points", ""))
    if not manifest["splits"]["valid"]["accepted"] or not path.is_file():
        return None
    try:
        points = geopandas.read_file(path).geometry
    except (DataSourceError, DataLayerError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); run `otbsr pairs` again") from error
    # The points are half a fine pixel off the patches' middles; to the edges, that would be ground of the neighbours.
    return points.buffer(reach_of_centres(manifest["patch"], manifest["spacing"]), cap_style="square")


def same_place(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two images can show one place, by their "seed" and "footprint" (either None): one landscape, or footprints that meet, in any CRS."""
    if one.get("seed") is not None or other.get("seed") is not None:
        return bool(one.get("seed") == other.get("seed"))
    first, second = one.get("footprint"), other.get("footprint")
    if not first or not second or bool(first["crs"]) != bool(second["crs"]):
        return False
    bounds = first["bounds"]
    if first["crs"] != second["crs"]:
        if not all(crs.is_projected or crs.is_geographic for crs in (rasterio.CRS.from_user_input(place["crs"]) for place in (first, second))):
            return False  # a CRS of its own, without a way to the ground
        bounds = transform_bounds(first["crs"], second["crs"], *bounds)
    return overlapping(bounds, second["bounds"])


def on_ground(manifest: Mapping[str, Any]) -> bool:
    """Whether coordinates of the training patches are those of the real ground; those of what `otbsr aerial` makes have an origin of their own."""
    place, parts = manifest["footprint"], manifest.get("footprints")
    return not place or not parts or all(overlapping(part["bounds"], place["bounds"]) for part in parts)


def overlapping(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two rectangles (left, bottom, right, top) have ground in common."""
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])


def image_footprints(manifests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """The real ground of pairs, each once: {"crs": name, "bounds": [xmin, ymin, xmax, ymax]}; None when one of the manifests does not tell its own.

    A simulated landscape's manifest has `footprint` null: it lies nowhere, its seed names it.
    """
    if not all("footprint" in manifest for manifest in manifests):
        return None
    told = [manifest["footprint"] for manifest in manifests if manifest["footprint"]]
    return [footprint for index, footprint in enumerate(told) if footprint not in told[:index]]
