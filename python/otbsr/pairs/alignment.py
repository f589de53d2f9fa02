"""Alignment: what lies between two sensors that looked at the same ground, estimated jointly from the two images.

    coarse(x) = gain * blur[fine](x + shift(x)) + bias        per band

`shift` is where things appear in the fine image relative to the coarse one (metres east and north; global, with a smooth field
where the images show one); the blur is a Gaussian of standard deviation `sigma` and the coarse pixel's square instead of the fine
one's. First the displacement of windows by phase correlation on images of like sharpness, then Gauss-Newton on all parameters,
windows that do not fit set aside. Any two grids of one CRS; equal ones too. The fine values of the windows wait
in a file: few windows are in memory at a time, and no more than a bounded number is ever looked at.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import GridError, InputError, first_line
from otbsr.grid import Grid
from otbsr.pairs.harmonisation import robust_fit
from otbsr.pairs.memory import Kept, Shelf
from otbsr.pairs.resample import operators, reach
from otbsr.progress import Report, silent

Stack = NDArray[np.float32]
Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

LIKE = 0.5
"""Correlation of a window with the blurred fine image below which the two do not show the same ground."""
NOMINAL = 0.44
"""Sigma over coarse spacing at which estimation begins: Sentinel-2's 10 m bands (MTF 0.22 to 0.30) seen from 2.5 m."""


FEW = 24
"""Windows that the first iterations use."""


class Raster:
    """Bands of an image with its grid, read by windows as float32 with NaN where there is no measurement."""

    def __init__(
        self,
        path: str | Path,
        bands: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
        nodata: float | None = None,
        mask: str | Path | None = None,
    ) -> None:
        """Open the file `path`; close it with `close` or by leaving a `with` block.

        bands: numbers from 1, default all; values become DN * scale + offset. nodata: default the file's. mask: a raster on the
        same grid whose non-zero pixels are left out. Raises `InputError`, and `GridError` for a mask on another grid.
        """
        self._mask: rasterio.DatasetReader | None = None
        try:
            self._file = rasterio.open(path)
            if mask is not None:
                self._mask = rasterio.open(mask)
        except RasterioError as error:
            raise InputError(f"{path}: cannot be read as an image ({first_line(error)}); check the path and the file") from error
        self.path = Path(path)
        self.grid = Grid.of(self._file)
        if self._mask is not None:
            Grid.of(self._mask).require_same(self.grid, f"{mask}: mask of {path}")
        self._bands = list(bands or range(1, self._file.count + 1))
        self.names = tuple(names or [self._file.descriptions[index - 1] or f"band {index}" for index in self._bands])
        self._scale, self._offset = scale, offset
        self._nodata = self._file.nodata if nodata is None else nodata

    def read(self, window: Window) -> Stack:
        """Values [bands, h, w] of an integer window that may reach beyond the image (NaN there)."""
        result = np.full((len(self._bands), int(window.height), int(window.width)), np.nan, np.float32)
        top, left = max(0, int(window.row_off)), max(0, int(window.col_off))
        bottom, right = (
            min(size, int(end)) for size, end in ((self.grid.height, window.row_off + window.height), (self.grid.width, window.col_off + window.width))
        )
        if top >= bottom or left >= right:
            return result
        # Not read as boundless: rasterio makes a virtual file for each such window, which takes longer than the pixels.
        inside = Window(left, top, right - left, bottom - top)
        try:
            values = self._file.read(self._bands, window=inside, out_dtype="float32")
            gone = ~np.isfinite(values)
            if self._mask is not None:
                gone |= self._mask.read(1, window=inside) != 0
        except RasterioError as error:
            raise InputError(f"{self.path}: cannot be read ({first_line(error)}); fetch or make the file again") from error
        if self._nodata is not None and not math.isnan(self._nodata):
            gone |= values == np.float32(self._nodata)
        values *= np.float32(self._scale)
        values += np.float32(self._offset)
        values[gone] = np.nan
        row, column = top - int(window.row_off), left - int(window.col_off)
        result[:, row : row + bottom - top, column : column + right - left] = values
        return result

    def only(self, band: int) -> Raster:
        """A view of one band, by its place in `names`; it is closed with this one."""
        view = copy(self)
        view._bands, view.names = [self._bands[band]], (self.names[band],)
        return view

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._mask is not None:
            self._mask.close()

    def __enter__(self) -> Raster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Array:
    """The same for an image in memory: values [bands, h, w] with NaN where there is no measurement, and their grid."""

    def __init__(self, values: NDArray[np.floating], grid: Grid, names: Sequence[str] | None = None) -> None:
        """Take `values` as they are; raises `GridError` when the grid has another size."""
        if values.ndim != 3 or values.shape[1:] != (grid.height, grid.width):
            raise GridError(f"array of shape {values.shape} for a grid of {grid.width} x {grid.height}; give [bands, height, width]")
        self.grid, self._values = grid, values
        self.names = tuple(names or [f"band {index + 1}" for index in range(len(values))])

    def read(self, window: Window) -> Stack:
        """Values [bands, h, w] of an integer window that may reach beyond the image (NaN there)."""
        result = np.full((len(self._values), int(window.height), int(window.width)), np.nan, np.float32)
        top, left = max(0, int(window.row_off)), max(0, int(window.col_off))
        bottom, right = int(window.row_off + window.height), int(window.col_off + window.width)
        inside = self._values[:, top : max(bottom, 0), left : max(right, 0)]
        row, column = top - int(window.row_off), left - int(window.col_off)
        if inside.size:
            result[:, row : row + inside.shape[1], column : column + inside.shape[2]] = inside
        return result


@dataclass(frozen=True)
class Field:
    """A displacement as a polynomial in place: metres, of degree 0, 1 or 2 in coordinates scaled to -1..1 over `bounds`."""

    bounds: tuple[float, float, float, float]
    east: tuple[float, ...]
    north: tuple[float, ...]

    def terms(self, x: Vector, y: Vector, count: int | None = None) -> Vector:
        """[n, count] polynomial terms at coordinates x, y [n]: 1, u, v, u2, uv, v2."""
        left, bottom, right, top = self.bounds
        u, v = ((2 * value - low - high) / (high - low) for value, low, high in ((x, left, right), (y, bottom, top)))
        return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], -1)[:, : count or len(self.east)]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Metres (east, north) at a coordinate; beyond the bounds, that of the nearest place on them."""
        left, bottom, right, top = self.bounds
        terms = self.terms(np.array([min(max(x, left), right)]), np.array([min(max(y, bottom), top)]))[0]
        return float(terms @ np.array(self.east)), float(terms @ np.array(self.north))


@dataclass(frozen=True)
class Alignment:
    """What `estimate` found; lengths in metres, values in the images' own units.

    shift: mean displacement (east, north) of the fine image's content; precision: its standard errors; field: displacement by place.
    gain, bias: coarse = gain * blurred fine + bias; sigma: of the Gaussian blur; rmse: robust residual; r2: share of the coarse
    image's variance that the fit explains, outliers left out: one a band. score: median correlation of the windows used, 0..1.
    used: windows that the estimate rests on; rejected: number of others by reason.
    """

    shift: tuple[float, float]
    precision: tuple[float, float]
    field: Field
    bands: tuple[str, ...]
    gain: tuple[float, ...]
    bias: tuple[float, ...]
    sigma: tuple[float, ...]
    rmse: tuple[float, ...]
    r2: tuple[float, ...]
    score: float
    used: int
    rejected: Mapping[str, int]
    spacing: tuple[float, float]

    def mtf(self, frequency: float | None = None) -> tuple[float, ...]:
        """MTF of the coarse image relative to the fine one, a band each, at a frequency in cycles a metre; default the coarse Nyquist frequency."""
        fine, coarse = self.spacing
        f = 1.0 / (coarse + coarse) if frequency is None else frequency
        square = float(np.sinc(coarse * f) / np.sinc(fine * f))
        return tuple(math.exp(-2.0 * (math.pi * f * sigma) ** 2) * square for sigma in self.sigma)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it: lists, no tuples."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Alignment:
        """From what `to_json` gave; raises `InputError` for anything else."""
        try:
            place = content["field"]
            values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
            values["field"] = Field(tuple(place["bounds"]), tuple(place["east"]), tuple(place["north"]))
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise InputError(f"alignment cannot be read from JSON ({error!r}); expected what otbsr wrote") from error


@dataclass(frozen=True)
class AlignmentSettings:
    """How `estimate` works. limit: largest displacement looked for, metres (default 3 coarse pixels, 12 between equal grids); window: side in
    coarse pixels (default 48, 96 between equal grids; less for small images); most: windows looked at; field: highest degree
    of the displacement (0, 1 or 2); sigma: fixed standard deviation of the blur, metres (default: estimated)."""  # noqa: D205, D209

    limit: float | None = None
    window: int | None = None
    most: int = 100
    field: int = 2
    sigma: float | None = None
    seed: int = 0


@dataclass
class Look:
    """One window: its coarse values, the fine values around (on a shelf), where they are, and what is known of them so far."""

    coarse: Stack
    fine: Kept
    valid: Mask
    place: tuple[float, float]
    coarse_axes: tuple[Vector, Vector]
    fine_axes: tuple[Vector, Vector]
    shift: Vector = field(default_factory=lambda: np.zeros(2))
    error: Vector = field(default_factory=lambda: np.full(2, np.inf))
    likeness: float = 0.0
    reason: str = ""


def estimate(
    fine: Raster | Array, coarse: Raster | Array, settings: AlignmentSettings | None = None, report: Report = silent, folder: Path | None = None
) -> Alignment:
    """What lies between a fine image and a coarse one of the same bands in the same order.

    folder: where values wait in a temporary file, at most some 300 MB; default the system's. Raises `GridError` for different coordinate
    systems or images that do not overlap, `InputError` for different numbers of bands, too little texture or images that do not show the
    same ground, `OutputError` when the disk is full.
    """
    check(fine, coarse)
    with Shelf(folder) as shelf:
        return fitted(fine, coarse, settings or AlignmentSettings(), shelf, report)


def fitted(fine: Raster | Array, coarse: Raster | Array, settings: AlignmentSettings, shelf: Shelf, report: Report) -> Alignment:
    """`estimate` with a shelf for the fine values."""
    spacing = fine.grid.dx, coarse.grid.dx
    equal = round(spacing[1] / spacing[0]) == 1
    limit = settings.limit or (12 if equal else 3) * spacing[1]
    looks, rejected = read_looks(fine, coarse, settings, limit, equal, shelf, report)
    bounds = overlap(fine.grid, coarse.grid)
    variance = np.full(len(coarse.names), (settings.sigma if settings.sigma is not None else NOMINAL * spacing[1] * (0.5 if equal else 1.0)) ** 2)
    start = first_shift(looks, variance, spacing, limit)
    displacement = Field(bounds, (float(start[0]),), (float(start[1]),))
    for look in looks:
        crop(look, start, spacing, max(1.5 * spacing[1], limit / 8))
    # A few windows until the parameters stand, then all.
    few, last, iteration = len(looks) > 2 * FEW, math.inf, 0
    while True:
        chosen = looks[:FEW] if few else looks
        pool: list[list[NDArray[np.float32]]] = [[] for _ in coarse.names]
        for look in chosen:
            for band, column in enumerate(measure(look, np.array(displacement.at(*look.place)), variance, spacing)):
                pool[band].append(column)
        before = displacement
        try:
            used, displacement, precision = choose(chosen, before, limit, spacing[1], 0 if few or not iteration else settings.field)
        except InputError:
            if not few:
                raise
            few = False  # the few were poor ones
            continue
        new = blur_and_line([[columns[i] for i in used] for columns in pool], variance, settings.sigma is None, spacing[1], 3.0 if equal else 0.9)
        change = max(float(np.abs(np.sqrt(new) - np.sqrt(variance)).max()), moved(displacement, before, looks, used)) / spacing[1]
        variance = new
        iteration += 1
        report("alignment", 0.4 + 0.5 * min(1.0, iteration / 8))
        if few:
            few = change >= 2e-3 and iteration < 8
            continue
        if change < 5e-4 or iteration >= 12 or (iteration > 7 and change >= last):
            break
        last = change
    rejected.update(look.reason for look in looks if look.reason)
    report("alignment", 1.0)
    return result(looks, used, displacement, precision, pool, variance, coarse.names, rejected, spacing)


def check(fine: Raster | Array, coarse: Raster | Array) -> None:
    """Raise unless the images can be compared."""
    a, b = fine.grid, coarse.grid
    if a.crs and b.crs and rasterio.CRS.from_string(a.crs) != rasterio.CRS.from_string(b.crs):
        raise GridError("the two images have different coordinate reference systems; reproject one (gdalwarp) first")
    if len(fine.names) != len(coarse.names):
        raise InputError(f"the fine image has {len(fine.names)} bands, the coarse one {len(coarse.names)}; give the same bands of both in the same order")
    if b.dx < a.dx * (1 - 1e-6):
        raise GridError(f"the fine image has a spacing of {a.dx:g}, the coarse one of {b.dx:g}; exchange them")
    overlap(a, b)


def overlap(a: Grid, b: Grid) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of what both cover; raises `GridError` when that is nothing."""
    left, bottom, right, top = max(a.left, b.left), max(a.bottom, b.bottom), min(a.right, b.right), min(a.top, b.top)
    if left >= right or bottom >= top:
        raise GridError(f"the images do not overlap: {a.describe()} and {b.describe()}; choose scenes of the same place")
    return left, bottom, right, top


def read_looks(
    fine: Raster | Array, coarse: Raster | Array, settings: AlignmentSettings, limit: float, equal: bool, shelf: Shelf, report: Report
) -> tuple[list[Look], Counter[str]]:
    """Windows of the overlap spread at random, at most `settings.most`, and how many had no data."""
    grid = coarse.grid
    left, bottom, right, top = overlap(fine.grid, grid)
    (first_column, first_row), (last_column, last_row) = grid.position(left, top), grid.position(right, bottom)
    c0, r0, c1, r1 = math.ceil(first_column - 1e-6), math.ceil(first_row - 1e-6), math.floor(last_column + 1e-6), math.floor(last_row + 1e-6)
    least = 16
    if min(c1 - c0, r1 - r0) < least:
        raise InputError(f"the images share {c1 - c0} x {r1 - r0} coarse pixels, expected at least {least} x {least}; give a larger area")
    side = min(settings.window or (96 if equal else 48), max(least, min(c1 - c0, r1 - r0) // 2))
    counts = [max(1, (end - begin) // side) for begin, end in ((c0, c1), (r0, r1))]
    starts = [np.linspace(begin, end - side, count).round().astype(int) for (begin, end), count in zip(((c0, c1), (r0, r1)), counts, strict=True)]
    places = [(int(column), int(row)) for row in starts[1] for column in starts[0]]
    order = np.random.default_rng([settings.seed, 17]).permutation(len(places))
    margin = limit + reach((0.6 * grid.dx) ** 2, fine.grid.dx, grid.dx)
    looks: list[Look] = []
    rejected: Counter[str] = Counter()
    for index in order:
        if len(looks) >= settings.most:
            break
        window = Window(*places[index], side, side)
        values = coarse.read(window)
        known: Mask = np.asarray(np.isfinite(values).all(0))
        if known.mean() < 0.4:
            rejected["no data"] += 1
            continue
        own = grid.cropped(window)
        a, b = fine.grid.position(own.left - margin, own.top + margin), fine.grid.position(own.right + margin, own.bottom - margin)
        around = Window(math.floor(a[0]), math.floor(a[1]), math.ceil(b[0]) - math.floor(a[0]), math.ceil(b[1]) - math.floor(a[1]))
        centre = (own.left + own.right) / 2, (own.top + own.bottom) / 2
        looks.append(Look(np.where(known, values, 0), shelf.put(fine.read(around)), known, centre, grid.axes(window), fine.grid.axes(around)))
        report("alignment", 0.3 * len(looks) / min(settings.most, len(order)))
    if not looks:
        raise InputError("the images share no window with data in both; check no-data and masks, or choose scenes of the same place")
    return looks, rejected


def fill(values: Stack) -> tuple[Stack, Mask]:
    """Fine values [bands, h, w] with the band's mean where there are none, and where that is."""
    lost: Mask = np.asarray(~np.isfinite(values).all(0))
    if not lost.any():
        return values, lost
    known = values[:, ~lost]
    means = known.mean(1) if known.size else np.zeros(len(values), np.float32)
    return np.where(lost[None], means[:, None, None], values), lost


def operators_of(look: Look, place: Vector, variance: float, spacing: tuple[float, float], derivatives: bool) -> tuple[list[Stack], list[Stack]]:
    """Matrices along columns and rows for a displacement (east, north)."""
    x, y = look.coarse_axes
    across = operators(look.fine_axes[0], x + place[0], variance, *spacing, derivatives)
    down = operators(look.fine_axes[1], y - place[1], variance, *spacing, derivatives)
    return across, down


def usable(look: Look, lost: Mask, across: Stack, down: Stack) -> Mask:
    """Coarse pixels with a measurement whose blur sees measurements only."""
    if not lost.any():
        return look.valid
    unseen = np.abs(down) @ lost.astype(np.float32) @ np.abs(across).T
    return look.valid & (unseen < 2e-3)


def first_shift(looks: list[Look], variance: Vector, spacing: tuple[float, float], limit: float) -> Vector:
    """Displacement (east, north) that most windows agree on, from phase correlation; a window without a clear one is left out."""
    from skimage.registration import phase_cross_correlation

    found = []
    for look in looks:
        values, lost = fill(look.fine.get())
        side = look.coarse.shape[1]
        hann = np.hanning(side + 2)[1:-1].astype(np.float32)
        pictures = [np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)]
        across, down = operators_of(look, np.zeros(2), float(variance.mean()), spacing, False)
        valid = usable(look, lost, across[0], down[0])
        if valid.mean() < 0.3:
            continue
        for plane, band in zip(look.coarse, values, strict=True):
            for picture, image in zip(pictures, (plane, down[0] @ band @ across[0].T), strict=True):
                scatter = image[valid].std()
                if scatter > 0:
                    picture += np.where(valid, (image - image[valid].mean()) / scatter, 0)
        taper = hann[:, None] * hann[None, :]
        if not all(np.any(picture) for picture in pictures):
            continue
        row, column = phase_cross_correlation(pictures[1] * taper, pictures[0] * taper, upsample_factor=10)[0]
        place = np.array([column, -row]) * spacing[1]
        if np.abs(place).max() <= limit:
            found.append(place)
    if not found:
        raise InputError(
            f"too little texture: none of {len(looks)} windows has a displacement of at most {limit:g} m; choose an area with fields, roads, houses"
        )
    places = np.array(found)
    near = np.linalg.norm(places[:, None] - places[None], axis=-1) < spacing[1]
    best = near[int(near.sum(1).argmax())]
    return np.asarray(np.median(places[best], axis=0), np.float64)


def crop(look: Look, start: Vector, spacing: tuple[float, float], slack: float) -> None:
    """Keep the fine pixels that the blur can see when the displacement is within `slack` metres of `start`."""
    margin = slack + reach((0.6 * spacing[1]) ** 2, *spacing)
    slices = []
    for fine, coarse, move in zip(look.fine_axes, look.coarse_axes, (start[0], -start[1]), strict=True):
        first, last = np.searchsorted(fine, (coarse[0] + move - margin, coarse[-1] + move + margin))
        slices.append(slice(int(first), int(last)))
    columns, rows = slices
    look.fine.put(look.fine.get()[:, rows, columns])
    look.fine_axes = look.fine_axes[0][columns], look.fine_axes[1][rows]


def measure(look: Look, place: Vector, variance: Vector, spacing: tuple[float, float]) -> list[NDArray[np.float32]]:
    """Set the look's displacement, its error and likeness; returns for each band its usable values and model [n, 3]: coarse, blurred, by variance."""
    values, lost = fill(look.fine.get())
    information, pull = np.zeros((2, 2)), np.zeros(2)
    likeness, columns = [], []
    for band, (plane, image) in enumerate(zip(look.coarse, values, strict=True)):
        across, down = operators_of(look, place, float(variance[band]), spacing, True)
        valid = usable(look, lost, across[0], down[0])
        lines = np.split(np.concatenate(down) @ image, 3)
        model = lines[0] @ across[0].T
        by_variance = lines[2] @ across[0].T + lines[0] @ across[2].T
        columns.append(np.stack([plane[valid], model[valid], by_variance[valid]], -1))
        if valid.sum() < 100:
            continue
        design = np.stack([np.ones(int(valid.sum())), model[valid], (lines[0] @ across[1].T)[valid], (-lines[1] @ across[0].T)[valid]], -1)
        fit = robust_fit(design, plane[valid])
        gain = fit.coefficients[1]
        likeness.append(correlation(plane[valid], model[valid], fit.weights))
        if gain <= 0:
            continue
        own = np.linalg.pinv(fit.covariance[2:, 2:], hermitian=True) * gain**2
        information += own
        pull += own @ (fit.coefficients[2:] / gain)
    look.likeness = float(np.mean(likeness)) if likeness else 0.0
    if np.linalg.matrix_rank(information, hermitian=True) < 2:
        look.error, look.shift = np.full(2, np.inf), place
    else:
        covariance = np.linalg.inv(information)
        step = covariance @ pull
        length = float(np.linalg.norm(step)) or 1.0
        look.error = np.sqrt(np.diag(covariance))
        look.shift = place + step * min(1.0, 0.7 * spacing[1] / length)
    return columns


def correlation(a: NDArray[np.floating], b: NDArray[np.floating], weights: Vector) -> float:
    """Weighted correlation coefficient; 0 when one is constant."""
    both = np.cov(np.stack([a, b]), aweights=weights)
    spread = both[0, 0] * both[1, 1]
    return float(both[0, 1] / math.sqrt(spread)) if spread > 0 else 0.0


def choose(looks: list[Look], old: Field, limit: float, spacing: float, degree: int) -> tuple[list[int], Field, tuple[float, float]]:
    """The windows that agree, the displacement's field through them, and the standard error of its mean; others get their reason.

    The degree is raised only where Schwarz's criterion asks for it. Raises `InputError` when no window is left.
    """
    for look in looks:
        look.reason = (
            "texture" if look.error.max() > 0.15 * spacing else "unlike" if look.likeness < LIKE else "far" if np.abs(look.shift).max() > 1.2 * limit else ""
        )
    kept = [i for i, look in enumerate(looks) if not look.reason]
    if not kept:
        reasons = Counter(look.reason for look in looks)
        if reasons["texture"] >= reasons["unlike"]:
            raise InputError(
                f"too little texture: none of {len(looks)} windows tells its displacement to 0.15 pixel; choose an area with fields, roads, houses"
            )
        raise InputError(
            f"the images do not show the same ground: none of {len(looks)} windows correlates above {LIKE:g}; check place, date, clouds and the order of bands"
        )
    x, y = (np.array([looks[i].place[axis] for i in kept]) for axis in (0, 1))
    shifts = np.array([looks[i].shift for i in kept])
    floor = 0.01 * spacing
    weights = 1.0 / (np.array([looks[i].error for i in kept]) ** 2 + floor**2)
    inside = agreeing(shifts, weights, spacing)
    best: tuple[float, list[tuple[float, ...]], Mask, tuple[float, float]] | None = None
    for count in (1, 3, 6)[: degree + 1]:
        if count > 1 and inside.sum() < 4 * count:
            break
        design = old.terms(x, y, count)
        fits = [robust_fit(design[inside], shifts[inside, axis], weights[inside, axis] / weights[inside, axis].mean()) for axis in (0, 1)]
        distance = np.stack([np.abs(shifts[:, axis] - design @ fit.coefficients) for axis, fit in enumerate(fits)], -1)
        spread = np.array([max(fit.scale, floor) for fit in fits])
        good = inside & (distance < np.maximum(5 * spread, 0.05 * spacing)).all(1)
        total = sum(float(inside.sum() * math.log(value**2) + count * math.log(inside.sum())) for value in spread)
        errors = (float(math.sqrt(fits[0].covariance[0, 0])), float(math.sqrt(fits[1].covariance[0, 0])))
        if best is None or total < best[0] - 6:
            best = total, [tuple(map(float, fit.coefficients)) for fit in fits], good, errors
    assert best is not None
    for i, good in zip(kept, best[2], strict=True):
        looks[i].reason = "" if good else "outlier"
    used = [i for i in kept if not looks[i].reason]
    if not used:
        raise InputError(f"the windows' displacements do not agree ({len(kept)} windows); check that both images show the same place, or give a smaller area")
    return used, replace(old, east=best[1][0], north=best[1][1]), best[3]


def agreeing(shifts: Vector, weights: Vector, spacing: float) -> Mask:
    """Windows within one coarse pixel of the place where most of the weight is."""
    near = np.linalg.norm(shifts[:, None] - shifts[None], axis=-1) < spacing
    return np.asarray(near[int((near * weights.mean(1)[None]).sum(1).argmax())])


def moved(new: Field, old: Field, looks: list[Look], used: list[int]) -> float:
    """Largest change of the displacement at the windows used, metres."""
    return max(abs(a - b) for i in used for a, b in zip(new.at(*looks[i].place), old.at(*looks[i].place), strict=True))


def blur_and_line(pool: list[list[NDArray[np.float32]]], variance: Vector, free: bool, spacing: float, widest: float = 0.9) -> Vector:
    """The blur's variance of each band after one Gauss-Newton step with gain and bias; its deviation at most `widest` coarse pixels."""
    new = variance.copy()
    if not free:
        return new
    for band, columns in enumerate(pool):
        values = np.concatenate(columns)
        fit = robust_fit(np.stack([np.ones(len(values)), values[:, 1], values[:, 2]], -1), values[:, 0])
        if fit.coefficients[1] > 0:
            step = fit.coefficients[2] / fit.coefficients[1]
            new[band] = np.clip(variance[band] + step, variance[band] / 4, min(4 * variance[band] + (0.1 * spacing) ** 2, (widest * spacing) ** 2))
    return new


def result(
    looks: list[Look],
    used: list[int],
    displacement: Field,
    precision: tuple[float, float],
    pool: list[list[NDArray[np.float32]]],
    variance: Vector,
    names: Sequence[str],
    rejected: Counter[str],
    spacing: tuple[float, float],
) -> Alignment:
    """The estimate with gain, bias and residual fitted once more at the blur found."""
    lines, rmse, r2 = [], [], []
    for columns in pool:
        values = np.concatenate([columns[i] for i in used])
        fit = robust_fit(np.stack([values[:, 1], np.ones(len(values))], -1), values[:, 0])
        lines.append(fit.coefficients)
        rmse.append(fit.scale)
        r2.append(max(0.0, correlation(values[:, 0], values[:, 1], fit.weights)) ** 2)
    mean = np.mean([displacement.at(*looks[i].place) for i in used], axis=0)
    return Alignment(
        shift=(float(mean[0]), float(mean[1])),
        precision=precision,
        field=displacement,
        bands=tuple(names),
        gain=tuple(float(line[0]) for line in lines),
        bias=tuple(float(line[1]) for line in lines),
        sigma=tuple(float(value) for value in np.sqrt(variance)),
        rmse=tuple(rmse),
        r2=tuple(r2),
        score=float(np.median([looks[i].likeness for i in used])),
        used=len(used),
        rejected=dict(rejected),
        spacing=spacing,
    )
