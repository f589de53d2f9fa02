"""Scores of images larger than memory: one pass over windows of GeoTIFFs, float64 sums that do not depend on the window.

`measure` is the way in. Reflectance is DN * scale + offset as the files say, its peak 1. A pixel counts where every file and the mask hold
data in all bands; a measure of neighbourhoods counts a place only where its whole neighbourhood does, so nothing is made up at edges.
What needs no reference is counted without regard to the reference: it does not change when one is given.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy import fft, ndimage

from otbsr.errors import GridError, InputError, OutputError, UsageError
from otbsr.evaluation.quality import BANDS, BORDER, angles
from otbsr.grid import Grid
from otbsr.products.product import Band, Product, readable_grid
from otbsr.products.product import read_image as read_product
from otbsr.progress import Report, silent
from otbsr.raster import damage, first_line
from otbsr.world.sensors import SENTINEL2, degradation_kernel

Array = NDArray[Any]
Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]
Sums = tuple[Array, ...]

WINDOW = 256
"""Side of a window in fine pixels."""
MAX_SHIFT = 8
"""Fine pixels on each side that cPSNR looks for the best place within."""
BOX = 8
"""Side of the windows of UQI, as Wang and Bovik (2002) have it."""
TILE = 16
"""Side in input pixels of the tiles whose spectra are averaged."""
FLAT = 1e-12
"""Variance over mean square below which an image is flat: float64 leaves no more."""
CACHE_MIB = 64, 1024
"""Least and most of GDAL's cache of decoded blocks, which between them holds a row of windows twice: strips are decoded once."""


# --- windows --------------------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Source:
    """A file, its grid, and those of its bands that are compared, in the image's order."""

    path: Path
    grid: Grid
    bands: tuple[Band, ...]

    def read(self, dataset: rasterio.DatasetReader, row: int, column: int, height: int, width: int) -> tuple[Plane, Mask]:
        """(reflectance [bands, height, width], where all bands hold data) of a window that may reach beyond the image: 0 and False there."""
        values, valid = np.zeros((len(self.bands), height, width)), np.zeros((height, width), bool)
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + height, self.grid.height), min(column + width, self.grid.width)
        if bottom <= top or right <= left:
            return values, valid
        try:
            found = dataset.read([band.index for band in self.bands], window=Window(left, top, right - left, bottom - top))
        except RasterioError as error:
            raise InputError(f"{self.path}: cannot be read at row {top}, column {left} ({first_line(error)}); fetch or make the file again") from error
        inside = slice(top - row, bottom - row), slice(left - column, right - column)
        good = np.ones(found.shape[1:], bool)
        for index, band in enumerate(self.bands):
            good &= np.isfinite(found[index])
            if band.nodata is not None and not math.isnan(band.nodata):
                good &= found[index] != band.nodata
        with np.errstate(invalid="ignore"):
            for index, band in enumerate(self.bands):
                values[index][inside] = np.where(good, found[index] * np.float64(band.scale) + band.offset, 0.0)
        valid[inside] = good
        return values, valid


@dataclass(frozen=True)
class Scene:
    """The files of one comparison, checked: same footprint, nested pixels, the same bands in the same order."""

    image: Source
    reference: Source | None
    coarse: Source | None
    mask: Source | None
    factor: int
    border: int

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

    def blocks(self, window: int, report: Report = silent) -> Generator[Block, None, None]:
        """Windows of about `window` fine pixels, a multiple of a tile's, over what the border leaves, row by row."""
        step = max(1, round(window / self.factor / TILE)) * TILE * self.factor
        reach = max([MAX_SHIFT, *((taps.size - self.factor) // 2 for taps in self.kernels().values())])
        margin = self.factor * max(BOX - 1, -(-reach // self.factor))
        grid, border = self.image.grid, self.border
        rows, columns = range(border, grid.height - border, step), range(border, grid.width - border, step)
        sources = (self.image, self.reference, self.coarse, self.mask)
        with ExitStack() as stack:
            datasets = [stack.enter_context(rasterio.open(source.path)) if source else None for source in sources]
            row_of_windows = sum(one.width * (step + 2 * margin) * one.count * np.dtype(one.dtypes[0]).itemsize for one in datasets if one)
            low, high = (limit << 20 for limit in CACHE_MIB)
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=min(max(2 * row_of_windows, low), high)))
            for number, (row, column) in enumerate((row, column) for row in rows for column in columns):
                height, width = min(step, grid.height - border - row), min(step, grid.width - border - column)
                yield self.block(datasets, row, column, height, width, margin)
                report("quality", (number + 1) / (len(rows) * len(columns)))

    def block(self, datasets: Sequence[Any], row: int, column: int, height: int, width: int, margin: int) -> Block:
        """Read the window that begins at (row, column); its size, place and margin are multiples of the factor."""
        factor, grid = self.factor, self.image.grid
        place = row - margin, column - margin, height + 2 * margin, width + 2 * margin
        image, image_valid = self.image.read(datasets[0], *place)
        own = image_valid.copy()
        for axis, (first, size, total) in enumerate(((place[0], place[2], grid.height), (place[1], place[3], grid.width))):
            index = np.arange(first, first + size)
            inside = (index >= self.border) & (index < total - self.border)
            own &= inside[:, None] if axis == 0 else inside[None, :]
        if self.mask:
            ratio = round(self.mask.grid.dx / grid.dx)
            marks, _ = self.mask.read(datasets[3], *covering(place, ratio))
            chosen = spread(marks[0] != 0, ratio)
            skip = place[0] % ratio, place[1] % ratio
            own &= chosen[skip[0] : skip[0] + place[2], skip[1] : skip[1] + place[3]]
        if self.coarse:
            coarse, coarse_valid = self.coarse.read(datasets[2], *(size // factor for size in place))
            own &= spread(coarse_valid, factor)
        block = Block(row, column, factor, margin, height, width, image, image_valid, own, own)
        if self.coarse:
            coarse_own: Mask = np.asarray(own.reshape(place[2] // factor, factor, place[3] // factor, factor).all(axis=(1, 3)))
            block = replace(block, coarse=coarse, coarse_valid=coarse_valid, coarse_own=coarse_own)
        if self.reference:
            seen, seen_valid = self.reference.read(datasets[1], *place)
            block = replace(block, seen=seen, seen_valid=seen_valid, common=own & seen_valid)
        return block


def metres(grid: Grid) -> float:
    """A grid's spacing in metres, of degrees along a meridian; that of a grid without a CRS as it is."""
    crs = rasterio.CRS.from_string(grid.crs) if grid.crs else None
    if crs is None:
        return grid.dx
    return float(grid.dy * 111_195 if crs.is_geographic else grid.dx * crs.linear_units_factor[1])


def covering(place: tuple[int, int, int, int], ratio: int) -> tuple[int, int, int, int]:
    """The window in pixels `ratio` times as wide that holds the window `place` (row, column, height, width)."""
    row, column, height, width = place
    top, left = row // ratio, column // ratio
    return top, left, -(-(row + height) // ratio) - top, -(-(column + width) // ratio) - left


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


# --- measures -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One measure: over all bands (None where it means nothing or no pixel counts), of each band (None where it has none), and its unit."""

    all: float | None
    bands: tuple[float | None, ...] | None = None
    unit: str = ""


class Measure(Protocol):
    """Something that is counted by windows: arrays of sums that add up, and scores read from their total."""

    def sums(self, block: Block) -> Sums:
        """What the block adds: float64 arrays of a shape that does not depend on the block."""

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""


def score(values: Array, unit: str = "", all_: float | None = None) -> Score:
    """A score a band and their mean, or `all_`; what is not finite is None."""
    bands = tuple(float(value) if np.isfinite(value) else None for value in values)
    over = float(np.mean(values)) if all_ is None else all_
    return Score(over if math.isfinite(over) else None, bands, unit)


def ratio(top: Array, bottom: Array | float) -> Plane:
    """Quotient, NaN where `bottom` is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def picked(planes: Array, kept: Mask) -> Array:
    """[bands, pixels] of the pixels kept, each band in one piece of memory: numpy sums that by halves, which keeps the digits."""
    return np.stack([plane[kept] for plane in planes])


def decibels(mean_square: Array) -> Plane:
    """10 log10(1 / mean square), at most 200."""
    with np.errstate(invalid="ignore"):
        return np.asarray(-10 * np.log10(np.maximum(mean_square, 1e-20)))


def moments(x: Array, y: Array, number: Array | float) -> tuple[Plane, Plane, Plane, Plane, Plane]:
    """(mean of x, of y, variance of x, of y, covariance) from x = (sum, sum of squares), y alike with sum of products last, and the count.

    What float64 cannot tell from 0 is 0.
    """
    mx, my = ratio(x[0], number), ratio(y[0], number)
    square = ratio(x[1], number), ratio(y[1], number)
    vx, vy = (np.where(s - m * m > FLAT * s, s - m * m, 0.0) for s, m in zip(square, (mx, my), strict=True))
    cov = np.where((vx > 0) & (vy > 0), ratio(y[2], number) - mx * my, 0.0)
    return mx, my, vx, vy, cov


def universal_index(mx: Array, my: Array, vx: Array, vy: Array, cov: Array) -> Plane:
    """Q = 4 cov mx my / ((vx + vy) (mx^2 + my^2)) of Wang and Bovik (2002); two flat images: 2 mx my / (mx^2 + my^2); both means 0: 1."""
    spread_, level = vx + vy, mx * mx + my * my
    with np.errstate(invalid="ignore", divide="ignore"):
        flat = np.where(level > 0, 2 * mx * my / level, 1.0)
        return np.where((spread_ > 0) & (level > 0), 4 * cov * mx * my / (spread_ * level), np.where(spread_ > 0, 1.0, flat))


class Pixels:
    """PSNR, RMSE, bias, ERGAS, correlation, UQI over the whole image, SAM."""

    def __init__(self, bands: int, factor: int) -> None:
        self.bands, self.factor = bands, factor

    def sums(self, block: Block) -> Sums:
        """Number of pixels; by band: error, its square, x, x^2, y, y^2, xy; angles of the pixels whose spectra have one, and their number."""
        assert block.seen is not None
        kept = block.core(block.common)
        x, y = (picked(block.core(array), kept) for array in (block.seen, block.image))
        error = y - x
        sums = np.stack([a.sum(1) for a in (error, error * error, x, x * x, y, y * y, x * y)])
        angle = angles(x.T, y.T) if self.bands > 1 else np.zeros(0)
        return np.array(float(kept.sum())), sums, np.array([angle.sum(), angle.size])

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, sums, angle = total
        mean_square = ratio(sums[1], number)
        mx, my, vx, vy, cov = moments(sums[2:4], np.stack([sums[4], sums[5], sums[6]]), number)
        relative = math.sqrt(float(np.mean(ratio(mean_square, mx * mx))))
        found = {
            "psnr": score(decibels(mean_square), "dB"),
            "rmse": score(np.sqrt(mean_square), "reflectance", math.sqrt(float(np.mean(mean_square)))),
            "bias": score(ratio(sums[0], number), "reflectance"),
            "sam": Score(finite(float(ratio(angle[0], angle[1]))), None, "degrees"),
            "ergas": Score(finite(100 / self.factor * relative) if self.factor > 1 else None),
            "uqi_global": score(universal_index(mx, my, vx, vy, cov)),
            "correlation": score(ratio(cov, np.sqrt(vx * vy))),
        }
        return found


class Detail:
    """Spatial correlation (Zhou et al. 1998): correlation of what a 3 x 3 Laplacian leaves of image and reference."""

    def sums(self, block: Block) -> Sums:
        """Number of pixels whose 3 x 3 count; by band: x, x^2, y, y^2, xy."""
        assert block.seen is not None
        kept = whole(block.core(block.common, 1), 3)
        x, y = (picked(laplacian(block.core(array, 1)), kept) for array in (block.seen, block.image))
        return np.array(float(kept.sum())), np.stack([a.sum(1) for a in (x, x * x, y, y * y, x * y)])

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, sums = total
        _, _, vx, vy, cov = moments(sums[:2], sums[2:], number)
        return {"spatial_correlation": score(ratio(cov, np.sqrt(vx * vy)))}


def laplacian(planes: Plane) -> Plane:
    """8 times the pixel less its neighbours, without the outer pixels."""
    lines = planes[:, :-2] + planes[:, 1:-1] + planes[:, 2:]
    return 9 * planes[:, 1:-1, 1:-1] - (lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:])


def whole(mask: Mask, side: int) -> Mask:
    """Where the side x side pixels from here rightward and downward are all set; `side` - 1 smaller."""
    for step in doublings(side):
        mask = mask[:-step] & mask[step:]
    for step in doublings(side):
        mask = mask[:, :-step] & mask[:, step:]
    return mask


def doublings(side: int) -> list[int]:
    """Steps by which `side` neighbours are put together two by two: 8 gives 1, 2, 4; 11 gives 1, 2, 4, 3, as far as they overlap."""
    steps, reached = [], 1
    while reached < side:
        steps.append(min(reached, side - reached))
        reached += steps[-1]
    return steps


def box_sums(planes: Plane) -> Plane:
    """Sums over the BOX x BOX pixels from each one rightward and downward, by doubling: exact for flat images."""
    for step in doublings(BOX):
        planes = planes[..., :-step, :] + planes[..., step:, :]
    for step in doublings(BOX):
        planes = planes[..., :-step] + planes[..., step:]
    return planes


class Boxes:
    """UQI as Wang and Bovik (2002) define it: mean of Q over all 8 x 8 windows, one a pixel."""

    def sums(self, block: Block) -> Sums:
        """Number of windows; by band: sum of Q."""
        assert block.seen is not None
        kept = whole(block.core(block.common, after=BOX - 1), BOX)
        found = []
        for x, y in zip(block.seen, block.image, strict=True):
            x, y = block.core(x, after=BOX - 1), block.core(y, after=BOX - 1)
            sums = box_sums(np.stack([x, x * x, y, y * y, x * y]))
            found.append(universal_index(*moments(sums[:2], sums[2:], BOX * BOX))[kept].sum())
        return np.array(float(kept.sum())), np.array(found)

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        return {"uqi": score(ratio(total[1], total[0]))}


class Structure:
    """SSIM (Wang et al. 2004): 11 x 11 Gaussian of 1.5 pixels, K1 0.01, K2 0.03, peak 1; mean over pixels whose 11 x 11 count."""

    RADIUS = 5

    def sums(self, block: Block) -> Sums:
        """Number of pixels; by band: sum of SSIM."""
        assert block.seen is not None
        kept = whole(block.core(block.common, self.RADIUS), 2 * self.RADIUS + 1)
        pairs = zip(block.core(block.seen, self.RADIUS), block.core(block.image, self.RADIUS), strict=True)
        return np.array(float(kept.sum())), np.array([similarity(x, y)[kept].sum() for x, y in pairs])

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        return {"ssim": score(ratio(total[1], total[0]))}


def similarity(x: Plane, y: Plane) -> Plane:
    """SSIM of each pixel whose 11 x 11 neighbours are there, of two planes with peak 1."""
    radius = Structure.RADIUS
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 1.5) ** 2)
    taps /= taps.sum()
    inner = slice(radius, -radius)

    def mean(plane: Plane) -> Plane:
        lines = ndimage.correlate1d(plane, taps, axis=0)[inner]
        result: Plane = ndimage.correlate1d(lines, taps, axis=1)[:, inner]
        return result

    mx, my = mean(x), mean(y)
    product, squares = mx * my, mx * mx + my * my
    variances, cov = mean(x * x + y * y) - squares, mean(x * y) - product
    return (2 * product + 1e-4) * (2 * cov + 9e-4) / ((squares + 1e-4) * (variances + 9e-4))


class Shifted:
    """cPSNR: the best PSNR over displacements of the reference by whole pixels, each band's mean error taken away.

    Of the displacements up to `MAX_SHIFT` on each axis the one with the best mean over the bands is taken for all of them. Every sum
    is a correlation, so that Fourier transforms give all displacements at once; above 130 dB their rounding shows.
    """

    SIDE = 2 * MAX_SHIFT + 1

    def sums(self, block: Block) -> Sums:
        """By displacement: number of pixels [s, s]; error and its square, by band [bands, s, s]."""
        assert block.seen is not None and block.seen_valid is not None
        inner, outer = block.core(block.own), block.core(block.seen_valid, MAX_SHIFT)
        level = block.core(block.image)[:, inner].mean(1) if inner.any() else np.zeros(len(block.image))  # near 0, rounding is small
        x = np.where(outer, block.core(block.seen, MAX_SHIFT) - level[:, None, None], 0.0)
        y = np.where(inner, block.core(block.image) - level[:, None, None], 0.0)
        size = [fft.next_fast_len(n, real=True) for n in outer.shape]

        def spectrum(planes: Array) -> Array:
            return np.asarray(fft.rfft2(planes.astype(np.float64), size))

        def lags(product: Array) -> Plane:
            return np.asarray(fft.irfft2(product, size)[..., : self.SIDE, : self.SIDE])

        fx, fy, fxm, fym = spectrum(x), np.conj(spectrum(y)), spectrum(outer), np.conj(spectrum(inner))
        number = np.rint(lags(fym * fxm))
        error = lags(fy * fxm - fym * fx)
        square = lags(fym * spectrum(x * x) - 2 * fy * fx + np.conj(spectrum(y * y)) * fxm)
        centre = MAX_SHIFT, MAX_SHIFT
        here = np.where(inner & block.core(block.seen_valid), y - x[:, MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT], 0.0)
        error[(..., *centre)], square[(..., *centre)] = here.sum((1, 2)), (here * here).sum((1, 2))
        return number, error, square

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, error, square = total
        centre = number[MAX_SHIFT, MAX_SHIFT]
        found = decibels(ratio(square, number) - ratio(error, number) ** 2)
        mean = np.where(number >= centre / 2, found.mean(0), -np.inf)
        if not centre:
            return {"cpsnr": score(np.full(len(error), np.nan), "dB")}
        best = np.unravel_index(np.argmax(mean), mean.shape)
        if not mean[best] > mean[MAX_SHIFT, MAX_SHIFT] + 1e-6:
            best = (np.intp(MAX_SHIFT), np.intp(MAX_SHIFT))
        return {
            "cpsnr": score(found[:, best[0], best[1]], "dB"),
            "cpsnr_rows": Score(float(MAX_SHIFT - best[0]), None, "pixels"),
            "cpsnr_columns": Score(float(MAX_SHIFT - best[1]), None, "pixels"),
        }


class Consistency:
    """RMSE, bias and spectral angle of the image, seen by the input's sensor, against the input."""

    def __init__(self, bands: int, kernels: dict[int, Plane]) -> None:
        self.bands, self.kernels = bands, kernels
        self.reach = max((taps.size for taps in kernels.values()), default=0)

    def sums(self, block: Block) -> Sums:
        """Number of coarse pixels; by band: error, its square; sum of the angles and their number."""
        assert block.coarse is not None and block.coarse_own is not None
        difference, kept = self.errors(block)
        given = picked(block.coarse_core(block.coarse)[list(self.kernels)], kept)
        error = np.zeros((self.bands, given.shape[1]))
        error[list(self.kernels)] = picked(difference, kept)
        angle = angles(given.T, (given + error[list(self.kernels)]).T) if len(given) > 1 else np.zeros(0)
        return np.array(float(kept.sum())), np.stack([error.sum(1), (error * error).sum(1)]), np.array([angle.sum(), angle.size])

    def errors(self, block: Block) -> tuple[Plane, Mask]:
        """(image seen by the sensor - input [bands used, rows, columns], where all that the sensor sees holds data) of the block's coarse pixels."""
        assert block.coarse is not None and block.coarse_own is not None
        missing = observed(block, (~block.image_valid).astype(np.float64), np.ones(self.reach))
        seen = np.stack([observed(block, block.image[i], taps) for i, taps in self.kernels.items()])
        return seen - block.coarse_core(block.coarse)[list(self.kernels)], block.coarse_core(block.coarse_own) & (missing == 0)

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, sums, angle = total
        used = list(self.kernels)
        values = np.full((2, self.bands), np.nan)
        values[:, used] = ratio(sums[:, used], number)
        return {
            "consistency_rmse": score(np.sqrt(values[1]), "reflectance", math.sqrt(float(np.mean(values[1, used])))),
            "consistency_bias": score(values[0], "reflectance", float(np.mean(values[0, used]))),
            "consistency_sam": Score(finite(float(ratio(angle[0], angle[1]))), None, "degrees"),
        }


def observed(block: Block, plane: Plane, taps: Plane) -> Plane:
    """A fine plane of the block, margin and all, through separable sensor taps: the block's coarse pixels."""
    factor, around = block.factor, (taps.size - block.factor) // 2
    plane = block.core(plane, around)
    for size in (block.height, block.width):
        lines = np.zeros((size // factor, plane.shape[1]))
        for place, tap in enumerate(taps):
            lines += tap * plane[place : place + size : factor]
        plane = np.ascontiguousarray(lines.T)
    return plane


class SpectralDistortion:
    """D-lambda (Alparone et al. 2008, exponent 1): mean over pairs of bands of |Q in the image - Q in the input|, Q over 8 x 8 windows of each."""

    def __init__(self, bands: int) -> None:
        self.pairs = [(i, j) for i in range(bands) for j in range(i + 1, bands)]

    def sums(self, block: Block) -> Sums:
        """Number of windows [image, input], and sum of Q by pair."""
        assert block.coarse is not None and block.coarse_own is not None
        fine = self.indices(block.core(block.image, after=BOX - 1), block.core(block.own, after=BOX - 1))
        coarse = self.indices(block.coarse_core(block.coarse, after=BOX - 1), block.coarse_core(block.coarse_own, after=BOX - 1))
        return np.array([fine[0], coarse[0]]), np.stack([fine[1], coarse[1]])

    def indices(self, planes: Plane, mask: Mask) -> tuple[float, Plane]:
        """(number of windows, sum of Q over them by pair)."""
        kept = whole(mask, BOX)
        if not kept.any():
            return 0.0, np.zeros(len(self.pairs))
        alone = [picked(box_sums(np.stack([plane, plane * plane])), kept) for plane in planes]
        found = []
        for i, j in self.pairs:
            other = np.stack([*alone[j], box_sums(planes[i] * planes[j])[kept]])
            found.append(universal_index(*moments(alone[i], other, BOX * BOX)).sum())
        return float(kept.sum()), np.array(found)

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, sums = total
        if not self.pairs:
            return {"d_lambda": Score(None)}
        found = ratio(sums, number[:, None])
        return {"d_lambda": Score(finite(float(np.mean(np.abs(found[0] - found[1])))))}


class Noise:
    """Standard deviation of white noise: the difference of two Laplacians (Immerkaer 1996), which is blind to planes, by its median.

    The median of |response| over 0.6745 is the deviation of a Gaussian, whatever edges there are; counted in bins 1 % wide. Texture of
    one pixel counts as noise; noise that a filter made smooth does not.
    """

    LOW, GROWTH, BINS = 1e-8, 1.01, 2200

    def __init__(self, bands: int, coarse: bool) -> None:
        self.bands, self.coarse = bands, coarse

    def sums(self, block: Block) -> Sums:
        """Histogram of the logarithm of |response|, by band."""
        if self.coarse:
            assert block.coarse is not None and block.coarse_own is not None
            planes, mask = block.coarse_core(block.coarse, 1), block.coarse_core(block.coarse_own, 1)
        else:
            planes, mask = block.core(block.image, 1), block.core(block.own, 1)
        kept = whole(mask, 3)
        counts = np.zeros((self.bands, self.BINS))
        for index, plane in enumerate(planes):
            lines = plane[:-2] - 2 * plane[1:-1] + plane[2:]
            response = np.abs((lines[:, :-2] - 2 * lines[:, 1:-1] + lines[:, 2:])[kept]) / 6
            place = np.log(np.maximum(response, self.LOW) / self.LOW) / math.log(self.GROWTH)
            counts[index] = np.bincount(np.minimum(np.ceil(place).astype(int), self.BINS - 1), minlength=self.BINS)
        return (counts,)

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        found = np.full(self.bands, np.nan)
        for index, counts in enumerate(total[0]):
            below = np.cumsum(counts)
            if below[-1]:
                place = int(np.searchsorted(below, below[-1] / 2))
                share = (below[-1] / 2 - (below[place - 1] if place else 0)) / counts[place]
                found[index] = self.LOW * self.GROWTH ** (place - 1 + share) / 0.674490 if place else 0.0
        return {"noise_input" if self.coarse else "noise": score(found, "reflectance")}


class Spectrum:
    """Frequency-domain gain: how much of the spectrum that the input lacks is restored, and how much too strong or weak it is.

    Power of image, reference and cubic input, each band, by rings of frequency over tiles of 16 input pixels (Hann, mean taken away; Welch
    1967) that count wholly. In dB, above the input's Nyquist frequency: share restored = (image - input) / (reference - input), held
    within 0 and 1; overshoot and undershoot, what the image has above and below the reference. The power is blind to place; the
    correlation of the rings (Saxton and Baumeister 1982) tells how much of it lies where the reference has it: it falls with
    displacement as with invention.
    """

    def __init__(self, bands: int, factor: int) -> None:
        self.bands, self.factor, self.side = bands, factor, TILE * factor
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(self.side) + 0.5) / self.side)
        self.taper = np.outer(hann, hann)
        rows, columns = np.fft.fftfreq(self.side), np.fft.rfftfreq(self.side)
        self.ring = np.rint(np.hypot(rows[:, None], columns[None, :]) * self.side).astype(int).ravel()
        self.twice = np.where((columns == 0) | (columns == 0.5), 1.0, 2.0)  # columns that stand for their mirror image too
        self.count = self.side // 2 + 1
        self.frequency = np.arange(self.count) / self.side
        self.missing = self.frequency > 0.5 / factor

    def sums(self, block: Block) -> Sums:
        """Number of tiles; by ring [4, bands, rings]: powers of reference, image, cubic input; cross-power of the first two."""
        assert block.seen is not None and block.coarse is not None and block.coarse_valid is not None
        side, total = self.side, np.zeros((4, self.bands, self.count))
        seen, image, mask = (block.core(array) for array in (block.seen, block.image, block.common))
        base = cubic(block.coarse_core(block.coarse, 2), self.factor)
        around = whole(block.coarse_core(block.coarse_valid, 2), TILE + 4)[::TILE, ::TILE]
        number = 0.0
        for row in range(block.height // side):
            for column in range(block.width // side):
                place = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
                if not (around[row, column] and mask[place].all()):
                    continue
                number += 1
                first, second, third = (self.spectra(planes[(slice(None), *place)]) for planes in (seen, image, base))
                cross = (second * np.conj(first)).real  # the imaginary part and its mirror image add up to 0
                for index, power in enumerate((abs(first) ** 2, abs(second) ** 2, abs(third) ** 2, cross)):
                    for band in range(self.bands):
                        total[index, band] += np.bincount(self.ring, (power[band] * self.twice).ravel(), self.ring.max() + 1)[: self.count]
        return np.array(number), total

    def spectra(self, planes: Plane) -> Array:
        """Half spectra of tapered tiles [bands, side, side / 2 + 1]."""
        level = (planes * self.taper).sum((1, 2), keepdims=True) / self.taper.sum()
        return np.asarray(fft.rfft2((planes - level) * self.taper))

    def profiles(self, total: Sums) -> tuple[Plane, Plane, Plane]:
        """By band and ring: power in dB [3: reference, image, cubic input], share restored (NaN where nothing lacks), correlation."""
        power = total[1]
        level = 10 * np.log10(np.maximum(power[:3], 1e-30))
        lack = level[0] - level[2]
        share = np.where(lack > 1e-6, np.clip(ratio(level[1] - level[2], lack), 0, 1), np.nan)
        return level, share, ratio(power[3], np.sqrt(power[0] * power[1]))

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        names = {"frequency_gain": "", "overshoot": "dB", "undershoot": "dB", "ring_correlation": ""}
        if not total[0]:
            return {name: score(np.full(self.bands, np.nan), unit) for name, unit in names.items()}
        level, share, correlation = (part[..., self.missing] for part in self.profiles(total))
        lack = np.where(np.isnan(share), 0.0, level[0] - level[2])
        excess = level[1] - level[0]
        found = (
            ratio((np.nan_to_num(share) * lack).sum(1), lack.sum(1)),
            np.maximum(excess, 0).mean(1),
            np.maximum(-excess, 0).mean(1),
            correlation.mean(1),
        )
        return {name: score(values, unit) for (name, unit), values in zip(names.items(), found, strict=True)}

    def curves(self, total: Sums) -> dict[str, Any]:
        """By frequency (cycles per fine pixel): share restored, image over reference in dB, correlation: [bands][frequencies], None without a value."""
        if not total[0]:
            return {}
        level, share, correlation = self.profiles(total)

        def listed(values: Plane) -> list[list[float | None]]:
            return [[finite(float(value)) for value in band[1:]] for band in values]

        return {
            "frequency": self.frequency[1:].tolist(),
            "restored": listed(np.where(self.missing, share, np.nan)),
            "over_reference_db": listed(level[1] - level[0]),
            "ring_correlation": listed(correlation),
        }


def cubic(planes: Plane, factor: int) -> Plane:
    """Coarse planes with 2 more pixels on each side on the fine grid, by Keys' cubic convolution (1981; a = -1/2) about pixel centres."""
    for axis in (1, 2):
        size = planes.shape[axis] - 4
        shape = list(planes.shape)
        shape[axis] = size * factor
        result = np.empty(shape)
        for phase in range(factor):
            distance = np.abs((phase + 0.5) / factor - 0.5 - np.arange(-2, 3))
            near, far = (1.5 * distance - 2.5) * distance**2 + 1, ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
            weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
            total = sum(weight * np.take(planes, range(k, k + size), axis) for k, weight in enumerate(weights) if weight)
            result[(slice(None),) * axis + (slice(phase, None, factor),)] = total
        planes = result
    return planes


def finite(value: float) -> float | None:
    """The value, None when it is NaN or infinite."""
    return value if math.isfinite(value) else None


# --- maps -----------------------------------------------------------------------------------------------------------------------

MAPS = {
    "error": "root mean square over the bands of image - reference, reflectance",
    "angle": "spectral angle to the reference, degrees",
    "ssim": "structural similarity to the reference, mean over the bands",
    "consistency": "root mean square over the bands of image seen by the sensor - input, reflectance",
}
"""What `--maps` writes, where the files for it are given; "consistency" is on the input's grid, the others on the image's."""


def planes(block: Block, kernels: dict[int, Plane]) -> dict[str, Plane]:
    """The maps of a block's core; NaN where a pixel, or all that its score looks at, does not count."""
    found: dict[str, Plane] = {}
    if block.seen is not None:
        kept = block.core(block.common)
        first, second = (np.moveaxis(block.core(array), 0, -1) for array in (block.seen, block.image))
        found["error"] = np.where(kept, np.sqrt(np.mean((second - first) ** 2, axis=-1)), np.nan)
        if len(block.image) > 1:
            found["angle"] = np.where(kept, angles(first, second), np.nan)
        around = Structure.RADIUS
        pairs = zip(block.core(block.seen, around), block.core(block.image, around), strict=True)
        kept = whole(block.core(block.common, around), 2 * around + 1)
        found["ssim"] = np.where(kept, np.mean([similarity(x, y) for x, y in pairs], axis=0), np.nan)
    if block.coarse is not None and kernels:
        error, kept = Consistency(len(block.image), kernels).errors(block)
        found["consistency"] = np.where(kept, np.sqrt(np.mean(error**2, axis=0)), np.nan)
    return found


class Maps:
    """Writes maps of scores as float32 GeoTIFFs, NaN where there is none; they get their names when all of them are whole."""

    def __init__(self, folder: Path, scene: Scene, overwrite: bool) -> None:
        """Open the files; raises `OutputError` for a map that exists without `overwrite`, and for a folder that cannot be made."""
        names = [*(["error", "angle", "ssim"] if scene.reference else []), *(["consistency"] if scene.sensed else [])]
        self.names = [name for name in names if name != "angle" or len(scene.image.bands) > 1]
        self.folder, self.scene = folder, scene
        for name in self.names:
            if self.path(name).exists() and not overwrite:
                raise OutputError(f"{self.path(name)}: exists already; choose another folder or give --overwrite")
        self.datasets: dict[str, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in self.names:
                grid = scene.coarse.grid if name == "consistency" and scene.coarse else scene.image.grid
                profile = {"width": grid.width, "height": grid.height, "transform": grid.transform, "crs": grid.crs or None}
                storage = {"tiled": True, "compress": "deflate", "predictor": 3, "bigtiff": "if_safer"}
                self.datasets[name] = rasterio.open(
                    self.path(name, "part"), "w", driver="GTiff", count=1, dtype="float32", nodata=float("nan"), **profile, **storage
                )
                self.datasets[name].descriptions = (MAPS[name],)
        except (RasterioError, OSError) as error:
            self.discard()
            raise OutputError(f"{folder}: maps cannot be written ({first_line(error)}); choose another folder") from error

    def path(self, name: str, part: str = "") -> Path:
        """Where a map is, and where its `part` is while it is written."""
        return self.folder / (f".{name}.{part}.tif" if part else f"{name}.tif")

    def write(self, row: int, column: int, factor: int, found: dict[str, Plane]) -> None:
        """Write maps of a block that begins at fine (row, column); raises `OutputError`."""
        for name, plane in found.items():
            step = factor if name == "consistency" else 1
            try:
                self.datasets[name].write(plane.astype(np.float32), 1, window=Window(column // step, row // step, plane.shape[1], plane.shape[0]))
            except (RasterioError, OSError) as error:
                raise OutputError(f"{self.path(name)}: cannot be completed ({first_line(error)}); check the free space") from error

    def discard(self) -> None:
        """Close and remove what was begun."""
        for name, dataset in self.datasets.items():
            with suppress(RasterioError, OSError):
                dataset.close()
            self.path(name, "part").unlink(missing_ok=True)

    def finish(self) -> list[Path]:
        """Close the files, check that they are whole, and give them their names; raises `OutputError`."""
        for name, dataset in self.datasets.items():
            try:
                dataset.close()
            except (RasterioError, OSError) as error:
                raise OutputError(f"{self.path(name)}: cannot be completed ({first_line(error)}); check the free space") from error
            if reason := damage(self.path(name, "part")):
                raise OutputError(f"{self.path(name)}: {reason}; check the free space")
        for name in self.names:
            os.replace(self.path(name, "part"), self.path(name))
        return [self.path(name) for name in self.names]


# --- together -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """All scores of one image by name, the bands' names, how many fine pixels counted, factor, and border in fine pixels."""

    scores: dict[str, Score]
    bands: tuple[str, ...]
    pixels: int
    factor: int
    border: int
    spectrum: dict[str, Any] = field(default_factory=dict)
    maps: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints: {"bands", "pixels", "factor", "border", "scores", "spectrum", "maps", "remarks"}.

        scores: {name: {"all", "bands": {band: value}, "unit"}}; spectrum: `Spectrum.curves`, with input and reference only; maps: files.
        """
        rows: dict[str, dict[str, Any]] = {}
        for name, one in self.scores.items():
            rows[name] = {"all": one.all, "unit": one.unit}
            if one.bands is not None:
                rows[name]["bands"] = dict(zip(self.bands, one.bands, strict=True))
        return {
            "bands": list(self.bands),
            "pixels": self.pixels,
            "factor": self.factor,
            "border": self.border,
            "scores": rows,
            "spectrum": self.spectrum,
            "maps": list(map(str, self.maps)),
            "remarks": list(self.remarks),
        }

    def table(self) -> str:
        """The scores as lines of text: name, all bands, each band, unit; "-" where there is nothing to say."""

        def text(value: float | None) -> str:
            return "-" if value is None else f"{value:.5g}"

        rows = [("", "all", *self.bands, "")]
        rows += [(name, text(one.all), *map(text, one.bands or (None,) * len(self.bands)), one.unit) for name, one in self.scores.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = []
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)), row[-1]]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class Counted:
    """What one block gives: its place, the number of its pixels that count, each measure's sums, and maps."""

    row: int
    column: int
    pixels: int
    sums: list[Sums]
    maps: dict[str, Plane]


def measures(scene: Scene) -> list[Measure]:
    """What can be measured with the files that are there, in the order of the table."""
    bands = len(scene.image.bands)
    found: list[Measure] = []
    if scene.reference:
        found += [Pixels(bands, scene.factor), Detail(), Boxes(), Structure(), Shifted()]
        found += [Spectrum(bands, scene.factor)] if scene.coarse else []
    if scene.coarse:
        kernels = scene.kernels()
        found += [Consistency(bands, kernels)] if kernels else []
        found += [SpectralDistortion(bands), Noise(bands, coarse=True)]
    return [*found, Noise(bands, coarse=False)]


def measure(
    image: Path,
    reference: Path | None = None,
    coarse: Path | None = None,
    mask: Path | None = None,
    *,
    border: int = BORDER,
    scale: float | None = None,
    window: int = WINDOW,
    threads: int | None = None,
    maps: Path | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Measured:
    """Score the super-resolved `image` against a `reference` on its grid, the `coarse` input that it was made from, or both.

    mask: an image on the fine grid, or on one in which that nests; only pixels where its first band is neither 0 nor no-data count.
    border: fine pixels left out on each side, rounded up to whole input pixels. scale: reflectance of one DN where a file says nothing
    itself, 1e-4 by default. window: side of the windows in fine pixels, rounded to whole tiles of 16 input pixels; memory grows with
    its square, the result is the same but for rounding. maps: folder for maps of scores (`MAPS`), named after them. Raises `InputError`
    (`GridError`) for files that cannot be compared or share no pixel, `UsageError` for nothing to compare, `OutputError` for maps.
    """
    scene = Scene.open(image, reference, coarse, mask, border, scale)
    counted, kernels = measures(scene), scene.kernels()
    totals: list[Sums] | None = None
    pixels = 0
    drawn = Maps(maps, scene, overwrite) if maps else None

    def count(block: Block) -> Counted:
        found = planes(block, kernels) if drawn else {}
        return Counted(block.row, block.column, int(block.core(block.common).sum()), [one.sums(block) for one in counted], found)

    def add(one: Counted) -> None:
        nonlocal totals, pixels
        pixels += one.pixels
        totals = one.sums if totals is None else [tuple(a + b for a, b in zip(x, y, strict=True)) for x, y in zip(totals, one.sums, strict=True)]
        if drawn:
            drawn.write(one.row, one.column, scene.factor, one.maps)

    workers = threads or min(4, os.cpu_count() or 1)
    try:
        with closing(scene.blocks(window, report)) as blocks, ThreadPoolExecutor(workers) as pool:
            pending: deque[Future[Counted]] = deque()
            for block in blocks:
                pending.append(pool.submit(count, block))
                if len(pending) > workers:
                    add(pending.popleft().result())
            for future in pending:
                add(future.result())
        if not pixels or totals is None:
            raise InputError(f"{image}: no pixel counts: the files, --mask and a border of {scene.border} pixels leave nothing that all of them hold")
        written = drawn.finish() if drawn else []
    except BaseException:
        if drawn:
            drawn.discard()
        raise
    scores: dict[str, Score] = {}
    spectrum: dict[str, Any] = {}
    for one, total in zip(counted, totals, strict=True):
        scores |= one.scores(total)
        if isinstance(one, Spectrum):
            spectrum = one.curves(total)
    return Measured(scores, scene.names, pixels, scene.factor, scene.border, spectrum, tuple(written), scene.remarks)
