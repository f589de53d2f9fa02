"""The noise of an image, estimated from itself."""

from __future__ import annotations

import numpy as np

from otbsr.evaluation.measures import STRIP, Score, Sums, picked, score, whole
from otbsr.evaluation.windows import Block


class Noise:
    """Standard deviation of white noise: the difference of two Laplacians (Immerkaer 1996), which is blind to planes, by its median.

    The median of |response| over 0.6745 is the deviation of a Gaussian, whatever edges there are. Texture of one pixel counts as noise;
    noise that a filter made smooth does not. Responses are counted in bins at most 1 / 128 wide, relatively: the upper 16 bits of a
    32-bit float, which need no logarithm.
    """

    LOW, HIGH = (int(np.float32(value).view(np.int32) >> 16) for value in (1e-9, 64.0))
    margin = 1

    def __init__(self, bands: int, coarse: bool, factor: int = 1) -> None:
        self.bands, self.coarse = bands, coarse
        if coarse:
            self.margin = factor

    def sums(self, block: Block) -> Sums:
        """Histogram of the logarithm of |response|, by band."""
        if self.coarse:
            assert block.coarse is not None and block.coarse_own is not None
            planes, mask = block.coarse_core(block.coarse, 1), block.coarse_core(block.coarse_own, 1)
        else:
            planes, mask = block.core(block.image, 1), block.core(block.own, 1)
        kept = whole(mask, 3)
        counts = np.zeros((self.bands, self.HIGH - self.LOW + 1))
        for index, plane in enumerate(planes):
            for top in range(0, kept.shape[0], STRIP):
                some = plane[top : top + STRIP + 2]
                lines = some[:-2] + some[2:]
                lines -= 2 * some[1:-1]
                response = lines[:, :-2] + lines[:, 2:]
                response -= 2 * lines[:, 1:-1]
                np.abs(response, out=response)
                response *= 1 / 6
                place = picked(response[None], kept[top : top + STRIP])[0].astype(np.float32).view(np.int32) >> 16
                counts[index] += np.bincount(np.clip(place, self.LOW, self.HIGH) - self.LOW, minlength=counts.shape[1])
        return (counts,)

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        found = np.full(self.bands, np.nan)
        for index, counts in enumerate(total[0]):
            below = np.cumsum(counts)
            if below[-1]:
                place = int(np.searchsorted(below, below[-1] / 2))
                share = (below[-1] / 2 - (below[place - 1] if place else 0)) / counts[place]
                low, high = (np.int32((self.LOW + place + k) << 16).view(np.float32) for k in (0, 1))
                found[index] = (float(low) + share * (float(high) - float(low))) / 0.674490 if place else 0.0
        return {"noise_input" if self.coarse else "noise": score(found, "reflectance")}
