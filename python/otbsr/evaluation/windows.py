"""Windows of the files of one comparison: an image, its reference, the input and a mask, checked to lie on one another.

Reflectance is DN * scale + offset as the files say, its peak 1. A pixel counts where every file and the mask hold data in all bands.
What needs no reference is counted without regard to the reference: it does not change when one is given.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import GridError, InputError, UsageError, first_line
from otbsr.grid import Grid
from otbsr.products.product import Band, Product, readable_grid
from otbsr.products.product import read_image as read_product
from otbsr.progress import Report, silent
from otbsr.world.sensors import SENTINEL2, degradation_kernel

Array = NDArray[Any]
Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]
Place = tuple[int, int, int, int]
"""Row and column of a window's first pixel, its height and width; it may reach beyond the image."""

BANDS = ("B4", "B3", "B2", "B8")
"""Names of the bands of an image of four that says none."""
WINDOW = 512
"""Side of a window in fine pixels."""
TILE = 16
"""Windows are multiples of this many input pixels: what is counted by tiles or cells is the same whatever the window."""
CACHE_MIB = 64, 1024
"""Least and most of GDAL's cache of decoded blocks, which between them holds a row of windows twice: strips are decoded once."""


@dataclass(frozen=True)
class Block:
    """A window of all files with `margin` fine pixels around it; arrays are [bands, rows, columns], masks [rows, columns].

    Values where a file holds nothing are 0. own: pixels that count without a reference (image, input, mask, border); common: with one.
    seen, seen_valid: the reference and where it holds data, border or not; coarse, coarse_valid: the input with margin / factor pixels
    around it; coarse_own: those of its pixels whose every fine pixel is in `own`. (row, column): where the block begins in the image.
    """

    row: int
    column: int
    factor: int
    margin: int
    height: int
    width: int
    image: Plane
    image_valid: Mask
    own: Mask
    common: Mask
    seen: Plane | None = None
    seen_valid: Mask | None = None
    coarse: Plane | None = None
    coarse_valid: Mask | None = None
    coarse_own: Mask | None = None

    def core(self, array: Array, around: int = 0, after: int = 0) -> Array:
        """The fine `array` without its margin, but with `around` pixels on each side and `after` more at the far ones."""
        begin, more = self.margin - around, self.margin + around + after
        return array[..., begin : more + self.height, begin : more + self.width]

    def coarse_core(self, array: Array, around: int = 0, after: int = 0) -> Array:
        """The same of an array on the input's grid."""
        margin = self.margin // self.factor
        begin, more = margin - around, margin + around + after
        return array[..., begin : more + self.height // self.factor, begin : more + self.width // self.factor]


class Scratch(threading.local):
    """Arrays of a thread that are used again for the next window: fresh memory costs more than the arithmetic on it."""

    def __init__(self) -> None:
        self.arrays: dict[str, Plane] = {}

    def array(self, name: str, shape: tuple[int, ...]) -> Plane:
        """An array with the numbers that happen to be in it."""
        size = math.prod(shape)
        if name not in self.arrays or self.arrays[name].size < size:
            self.arrays[name] = np.empty(size)
        return self.arrays[name][:size].reshape(shape)


SCRATCH = Scratch()


@dataclass(frozen=True)
class Source:
    """A file, its grid, and those of its bands that are compared, in the image's order."""

    path: Path
    grid: Grid
    bands: tuple[Band, ...]

    def read(self, dataset: rasterio.DatasetReader, place: Place) -> Array | None:
        """The file's numbers [bands, rows, columns] under the part of `place` that lies in the image; None where nothing does."""
        row, column, height, width = self.inside(place)
        if height <= 0 or width <= 0:
            return None
        try:
            return np.asarray(dataset.read([band.index for band in self.bands], window=Window(column, row, width, height)))
        except RasterioError as error:
            raise InputError(f"{self.path}: cannot be read at row {row}, column {column} ({first_line(error)}); fetch or make the file again") from error

    def inside(self, place: Place) -> Place:
        """The part of `place` that lies in the image."""
        row, column, height, width = place
        top, left = max(row, 0), max(column, 0)
        return top, left, min(row + height, self.grid.height) - top, min(column + width, self.grid.width) - left

    def reflectance(self, found: Array | None, place: Place, what: str) -> tuple[Plane, Mask]:
        """(reflectance [bands, rows, columns], where all bands hold data) of what `read` found at `place`; 0 and False elsewhere.

        The numbers stay until the thread asks for those of the next place by the name `what`.
        """
        row, column, height, width = place
        values = SCRATCH.array(what, (len(self.bands), height, width))
        if found is None:
            values[:] = 0.0
            return values, np.zeros((height, width), bool)
        good = np.ones(found.shape[1:], bool)
        for index, band in enumerate(self.bands):
            if found.dtype.kind == "f":
                good &= np.isfinite(found[index])
            if band.nodata is not None and not math.isnan(band.nodata):
                good &= found[index] != band.nodata
        all_good, is_whole = bool(good.all()), found.shape[1:] == (height, width)
        if not is_whole:
            values[:] = 0.0
        top, left, rows, columns = self.inside(place)
        part = slice(top - row, top - row + rows), slice(left - column, left - column + columns)
        with np.errstate(invalid="ignore"):
            for index, band in enumerate(self.bands):
                target = values[index][part]
                np.multiply(found[index], np.float64(band.scale), out=target)
                if band.offset:
                    target += band.offset
                if not all_good:
                    target[~good] = 0.0
        if is_whole:
            return values, good
        valid = np.zeros((height, width), bool)
        valid[part] = good
        return values, valid


class Correction(Protocol):
    """Changes an image before it is scored (`corrected.Correction`)."""

    @property
    def reach(self) -> int:
        """Pixels around a window that are needed."""

    def apply(self, values: Plane, valid: Mask, place: Place) -> tuple[Plane, Mask]:
        """Values and validity of `place`, from those of the window with `reach` pixels around it."""


@dataclass(frozen=True)
class Scene:
    """The files of one comparison, checked: same footprint, nested pixels, the same bands in the same order."""

    image: Source
    reference: Source | None
    coarse: Source | None
    mask: Source | None
    factor: int
    border: int
    correction: Correction | None = None
    coarse_correction: Correction | None = None

    @classmethod
    def open(cls, image: Path, reference: Path | None, coarse: Path | None, mask: Path | None, border: int, scale: float | None = None) -> Scene:
        """Check the files; raises `InputError` (`GridError` for grids that do not nest), `UsageError` when there is nothing to compare with.

        scale: reflectance of one DN of files that say nothing themselves; 1e-4 by default.
        """
        if reference is None and coarse is None:
            raise UsageError(f"{image}: nothing to compare it with; give --reference, --input or both")
        if border < 0:
            raise UsageError(f"border is {border} pixels; expected 0 or more")
        names = ["image", *(["reference"] if reference else []), *(["input"] if coarse else [])]
        paths = [path for path in (image, reference, coarse) if path is not None]
        products = [open_image(path, scale) for path in paths]
        chosen = match_bands(names, products)
        sources = [Source(path, readable_grid(path), bands) for path, bands in zip(paths, chosen, strict=True)]
        fine = sources[0].grid
        found = dict(zip(names, sources, strict=True))
        factor = 1
        if "reference" in found:
            fine.require_same(found["reference"].grid, f"{image} and {reference} (--reference)")
        if "input" in found:
            try:
                factor = found["input"].grid.factor_to(fine)
            except GridError as error:
                raise GridError(f"{coarse} (--input) and {image}: {error}") from None
            if factor == 1:
                raise GridError(f"{coarse} (--input): has the spacing of {image}, {fine.dx:g}; give the coarser image that it was made from")
        border = -(-border // factor) * factor
        if min(fine.width, fine.height) <= 2 * border:
            raise InputError(f"{image}: {fine.width} x {fine.height} pixels, nothing within a border of {border}; give a smaller --border")
        return cls(sources[0], found.get("reference"), found.get("input"), open_mask(mask, fine), factor, border)

    @property
    def names(self) -> tuple[str, ...]:
        """The bands' names: those of the image, else of the input or reference, else B4, B3, B2, B8 when there are four."""
        sources = [source for source in (self.image, self.coarse, self.reference) if source]
        for source in sources:
            if all(not unnamed(band.name) for band in source.bands):
                return tuple(band.name for band in source.bands)
        return BANDS if len(self.image.bands) == len(BANDS) else tuple(band.name for band in self.image.bands)

    @property
    def sensed(self) -> tuple[int, ...]:
        """Indices of the bands that the input's sensor has at the input's spacing: repeated pixels of coarser bands are left out."""
        if self.coarse is None:
            return ()
        spacing = metres(self.coarse.grid)
        return tuple(i for i, name in enumerate(self.names) if name not in SENTINEL2 or SENTINEL2[name].spacing < 1.5 * spacing)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the scores should know about how bands were taken."""
        found = []
        own = [band.name for band in self.image.bands]
        for what, source in (("reference", self.reference), ("input", self.coarse)):
            if source and [band.name for band in source.bands] != own:
                others = ", ".join(band.name for band in source.bands)
                found.append(f"bands {', '.join(own)} were compared with the {what}'s {others}: by place, since no name is in both")
        if self.coarse:
            for index, name in enumerate(self.names):
                if name not in SENTINEL2:
                    found.append(f"{name}: no band of Sentinel-2, so the sensor's blur for consistency is B4's")
                elif index not in self.sensed:
                    wide, spacing = SENTINEL2[name].spacing, metres(self.coarse.grid)
                    found.append(f"{name}: left out of consistency, its own pixels of {wide:g} m are wider than the input's of {spacing:g} m")
        return tuple(found)

    def kernels(self) -> dict[int, Plane]:
        """The sensor's separable taps of each band in `sensed`; bands of unknown name are seen as B4 is."""
        return {i: degradation_kernel(self.names[i] if self.names[i] in SENTINEL2 else "B4", self.factor) for i in self.sensed}

    def places(self, window: int) -> list[Place]:
        """Windows of about `window` fine pixels, a multiple of a tile's, over what the border leaves, row by row."""
        step = max(1, round(window / self.factor / TILE)) * TILE * self.factor
        grid, border = self.image.grid, self.border
        rows, columns = range(border, grid.height - border, step), range(border, grid.width - border, step)
        return [(row, column, min(step, grid.height - border - row), min(step, grid.width - border - column)) for row in rows for column in columns]

    def read(self, places: Sequence[Place], margin: int, report: Report = silent) -> Generator[Reading, None, None]:
        """The windows `places` with `margin` fine pixels around them, rounded up to whole input pixels; decoded blocks of a row of them are kept."""
        margin = -(-margin // self.factor) * self.factor
        height = max((place[2] for place in places), default=0)
        sources = (self.image, self.reference, self.coarse, self.mask)
        with ExitStack() as stack:
            datasets = [stack.enter_context(rasterio.open(source.path)) if source else None for source in sources]
            row_of_windows = sum(one.width * (height + 2 * margin) * one.count * np.dtype(one.dtypes[0]).itemsize for one in datasets if one)
            low, high = (limit << 20 for limit in CACHE_MIB)
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=min(max(2 * row_of_windows, low), high)))
            for number, (row, column, rows, columns) in enumerate(places):
                place = row - margin, column - margin, rows + 2 * margin, columns + 2 * margin
                own = [self.wide(place), place, self.wide_coarse(place), self.covered(place, self.mask_ratio)]
                found = [one.read(data, at) if one and data else None for one, data, at in zip(sources, datasets, own, strict=True)]
                yield Reading(self, row, column, rows, columns, margin, tuple(found))
                report("quality", (number + 1) / len(places))

    @property
    def mask_ratio(self) -> int:
        """Spacing of the mask over that of the image."""
        return round(self.mask.grid.dx / self.image.grid.dx) if self.mask else 1

    def wide(self, place: Place) -> Place:
        """The pixels of the image that the window `place` is made from: more than its own where it is corrected."""
        return grown(place, self.correction.reach if self.correction else 0)

    def wide_coarse(self, place: Place) -> Place:
        """Those of the input."""
        return grown(self.covered(place, self.factor), self.coarse_correction.reach if self.coarse_correction else 0)

    @staticmethod
    def covered(place: Place, ratio: int) -> Place:
        """The window in pixels `ratio` times as wide that holds the window `place`."""
        row, column, height, width = place
        top, left = row // ratio, column // ratio
        return top, left, -(-(row + height) // ratio) - top, -(-(column + width) // ratio) - left


@dataclass(frozen=True)
class Reading:
    """What the files hold under a window and its margin, as it was read; `block` makes numbers of it."""

    scene: Scene
    row: int
    column: int
    height: int
    width: int
    margin: int
    found: tuple[Array | None, ...]

    def block(self) -> Block:
        """Reflectances and masks of the window, good until the thread asks for the next."""
        scene, factor, margin = self.scene, self.scene.factor, self.margin
        place = self.row - margin, self.column - margin, self.height + 2 * margin, self.width + 2 * margin
        image, image_valid = scene.image.reflectance(self.found[0], scene.wide(place), "image")
        if scene.correction:
            image, image_valid = scene.correction.apply(image, image_valid, place)
        own = image_valid.copy()
        for axis, total in enumerate((scene.image.grid.height, scene.image.grid.width)):
            before, after = max(scene.border - place[axis], 0), max(place[axis] + place[axis + 2] - (total - scene.border), 0)
            line = own if axis == 0 else own.T
            line[:before] = False
            line[line.shape[0] - after :] = False
        if scene.mask:
            ratio, at = scene.mask_ratio, scene.covered(place, scene.mask_ratio)
            marks, _ = scene.mask.reflectance(self.found[3], at, "mask")
            chosen = spread(marks[0] != 0, ratio)
            skip = place[0] % ratio, place[1] % ratio
            own &= chosen[skip[0] : skip[0] + place[2], skip[1] : skip[1] + place[3]]
        if scene.coarse:
            coarse, coarse_valid = scene.coarse.reflectance(self.found[2], scene.wide_coarse(place), "input")
            if scene.coarse_correction:
                coarse, coarse_valid = scene.coarse_correction.apply(coarse, coarse_valid, scene.covered(place, factor))
            if not coarse_valid.all():
                own &= spread(coarse_valid, factor)
        block = Block(self.row, self.column, factor, margin, self.height, self.width, image, image_valid, own, own)
        if scene.coarse:
            block = replace(block, coarse=coarse, coarse_valid=coarse_valid, coarse_own=gathered(own, factor))
        if scene.reference:
            seen, seen_valid = scene.reference.reflectance(self.found[1], place, "reference")
            block = replace(block, seen=seen, seen_valid=seen_valid, common=own & seen_valid)
        return block


def grown(place: Place, more: int) -> Place:
    """The window with `more` pixels on each side."""
    row, column, height, width = place
    return row - more, column - more, height + 2 * more, width + 2 * more


def metres(grid: Grid) -> float:
    """A grid's spacing in metres, of degrees along a meridian; that of a grid without a CRS as it is."""
    crs = rasterio.CRS.from_string(grid.crs) if grid.crs else None
    if crs is None:
        return grid.dx
    return float(grid.dy * 111_195 if crs.is_geographic else grid.dx * crs.linear_units_factor[1])


def gathered(mask: Mask, factor: int) -> Mask:
    """A fine mask on the coarse grid: where all of the factor x factor pixels are set."""
    lines = np.logical_and.reduce([mask[k::factor] for k in range(factor)])
    return np.asarray(np.logical_and.reduce([lines[:, k::factor] for k in range(factor)]))


def spread(mask: Mask, factor: int) -> Mask:
    """A coarse mask on the fine grid."""
    return np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)


def open_image(path: Path, scale: float | None) -> Product:
    """An image's bands; `scale` only where the file has neither scale nor offset of its own."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give an image file with the bands that are compared")
    readable_grid(path)
    with rasterio.open(path) as dataset:
        told = any((own, offset) != (1.0, 0.0) for own, offset in zip(dataset.scales, dataset.offsets, strict=True))
    return read_product(path, None, None if told else scale)


def open_mask(path: Path | None, fine: Grid) -> Source | None:
    """The mask's first band as it is, on the fine grid or one in which that nests."""
    if path is None:
        return None
    grid = readable_grid(path)
    try:
        grid.factor_to(fine)
    except GridError as error:
        raise GridError(f"{path} (--mask): {error}") from None
    with rasterio.open(path) as dataset:
        return Source(path, grid, (Band("mask", path, 1, grid.dx, 1.0, 0.0, dataset.nodatavals[0]),))


def unnamed(name: str) -> bool:
    """Whether a band has no name in its file."""
    return name.startswith("band") and name[4:].isdigit()


def match_bands(names: Sequence[str], products: Sequence[Product]) -> list[tuple[Band, ...]]:
    """The same bands of every product in the first one's order: by name where all have them, by place where no name is shared."""
    wanted = list(products[0].bands)
    chosen = []
    for what, product in zip(names, products, strict=True):
        own = list(product.bands)
        if set(wanted) <= set(own) and not (unnamed(wanted[0]) and len(own) != len(wanted)):
            chosen.append(tuple(product.bands[name] for name in wanted))
        elif len(own) == len(wanted) and not set(own) & set(wanted):
            chosen.append(tuple(product.bands.values()))
        else:
            raise InputError(
                f"{product.path} ({what}): bands {', '.join(own)}, expected {', '.join(wanted)} as in {products[0].path}; "
                f"give images of the same bands, or the same band descriptions to all"
            )
    return chosen
