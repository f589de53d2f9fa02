"""Resampling: the one step that brings an image to another grid, sees it through a wider point spread, and moves it where it belongs.

A kernel is made from its frequency response, H(f) = exp(-2 pi^2 v f^2) sinc(S f) / sinc(s f) up to the source's Nyquist frequency
1 / 2s: a Gaussian of variance v, the wanted pixel's square of width S instead of the source's of width s. When S is a multiple of s
the last factor is the mean of S / s pixels, so that nested and other grids go through one formula, and the displacement is part of
the kernel: nothing is interpolated twice.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
