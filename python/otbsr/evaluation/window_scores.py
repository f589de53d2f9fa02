"""Scores of neighbourhoods against the reference: SSIM, UQI, spatial correlation, and PSNR at the best whole-pixel displacement."""

from __future__ import annotations

import numpy as np
from scipy import fft

from otbsr.evaluation.measures import BOX, STRIP, Score, Sums, box_sums, correlate, decibels, moments, picked, ratio, score, universal_index, whole
from otbsr.evaluation.windows import Array, Block, Mask, Plane

MAX_SHIFT = 8
"""Fine pixels on each side that cPSNR looks for the best place within."""


class Detail:
    """Spatial correlation (Zhou et al. 1998): correlation of what a 3 x 3 Laplacian leaves of image and reference."""

    margin = 1

    def sums(self, block: Block) -> Sums:
        """Number of pixels whose 3 x 3 count; by band: x, x^2, y, y^2, xy."""
        assert block.seen is not None
        kept = whole(block.core(block.common, 1), 3)
        found = np.zeros((5, len(block.image)))
        for band, planes in enumerate(zip(block.core(block.seen, 1), block.core(block.image, 1), strict=True)):
            for top in range(0, block.height, STRIP):
                x, y = (picked(laplacian(plane[None, top : top + STRIP + 2]), kept[top : top + STRIP])[0] for plane in planes)
                found[:, band] += x.sum(), np.dot(x, x), y.sum(), np.dot(y, y), np.dot(x, y)
        return np.array(float(kept.sum())), found

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, sums = total
        _, _, vx, vy, cov = moments(sums[:2], sums[2:], number)
        return {"spatial_correlation": score(ratio(cov, np.sqrt(vx * vy)))}


def laplacian(planes: Plane) -> Plane:
    """8 times the pixel less its neighbours, without the outer pixels."""
    lines = planes[:, :-2] + planes[:, 1:-1]
    lines += planes[:, 2:]
    sums = lines[..., :-2] + lines[..., 1:-1]
    sums += lines[..., 2:]
    result = 9 * planes[:, 1:-1, 1:-1]
    result -= sums
    return result


class Boxes:
    """UQI as Wang and Bovik (2002) define it: mean of Q over all 8 x 8 windows, one a pixel."""

    margin = BOX - 1

    def sums(self, block: Block) -> Sums:
        """Number of windows; by band: sum of Q."""
        assert block.seen is not None
        kept = whole(block.core(block.common, after=BOX - 1), BOX)
        found = np.zeros(len(block.image))
        for band, planes in enumerate(zip(block.core(block.seen, after=BOX - 1), block.core(block.image, after=BOX - 1), strict=True)):
            for top in range(0, block.height, STRIP):
                x, y = (plane[top : top + STRIP + BOX - 1] for plane in planes)
                sums = [box_sums(one) for one in (x, x * x, y, y * y, x * y)]
                found[band] += chosen_sum(universal_index(*moments(sums[:2], sums[2:], BOX * BOX)), kept[top : top + STRIP])
        return np.array(float(kept.sum())), found

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        return {"uqi": score(ratio(total[1], total[0]))}


def chosen_sum(values: Plane, kept: Mask) -> float:
    """Sum of the values that are kept."""
    return float((values if kept.all() else values[kept]).sum())


class Structure:
    """SSIM (Wang et al. 2004): 11 x 11 Gaussian of 1.5 pixels, K1 0.01, K2 0.03, peak 1; mean over pixels whose 11 x 11 count."""

    RADIUS = 5
    margin = RADIUS

    def sums(self, block: Block) -> Sums:
        """Number of pixels; by band: sum of SSIM."""
        assert block.seen is not None
        kept = whole(block.core(block.common, self.RADIUS), 2 * self.RADIUS + 1)
        found = np.zeros(len(block.image))
        for band, planes in enumerate(zip(block.core(block.seen, self.RADIUS), block.core(block.image, self.RADIUS), strict=True)):
            for top in range(0, block.height, STRIP):
                rows = slice(top, top + STRIP + 2 * self.RADIUS)
                found[band] += chosen_sum(similarity(planes[0][rows], planes[1][rows]), kept[top : top + STRIP])
        return np.array(float(kept.sum())), found

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        return {"ssim": score(ratio(total[1], total[0]))}


def similarity(x: Plane, y: Plane) -> Plane:
    """SSIM of each pixel whose 11 x 11 neighbours are there, of two planes with peak 1."""
    radius = Structure.RADIUS
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 1.5) ** 2)
    taps /= taps.sum()
    squares = x * x
    squares += y * y
    mx, my, variances, cov = (correlate(plane, taps) for plane in (x, y, squares, x * y))
    product, levels = mx * my, mx * mx
    levels += my * my
    variances -= levels
    cov -= product
    # (2 product + C1) (2 cov + C2) / ((levels + C1) (variances + C2)), C1 = 0.01^2, C2 = 0.03^2
    for plane, factor, constant in ((product, 2, 1e-4), (cov, 2, 9e-4), (levels, 1, 1e-4), (variances, 1, 9e-4)):
        plane *= factor
        plane += constant
    product *= cov
    levels *= variances
    product /= levels
    return product


class Shifted:
    """cPSNR: the best PSNR over displacements of the reference by whole pixels, each band's mean error taken away.

    Of the displacements up to `MAX_SHIFT` on each axis the one with the best mean over the bands is taken for all of them. Every sum
    is a correlation, so that Fourier transforms give all displacements at once; above 130 dB their rounding shows.
    """

    SIDE = 2 * MAX_SHIFT + 1
    margin = MAX_SHIFT

    def sums(self, block: Block) -> Sums:
        """By displacement: number of pixels [s, s]; error and its square, by band [bands, s, s]."""
        assert block.seen is not None and block.seen_valid is not None
        inner, outer = block.core(block.own), block.core(block.seen_valid, MAX_SHIFT)
        image, seen = block.core(block.image), block.core(block.seen, MAX_SHIFT)
        size = [fft.next_fast_len(n, real=True) for n in outer.shape]
        everywhere = bool(inner.all() and outer.all())
        masks = [] if everywhere else [np.asarray(fft.rfft2(outer.astype(np.float64), size)), np.conj(fft.rfft2(inner.astype(np.float64), size))]
        number = np.full((self.SIDE, self.SIDE), float(inner.size)) if everywhere else np.rint(self.lags(masks[1] * masks[0], size))
        error, square = np.empty((2, len(image), self.SIDE, self.SIDE))
        both = inner & block.core(block.seen_valid)
        for band in range(len(image)):
            level = image[band].mean() if everywhere else image[band][inner].mean() if inner.any() else 0.0  # near 0, rounding is small
            x, y = seen[band] - level, image[band] - level
            if everywhere:
                found = self.everywhere(x, y, size)
            else:
                x[~outer], y[~inner] = 0.0, 0.0
                found = self.masked(x, y, masks, size)
            error[band], square[band] = found
            here = y - x[MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT]
            if not everywhere:
                here[~both] = 0.0
            error[band, MAX_SHIFT, MAX_SHIFT], square[band, MAX_SHIFT, MAX_SHIFT] = here.sum(), np.einsum("ij,ij", here, here)
        return number, error, square

    def lags(self, product: Array, size: list[int]) -> Plane:
        """The displacements' part of a correlation, from its spectrum."""
        return np.asarray(fft.irfft2(product, size)[: self.SIDE, : self.SIDE])

    def everywhere(self, x: Plane, y: Plane, size: list[int]) -> tuple[Plane, Plane]:
        """(error, its square) by displacement where every pixel counts: only the product of the two needs a correlation."""
        fy = np.conj(fft.rfft2(y, size))
        fy *= fft.rfft2(x, size)
        square = float(np.einsum("ij,ij", y, y)) + self.sliding(x * x, y.shape) - 2 * self.lags(fy, size)
        return y.sum() - self.sliding(x, y.shape), square

    def sliding(self, plane: Plane, shape: tuple[int, ...]) -> Plane:
        """Sums over `shape` pixels from each displacement on."""
        lines = np.stack([plane[u : u + shape[0]].sum(0) for u in range(self.SIDE)])
        return np.stack([lines[:, v : v + shape[1]].sum(1) for v in range(self.SIDE)], 1)

    def masked(self, x: Plane, y: Plane, masks: list[Array], size: list[int]) -> tuple[Plane, Plane]:
        """The same where some pixels do not count; they are 0 in x and y."""
        outer, inner = masks
        fx, fy = np.asarray(fft.rfft2(x, size)), np.conj(fft.rfft2(y, size))
        error = self.lags(fy * outer - inner * fx, size)
        return error, self.lags(inner * fft.rfft2(x * x, size) - 2 * fy * fx + np.conj(fft.rfft2(y * y, size)) * outer, size)

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all blocks together."""
        number, error, square = total
        centre = number[MAX_SHIFT, MAX_SHIFT]
        found = decibels(ratio(square, number) - ratio(error, number) ** 2)
        mean = np.where(number >= centre / 2, found.mean(0), -np.inf)
        if not centre:
            return {"cpsnr": score(np.full(len(error), np.nan), "dB")}
        best = np.unravel_index(np.argmax(mean), mean.shape)
        if not mean[best] > mean[MAX_SHIFT, MAX_SHIFT] + 1e-6:
            best = (np.intp(MAX_SHIFT), np.intp(MAX_SHIFT))
        return {
            "cpsnr": score(found[:, best[0], best[1]], "dB"),
            "cpsnr_rows": Score(float(MAX_SHIFT - best[0]), None, "pixels"),
            "cpsnr_columns": Score(float(MAX_SHIFT - best[1]), None, "pixels"),
        }
