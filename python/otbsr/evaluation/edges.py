"""Sharpness measured on straight edges that an image happens to show: the slanted-edge method (ISO 12233) over many edges at once.

An edge's pixels, ordered by their distance from its line, are samples of the edge spread function between whole pixels. Those of all
edges go into one function, from which a derivative gives the line spread function and a Fourier transform the MTF. Edges need no
reference; a scene without straight edges between even surfaces has none to measure, and then nothing is told.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import ndimage

from otbsr.evaluation.measures import Score, Sums, finite, score, whole
from otbsr.evaluation.windows import Block, Mask, Plane

CELL = 16
"""Side of the cells of which each is looked at for one edge, fine pixels."""
RADIUS = 12
"""Pixels on each side of the steepest pixel that must show nothing but the edge."""
SIDES = 7.0
"""Distance from the edge, pixels, beyond which its two sides are even."""
STEP = 0.25
"""Width of the bins of the edge spread function, pixels: ISO 12233's four a pixel."""
REACH = 10.0
"""Distance to which the edge spread function is kept."""
UNEVEN = 0.08
"""Standard deviation of a side over the edge's contrast beyond which an edge is left out."""
COHERENT = 0.8
"""Coherence of the gradients around an edge, 0 to 1, below which it is not straight."""
LEAST = 5
"""Edges below which nothing is told."""
CLUSTER = 128
"""Side of the areas that are drawn whole for the interval: neighbouring cells may show one edge."""
DRAWS = 200


class Edges:
    """MTF at the Nyquist frequency and width of the point spread, with 95 % intervals, and the number of edges."""

    margin = RADIUS + 2

    def __init__(self, bands: int) -> None:
        self.bands, self.bins = bands, round(2 * REACH / STEP)

    def sums(self, block: Block) -> Sums:
        """Edges by band; edge spread functions [bands, 1 + draws, sums and counts, bins], the draws with Poisson weights of the edges' areas."""
        number, total = np.zeros(self.bands), np.zeros((self.bands, 1 + DRAWS, 2, self.bins))
        own, image = block.core(block.own, self.margin), block.core(block.image, self.margin)
        for row, column in candidates(image.mean(0), own):
            around = slice(row - RADIUS, row + RADIUS + 1), slice(column - RADIUS, column + RADIUS + 1)
            patch = image[(slice(None), *around)]
            distance = line_distance(patch.mean(0))
            if distance is None:
                continue
            area = (block.row + row - self.margin) // CLUSTER, (block.column + column - self.margin) // CLUSTER
            weights = np.concatenate([[1.0], np.random.default_rng([*area, 12233]).poisson(1.0, DRAWS)])
            place = np.floor((distance + REACH) / STEP).astype(int).ravel()
            inside = (place >= 0) & (place < self.bins)
            for band in range(self.bands):
                values = spread_function(patch[band], distance)
                if values is not None:
                    number[band] += 1
                    sums = [np.bincount(place[inside], one, self.bins) for one in (values.ravel()[inside], None)]
                    total[band] += weights[:, None, None] * np.stack(sums)
        return number, total

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, functions = total
        found = np.full((2, 3, self.bands), np.nan)  # MTF, sigma; value, low, high
        for band in np.flatnonzero(number >= LEAST):
            values = [sharpness(sums, counts) for sums, counts in functions[band] if (counts > 0).mean() > 0.9]
            if values:
                drawn = np.array(values[1:] or values)
                found[:, 0, band] = values[0]
                found[:, 1:, band] = np.nanquantile(drawn, (0.025, 0.975), axis=0).T
        rows: dict[str, Score] = {}
        for name, unit, values in (("edge_mtf", "at Nyquist", found[0]), ("edge_sigma", "pixels", found[1])):
            rows |= {name + end: score(one, unit) for end, one in zip(("", "_low", "_high"), values, strict=True)}
        return rows | {"edges": Score(finite(float(number.max(initial=0))), tuple(map(float, number)), "")}

    def curves(self, total: Sums) -> dict[str, Any]:
        """{"frequency": cycles a pixel, "mtf": [bands, frequencies]}; an empty list for a band with too few edges."""
        frequency = np.linspace(0, 0.5, 33)
        told = [transfer(functions[0][0], functions[0][1], frequency).tolist() if number >= LEAST else [] for number, functions in zip(*total, strict=True)]
        return {"frequency": frequency.tolist(), "mtf": told}


def candidates(plane: Plane, used: Mask) -> list[tuple[int, int]]:
    """(row, column) of the steepest pixel of each cell around which all pixels are used and gradients have one direction.

    plane, used: with `Edges.margin` pixels around the cells.
    """
    slopes = np.gradient(plane, axis=0), np.gradient(plane, axis=1)
    products = [ndimage.uniform_filter(one * two, 2 * RADIUS + 1, mode="nearest") for one, two in ((slopes[0],) * 2, (slopes[1],) * 2, slopes)]
    yy, xx, xy = products
    with np.errstate(invalid="ignore", divide="ignore"):
        coherence = np.sqrt((yy - xx) ** 2 + 4 * xy**2) / (yy + xx)
    steep = np.hypot(*slopes)
    margin, side = Edges.margin, 2 * RADIUS + 1
    kept = whole(used, side)
    found = []
    for top in range(margin, plane.shape[0] - margin, CELL):
        for left in range(margin, plane.shape[1] - margin, CELL):
            cell = steep[top : min(top + CELL, plane.shape[0] - margin), left : min(left + CELL, plane.shape[1] - margin)]
            row, column = (int(k) for k in np.unravel_index(np.argmax(cell), cell.shape))
            row, column = top + row, left + column
            if coherence[row, column] > COHERENT and kept[row - RADIUS, column - RADIUS]:
                found.append((row, column))
    return found


def line_distance(patch: Plane) -> Plane | None:
    """Each pixel's distance in pixels from the straight edge through the middle of the patch, the bright side positive; None where there is none.

    The line is that of the gradients' weighted direction first, then moved and turned to their centroid along it.
    """
    y, x = np.mgrid[: patch.shape[0], : patch.shape[1]] - float(RADIUS)
    gy, gx = np.gradient(patch, axis=0), np.gradient(patch, axis=1)
    angle = 0.5 * math.atan2(2 * float(np.sum(gx * gy)), float(np.sum(gx * gx) - np.sum(gy * gy)))
    offset = 0.0
    for reach in (7.0, 6.0, 6.0, 6.0):
        distance = x * math.cos(angle) + y * math.sin(angle) - offset
        along = -x * math.sin(angle) + y * math.cos(angle)
        steep = gx * math.cos(angle) + gy * math.sin(angle)
        # both limits fade out: sharp ones let pixels in on one side only, which turns the line
        near = np.maximum(1 - (distance / reach) ** 2, 0) * np.maximum(1 - (along / (RADIUS - 1)) ** 2, 0) ** 2
        weight = near * np.maximum(steep * np.sign(np.sum(steep)), 0)
        if np.count_nonzero(weight) < RADIUS:
            return None
        total = weight.sum()
        middle = np.sum(weight * along) / total
        span = np.sum(weight * (along - middle) ** 2)
        if span <= 0:
            return None
        slope = np.sum(weight * (along - middle) * distance) / span
        offset += float(np.sum(weight * distance) / total - slope * middle)
        angle -= math.atan(float(slope))
    if abs(offset) > 2:
        return None
    distance = x * math.cos(angle) + y * math.sin(angle) - offset
    return distance if np.sum(gx * math.cos(angle) + gy * math.sin(angle)) > 0 else -distance


def spread_function(patch: Plane, distance: Plane) -> Plane | None:
    """The patch from 0 on the dark side to 1 on the bright one; None where the sides are uneven or something else lies between."""
    dark, bright = patch[distance < -SIDES], patch[distance > SIDES]
    if min(dark.size, bright.size) < 30:
        return None
    contrast = float(bright.mean() - dark.mean())
    if contrast <= 0 or max(dark.std(), bright.std()) > UNEVEN * contrast:
        return None
    values: Plane = (patch - dark.mean()) / contrast
    place = np.floor(distance + RADIUS).astype(int).ravel()
    place = np.clip(place, 0, 2 * RADIUS - 1)
    # beside a straight edge, pixels of one distance agree but for the slope within it
    counts = np.maximum(np.bincount(place, minlength=2 * RADIUS), 1)
    means = np.bincount(place, values.ravel(), 2 * RADIUS) / counts
    slope = np.gradient(means)
    rest = values.ravel() - means[place] - slope[place] * (distance.ravel() + RADIUS - 0.5 - place)
    return values if math.sqrt(float(np.mean(rest[np.abs(distance.ravel()) < SIDES] ** 2))) < UNEVEN else None


def transfer(sums: Plane, counts: Plane, frequency: Plane) -> Plane:
    """MTF at frequencies in cycles a pixel, from the sums and counts of an edge spread function's bins."""
    place = (np.arange(sums.size) + 0.5) * STEP - REACH
    known = counts > 0
    function = np.interp(place, place[known], sums[known] / counts[known])
    line = np.diff(function)
    place = (place[1:] + place[:-1]) / 2
    taper = 0.5 - 0.5 * np.cos(np.pi * np.clip((REACH - np.abs(place)) / (REACH - SIDES), 0, 1))
    line = line * taper
    waves = np.exp(-2j * np.pi * np.outer(frequency, place))
    # the bins' width and the difference of two of them each multiply the MTF by a sinc
    return np.asarray(np.abs(waves @ line) / abs(line.sum()) / np.sinc(STEP * frequency) ** 2)


def sharpness(sums: Plane, counts: Plane) -> tuple[float, float]:
    """(MTF at Nyquist, standard deviation in pixels of the Gaussian whose MTF is nearest to it where that is above 0.3)."""
    frequency = np.linspace(0.02, 0.5, 49)
    found = transfer(sums, counts, frequency)
    below = int(np.argmax(found < 0.3)) if (found < 0.3).any() else found.size
    square = 2 * np.pi**2 * frequency[:below] ** 2
    level = -np.log(np.clip(found[:below], 1e-6, None))
    sigma = math.sqrt(max(float(square @ level / (square @ square)), 0.0)) if below else math.nan
    return float(found[-1]), sigma
