"""Scores of single pixels against the reference: PSNR, RMSE, bias, spectral angle, ERGAS, correlation, UQI over the whole image."""

from __future__ import annotations

import math

import numpy as np

from otbsr.evaluation.measures import Score, Sums, decibels, finite, moments, picked, ratio, score, universal_index
from otbsr.evaluation.quality import angles
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
            x, e = (picked(planes[:, rows], kept[rows]) for planes in (seen, image))
            if not x.size:
                continue
            e = e - x
            number += x.shape[1]
            for index, (one, other) in enumerate(((e, None), (e, e), (x, None), (x, x), (x, e))):
                sums[index] += one.sum(1) if other is None else np.einsum("bn,bn->b", one, other)
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
    """`quality.angles` between the spectra x and x + e, [bands, pixels]: arctangent of |x cross e| over x . (x + e), degrees.

    The length of the cross product by Lagrange's identity, a term a pair of bands; its digits do not suffer from small angles.
    """
    if len(x) > 6:
        return angles(x.T, (x + e).T)
    cross, dot = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    one, two = np.empty_like(dot), np.empty_like(dot)
    for i in range(len(x)):
        np.add(x[i], e[i], out=one)
        one *= x[i]
        dot += one
        for j in range(i + 1, len(x)):
            np.multiply(x[i], e[j], out=one)
            np.multiply(x[j], e[i], out=two)
            one -= two
            one *= one
            cross += one
    np.sqrt(cross, out=cross)
    angle = np.arctan2(cross, dot, out=cross)
    if not dot.all():
        angle[(x == 0).all(0) != (x + e == 0).all(0)] = np.pi / 2
    angle *= 180 / np.pi
    return angle
