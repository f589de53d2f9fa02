"""Whether the image agrees with the input: what the sensor would see of it, and how alike its bands are (D-lambda)."""

from __future__ import annotations

import math

import numpy as np

from otbsr.evaluation.measures import (
    BOX,
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
from otbsr.evaluation.windows import Block, Mask, Plane


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
