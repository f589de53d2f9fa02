"""Sensors: what a band with a given MTF, grid, noise and calibration makes of a finer image.

A band's point spread function is a Gaussian convolved with the square of its pixel; the Gaussian is chosen so that the
*whole* has the MTF asked for at the Nyquist frequency: with sinc(1/2) = 2/pi for the square,
sigma = (spacing / pi) sqrt(-2 ln(MTF_N pi / 2)).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtr

from otbsr.errors import UsageError
from otbsr.grid import Grid

Image = NDArray[np.float32]

REFERENCE_MTF = 0.25
"""MTF at Nyquist of the 2.5 m reference: sharp, and what would fold back from beyond Nyquist is damped to below a quarter."""
REACH = 4.5
"""Gaussians are cut at this many standard deviations (a tail of 7e-6)."""


@dataclass(frozen=True)
class Band:
    """One band of a sensor.

    Attributes:
        name: the band's name in the product.
        spacing: ground sampling distance, metres.
        mtf: MTF at the Nyquist frequency, pixel's integration included.
        read_noise: standard deviation of the noise at zero reflectance.
        shot_noise: adds ``shot_noise * reflectance`` to the variance.

    """

    name: str
    spacing: float
    mtf: float
    read_noise: float
    shot_noise: float

    def noise(self, reflectance: Image) -> Image:
        """Standard deviation of the noise (reflectance) for noise-free `reflectance` of any shape."""
        variance = self.read_noise**2 + self.shot_noise * np.maximum(reflectance, 0.0)
        return np.sqrt(variance).astype(np.float32)


# MTF of B2-B8A, B11, B12: the figures published with CESBIO's sensorsio. B1, B9, B10 and Spot-6/7: assumed, no published figure at hand.
SENTINEL2: dict[str, Band] = {
    band.name: band
    for band in (
        Band("B1", 60, 0.30, 0.0010, 4e-6),
        Band("B2", 10, 0.304, 0.0010, 6e-6),
        Band("B3", 10, 0.276, 0.0010, 6e-6),
        Band("B4", 10, 0.233, 0.0010, 6e-6),
        Band("B5", 20, 0.343, 0.0010, 6e-6),
        Band("B6", 20, 0.336, 0.0012, 6e-6),
        Band("B7", 20, 0.338, 0.0012, 6e-6),
        Band("B8", 10, 0.222, 0.0014, 7e-6),
        Band("B8A", 20, 0.325, 0.0012, 6e-6),
        Band("B9", 60, 0.30, 0.0012, 4e-6),
        Band("B10", 60, 0.30, 0.0010, 4e-6),
        Band("B11", 20, 0.21, 0.0012, 6e-6),
        Band("B12", 20, 0.19, 0.0012, 6e-6),
    )
}
SPOT: dict[str, Band] = {
    band.name: band
    for band in (
        Band("PAN", 1.5, 0.18, 0.0012, 2e-5),
        Band("B0", 6.0, 0.27, 0.0012, 1e-5),
        Band("B1", 6.0, 0.27, 0.0012, 1e-5),
        Band("B2", 6.0, 0.27, 0.0012, 1e-5),
        Band("B3", 6.0, 0.27, 0.0015, 1e-5),
    )
}
SPOT_2M5 = {name: Band(name, 2.5, 0.22, 0.0015, 2e-5) for name in ("B0", "B1", "B2", "B3")}
"""A pansharpened Spot-6/7 resampled to 2.5 m, as one band each."""


def gaussian_sigma(spacing: float, mtf: float) -> float:
    """Standard deviation (units of `spacing`) of the Gaussian that, convolved with the pixel's square, has `mtf` at Nyquist.

    Raises `UsageError` unless 0 < mtf < 2/pi, the MTF of the square alone.
    """
    if not 0.0 < mtf < 2.0 / math.pi:
        raise UsageError(f"MTF at Nyquist is {mtf:g}; expected more than 0 and less than 2/pi = 0.637, which a pixel's square has alone")
    return spacing / math.pi * math.sqrt(-2.0 * math.log(mtf * math.pi / 2.0))


def sampling_operator(edges_in: NDArray[np.float64], edges_out: NDArray[np.float64], sigma: float) -> sparse.csr_array:
    """Matrix (outputs, inputs) of one axis: each output is its interval's mean of the input blurred by a Gaussian.

    The input is constant between `edges_in` (ascending); integrals are exact: with G(z) = z Phi(z) + phi(z), the primitive of
    the point spread function of the interval [a, b] is sigma / (b - a) (G((x - a) / sigma) - G((x - b) / sigma)).
    Rows sum to 1: outside the input, its edge is left out of the mean.
    """
    step = float(edges_in[1] - edges_in[0])
    rows, columns, values = [], [], []
    for row, (a, b) in enumerate(itertools.pairwise(edges_out)):
        first = max(0, math.floor((a - REACH * sigma - edges_in[0]) / step))
        last = min(edges_in.size - 1, math.ceil((b + REACH * sigma - edges_in[0]) / step))
        if last <= first:
            raise UsageError(f"a pixel at {a:g}..{b:g} m lies outside the scene {edges_in[0]:g}..{edges_in[-1]:g} m; use a smaller shift")
        x = edges_in[first : last + 1]
        z = np.stack([(x - a) / sigma, (x - b) / sigma])
        g = z * ndtr(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        weights = np.diff((g[0] - g[1]) * sigma / (b - a))
        rows.append(np.full(weights.size, row))
        columns.append(np.arange(first, last))
        values.append(weights / weights.sum())
    shape = (edges_out.size - 1, edges_in.size - 1)
    return sparse.csr_array((np.concatenate(values).astype(np.float32), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


class Sampler:
    """Samples images on the grid `fine` into pixels of the grid `coarse` through one MTF; exact, linear, separable."""

    def __init__(self, fine: Grid, coarse: Grid, mtf: float, shift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Set up the sampler.

        Args:
            fine: grid of the scene; it should reach beyond `coarse` by a few `coarse` pixels.
            coarse: grid of the product.
            mtf: MTF at the Nyquist frequency of `coarse`, as in `gaussian_sigma`.
            shift: metres east and north by which objects appear displaced in the product.

        """
        east, north = shift
        across = np.array([fine.corner(i, 0)[0] for i in range(fine.width + 1)]) - fine.left
        down = fine.top - np.array([fine.corner(0, i)[1] for i in range(fine.height + 1)])
        across_out = np.array([coarse.corner(i, 0)[0] for i in range(coarse.width + 1)]) - fine.left - east
        down_out = fine.top - np.array([coarse.corner(0, i)[1] for i in range(coarse.height + 1)]) + north
        self._columns = sampling_operator(across, across_out, gaussian_sigma(coarse.dx, mtf))
        self._rows = sampling_operator(down, down_out, gaussian_sigma(coarse.dy, mtf))

    def __call__(self, image: Image) -> Image:
        """Sample `image` (fine height, fine width) float32 to (coarse height, coarse width) float32."""
        lines = self._rows @ image
        return np.ascontiguousarray((self._columns @ np.ascontiguousarray(lines.T)).T)


def observe(noise_free: Image, band: Band, generator: np.random.Generator, noise: float = 1.0, gain: float = 1.0, bias: float = 0.0) -> Image:
    """What the detector reports: gain * reflectance + bias + noise (factor `noise` on the band's standard deviation)."""
    measured = gain * noise_free + bias
    if noise > 0.0:
        measured = measured + noise * band.noise(noise_free) * generator.standard_normal(noise_free.shape, dtype=np.float32)
    return measured.astype(np.float32)


def quantise(reflectance: Image, offset: int = 0, low: int = -32768, high: int = 32767) -> NDArray[np.int32]:
    """Digital numbers: reflectance x 10000 + offset, rounded to the nearest and clamped to low..high."""
    return np.clip(np.rint(reflectance * 1e4) + offset, low, high).astype(np.int32)


def degradation_kernel(
    band: str, factor: int = 4, spacing: float = 2.5, mtf_fine: float = REFERENCE_MTF, mtf: float | None = None, reach: float = 4.0, shift: float = 0.0
) -> NDArray[np.float64]:
    """Separable taps that turn the fine reference into what Sentinel-2's `band` sees before noise, `factor` times coarser.

    The reference's pixel is a Gaussian (sigma_f, from `mtf_fine`) times its square, Sentinel-2's a Gaussian (sigma_c) times a
    square `factor` times as wide, which is the mean of `factor` fine squares. So the missing blur is a Gaussian of variance
    sigma_c^2 - sigma_f^2, sampled at the fine spacing, followed by the mean of the `factor` pixels of each coarse pixel.

    Args:
        band: one of B2, B3, B4, B8 or any other of `SENTINEL2`; its MTF is used at the spacing ``factor * spacing``.
        factor: coarse over fine spacing.
        spacing: fine spacing, metres; only ratios matter.
        mtf_fine: MTF at Nyquist of the fine image; the reference's by default.
        mtf: MTF at Nyquist of the coarse image; the band's by default.
        reach: the Gaussian is cut at this many standard deviations.
        shift: fine pixels towards higher indices by which the coarse pixels lie off their places.

    Returns:
        (factor + 2 r,) float64 taps with sum 1: centred on the coarse pixel (but for `shift`), they reach r fine pixels beyond it.

    """
    coarse = gaussian_sigma(factor * spacing, SENTINEL2[band].mtf if mtf is None else mtf)
    variance = coarse**2 - gaussian_sigma(spacing, mtf_fine) ** 2
    sigma = math.sqrt(variance) / spacing
    radius = math.ceil(reach * sigma)
    x = np.arange(-radius, radius + 1) - shift
    taps = np.convolve(np.exp(-0.5 * (x / sigma) ** 2), np.ones(factor))
    return taps / taps.sum()


def degrade(image: NDArray[np.floating], factor: int = 4, bands: tuple[str, ...] = ("B4", "B3", "B2", "B8"), mtf_fine: float = REFERENCE_MTF) -> Image:
    """Degrade a 2.5 m image with the reference's MTF to Sentinel-2's 10 m: `degradation_kernel` per band, then decimation.

    Args:
        image: (h, w, b) reflectance or DN on the fine grid, h and w multiples of `factor`; mirrored at the edges.
        factor: coarse over fine spacing.
        bands: Sentinel-2's name of each of the b bands.
        mtf_fine: MTF at Nyquist of `image`.

    Returns:
        (h / factor, w / factor, b) float32 in the units of `image`, on the grid coarsened by `factor`, same corner.

    """
    height, width, count = image.shape
    if height % factor or width % factor:
        raise UsageError(f"image of {height} x {width} pixels is not a multiple of factor {factor}; crop it first")
    if count != len(bands):
        raise UsageError(f"image has {count} bands, {len(bands)} names were given ({', '.join(bands)}); give one name per band")
    result = np.empty((height // factor, width // factor, count), np.float32)
    for index, band in enumerate(bands):
        taps = degradation_kernel(band, factor, mtf_fine=mtf_fine)
        plane = np.asarray(image[..., index], dtype=np.float32)
        lines = decimation_operator(taps, height, factor) @ plane
        result[..., index] = (decimation_operator(taps, width, factor) @ np.ascontiguousarray(lines.T)).T
    return result


def decimation_operator(taps: NDArray[np.float64], size: int, factor: int) -> sparse.csr_array:
    """Matrix (size / factor, size): `taps` around each coarse pixel, the input mirrored at its edges (edge pixel repeated)."""
    radius = (taps.size - factor) // 2
    source = np.pad(np.arange(size), radius, mode="symmetric")
    coarse = size // factor
    rows = np.repeat(np.arange(coarse), taps.size)
    columns = source[(np.arange(coarse)[:, None] * factor + np.arange(taps.size)[None, :]).ravel()]
    return sparse.csr_array(sparse.coo_array((np.tile(taps, coarse).astype(np.float32), (rows, columns)), shape=(coarse, size)))
