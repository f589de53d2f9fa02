"""What is counted by windows: sums that add up, scores read from their total, and the statistics that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from otbsr.evaluation.windows import Array, Block, Mask, Plane

Sums = tuple[Array, ...]

BOX = 8
"""Side of the windows of UQI, as Wang and Bovik (2002) have it."""
FLAT = 1e-12
"""Variance over mean square below which an image is flat: float64 leaves no more."""
STRIP = 64
"""Rows of a window that are worked on at a time, so that what they need stays in the processor's cache."""


@dataclass(frozen=True)
class Score:
    """One measure: over all bands (None where it means nothing or no pixel counts), of each band (None where it has none), and its unit."""

    all: float | None
    bands: tuple[float | None, ...] | None = None
    unit: str = ""


class Measure(Protocol):
    """Something that is counted by windows: arrays of sums that add up, and scores read from their total."""

    margin: int
    """Fine pixels around a window that it looks at."""

    def sums(self, block: Block) -> Sums:
        """What the block adds: float64 arrays of a shape that does not depend on the block."""

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""


def added(first: Sums, second: Sums) -> Sums:
    """Sums of two sets of blocks together."""
    return tuple(a + b for a, b in zip(first, second, strict=True))


def score(values: Array, unit: str = "", all_: float | None = None) -> Score:
    """A score a band and their mean, or `all_`; what is not finite is None."""
    bands = tuple(float(value) if np.isfinite(value) else None for value in values)
    over = float(np.mean(values)) if all_ is None else all_
    return Score(over if math.isfinite(over) else None, bands, unit)


def finite(value: float) -> float | None:
    """The value, None when it is NaN or infinite."""
    return value if math.isfinite(value) else None


def ratio(top: Array, bottom: Array | float) -> Plane:
    """Quotient, NaN where `bottom` is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def picked(planes: Array, kept: Mask) -> Array:
    """[bands, pixels] of the pixels kept, each band in one piece of memory: numpy sums that by halves, which keeps the digits."""
    if kept.all():
        return np.ascontiguousarray(planes).reshape(len(planes), -1)
    return np.stack([plane[kept] for plane in planes])


def decibels(mean_square: Array) -> Plane:
    """10 log10(1 / mean square), at most 200."""
    with np.errstate(invalid="ignore"):
        return np.asarray(-10 * np.log10(np.maximum(mean_square, 1e-20)))


def moments(x: Array | Sequence[Array], y: Array | Sequence[Array], number: Array | float) -> tuple[Plane, Plane, Plane, Plane, Plane]:
    """(mean of x, of y, variance of x, of y, covariance) from x = (sum, sum of squares), y alike with sum of products last, and the count.

    What float64 cannot tell from 0 is 0.
    """
    if np.ndim(number) or not number:
        number = np.where(np.asarray(number) > 0, number, np.nan)
    mx, my = x[0] / number, y[0] / number
    vx, vy = variance(x[1] / number, mx), variance(y[1] / number, my)
    cov = y[2] / number
    cov -= mx * my
    cov = np.where((vx == 0) | (vy == 0), 0.0, cov)
    return mx, my, vx, vy, cov


def variance(square: Array, mean: Array) -> Plane:
    """Mean square less the mean's square; what float64 cannot tell from 0 is 0."""
    found = square - mean * mean
    found *= found > FLAT * square
    return found


def universal_index(mx: Array, my: Array, vx: Array, vy: Array, cov: Array) -> Plane:
    """Q = 4 cov mx my / ((vx + vy) (mx^2 + my^2)) of Wang and Bovik (2002); two flat images: 2 mx my / (mx^2 + my^2); both means 0: 1."""
    product, level, spread_ = np.asarray(mx * my), np.asarray(mx * mx), np.asarray(vx + vy)
    level += my * my
    below = spread_ * level
    if below.size and below.min() > 0:
        product *= 4.0
        product *= cov
        product /= below
        return product
    with np.errstate(invalid="ignore", divide="ignore"):
        flat = np.where(level > 0, 2 * product / level, 1.0)
        return np.where((spread_ > 0) & (level > 0), 4 * cov * product / below, np.where(spread_ > 0, 1.0, flat))


def whole(mask: Mask, side: int) -> Mask:
    """Where the side x side pixels from here rightward and downward are all set; `side` - 1 smaller."""
    if mask.all():
        return np.ones(tuple(max(size - side + 1, 0) for size in mask.shape), bool)
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


def correlate(plane: Plane, taps: Plane, step: int = 1) -> Plane:
    """`taps` along both axes at every `step`-th place where all of them are within: (size - taps) // step + 1 pixels on each axis.

    As products with a band matrix of 32 rows or so at a time: a processor multiplies matrices several times as fast as it filters.
    """
    for axis in (0, 1):
        count, some = (plane.shape[axis] - taps.size) // step + 1, max(8, 32 // step)
        band = np.zeros((some, (some - 1) * step + taps.size))
        for row in range(some):
            band[row, row * step : row * step + taps.size] = taps
        result = np.empty((count, plane.shape[1]) if axis == 0 else (plane.shape[0], count))
        for first in range(0, count, some):
            number = min(some, count - first)
            reach = slice(first * step, (first + number - 1) * step + taps.size)
            used = band[:number, : reach.stop - reach.start]
            if axis == 0:
                np.matmul(used, plane[reach], out=result[first : first + number])
            else:
                np.matmul(plane[:, reach], used.T, out=result[:, first : first + number])
        plane = result
    return plane
