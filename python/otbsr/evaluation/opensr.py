"""The scores of opensr-test (Aybar et al. 2024): consistency, synthesis, improvement, omission and hallucination, as its version 1.3.3 has them.

Images are float arrays [rows, columns, bands] in reflectance. opensr-test scores one small image (its own have up to 512 pixels on a side):
histograms, displacement and threshold are those of the whole image. Larger images are scored by tiles of at most `SIDE` pixels on the
image's own grid, whatever the window, each as if it were one of opensr-test's, and the tiles' scores averaged by their pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from otbsr.evaluation.measures import Score, Sums, finite
from otbsr.evaluation.windows import Array, Block, Mask, Place, Plane, Scene

SIDE = 512
"""Longest side of a tile, fine pixels."""
FULL = 0.5
"""Share of a tile that must hold data for it to count."""
REACH = 5.0
"""Pixels of displacement beyond which opensr-test takes phase correlation to have failed."""
SHARPNESS = 0.05
"""opensr-test's gamma of improvement, omission and hallucination."""
TEMPERATURE = 0.25
"""Of the softmin of the three."""
NAMES = ("improvement", "omission", "hallucination")


# --- resampling -----------------------------------------------------------------------------------------------------------------


def bilinear(coarse: Array, factor: int) -> Plane:
    """The coarse image on the nested fine grid by linear interpolation between pixel centres; beyond the last centre, its value."""
    result = coarse.astype(np.float64)
    for axis in (0, 1):
        size = result.shape[axis]
        place = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
        low = np.minimum(place.astype(int), max(size - 2, 0))
        share = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        result = np.take(result, low, axis) * (1 - share) + np.take(result, np.minimum(low + 1, size - 1), axis) * share
    return result


def reduced(fine: Array, factor: int) -> Plane:
    """The fine image on the grid `factor` times coarser through a triangle of 2 factor pixels ("bilinear with antialiasing"), cut at the edges."""
    result = fine.astype(np.float64)
    for axis in (0, 1):
        size = result.shape[axis]
        away = (np.arange(size) + 0.5)[None, :] - factor * (np.arange(size // factor) + 0.5)[:, None]
        weights = np.maximum(1 - np.abs(away) / factor, 0)
        result = np.moveaxis(np.tensordot(weights / weights.sum(1, keepdims=True), result, (1, axis)), 0, axis)
    return result


def matched(image: Array, reference: Array) -> Plane:
    """`image` with each band's histogram changed into the reference's: equal ranks get equal values."""
    result = np.empty(image.shape, np.float64)
    for band in range(image.shape[2]):
        _, where, counts = np.unique(image[..., band], return_inverse=True, return_counts=True)
        values, numbers = np.unique(reference[..., band], return_counts=True)
        ranks, wanted = np.cumsum(counts) / image[..., band].size, np.cumsum(numbers) / reference[..., band].size
        result[..., band] = np.interp(ranks, wanted, values)[where].reshape(image.shape[:2])
    return result


def displacement(moving: Array, fixed: Array) -> tuple[float, float] | None:
    """(rows, columns) that bring `moving` onto `fixed`, by phase correlation of their means over the bands to 1/50 pixel; None beyond `REACH`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shift, _, _ = phase_cross_correlation(fixed.mean(2), moving.mean(2), upsample_factor=50)
    return (float(shift[0]), float(shift[1])) if math.hypot(*shift) <= REACH else None


# --- distances of a pixel -------------------------------------------------------------------------------------------------------


def normalised_difference(first: Plane, second: Plane) -> Plane:
    """opensr-test's distance ND of each pixel, mean over the bands of |x - y| / |x + y + 1e-8|."""
    distance: Plane = np.mean(np.abs(first - second) / np.abs(first + second + 1e-8), axis=-1)
    return distance


def absolute(first: Plane, second: Plane) -> Plane:
    """opensr-test's L1 of each pixel, mean over the bands of |x - y|."""
    distance: Plane = np.mean(np.abs(first - second), axis=-1)
    return distance


def squared(first: Plane, second: Plane) -> Plane:
    """opensr-test's L2 of each pixel, mean over the bands of (x - y)^2."""
    distance: Plane = np.mean((first - second) ** 2, axis=-1)
    return distance


def gradient(first: Plane, second: Plane) -> Plane:
    """Mean over the bands of the length of the difference of gradients (Sobel, reflectance a pixel); ours: opensr-test 1.3.3 has none by that name."""
    lengths = []
    for plane in np.moveaxis(first - second, -1, 0):
        lengths.append(np.hypot(*(ndimage.sobel(plane, axis, mode="nearest") / 8 for axis in (0, 1))))
    distance: Plane = np.mean(lengths, axis=0)
    return distance


DISTANCES: dict[str, Callable[[Plane, Plane], Plane]] = {"nd": normalised_difference, "l1": absolute, "l2": squared, "gradient": gradient}


def spectral_angle(first: Plane, second: Plane) -> Plane:
    """Angle in degrees between the spectra of each pixel, NaN where one of them is 0, as opensr-test has it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.sum(first * second, -1) / (np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1))
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


# --- scores of a tile -----------------------------------------------------------------------------------------------------------


def correctness(base: Plane, image: Plane, reference: Plane, distance: str = "nd", used: Mask | None = None) -> dict[str, float]:
    """opensr-test's improvement, omission and hallucination: three shares that sum to 1.

    base: the input on the fine grid; image: the super-resolved image, harmonised to the reference. Distances of a pixel: d_ref from base to
    reference, d_im from image to reference, d_om from image to base. Pixels count where one of them exceeds the 75th percentile of d_ref.
    With d_im and d_om over d_ref, H = d_im + d_om - 1 and g = 0.05: improvement d_im + d_om (1 - exp(-g H)), omission
    d_om + d_im (1 - exp(-g H)), hallucination exp(-g d_im d_om); each pixel's three go through a softmin of temperature 0.25, and their mean
    is given; NaN when no pixel counts. used: pixels that may count, all by default.
    """
    d_ref, d_im, d_om = (DISTANCES[distance](*pair) for pair in ((base, reference), (image, reference), (image, base)))
    if used is not None:
        d_ref, d_im, d_om = d_ref[used], d_im[used], d_om[used]
    place = int(0.75 * d_ref.size) - 1
    threshold = np.partition(d_ref, place, axis=None)[place] if place >= 0 else np.inf
    kept = (d_ref > threshold) | (d_im > threshold) | (d_om > threshold)
    if not kept.any():
        return dict.fromkeys(NAMES, math.nan)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        im, om = d_im[kept] / d_ref[kept], d_om[kept] / d_ref[kept]
        rest = 1 - np.exp(-SHARPNESS * (im + om - 1))
        scores = np.stack([im + om * rest, om + im * rest, np.exp(-SHARPNESS * im * om)])
        weights = np.exp(-(scores - scores.min(0)) / TEMPERATURE)
        shares = np.nanmean(weights / weights.sum(0), axis=1)
    return dict(zip(NAMES, map(float, shares), strict=True))


def harmonised(image: Plane, reference: Plane, used: Mask) -> tuple[Plane, Mask]:
    """(image with the reference's histograms, moved onto it by phase correlation; where what was moved there may count)."""
    result = image.copy()
    result[used] = matched(image[used][:, None], reference[used][:, None])[:, 0]
    shift = displacement(filled(result, used), filled(reference, used))
    if shift is None:
        return result, used
    moved = np.stack([ndimage.shift(result[..., band], shift, order=1, mode="nearest") for band in range(image.shape[2])], -1)
    held = ndimage.shift(used.astype(np.float64), shift, order=1, mode="nearest") > 1 - 1e-9
    return moved, used & held


def filled(image: Plane, used: Mask) -> Plane:
    """The image with each band's mean where a pixel is not used."""
    if used.all():
        return image
    result = image.copy()
    result[~used] = image[used].mean(0)
    return result


def scores(image: Array, reference: Array | None, coarse: Array, factor: int, used: Mask | None = None) -> dict[str, float]:
    """opensr-test's scores of one image without borders; keys as in `UNITS`, those of the reference only where there is one.

    image, reference: [rows, columns, bands]; coarse: the input, rows and columns over `factor`. used: pixels that may count, on the fine grid.
    The three shares are told for ND (no suffix), and for L1 and the gradient ("improvement_l1").
    """
    used = np.ones(image.shape[:2], bool) if used is None else used
    found = against_input(image, coarse, factor, used)
    return found if reference is None else found | against_reference(image, reference, coarse, factor, used)


def against_input(image: Array, coarse: Array, factor: int, used: Mask) -> dict[str, float]:
    """Reflectance, spectral and spatial consistency."""
    low, kept = reduced(filled(image.astype(np.float64), used), factor), on_coarse(used, factor)
    coarse = coarse.astype(np.float64)
    shift = displacement(filled(coarse, kept)[..., :3], low[..., :3])
    return {
        "reflectance": float(absolute(coarse, low)[kept].mean()),
        "spectral": float(np.nanmean(spectral_angle(coarse, low)[kept])) if image.shape[2] > 1 else math.nan,
        "spatial": math.hypot(*shift) if shift else math.nan,
    }


def against_reference(image: Array, reference: Array, coarse: Array, factor: int, used: Mask) -> dict[str, float]:
    """Synthesis, and improvement, omission and hallucination by three distances."""
    image, reference = image.astype(np.float64), reference.astype(np.float64)
    base = bilinear(filled(coarse.astype(np.float64), on_coarse(used, factor)), factor)
    moved, held = harmonised(image, reference, used)
    found = {"synthesis": float(absolute(base, moved)[held].mean())}
    for suffix, distance in (("", "nd"), ("_l1", "l1"), ("_gradient", "gradient")):
        inner = held if distance != "gradient" or held.all() else ndimage.binary_erosion(held, np.ones((3, 3)), border_value=1)
        found |= {name + suffix: value for name, value in correctness(base, moved, reference, distance, inner).items()}
    return found


def on_coarse(used: Mask, factor: int) -> Mask:
    """Input pixels of which every fine pixel is used."""
    rows, columns = (size // factor for size in used.shape)
    kept: Mask = np.asarray(used.reshape(rows, factor, columns, factor).all((1, 3)))
    return kept


UNITS = {"reflectance": "reflectance", "spectral": "degrees", "spatial": "input pixels", "synthesis": "reflectance"}


class OpenSR:
    """opensr-test's scores as sums over tiles; a block given to it is a tile. corrected: only those that change when image and input are corrected."""

    margin = 0

    def __init__(self, factor: int, reference: bool, corrected: bool = False) -> None:
        shares = [name + suffix for suffix in ("", "_l1", "_gradient") for name in NAMES]
        self.factor, self.input, self.reference = factor, not corrected, reference
        self.names = [*([] if corrected else list(UNITS)[:3]), *(["synthesis", *shares] if reference else [])]

    def tiles(self, scene: Scene) -> list[Place]:
        """The tiles within the border: as few as can be of at most `SIDE` pixels, as alike as can be, nested in the input."""
        edges = []
        for size in (scene.image.grid.height, scene.image.grid.width):
            length = size - 2 * scene.border
            number = -(-length // SIDE)
            edges.append([scene.border + round(i * length / self.factor / number) * self.factor for i in range(number)] + [size - scene.border])
        rows, columns = edges
        return [(top, left, bottom - top, right - left) for top, bottom in itertools.pairwise(rows) for left, right in itertools.pairwise(columns)]

    def sums(self, block: Block) -> Sums:
        """By score: pixels of the tile, and the score times them; nothing where less than half of the tile holds data."""
        assert block.coarse is not None
        used, total = block.common, np.zeros((2, len(self.names)))
        if used.mean() < FULL:
            return (total,)
        image, coarse = np.moveaxis(block.image, 0, -1), np.moveaxis(block.coarse, 0, -1)
        found = against_input(image, coarse, self.factor, used) if self.input else {}
        if self.reference:
            assert block.seen is not None
            found |= against_reference(image, np.moveaxis(block.seen, 0, -1), coarse, self.factor, used)
        values = np.array([found[name] for name in self.names])
        known = np.isfinite(values)
        return (np.stack([known * float(used.sum()), np.where(known, values, 0.0) * used.sum()]),)

    def scores(self, total: Sums) -> dict[str, Score]:
        """The scores of all tiles together."""
        weight, value = total[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = value / weight
        return {f"opensr_{name}": Score(finite(float(mean)), None, UNITS.get(name, "")) for name, mean in zip(self.names, means, strict=True)}
