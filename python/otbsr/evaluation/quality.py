"""How near an image is to the reference, and whether it still agrees with the input it was made from.

Images are float arrays [rows, columns, bands] in reflectance (0 to 1), fine ones on a grid nested in the coarse one with the same corner.
Scores leave out a border on each side: margins of interpolation are no method's merit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from otbsr.errors import InputError
from otbsr.evaluation import opensr
from otbsr.evaluation.opensr import bilinear, matched
from otbsr.evaluation.statistics import Interval, Matrix, difference
from otbsr.evaluation.windows import BANDS
from otbsr.grid import Grid
from otbsr.products.product import SCALE
from otbsr.world.sensors import degrade

Array = NDArray[Any]
Plane = NDArray[np.float64]

BORDER = 16
"""Pixels left out on each side of the fine image."""
COARSE_BORDER = 4
"""Pixels left out on each side of the coarse image."""


def within(image: Array, border: int) -> Plane:
    """The image in float64 without `border` pixels on each side; raises `InputError` when nothing is left."""
    inner: Plane = image[border : image.shape[0] - border, border : image.shape[1] - border].astype(np.float64)
    if inner.size == 0 or min(image.shape[:2]) <= 2 * border:
        raise InputError(f"image of {image.shape[1]} x {image.shape[0]} pixels has nothing within a border of {border}; give a larger one")
    return inner


# --- with a reference -----------------------------------------------------------------------------------------------------------


def psnr(reference: Array, image: Array, border: int = BORDER) -> list[float]:
    """Peak signal-to-noise ratio of each band in dB, 10 log10(1 / MSE), of reflectances [rows, columns, bands] with peak 1."""
    error = within(reference, border) - within(image, border)
    return [10 * math.log10(1 / max(float(mean), 1e-20)) for mean in np.mean(error**2, axis=(0, 1))]


def angles(first: Array, second: Array) -> Plane:
    """Angle in degrees between the two spectra of each pixel, [rows, columns]; 90 where one of them is zero, 0 where both are (Kruse et al. 1993).

    By the arctangent of (sine, cosine), which keeps small angles where the arc cosine of a rounded 1 loses them.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b)]
    a, b = (np.divide(x, length, out=np.zeros_like(x), where=length > 0) for x, length in zip((a, b), lengths, strict=True))
    angle: Plane = np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)))
    return angle


def spectral_angle(reference: Array, image: Array, border: int = BORDER) -> float:
    """Spectral angle mapper (SAM): mean over pixels of `angles`, degrees."""
    return float(angles(within(reference, border), within(image, border)).mean())


def shift(reference: Array, image: Array, factor: int = 4, border: int = BORDER) -> tuple[float, float]:
    """(rows, columns), in pixels, by which things in `image` lie off their place in `reference`: down and right are positive.

    The displacement at which the two correlate best over the frequencies that the input carried (up to 1 / (2 factor) cycles per pixel;
    beyond, phases are what a method made of them), weighted by frequency, summed over the bands, each over its own strength. It is found
    on whole pixels first, then between them by Newton's method on the exact trigonometric sum, where Guizar-Sicairos et al. (2008) have a
    grid of trial shifts; the image's taper moves along with what was found, since a taper that stays draws the answer to 0. What the
    input aliased is in it: some tenths of a pixel on scenes of 50 x 50 pixels, for interpolations without any shift too; the mean
    over scenes tells a method's own.
    """
    a, b = within(reference, border), within(image, border)
    v, u = np.meshgrid(2 * np.pi * np.fft.fftfreq(a.shape[0]), 2 * np.pi * np.fft.fftfreq(a.shape[1]), indexing="ij")
    frequency = np.hypot(u, v)
    weight = np.sqrt(frequency) * (frequency < np.pi / factor)
    structured = [band for band in range(a.shape[2]) if np.ptp(a[..., band]) > 0 and np.ptp(b[..., band]) > 0]
    if not structured:
        return 0.0, 0.0

    def cross_spectrum(place: Plane) -> NDArray[np.complex128]:
        """The spectra of `image`, tapered around `place`, times those of the reference."""
        total = np.zeros(a.shape[:2], np.complex128)
        for band in structured:
            spectra = []
            for plane, by in ((a[..., band], np.zeros(2)), (b[..., band], place)):
                window = np.outer(*(taper(size, move) for size, move in zip(plane.shape, by, strict=True)))
                spectra.append(np.fft.fft2((plane - np.average(plane, weights=window)) * window) * weight)
            total += spectra[1] * np.conj(spectra[0]) / math.sqrt(math.prod(float(np.sum(np.abs(s) ** 2)) for s in spectra))
        return total

    correlation = np.fft.ifft2(cross_spectrum(np.zeros(2))).real
    best = np.unravel_index(np.argmax(correlation), correlation.shape)
    place = np.array([((int(p) + n // 2) % n) - n // 2 for p, n in zip(best, correlation.shape, strict=True)], np.float64)
    for _ in range(12):
        turned = cross_spectrum(place) * np.exp(1j * (v * place[0] + u * place[1]))
        slope = -np.array([np.sum(turned.imag * v), np.sum(turned.imag * u)])
        curvature = -np.array([[np.sum(turned.real * v * v), np.sum(turned.real * v * u)], [np.sum(turned.real * v * u), np.sum(turned.real * u * u)]])
        if np.linalg.eigvalsh(curvature).max() >= 0:
            break  # no summit near: the whole pixel is all that can be said
        step = np.clip(np.linalg.solve(curvature, slope), -0.5, 0.5)
        place -= step
        if np.abs(step).max() < 1e-4:
            break
    return float(place[0]), float(place[1])


def taper(size: int, move: float = 0.0) -> Plane:
    """Weights of `size` pixels: 1 in the middle half, a cosine down to 0 at both ends (Tukey 1967), moved by a fraction of pixels."""
    place = np.clip((np.arange(size) + 0.5 - move) / size, 0, 1)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(4 * np.minimum(place, 1 - place), 0, 1))


def radial_spectrum(plane: Plane) -> tuple[Plane, Plane]:
    """Mean amplitude of the spectrum over rings of one frequency step: (cycles per pixel, amplitudes), up to 1/2; Hann window, mean taken away."""
    window = np.outer(np.hanning(plane.shape[0] + 2)[1:-1], np.hanning(plane.shape[1] + 2)[1:-1])
    amplitude = np.abs(np.fft.fft2((plane - np.average(plane, weights=window)) * window))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(plane.shape[0]), np.fft.fftfreq(plane.shape[1]), indexing="ij"))
    step = 1 / min(plane.shape)
    ring = np.rint(frequency / step).astype(int).ravel()
    count = int(0.5 / step) + 1
    total, number = (np.bincount(ring, weights, ring.max() + 1)[:count] for weights in (amplitude.ravel(), None))
    return np.arange(count) * step, total / number


def gradient_spectrum_distance(reference: Array, image: Array, factor: int = 4, border: int = BORDER) -> float:
    """How far the sharpness of `image` is from the reference's at the frequencies that the input could not carry; 0: not at all.

    The gradient magnitude of each band, sqrt(dx^2 + dy^2) by first differences (as in Xue et al. 2014), has its amplitude spectrum averaged
    over rings (`radial_spectrum`; Durall et al. 2020 compare images so). The distance is the root mean square of
    ln(amplitude) - ln(amplitude of the reference) over the rings above the input's Nyquist frequency, 1 / (2 factor) cycles per pixel
    (the log spectral distance, Gray and Markel 1976), then the mean over the bands. Differences of logarithms are relative ones: 0.1
    is about 10 % of the amplitude. Blind to where things are: texture of the right strength in the wrong place scores well.
    """
    a, b = within(reference, border), within(image, border)
    distances = []
    for band in range(a.shape[2]):
        spectra = []
        for plane in (a[..., band], b[..., band]):
            magnitude = np.hypot(plane[1:, :-1] - plane[:-1, :-1], plane[:-1, 1:] - plane[:-1, :-1])
            frequency, amplitude = radial_spectrum(magnitude)
            spectra.append(np.log(amplitude[frequency > 0.5 / factor] + 1e-9))
        distances.append(math.sqrt(float(np.mean((spectra[1] - spectra[0]) ** 2))))
    return float(np.mean(distances))


def correctness(reference: Array, image: Array, coarse: Array, factor: int = 4, border: int = BORDER) -> dict[str, float]:
    """opensr-test's improvement, omission and hallucination (`opensr.correctness`, ND by pixel) of the image with the reference's histograms.

    opensr-test also moves the image into place first (`opensr.scores` does); `shift` is told beside these scores instead. Where image,
    input and reference are one, all is improvement.
    """
    hr, lr = within(reference, border), within(bilinear(coarse, factor), border)
    found = opensr.correctness(lr, matched(within(image, border), hr), hr)
    return found if math.isfinite(found["improvement"]) else {"improvement": 1.0, "omission": 0.0, "hallucination": 0.0}


# --- without a reference --------------------------------------------------------------------------------------------------------


def consistency(fine: Array, coarse: Array, factor: int = 4, border: int = COARSE_BORDER, bands: tuple[str, ...] = BANDS) -> list[float]:
    """RMSE of each band between `fine` seen by the input's sensor model and the input `coarse`, both [rows, columns, bands].

    Units of the images. `border` coarse pixels are left out. The input's own noise is part of it: below it, nothing can be.
    """
    error = within(degrade(fine.astype(np.float32), factor, bands), border) - within(coarse, border)
    return [float(value) for value in np.sqrt(np.mean(error**2, axis=(0, 1)))]


def spectral_consistency(fine: Array, coarse: Array, factor: int = 4, border: int = COARSE_BORDER, bands: tuple[str, ...] = BANDS) -> float:
    """Mean angle in degrees between the spectra of `fine`, seen by the input's sensor model, and of the input `coarse`."""
    return float(angles(within(degrade(fine.astype(np.float32), factor, bands), border), within(coarse, border)).mean())


# --- together -------------------------------------------------------------------------------------------------------------------


def scores(image: Array, coarse: Array, reference: Array | None = None, factor: int = 4) -> dict[str, float]:
    """All of the above as one row of a table, means over the bands (the RMSE of consistency: over all pixels and bands), in reflectance.

    Keys: consistency (reflectance), spectral_consistency (degrees); with a reference also psnr (dB), psnr_worst (dB, of the bands), sam
    (degrees), shift (pixels, its length), shift_rows, shift_columns, gradient_spectrum, improvement, omission, hallucination.
    """
    row = {
        "consistency": math.sqrt(float(np.mean(np.square(consistency(image, coarse, factor))))),
        "spectral_consistency": spectral_consistency(image, coarse, factor),
    }
    if reference is not None:
        bands, displaced = psnr(reference, image), shift(reference, image, factor)
        row |= {
            "psnr": float(np.mean(bands)),
            "psnr_worst": min(bands),
            "sam": spectral_angle(reference, image),
            "shift": math.hypot(*displaced),
            "shift_rows": displaced[0],
            "shift_columns": displaced[1],
            "gradient_spectrum": gradient_spectrum_distance(reference, image, factor),
            **correctness(reference, image, coarse, factor),
        }
    return row


def paired(first: Sequence[float], second: Sequence[float], groups: Sequence[Any] | None = None, seed: int = 0) -> Interval:
    """Mean of first - second over scenes, with a 95 % bootstrap interval over scenes (`statistics.difference`).

    groups: scenes of one group (one ground at two dates) are drawn together; None: every scene is its own.
    """
    if len(first) != len(second) or not first:
        raise InputError(f"{len(first)} and {len(second)} scores, expected as many of one as of the other, and some")
    names = list(dict.fromkeys(groups)) if groups is not None else list(range(len(first)))
    places = [names.index(group) for group in groups] if groups is not None else names

    def sums(values: Sequence[float]) -> Matrix:
        total = np.zeros((1, len(names), 2, 2))  # a group's sum and number of scenes, where `difference` has confusion matrices
        for place, value in zip(places, values, strict=True):
            total[0, place, 0] += value, 1.0
        return total

    return difference(sums(first), sums(second), lambda matrix: matrix[..., 0, 0] / matrix[..., 0, 1], seed=seed)


def quality(image: Path, reference: Path, coarse: Path) -> dict[str, Any]:
    """PSNR against `reference` (same grid) and consistency with `coarse`, a band each and their means, of 4-band DN images.

    Raises `GridError` when the grids differ or do not nest.
    """
    grids = [Grid.read(path) for path in (image, reference, coarse)]
    grids[0].require_same(grids[1], f"{image.name} and {reference.name}")
    factor = grids[2].factor_to(grids[0])
    planes = [read_reflectance(path) for path in (image, reference, coarse)]
    ratio, rest = psnr(planes[1], planes[0]), consistency(planes[0], planes[2], factor)
    return {"psnr": ratio, "psnr_mean": float(np.mean(ratio)), "consistency": rest, "consistency_mean": float(np.mean(rest))}


def read_reflectance(path: Path) -> NDArray[np.float32]:
    """A DN image as reflectance [rows, columns, bands]."""
    with rasterio.open(path) as dataset:
        return np.moveaxis(dataset.read(), 0, -1).astype(np.float32) * np.float32(SCALE)
