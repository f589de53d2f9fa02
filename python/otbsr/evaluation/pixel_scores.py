"""Scores of single pixels against the reference: PSNR, RMSE, bias, spectral angle, ERGAS, correlation, UQI over the whole image."""

from __future__ import annotations

import math

import numpy as np

from otbsr.evaluation.measures import Score, Sums, decibels, finite, moments, picked, ratio, score, universal_index
from otbsr.evaluation.windows import Block, Plane

CHUNK = 1 << 14
"""Pixels that are worked on at a time, so that all bands of them stay in the processor's cache."""


class Pixels:
    """PSNR, RMSE, bias, ERGAS, correlation, UQI over the whole image, SAM."""

    margin = 0

    def __init__(self, bands: int, factor: int) -> None:
        self.bands, self.factor = bands, factor

    def sums(self, block: Block) -> Sums:
        """Number of pixels; by band, with e = y - x: e, e^2, x, x^2, x e; angles of the pixels whose spectra have one, and their number.

        In these the scores of nearly equal images keep their digits, which sums of y lose.
        """
        assert block.seen is not None
        kept, seen, image = block.core(block.common), block.core(block.seen), block.core(block.image)
        number, sums, angle = 0, np.zeros((5, self.bands)), 0.0
        some = max(1, CHUNK // block.width)
        for top in range(0, block.height, some):
            rows = slice(top, top + some)
            x, y = seen[:, rows], image[:, rows]
            if not kept[rows].all():
                x, y = (picked(planes, kept[rows])[:, None] for planes in (x, y))
            e = y - x
            number += x[0].size
            for index, (one, other) in enumerate(((e, None), (e, e), (x, None), (x, x), (x, e))):
                sums[index] += one.sum((1, 2)) if other is None else np.einsum("bij,bij->b", one, other)
            if self.bands > 1:
                angle += float(turned(x, e).sum())
        return np.array(float(number)), sums, np.array([angle, number if self.bands > 1 else 0.0])

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, (error, square, x, xx, xe), angle = total
        mean_square = ratio(square, number)
        mx, my, vx, vy, cov = moments(np.stack([x, xx]), np.stack([x + error, xx + 2 * xe + square, xx + xe]), number)
        relative = math.sqrt(float(np.mean(ratio(mean_square, mx * mx))))
        return {
            "psnr": score(decibels(mean_square), "dB"),
            "rmse": score(np.sqrt(mean_square), "reflectance", math.sqrt(float(np.mean(mean_square)))),
            "bias": score(ratio(error, number), "reflectance"),
            "sam": Score(finite(float(ratio(angle[0], angle[1]))), None, "degrees"),
            "ergas": Score(finite(100 / self.factor * relative) if self.factor > 1 else None),
            "uqi_global": score(universal_index(mx, my, vx, vy, cov)),
            "correlation": score(ratio(cov, np.sqrt(vx * vy))),
        }


def turned(x: Plane, e: Plane) -> Plane:
    """`quality.angles` between the spectra x and x + e, [bands, rows, columns]: arctangent of |x cross e| over x . (x + e), degrees.

    |x cross e|^2 = |x|^2 |e|^2 - (x . e)^2 (Lagrange) keeps the digits of small angles as long as e is not along x, where what is lost
    is 1e-6 of the change of brightness.
    """
    xx, xe, ee = (np.einsum("bij,bij->ij", one, other) for one, other in ((x, x), (x, e), (e, e)))
    dot = xx + xe
    xx *= ee
    xe *= xe
    xx -= xe
    np.maximum(xx, 0.0, out=xx)
    np.sqrt(xx, out=xx)
    if dot.size and dot.min() > 0:
        xx /= dot
        angle = np.arctan(xx, out=xx)
    else:
        angle = np.arctan2(xx, dot)
        angle[(x == 0).all(0) != (x + e == 0).all(0)] = np.pi / 2
    angle *= 180 / np.pi
    return angle
