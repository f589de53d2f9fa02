"""Pairs of patches: from two aligned images to the patches images that PatchesExtraction writes, split by ground.

Training and validation patches come from different spatial blocks with a buffer between them: neighbouring patches are alike, and a
random split would measure memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from shapely import points

from otbsr.errors import InputError, UsageError
from otbsr.files import digest, new_folder, require_replaceable, write_vectors
from otbsr.grid import Grid
from otbsr.pairs.footprints import patch_footprints
from otbsr.pairs.memory import FEATURES, bounded_cache
from otbsr.progress import Report, part, silent

SPLITS = ("train", "valid")


class PatchSettings(BaseModel):
    """How patches are placed and split; lengths in input pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch: int = Field(32, ge=4, description="side of an input patch; even, so that a patch has the same footprint on both grids")
    step: int = Field(16, ge=1, description="distance between neighbouring patches")
    block: int = Field(64, ge=1, description="side of the square blocks that go whole to training or validation")
    buffer: int = Field(2, ge=0, description="least distance between a training and a validation patch")
    valid: float = Field(0.15, ge=0, le=1, description="share of the blocks kept for validation; 1: the whole image")
    seed: int = 0


def block_splits(rows: int, columns: int, valid: float, seed: int) -> NDArray[np.bool_]:
    """Which blocks are for validation: [rows, columns] bool, a share `valid` of them; unless it is 0 or 1, at least one for each split."""
    count = rows * columns
    chosen = round(valid * count) if valid in (0, 1) or count < 2 else min(count - 1, max(1, round(valid * count)))
    mask = np.zeros(count, bool)
    mask[np.random.default_rng([seed, 3]).permutation(count)[:chosen]] = True
    return mask.reshape(rows, columns)


def place(coarse: Grid, settings: PatchSettings) -> dict[str, NDArray[np.int64]]:
    """Upper-left input pixels (row, column) of the patches of each split: [n, 2].

    A validation patch lies wholly in validation blocks; a training patch, widened by `buffer`, touches none of them.
    """
    s = settings
    if s.patch % 2:
        raise UsageError(f"patch is {s.patch} input pixels; expected an even number, so that both grids have a pixel corner at its centre")
    if min(coarse.width, coarse.height) < s.patch:
        raise InputError(f"image of {coarse.width} x {coarse.height} pixels is smaller than a patch of {s.patch}; give a larger image or a smaller --patch")
    row, column = (
        x.ravel() for x in np.meshgrid(np.arange(0, coarse.height - s.patch + 1, s.step), np.arange(0, coarse.width - s.patch + 1, s.step), indexing="ij")
    )
    corners = np.stack([row, column], -1)
    split = split_of(coarse, corners, settings)
    return {"train": corners[split == 0], "valid": corners[split == 1]}


def split_of(coarse: Grid, corners: NDArray[np.int64], settings: PatchSettings) -> NDArray[np.int64]:
    """The split of patches by their upper-left pixels [n, 2]: 0 training, 1 validation, -1 neither, as `place` says; [n]."""
    s = settings
    mask = block_splits(-(-coarse.height // s.block), -(-coarse.width // s.block), s.valid, s.seed)
    blocks = np.pad(mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))  # those above and left of each corner of blocks
    row, column = corners[:, 0], corners[:, 1]

    def before(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Validation pixels above and left of corners of pixels: linear along each side of a block, so that no image of them is needed."""
        (i, down), (j, right) = np.divmod(rows, s.block), np.divmod(columns, s.block)
        below, beside = np.minimum(i + 1, len(mask)), np.minimum(j + 1, mask.shape[1])
        a, b, c, d = blocks[i, j], blocks[below, j], blocks[i, beside], blocks[below, beside]
        return np.asarray(s.block**2 * a + s.block * (down * (b - a) + right * (c - a)) + down * right * (d - b - c + a), np.int64)

    def validation_pixels(widen: int) -> NDArray[np.int64]:
        top, left = np.maximum(row - widen, 0), np.maximum(column - widen, 0)
        bottom, right = np.minimum(row + s.patch + widen, coarse.height), np.minimum(column + s.patch + widen, coarse.width)
        return before(bottom, right) - before(top, right) - before(bottom, left) + before(top, left)

    return np.asarray(np.where(validation_pixels(s.buffer) == 0, 0, np.where(validation_pixels(0) == s.patch**2, 1, -1)), np.int64)


@dataclass(frozen=True)
class Both:
    """Two aligned images whose patches can be paired: their grids, band names, and what stands for no data in each."""

    images: tuple[Path, Path]
    coarse: Grid
    fine: Grid
    factor: int
    bands: list[str]
    outputs: list[str]
    nodata: tuple[float | None, float | None]

    @classmethod
    def open(cls, lr: Path, target: Path, nodata: float | None = None) -> Both:
        """Look at both; nodata: instead of the files' own. Raises `GridError` unless the grids nest, `InputError` for bands that do not fit."""
        coarse, fine = Grid.read(lr), Grid.read(target)
        factor = coarse.factor_to(fine)
        with rasterio.open(lr) as source, rasterio.open(target) as reference:
            bands, outputs = ([name or f"band {i + 1}" for i, name in enumerate(dataset.descriptions)] for dataset in (source, reference))
            if source.count == reference.count and not any(reference.descriptions):
                outputs = bands
            if strange := [name for name in outputs if name not in bands]:
                raise InputError(
                    f"{lr} has {source.count} bands ({' '.join(bands)}), {target} has {reference.count} ({' '.join(outputs)}), "
                    f"no {' '.join(strange)} in the input; give images with the same bands, or name the bands so that the target's are among the input's"
                )
            missing = [nodata if nodata is not None else dataset.nodata for dataset in (source, reference)]
        return cls((lr, target), coarse, fine, factor, bands, outputs, (missing[0], missing[1]))


def run_extraction(vector: Path, both: Both, outs: Sequence[Path], patch: int, report: Report = silent) -> None:
    """Run PatchesExtraction: the patches of each image around the points of `vector` in one of `outs`; pairs in which data lack are left out."""
    from otbsr.serving.otb import SOURCES, run_otb

    parameters: dict[str, Any] = {"vec": vector, "field": "patch"}
    for number, (image, out, factor, nodata) in enumerate(zip(both.images, outs, (1, both.factor), both.nodata, strict=True), 1):
        parameters |= {f"source{number}.il": [image], f"source{number}.out": [out, "int16"], f"source{number}.nodata": nodata}
        parameters |= {f"source{number}.patchsizex": patch * factor, f"source{number}.patchsizey": patch * factor}
    with environment(**{SOURCES: "2"}):
        run_otb("PatchesExtraction", parameters, report, products=outs)


def require_new(out: Path, overwrite: bool) -> None:
    """Raise `OutputError` where `out` exists, without `overwrite` or when it holds anything but pairs."""
    require_replaceable(out, overwrite, "folder of pairs", ("manifest.json",))


def centres(corners: NDArray[np.int64], coarse: Grid, fine: Grid, patch: int) -> NDArray[np.float64]:
    """The points (x, y) [n, 2] by which PatchesExtraction cuts out the patches at `corners` (row, column) [n, 2].

    It takes n pixels from floor(n / 2) before the pixel that holds the point. The centre of the fine pixel right and below the patch's
    middle gives the same footprint on both grids, and is on no edge where rounding could choose.
    """
    factor = coarse.factor_to(fine)
    column, row = ((corners[:, axis] + patch // 2) * factor for axis in (1, 0))
    x, y = fine.centre(column, row)  # type: ignore[arg-type]
    return np.column_stack([x, y]).astype(np.float64)


def write_points(path: Path, corners: NDArray[np.int64], coarse: Grid, fine: Grid, patch: int) -> None:
    """Write one point a patch, as `centres` says, with its number in the field `patch`."""

    def part(rows: slice) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        return {"patch": np.arange(rows.start, rows.stop, dtype=np.int32)}, points(centres(corners[rows], coarse, fine, patch))

    write_features(path, "patches", coarse.crs, len(corners), part)


def write_features(path: Path, layer: str, crs: str, count: int, part: Callable[[slice], tuple[dict[str, NDArray[Any]], NDArray[Any]]]) -> None:
    """Write a GeoPackage of `count` features, some thousands at a time: `part` gives fields and geometries of a slice of them."""
    for begin in range(0, max(count, 1), FEATURES):
        fields, geometry = part(slice(begin, min(begin + FEATURES, count)))
        frame = geopandas.GeoDataFrame(fields, geometry=geometry, crs=crs or None)
        write_vectors(frame, path, layer, append=bool(begin))


@bounded_cache()
def extract_pairs(
    lr: str | Path,
    target: str | Path,
    out: str | Path,
    settings: PatchSettings | None = None,
    nodata: float | None = None,
    data: str = "",
    overwrite: bool = False,
    report: Report = silent,
    chosen: Mapping[str, NDArray[np.int64]] | None = None,
    complete: Callable[[Path, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Write the folder `out` with the pairs of patches of two aligned images, through OTB's PatchesExtraction; returns the manifest.

    lr: image of the input sensor (DN); target: image on a nested finer grid of the same footprint, of the same bands or, by name, of some of
    them (`outputs` in the manifest). nodata: patches that hold it are
    rejected and counted (default: the files' own no-data value). data: one sentence on where the images come from. chosen: upper-left
    pixels [n, 2] of each split's patches, default all of `place`. complete: called with the folder and the manifest before it is written,
    to add to both.

    The folder holds for each split `<split>.gpkg` (points), `<split>_lr.tif` and `<split>_target.tif` (patches stacked along rows)
    and `manifest.json`. Raises `GridError` unless the grids nest, `InputError`, `OutputError`, `ProcessingError`.
    """
    settings = settings or PatchSettings()
    out = Path(out)
    require_new(out, overwrite)
    both = Both.open(Path(lr), Path(target), nodata)
    coarse, factor = both.coarse, both.factor
    corners = place(coarse, settings) if chosen is None else chosen
    with new_folder(out) as temporary:
        manifest: dict[str, Any] = {
            "format": 1,
            "bands": both.bands,
            "outputs": both.outputs,
            "spacing": coarse.dx,
            "factor": factor,
            "patch": settings.patch,
            "data": data,
            **ground(Path(lr), coarse),
            "input": {"file": Path(lr).name, "sha256": digest(Path(lr))},
            "target": {"file": Path(target).name, "sha256": digest(Path(target))},
            "settings": settings.model_dump(mode="json"),
            "splits": {},
            "footprints": patch_footprints(coarse, corners["train"], settings.patch),
        }
        for i, split in enumerate(SPLITS):
            vector, images = temporary / f"{split}.gpkg", {"lr": temporary / f"{split}_lr.tif", "target": temporary / f"{split}_target.tif"}
            accepted = 0
            if len(corners[split]):
                write_points(vector, corners[split], coarse, both.fine, settings.patch)
                run_extraction(vector, both, list(images.values()), settings.patch, part(report, "patches", i / 2, (i + 1) / 2))
                accepted = Grid.read(images["lr"]).height // settings.patch
            manifest["splits"][split] = {
                "points": vector.name,
                **{key: path.name for key, path in images.items()},
                "placed": len(corners[split]),
                "accepted": accepted,
                "rejected": len(corners[split]) - accepted,
            }
        wanted = "valid" if settings.valid == 1 else "train"
        if not manifest["splits"][wanted]["accepted"]:
            placed = len(corners[wanted])
            reason = f"all {placed} that were placed hold no-data; check it" if placed else f"none of {settings.patch} pixels fits between the blocks"
            raise InputError(f"{lr}: no {wanted} patch: {reason}, or use a smaller --patch or --block")
        if complete:
            complete(temporary, manifest)
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    report("patches", 1.0)
    return manifest


def ground(image: Path, grid: Grid) -> dict[str, Any]:
    """What the pairs of an image show, kept so that no model is tested on its own ground: `seed` of a simulated world or null, and `footprint`.

    footprint: {"crs": name, "bounds": [xmin, ymin, xmax, ymax]} of the image, or of the aerial image that it was made from; null for a simulated
    world, which lies nowhere; left out where nobody knows. The world is read from `world.json` beside the image.
    """
    try:
        world = json.loads((image.parent / "world.json").read_text(encoding="utf-8"))
        seed = world["settings"]["seed"]
        if seed is not None:
            return {"seed": int(seed), "footprint": None}
        return {"seed": None} | ({"footprint": world["ground"]} if world.get("ground") else {})
    except (OSError, ValueError, KeyError, TypeError):
        return {"seed": None} | ({"footprint": grid.footprint} if grid.crs else {})


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables for the programs started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def read_patches_image(path: str | Path, rows: int) -> NDArray[Any]:
    """Read a patches image (patches of `rows` rows stacked along rows): [n, rows, columns, bands]. For tests and looking at."""
    with rasterio.open(path) as dataset:
        image: NDArray[Any] = dataset.read()
    patches: NDArray[Any] = image.reshape(image.shape[0], -1, rows, image.shape[2]).transpose(1, 2, 3, 0)
    return patches
