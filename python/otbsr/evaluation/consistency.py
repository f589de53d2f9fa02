"""Whether the image agrees with the input: what the sensor would see of it and where, and how alike its bands are (D-lambda)."""

from __future__ import annotations

import math

import numpy as np

from otbsr.evaluation.measures import (
    BOX,
    FLAT,
    STRIP,
    Score,
    Sums,
    box_sums,
    correlate,
    finite,
    moments,
    picked,
    ratio,
    score,
    universal_index,
    whole,
)
from otbsr.evaluation.quality import angles
from otbsr.evaluation.windows import TILE, Block, Mask, Plane, Scene

SAMPLE = 144
"""Tiles that the displacement is read from; larger images give a lattice of theirs."""
AROUND = 3
"""Half input pixels on each side among which the input's place in the image is looked for."""
FURTHEST = 1.5
"""Input pixels of displacement along an axis beyond which it is not told."""
LEAST = 4
"""Pixels for each unknown below which it is not told."""
LIKE = 0.5
"""Share of the input's variance that must be explained for it to be told."""
RIDGE = 1e-9
"""Of the mean power, added to that of each place, so that places that see nearly the same share what they explain."""


class Consistency:
    """RMSE, bias and spectral angle of the image, seen by the input's sensor, against the input."""

    def __init__(self, bands: int, factor: int, kernels: dict[int, Plane]) -> None:
        self.bands, self.kernels = bands, kernels
        self.reach = max((taps.size for taps in kernels.values()), default=0)
        self.margin = max(((taps.size - factor) // 2 for taps in kernels.values()), default=0)

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
        used: Mask = block.coarse_core(block.coarse_own)
        if not block.image_valid.all():
            used = used & (observed(block, (~block.image_valid).astype(np.float64), np.ones(self.reach)) < 0.5)
        seen = np.stack([observed(block, block.image[i], taps) for i, taps in self.kernels.items()])
        return seen - block.coarse_core(block.coarse)[list(self.kernels)], used

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
    return correlate(block.core(plane, (taps.size - block.factor) // 2), taps, block.factor)


class Displacement:
    """How far things in the image lie off their place in the input, through the sensor: rows, columns and length in input pixels.

    The sensor looks at the image from places half an input pixel apart (rounded to fine pixels), close enough that nothing is aliased, and
    the input is fitted by what it sees there: least squares with a constant for each tile. First with a weight for each place, whose
    centre is near the displacement, as a filter's delay at frequency 0 is its centre; then with the weights of polynomial interpolation at
    one place, a gain, and that place's change (Gauss-Newton), so that noise has two unknowns to spoil and not 49. Over tiles of 16 input
    pixels that count wholly; images of more than `SAMPLE` of them give a lattice of theirs, which does not depend on the window. All bands
    together count alike, each over the variance of its input.
    """

    def __init__(self, scene: Scene, kernels: dict[int, Plane]) -> None:
        self.bands, self.factor, self.kernels = len(scene.image.bands), scene.factor, kernels
        self.places = np.floor(np.arange(-AROUND, AROUND + 1) * scene.factor / 2 + 0.5).astype(int)  # fine pixels
        self.step = 1 if scene.factor % 2 else scene.factor // 2  # divides them and the factor
        self.edge = -(-int(self.places[-1]) // scene.factor)  # input pixels of a tile that are left out on each side
        self.side = TILE - 2 * self.edge
        self.margin = max(((taps.size - scene.factor) // 2 for taps in kernels.values()), default=0)
        self.border = scene.border // scene.factor
        grid = scene.image.grid
        tiles = [(size - 2 * scene.border) // (scene.factor * TILE) for size in (grid.height, grid.width)]
        self.every = max(1, math.ceil(math.sqrt(tiles[0] * tiles[1] / SAMPLE)))

    def sums(self, block: Block) -> Sums:
        """Number of pixels; by band: products of what is seen from each place, and the input last, with one another [n + 1, n + 1]."""
        assert block.coarse is not None and block.coarse_own is not None
        number, found = 0, np.zeros((self.bands, self.places.size**2 + 1, self.places.size**2 + 1))
        first = [at // block.factor - self.border for at in (block.row, block.column)]
        own, coarse = block.coarse_core(block.coarse_own), block.coarse_core(block.coarse)
        for top in range(0, block.height // block.factor - TILE + 1, TILE):
            for left in range(0, block.width // block.factor - TILE + 1, TILE):
                if any((begin + at) // TILE % self.every for begin, at in zip(first, (top, left), strict=True)):
                    continue
                inside, around = self.cut(top, left, coarse=True), self.cut(top, left, coarse=False, more=block.margin)
                if not own[inside].all() or not block.image_valid[around].all():
                    continue
                number += self.side**2
                for band, taps in self.kernels.items():
                    rows = np.concatenate([self.seen(block.image[band][around], taps), coarse[band][inside].reshape(1, -1)])
                    level = rows.mean(1, keepdims=True)
                    rows -= level
                    rows[np.mean(rows * rows, 1) <= FLAT * level[:, 0] ** 2] = 0.0
                    found[band] += rows @ rows.T
        return np.array(float(number)), found

    def cut(self, top: int, left: int, coarse: bool, more: int = 0) -> tuple[slice, slice]:
        """A tile's inner input pixels, or all of its fine pixels with the margin in an array that begins `more` pixels before the block."""
        if coarse:
            return slice(top + self.edge, top + TILE - self.edge), slice(left + self.edge, left + TILE - self.edge)
        rows, columns = (slice(more + at * self.factor - self.margin, more + (at + TILE) * self.factor + self.margin) for at in (top, left))
        return rows, columns

    def seen(self, plane: Plane, taps: Plane) -> Plane:
        """What the sensor sees of a tile's inner pixels from each place: [places, pixels]."""
        away = self.margin - (taps.size - self.factor) // 2 + self.edge * self.factor + int(self.places[0])
        size = (self.side - 1) * self.factor + int(np.ptp(self.places)) + taps.size
        dense = correlate(plane[away : away + size, away : away + size], taps, self.step)
        jump, begins = self.factor // self.step, (self.places - self.places[0]) // self.step
        reach = (self.side - 1) * jump + 1
        squares = np.lib.stride_tricks.sliding_window_view(dense, (reach, reach))[begins][:, begins, ::jump, ::jump]
        return squares.reshape(begins.size**2, -1)

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, products = total
        found = np.full((2, self.bands), np.nan)
        pooled = np.zeros(products.shape[1:])
        for band in self.kernels:
            found[:, band] = self.place(float(number), products[band])
            if products[band, -1, -1] > 0:
                pooled += products[band] / products[band, -1, -1]
        over = self.place(float(number), pooled)
        parts = {"": np.hypot(*found), "_rows": found[0], "_columns": found[1]}
        every = {"": math.hypot(*over), "_rows": over[0], "_columns": over[1]}
        return {f"consistency_shift{name}": score(values, "input pixels", every[name]) for name, values in parts.items()}

    def place(self, number: float, products: Plane) -> tuple[float, float]:
        """(rows, columns) of displacement from sums of products; NaN where they do not tell it."""
        unknown, variance = len(products) - 1, products[-1, -1]
        if number < LEAST * unknown or variance <= 0 or not np.trace(products[:-1, :-1]) > 0:
            return math.nan, math.nan
        level = np.trace(products[:-1, :-1]) / unknown
        gram, right = products[:-1, :-1], products[:-1, -1]
        weights = np.linalg.solve(gram + RIDGE * level * np.eye(unknown), right)
        if weights @ right < LIKE * variance or weights.sum() <= 0:
            return math.nan, math.nan
        away = self.places / self.factor
        grid = weights.reshape(away.size, -1)
        place = np.array([grid.sum(axis) @ away / weights.sum() for axis in (1, 0)])
        for _ in range(8):
            (rows, down), (columns, across) = (lagrange(away, at) for at in np.clip(place, away[0], away[-1]))
            basis = np.stack([np.outer(*pair).ravel() for pair in ((rows, columns), (down, columns), (rows, across))])
            gain, *change = np.linalg.lstsq(basis @ gram @ basis.T, basis @ right, rcond=None)[0]
            if gain <= 0:
                return math.nan, math.nan
            step = np.clip(np.array(change) / gain, -0.25, 0.25)
            place = place + step
            if np.abs(step).max() < 1e-6:
                break
        return (float(place[0]), float(place[1])) if np.abs(place).max() <= FURTHEST else (math.nan, math.nan)


def lagrange(places: Plane, at: float) -> tuple[Plane, Plane]:
    """Weights of values at `places` in the polynomial through them at another place, and the weights' slopes."""
    weights, slopes = np.ones((2, places.size))
    for i, own in enumerate(places):
        others = np.delete(places, i)
        parts = (at - others) / (own - others)
        weights[i] = parts.prod()
        slopes[i] = sum(np.delete(parts, k).prod() / (own - other) for k, other in enumerate(others))
    return weights, slopes


class SpectralDistortion:
    """D-lambda (Alparone et al. 2008, exponent 1): mean over pairs of bands of |Q in the image - Q in the input|, Q over 8 x 8 windows of each."""

    def __init__(self, bands: int, factor: int) -> None:
        self.margin = (BOX - 1) * factor
        self.pairs = [(i, j) for i in range(bands) for j in range(i + 1, bands)]

    def sums(self, block: Block) -> Sums:
        """Number of windows [image, input], and sum of Q by pair."""
        assert block.coarse is not None and block.coarse_own is not None
        fine = self.indices(block.core(block.image, after=BOX - 1), block.core(block.own, after=BOX - 1))
        coarse = self.indices(block.coarse_core(block.coarse, after=BOX - 1), block.coarse_core(block.coarse_own, after=BOX - 1))
        return np.array([fine[0], coarse[0]]), np.stack([fine[1], coarse[1]])

    def indices(self, planes: Plane, mask: Mask) -> tuple[float, Plane]:
        """(number of windows, sum of Q over them by pair)."""
        kept, found = whole(mask, BOX), np.zeros(len(self.pairs))
        for top in range(0, kept.shape[0], STRIP):
            chosen = kept[top : top + STRIP]
            if not chosen.any():
                continue
            strip = planes[:, top : top + STRIP + BOX - 1]
            alone = [picked(np.stack([box_sums(plane), box_sums(plane * plane)]), chosen) for plane in strip]
            for number, (i, j) in enumerate(self.pairs):
                product = picked(box_sums(strip[i] * strip[j])[None], chosen)
                found[number] += universal_index(*moments(alone[i], [*alone[j], product[0]], BOX * BOX)).sum()
        return float(kept.sum()), found

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, sums = total
        if not self.pairs:
            return {"d_lambda": Score(None)}
        found = ratio(sums, number[:, None])
        return {"d_lambda": Score(finite(float(np.mean(np.abs(found[0] - found[1])))))}
