"""Resampling: the one step that brings an image to another grid, sees it through a wider point spread, and moves it where it belongs.

A kernel is made from its frequency response, H(f) = exp(-2 pi^2 v f^2) sinc(S f) / sinc(s f) up to the source's Nyquist frequency
1 / 2s: a Gaussian of variance v, the wanted pixel's square of width S instead of the source's of width s. When S is a multiple of s
the last factor is the mean of S / s pixels, so that nested and other grids go through one formula, and the displacement is part of
the kernel: nothing is interpolated twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from otbsr.grid import Grid
from otbsr.pairs.memory import WINDOW
from otbsr.progress import Report, silent

if TYPE_CHECKING:
    from otbsr.pairs.alignment import Array, Field, Raster

Table = NDArray[np.float64]
Plane = NDArray[np.float32]

PER_PIXEL = 64
"""Entries of a kernel's table in a source pixel; linear interpolation between them errs by less than 1e-4 of the peak."""
TAPER = 8.0
"""Source pixels over which a kernel fades to nothing at each end by Kaiser's window: the sinc's tails of a little blurred image."""
KAISER = 6.0
"""The window's beta: with `TAPER`, frequencies up to 0.6 of Nyquist pass within 1 %, up to 0.4 within 0.4 %; a Gaussian of a pixel makes it 1e-4."""


def reach(variance: float, source: float, wanted: float) -> float:
    """Distance from its centre at which a kernel ends, in the units of the spacings `source` and `wanted`; `variance` is of the Gaussian."""
    return plateau(variance, source, wanted) + TAPER * source


def plateau(variance: float, source: float, wanted: float) -> float:
    """Distance up to which a kernel is as its frequency response says: what a Gaussian and the difference of the two squares cover."""
    return (wanted - source) / 2.0 + 3.5 * math.sqrt(max(variance, 0.0))


@lru_cache(maxsize=128)
def kernel_tables(variance: float, source: float, wanted: float) -> tuple[Table, Table, Table, Table]:
    """Positions [n], and there the kernel, its derivative by its centre's position and by `variance`, each [n]; faded to 0 at the ends."""
    radius = reach(variance, source, wanted)
    count = math.ceil(radius / source * PER_PIXEL)
    position: Table = np.arange(-count, count + 1, dtype=np.float64) * (radius / count)
    node, weight = np.polynomial.legendre.leggauss(max(64, math.ceil(3 * radius / source)))
    nyquist = 1.0 / (source + source)
    frequency = nyquist * (node + 1.0) / 2.0
    response = np.exp(-2.0 * (math.pi * frequency) ** 2 * variance) * np.sinc(wanted * frequency) / np.sinc(source * frequency)
    response *= weight * nyquist * source  # both signs of frequency; the kernel is a weight per source pixel
    angle = 2.0 * math.pi * np.outer(position, frequency)
    beyond = np.clip((np.abs(position) - plateau(variance, source, wanted)) / (TAPER * source), 0.0, 1.0)
    taper: Table = np.i0(KAISER * np.sqrt(1.0 - np.square(beyond))) / np.i0(KAISER)
    kernel = np.cos(angle) @ response
    by_centre = np.sin(angle) @ (2.0 * math.pi * frequency * response)
    by_variance = np.cos(angle) @ (-2.0 * (math.pi * frequency) ** 2 * response)
    return position, kernel * taper, by_centre * taper, by_variance * taper


def operators(
    source_centres: NDArray[np.float64], wanted_centres: NDArray[np.float64], variance: float, source: float, wanted: float, derivatives: bool = False
) -> list[Plane]:
    """Matrices [wanted, source] of one axis: the kernel's (rows sum to 1) and, with `derivatives`, those by centre and by variance (to 0).

    Centres are ascending, in the units of the spacings `source` and `wanted`.
    """
    position, *tables = kernel_tables(round(variance, 9), source, wanted)
    distance = source_centres[None, :] - wanted_centres[:, None]
    kernel = np.interp(distance, position, tables[0], 0.0, 0.0)
    total = kernel.sum(1, keepdims=True)
    kernel /= np.where(total == 0.0, 1.0, total)
    found = [kernel]
    if derivatives:
        for table in tables[1:]:
            matrix = np.interp(distance, position, table, 0.0, 0.0)
            found.append(matrix - kernel * matrix.sum(1, keepdims=True))
    return [matrix.astype(np.float32) for matrix in found]


def resample(
    source: Raster | Array,
    out: str | Path,
    grid: Grid,
    field: Field,
    variance: float,
    gain: Sequence[float],
    bias: Sequence[float],
    scale: float = 1e-4,
    nodata: int = -10000,
    block: int = 256,
    report: Report = silent,
) -> dict[str, Any]:
    """Write `source` (an `alignment.Raster` or `Array`) on `grid` as int16, once interpolated: `out(x) = gain * blur[source](x + field(x)) + bias`.

    variance: of the Gaussian part of the blur, square metres; the grid's pixel square instead of the source's is added to it. gain,
    bias: one a band. Values are written divided by `scale` and rounded; `nodata` where the kernel sees a pixel without measurement.
    Works block by block; the displacement is that of the block's centre, and blocks are made smaller until it changes by less than a
    fiftieth of a pixel within one. Returns the share of pixels with data. Raises `InputError` as `source` does.
    """
    across_grid = (grid.right - grid.left, grid.top - grid.bottom)
    corners = [field.at(x, y) for x in (grid.left, (grid.left + grid.right) / 2, grid.right) for y in (grid.bottom, (grid.bottom + grid.top) / 2, grid.top)]
    slope = max(max(values) - min(values) for values in zip(*corners, strict=True)) / min(across_grid)
    while block > 32 and slope * block * grid.dx > 0.04 * grid.dx:
        block //= 2
    margin = reach(variance, source.grid.dx, grid.dx)
    profile: dict[str, Any] = {"driver": "GTiff", "width": grid.width, "height": grid.height, "count": len(gain), "dtype": "int16", "crs": grid.crs or None}
    profile |= {"transform": grid.transform, "nodata": nodata, "tiled": True, "blockxsize": 256, "blockysize": 256, "bigtiff": "if_safer"}
    profile |= {"compress": "deflate", "zlevel": 1, "predictor": 2, "interleave": "band"}
    seen = done = 0
    with rasterio.open(out, "w", **profile) as file:
        file.descriptions = tuple(source.names)
        for part in grid.windows(WINDOW):
            numbers = np.full((len(gain), int(part.height), int(part.width)), nodata, np.int16)
            for window in grid.cropped(part).windows(block):
                row, column = int(window.row_off), int(window.col_off)
                place = Window(part.col_off + column, part.row_off + row, window.width, window.height)
                values = seen_through(source, grid.cropped(place), field, variance, margin)
                known = np.isfinite(values).all(0)
                values = (values * np.array(gain, np.float32)[:, None, None] + np.array(bias, np.float32)[:, None, None]) / np.float32(scale)
                piece = np.where(known, np.clip(np.rint(np.where(known, values, 0)), -9999, 32767), nodata)
                numbers[:, row : row + int(window.height), column : column + int(window.width)] = piece
                seen += int(known.sum())
            file.write(numbers, window=part)
            done += int(part.width) * int(part.height)
            report("resampling", done / (grid.width * grid.height))
    return {"share_with_data": seen / (grid.width * grid.height), "block": block}


def seen_through(source: Raster | Array, grid: Grid, field: Field, variance: float, margin: float) -> Plane:
    """`source` as pixels of the small `grid` see it through the kernel, displaced by `field` at its centre: [bands, h, w], NaN where it is not known."""
    east, north = field.at((grid.left + grid.right) / 2, (grid.top + grid.bottom) / 2)
    own = source.grid
    (first, top), (last, bottom) = (
        own.position(grid.left + east - margin, grid.top + north + margin),
        own.position(grid.right + east + margin, grid.bottom + north - margin),
    )
    window = Window(math.floor(first), math.floor(top), math.ceil(last) - math.floor(first), math.ceil(bottom) - math.floor(top))
    values = source.read(window)
    result = np.full((len(values), grid.height, grid.width), np.nan, np.float32)
    lost: NDArray[np.bool_] = np.asarray(~np.isfinite(values).all(0))
    if lost.all():
        return result
    (x, y), (own_x, own_y) = grid.axes(Window(0, 0, grid.width, grid.height)), own.axes(window)
    across = operators(own_x, x + east, variance, own.dx, grid.dx)[0]
    down = operators(own_y, y - north, variance, own.dy, grid.dy)[0]
    known: NDArray[np.bool_] = np.ones((grid.height, grid.width), bool)
    if lost.any():
        known = np.abs(down) @ lost.astype(np.float32) @ np.abs(across).T < 5e-3
        values = np.where(lost[None], values[:, ~lost].mean(1)[:, None, None], values)
    for band, plane in enumerate(values):
        result[band] = np.where(known, down @ plane @ across.T, np.nan)
    return result
