"""Sensors: MTF, position and degradation against what theory says."""

import math

import numpy as np
import pytest

from otbsr.errors import UsageError
from otbsr.grid import Grid
from otbsr.world import sensors

FINE = Grid(-60.0, 540.0, 0.5, 0.5, 1200, 1200)


def grid(spacing: float) -> Grid:
    """480 m inside the fine grid."""
    size = round(480 / spacing)
    return Grid(0.0, 480.0, spacing, spacing, size, size)


@pytest.mark.parametrize(("spacing", "mtf"), [(10.0, 0.304), (10.0, 0.222), (20.0, 0.19), (2.5, sensors.REFERENCE_MTF), (1.5, 0.18), (6.0, 0.27)])
@pytest.mark.parametrize("across", [True, False])
def test_mtf_at_nyquist_is_the_one_asked_for(spacing: float, mtf: float, across: bool) -> None:
    # At Nyquist a cosine in phase with the samples alternates by its amplitude times the MTF: nothing to fit.
    at = (np.arange(1200) + 0.5) * 0.5 - 60.0
    wave = np.cos(math.pi * (at / spacing - 0.5))
    image = np.broadcast_to(wave, (1200, 1200)) if across else np.broadcast_to(wave[::-1, None], (1200, 1200))
    seen = sensors.Sampler(FINE, grid(spacing), mtf)(np.ascontiguousarray(image, np.float32))
    line = seen[seen.shape[0] // 2] if across else seen[:, seen.shape[1] // 2]
    middle = line[len(line) // 4 : -len(line) // 4]
    assert np.abs(np.abs(middle) - mtf).max() < 0.01
    assert (np.sign(middle[1:]) == -np.sign(middle[:-1])).all()


@pytest.mark.parametrize("spacing", [2.5, 10.0, 20.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.7, -1.9)])
def test_a_point_lands_where_it_is_plus_the_shift(spacing: float, shift: tuple[float, float]) -> None:
    image = np.zeros((1200, 1200), np.float32)
    column, row = 733, 411
    image[row, column] = 1000.0
    x, y = FINE.centre(column, row)
    coarse = grid(spacing)
    seen = sensors.Sampler(FINE, coarse, 0.25, shift)(image).astype(np.float64)
    centres = [np.array([coarse.centre(i, i)[axis] for i in range(coarse.width)]) for axis in (0, 1)]
    found = ((seen.sum(0) * centres[0]).sum() / seen.sum(), (seen.sum(1) * centres[1]).sum() / seen.sum())
    assert found == pytest.approx((x + shift[0], y + shift[1]), abs=0.02 * spacing)


def test_a_constant_and_the_mean_survive() -> None:
    image = np.random.default_rng(0).random((1200, 1200), dtype=np.float32)
    seen = sensors.Sampler(FINE, grid(10.0), 0.25)(np.full_like(image, 0.37))
    assert np.abs(seen - 0.37).max() < 1e-6
    assert sensors.Sampler(FINE, grid(10.0), 0.25)(image).mean() == pytest.approx(image[120:-120, 120:-120].mean(), abs=1e-3)


@pytest.mark.parametrize("band", ["B2", "B3", "B4", "B8"])
def test_degraded_reference_is_what_sentinel2_sees(band: str) -> None:
    # Rectangles of strong contrast at odd places: harder than any landscape.
    rng = np.random.default_rng(1)
    image = np.full((1200, 1200), 0.1, np.float32)
    for _ in range(400):
        row, column, height, width = (*rng.integers(0, 1180, 2), *rng.integers(3, 60, 2))
        image[row : row + height, column : column + width] = rng.uniform(0.02, 0.5)
    reference = sensors.Sampler(FINE, grid(2.5), sensors.REFERENCE_MTF)(image)
    direct = sensors.Sampler(FINE, grid(10.0), sensors.SENTINEL2[band].mtf)(image)
    again = sensors.degrade(reference[..., None], 4, (band,))[..., 0]
    inside = (slice(4, -4), slice(4, -4))
    difference = (again - direct)[inside]
    assert np.sqrt(np.mean(difference**2)) < 0.1 * sensors.SENTINEL2[band].read_noise
    assert np.abs(difference).max() < sensors.SENTINEL2[band].read_noise


def test_kernel_is_symmetric_sums_to_one_and_degrade_uses_it() -> None:
    taps = sensors.degradation_kernel("B4")
    assert taps.sum() == pytest.approx(1.0)
    assert np.allclose(taps, taps[::-1])
    radius = (taps.size - 4) // 2
    image = np.random.default_rng(2).random((80, 96, 1), dtype=np.float32)
    expected = np.outer(taps, taps)
    first = image[40 - radius : 44 + radius, 48 - radius : 52 + radius, 0]
    assert sensors.degrade(image, 4, ("B4",))[10, 12, 0] == pytest.approx((first * expected).sum(), abs=1e-6)


def test_noise_has_its_standard_deviation_and_gain_and_bias_act() -> None:
    band = sensors.SENTINEL2["B8"]
    clean = np.full((400, 400), 0.3, np.float32)
    seen = sensors.observe(clean, band, np.random.default_rng(3), gain=1.1, bias=0.02)
    assert seen.mean() == pytest.approx(0.35, abs=3e-5)
    assert seen.std() == pytest.approx(math.hypot(band.read_noise, math.sqrt(band.shot_noise * 0.3)), rel=0.02)


def test_numbers_are_rounded_not_truncated() -> None:
    assert sensors.quantise(np.array([0.12346, 0.00004, -2.0], np.float32), low=-9999).tolist() == [1235, 0, -9999]


@pytest.mark.parametrize("mtf", [0.0, 0.7, -1.0])
def test_an_impossible_mtf_is_refused(mtf: float) -> None:
    with pytest.raises(UsageError, match="2/pi"):
        sensors.gaussian_sigma(10.0, mtf)


def test_degrade_says_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="multiple of factor 4"):
        sensors.degrade(np.zeros((10, 12, 1), np.float32), 4, ("B4",))
    with pytest.raises(UsageError, match="one name per band"):
        sensors.degrade(np.zeros((12, 12, 2), np.float32), 4, ("B4",))
