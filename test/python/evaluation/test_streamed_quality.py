"""Scores by windows: against values worked out by hand and other definitions, whatever the window, masks, no-data and radiometry of the files."""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.env import getenv, hasenv
from rasterio.transform import from_origin
from scipy import ndimage, special

from otbsr.errors import GridError, InputError, OutputError, UsageError
from otbsr.evaluation import consistency, quality, spectra, streams
from otbsr.evaluation.consistency import lagrange
from otbsr.evaluation.measures import correlate
from otbsr.evaluation.pixel_scores import turned
from otbsr.evaluation.streams import GROUPS, Measured, choose
from otbsr.evaluation.windows import Scene
from otbsr.world.sensors import degrade

NAMES = ("B4", "B3", "B2", "B8")
SUMS = ("pixels", "consistency", "windows", "shift", "spectra", "noise")
"""Groups that are sums over windows; edges, opensr and between have tests of their own."""
ALONE = {"consistency_rmse", "consistency_bias", "consistency_sam", "d_lambda", "noise", "noise_input"}
ALONE |= {"consistency_shift", "consistency_shift_rows", "consistency_shift_columns"}
"""Scores of these groups that need no reference."""
measure = functools.partial(streams.measure, groups=SUMS)


def write(path: Path, image: np.ndarray, spacing: float = 2.5, dtype: str = "float64", names: tuple[str, ...] | None = None, **more) -> Path:
    """Write [rows, columns, bands]; reflectance 1 is what the scale and offset in `more` make it, 1e-4 a DN without."""
    planes = np.moveaxis(np.atleast_3d(image), -1, 0)
    scale, offset, left, top = more.pop("scale", None), more.pop("offset", 0.0), more.pop("left", 500000.0), more.pop("top", 4800000.0)
    dn = (planes - offset) / (scale or 1e-4)
    if dtype.startswith(("int", "uint")):
        dn = np.rint(dn)
    profile = {
        "driver": "GTiff",
        "count": len(planes),
        "height": planes.shape[1],
        "width": planes.shape[2],
        "dtype": dtype,
        "crs": more.pop("crs", "EPSG:32631"),
    }
    with rasterio.open(path, "w", **profile, transform=from_origin(left, top, spacing, spacing), **more) as dataset:
        dataset.write(dn.astype(dtype))
        if scale:
            dataset.scales, dataset.offsets = (scale,) * len(planes), (offset,) * len(planes)
        dataset.descriptions = names or (NAMES if len(planes) == 4 else tuple(f"x{i + 1}" for i in range(len(planes))))
    return path


def texture(rows: int = 96, columns: int = 96, seed: int = 0, bands: int = 4) -> np.ndarray:
    random = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(random.standard_normal((rows, columns, bands)), (1.5, 1.5, 0)) + 0.1 * random.standard_normal((rows, columns, bands))
    return 0.25 + 0.06 * image


def score(image: np.ndarray, reference: np.ndarray | None, folder: Path, coarse: np.ndarray | None = None, **more) -> Measured:
    files = [write(folder / "image.tif", image)]
    files.append(write(folder / "reference.tif", reference) if reference is not None else None)
    if coarse is not None:
        files.append(write(folder / "input.tif", coarse, 2.5 * image.shape[0] / coarse.shape[0]))
    return measure(*files, **{"border": 0, **more})


def everything(found: Measured) -> dict[str, list[float | None]]:
    return {name: [one.all, *(one.bands or ())] for name, one in found.scores.items()}


# --- by hand --------------------------------------------------------------------------------------------------------------------


def test_pixel_scores_by_hand(tmp_path):
    """Two bands of 2 x 2 pixels; reference 0.1 0.2 0.3 0.4 and 0.2; errors +0.1 -0.1 +0.1 -0.1 and 0.02."""
    reference = np.stack([np.array([[0.1, 0.2], [0.3, 0.4]]), np.full((2, 2), 0.2)], -1)
    image = reference + np.stack([np.array([[0.1, -0.1], [0.1, -0.1]]), np.full((2, 2), 0.02)], -1)
    coarse = np.full((1, 1, 2), 0.2)
    found = score(image, reference, tmp_path, coarse).scores
    assert found["rmse"].bands == pytest.approx((0.1, 0.02))
    assert found["rmse"].all == pytest.approx(math.sqrt((0.01 + 0.0004) / 2))
    assert found["bias"].bands == pytest.approx((0.0, 0.02), abs=1e-15)
    assert found["psnr"].bands == pytest.approx((20.0, 20 * math.log10(50)))
    # ERGAS: 100 / 2 * sqrt(mean of (0.1 / 0.25)^2 and (0.02 / 0.2)^2)
    assert found["ergas"].all == pytest.approx(50 * math.sqrt((0.16 + 0.01) / 2))
    # image 0.2 0.1 0.4 0.3: means 0.25, variances 0.0125, covariance mean(xy) - 0.0625 = 0.07 - 0.0625
    assert found["correlation"].bands[0] == pytest.approx(0.0075 / 0.0125)
    assert found["uqi_global"].bands[0] == pytest.approx(0.6)
    assert found["uqi_global"].bands[1] == pytest.approx(2 * 0.2 * 0.22 / (0.04 + 0.0484))  # both flat
    assert found["correlation"].bands[1] is None
    angle = np.degrees(np.arctan2(0.2, reference[..., 0]) - np.arctan2(0.22, image[..., 0]))
    assert found["sam"].all == pytest.approx(np.abs(angle).mean())
    assert found["uqi"].all is None and found["ssim"].all is None and found["consistency_rmse"].all is None  # no whole neighbourhood


def test_consistency_by_hand(tmp_path):
    """Flat ground: the sensor sees what is there. Image 0.2 and 0.3, input 0.21 and 0.28."""
    found = score(np.ones((32, 32, 2)) * [0.2, 0.3], None, tmp_path, np.ones((8, 8, 2)) * [0.21, 0.28]).scores
    assert found["consistency_bias"].bands == pytest.approx((-0.01, 0.02)) and found["consistency_bias"].all == pytest.approx(0.005)
    assert found["consistency_rmse"].bands == pytest.approx((0.01, 0.02)) and found["consistency_rmse"].all == pytest.approx(math.sqrt((1e-4 + 4e-4) / 2))
    assert found["consistency_sam"].all == pytest.approx(np.degrees(np.arctan2(0.3, 0.2) - np.arctan2(0.28, 0.21)))


def test_spatial_correlation_by_hand(tmp_path):
    """One bright pixel each in the middle row of 3 x 5: Laplacians 8 -1 0 and 0 -1 8, covariance 1/3 - 49/9, variances 65/3 - 49/9."""
    reference, image = np.full((2, 3, 5, 1), 0.2)
    reference[1, 1] += 0.1
    image[1, 3] += 0.02
    assert score(image, reference, tmp_path).scores["spatial_correlation"].all == pytest.approx(-46 / 146)


def test_noise_of_a_chequerboard_by_hand(tmp_path):
    """Second differences along both axes of +a -a are 16 a, over 6; their median over 0.67449 is told."""
    board, coarse = (0.01 * (np.indices((n, n)).sum(0) % 2 * 2 - 1)[..., None] + 0.3 for n in (32, 8))
    found = score(board, None, tmp_path, coarse).scores
    assert found["noise"].all == pytest.approx(0.16 / 6 / 0.67449, rel=1 / 128) and found["noise_input"].all == pytest.approx(0.16 / 6 / 0.67449, rel=1 / 128)


def test_uqi_is_the_mean_over_every_window(tmp_path):
    reference, image = texture(20, 17, 1, 2), texture(20, 17, 2, 2) * 0.8 + 0.02
    found = score(image, reference, tmp_path).scores["uqi"]
    for band in range(2):
        values = []
        for row in range(13):
            for column in range(10):
                x, y = (a[row : row + 8, column : column + 8, band] for a in (reference, image))
                cov = ((x - x.mean()) * (y - y.mean())).mean()
                values.append(4 * cov * x.mean() * y.mean() / ((x.var() + y.var()) * (x.mean() ** 2 + y.mean() ** 2)))
        assert found.bands[band] == pytest.approx(np.mean(values), rel=1e-9)


def test_ssim_of_flat_images_by_hand(tmp_path):
    """Variances 0: (2 a b + 1e-4) / (a^2 + b^2 + 1e-4)."""
    found = score(np.full((12, 12, 1), 0.3), np.full((12, 12, 1), 0.2), tmp_path).scores
    assert found["ssim"].all == pytest.approx((0.12 + 1e-4) / (0.13 + 1e-4))
    assert found["uqi"].all == pytest.approx(0.12 / 0.13)


def test_scikit_image_agrees(tmp_path):
    metrics = pytest.importorskip("skimage.metrics")

    reference = texture(40, 52, 3)
    image = 0.9 * ndimage.gaussian_filter(reference, (1, 1, 0)) + 0.03
    found = score(image, reference, tmp_path).scores
    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for band in range(4):
        x, y = reference[..., band], image[..., band]
        assert found["psnr"].bands[band] == pytest.approx(metrics.peak_signal_noise_ratio(x, y, data_range=1.0), rel=1e-6)
        assert found["ssim"].bands[band] == pytest.approx(metrics.structural_similarity(x, y, **settings), rel=1e-6)


def test_spatial_correlation_is_that_of_laplacians(tmp_path):
    reference, image = texture(24, 30, 4), texture(24, 30, 5) + texture(24, 30, 4)
    kernel = np.full((3, 3), -1.0)
    kernel[1, 1] = 8
    found = score(image, reference, tmp_path).scores["spatial_correlation"]
    for band in range(4):
        x, y = (ndimage.convolve(a[..., band], kernel)[1:-1, 1:-1].ravel() for a in (reference, image))
        assert found.bands[band] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
    sign = score(0.5 - reference, reference, tmp_path).scores
    assert sign["spatial_correlation"].all == pytest.approx(-1) and sign["correlation"].all == pytest.approx(-1)


def test_cpsnr_is_the_best_of_all_displacements(tmp_path):
    """Against the definition: every displacement, pixels that both have, each band's mean error taken away."""
    reference = texture(40, 44, 6, 2)
    image = np.roll(reference, (3, -2), (0, 1)) * 0.97 + np.array([0.01, -0.02]) + 0.01 * texture(40, 44, 7, 2)
    found = score(image, reference, tmp_path, border=10).scores
    best, where = -np.inf, None
    inner = image[10:-10, 10:-10]
    for u in range(-8, 9):
        for v in range(-8, 9):
            error = reference[10 + u : 30 + u, 10 + v : 34 + v] - inner
            bands = -10 * np.log10(((error - error.mean((0, 1))) ** 2).mean((0, 1)))
            if bands.mean() > best:
                best, where, by_band = bands.mean(), (-u, -v), bands
    assert where == (3, -2) == (found["cpsnr_rows"].all, found["cpsnr_columns"].all)
    assert found["cpsnr"].bands == pytest.approx(by_band, rel=1e-9) and found["cpsnr"].all == pytest.approx(best, rel=1e-9)
    assert found["cpsnr"].all > found["psnr"].all + 10


def test_cpsnr_does_not_choose_a_place_with_few_pixels(tmp_path):
    """Displaced by (8, 8), the 12 x 12 pixels that are left of 20 x 20 agree by construction: fewer than half."""
    reference, image = texture(20, 20, 22, 1), texture(20, 20, 23, 1)
    image[8:, 8:] = reference[:12, :12]
    found = score(image, reference, tmp_path).scores
    assert found["cpsnr"].all < 60 and (found["cpsnr_rows"].all, found["cpsnr_columns"].all) != (8, 8)


def test_cpsnr_keeps_its_digits(tmp_path):
    reference = texture(96, 96, 24, 1) + 0.5
    image = np.roll(reference, (2, 1), (0, 1)) + 1e-7 * np.random.default_rng(25).standard_normal(reference.shape)
    error = (image - np.roll(reference, (2, 1), (0, 1)))[16:-16, 16:-16]
    assert score(image, reference, tmp_path, border=16).scores["cpsnr"].all == pytest.approx(-10 * math.log10(error.var()), abs=0.001)


def test_d_lambda_by_hand(tmp_path):
    """Flat bands: Q = 2 a b / (a^2 + b^2); image 0.1 0.2 0.4, input 0.1 0.1 0.4."""

    def q(a: float, b: float) -> float:
        return 2 * a * b / (a * a + b * b)

    image, coarse = np.ones((32, 32, 3)) * [0.1, 0.2, 0.4], np.ones((8, 8, 3)) * [0.1, 0.1, 0.4]
    found = score(image, None, tmp_path, coarse).scores["d_lambda"].all
    assert found == pytest.approx((abs(q(0.1, 0.2) - 1) + 0 + abs(q(0.2, 0.4) - q(0.1, 0.4))) / 3)
    assert score(image, None, tmp_path, 2 * np.ones((8, 8, 3)) * [0.1, 0.2, 0.4]).scores["d_lambda"].all == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.0005, 0.004, 0.02])
def test_known_noise_is_recovered_over_slopes_and_edges(tmp_path, sigma):
    random = np.random.default_rng(8)
    y, x = np.mgrid[:160, :160]
    ground = (0.1 + 0.001 * x + 0.0005 * y + 0.2 * (x > 80))[..., None] * np.ones(2)
    found = score(ground + sigma * random.standard_normal((160, 160, 2)), None, tmp_path, np.full((40, 40, 2), 0.3)).scores
    assert found["noise"].bands == pytest.approx((sigma, sigma), rel=0.03)
    assert found["noise_input"].all == 0


def in_tiles(image: np.ndarray, seen: np.ndarray, folder: Path) -> Measured:
    """Scored with an input that the image has for its own, and a border that leaves 2 x 2 tiles of 64 pixels."""
    return score(image, seen, folder, degrade(seen.astype(np.float32)).astype(np.float64), border=8)


def test_the_cubic_input_restores_nothing_and_the_truth_everything(tmp_path):
    seen = texture(144, 144, 11)
    coarse = degrade(seen.astype(np.float32)).astype(np.float64)
    wide = np.pad(coarse, ((2, 2), (2, 2), (0, 0)), mode="edge")
    lazy = np.moveaxis(spectra.cubic(np.moveaxis(wide, -1, 0), 4), 0, -1)
    nothing, all_ = in_tiles(lazy, seen, tmp_path).scores, in_tiles(seen, seen, tmp_path).scores
    assert nothing["frequency_gain"].bands == pytest.approx((0,) * 4, abs=1e-9) and nothing["undershoot"].all > 10
    assert nothing["overshoot"].all == 0
    perfect = {"frequency_gain": 1, "overshoot": 0, "undershoot": 0, "ring_correlation": 1}
    assert {name: all_[name].all for name in perfect} == pytest.approx(perfect, abs=1e-9)


def test_the_spectrum_of_one_tile_by_definition(tmp_path):
    """Full transforms of the one tile that an image of 80 pixels has within a border of 8."""
    seen, image = texture(80, 80, 15, 1), texture(80, 80, 16, 1) * 0.8
    coarse = degrade(seen.astype(np.float32), bands=("B4",)).astype(np.float64)
    found = score(image, seen, tmp_path, coarse, border=8)
    base = spectra.cubic(np.moveaxis(coarse, -1, 0), 4)[0]  # 2 coarse pixels less on each side
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(64) + 0.5) / 64)
    window = np.outer(hann, hann)
    transforms = [np.fft.fft2((x - np.average(x, weights=window)) * window) for x in (seen[8:-8, 8:-8, 0], image[8:-8, 8:-8, 0], base)]
    ring = np.rint(64 * np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))).astype(int)
    for k in (1, 9, 20, 31, 32):
        power = [float((abs(x[ring == k]) ** 2).sum()) for x in transforms]
        cross = (transforms[1] * transforms[0].conj())[ring == k].sum()
        level = 10 * np.log10(power)
        assert found.spectrum["over_reference_db"][0][k - 1] == pytest.approx(level[1] - level[0], rel=1e-9)
        assert found.spectrum["ring_correlation"][0][k - 1] == pytest.approx(cross.real / math.sqrt(power[0] * power[1]), rel=1e-9)
        if k > 8:
            assert found.spectrum["restored"][0][k - 1] == pytest.approx(np.clip((level[1] - level[2]) / (level[0] - level[2]), 0, 1), rel=1e-9)


def test_tiles_beside_a_hole_of_the_input_do_not_count(tmp_path):
    """The cubic input looks 2 input pixels beyond the tile: a hole there, outside the border, takes the tile away."""
    seen, image = texture(144, 144, 17), texture(144, 144, 18)
    coarse = degrade(seen.astype(np.float32)).astype(np.float64)
    holed, mask = coarse.copy(), np.ones((144, 144, 1))
    holed[1, 10], mask[30, 30] = np.nan, 0
    paths = [write(tmp_path / f"{name}.tif", one, spacing) for name, one, spacing in (("a", image, 2.5), ("b", seen, 2.5), ("c", holed, 10), ("d", coarse, 10))]
    chosen = write(tmp_path / "mask.tif", mask * 1e-4, dtype="uint8", names=("mask",))
    hole, masked = measure(*paths[:3], border=8), measure(paths[0], paths[1], paths[3], chosen, border=8)
    assert hole.pixels == 128 * 128 and hole.spectrum == masked.spectrum != measure(paths[0], paths[1], paths[3], border=8).spectrum


def test_the_cubic_input_is_exact_on_quadratic_ground():
    y, x = np.mgrid[:12, :14] - 1.5  # coarse centres, two more on each side
    planes = np.stack([1 + 2 * x - y, x * x + x * y])
    fine_y, fine_x = np.meshgrid((np.arange(32) + 0.5) / 4, (np.arange(40) + 0.5) / 4, indexing="ij")
    np.testing.assert_allclose(spectra.cubic(planes, 4), np.stack([1 + 2 * fine_x - fine_y, fine_x**2 + fine_x * fine_y]), atol=1e-12)


def test_gain_of_detail_is_told_in_decibels(tmp_path):
    """All of the image's contrast doubled: 6.02 dB above the reference at every frequency; halved: below, with a share of the lack."""
    seen = texture(144, 144, 12)
    twice, half = in_tiles(2 * seen - 0.25, seen, tmp_path), in_tiles(0.5 * seen, seen, tmp_path)
    by = 20 * math.log10(2)
    assert twice.scores["overshoot"].bands == pytest.approx((by,) * 4) and twice.scores["undershoot"].all == 0
    assert twice.scores["frequency_gain"].all == 1 and twice.scores["ring_correlation"].all == pytest.approx(1)
    assert half.scores["undershoot"].bands == pytest.approx((by,) * 4) and half.scores["overshoot"].all == 0
    np.testing.assert_allclose(np.array(half.spectrum["over_reference_db"]), -by)
    restored = np.array(half.spectrum["restored"], float)
    frequency = np.array(half.spectrum["frequency"])
    assert frequency[0] == 1 / 64 and frequency[-1] == 0.5 and np.isnan(restored[:, frequency <= 0.125]).all()
    lack = by / (1 - restored[:, frequency > 0.125])  # (lack - by) / lack = restored, wherever something was restored
    kept = restored[:, frequency > 0.125] > 0
    assert kept.mean() > 0.5
    shares = [restored[b][frequency > 0.125] for b in range(4)]
    for band in range(4):
        if kept[band].all():
            assert half.scores["frequency_gain"].bands[band] == pytest.approx((shares[band] * lack[band]).sum() / lack[band].sum())


def test_detail_in_the_wrong_place_has_power_and_no_correlation(tmp_path):
    seen = texture(208, 208, 13)
    low = ndimage.gaussian_filter(seen, (4, 4, 0))
    other = low + (texture(208, 208, 14) - ndimage.gaussian_filter(texture(208, 208, 14), (4, 4, 0)))
    found = in_tiles(other, seen, tmp_path).scores
    assert found["frequency_gain"].all > 0.9 and abs(found["ring_correlation"].all) < 0.1
    moved = in_tiles(np.roll(seen, (1, 0), (0, 1)), seen, tmp_path)
    frequency = np.array(moved.spectrum["frequency"])  # over a ring, the phases of one pixel leave J0(2 pi f)
    np.testing.assert_allclose(np.mean(moved.spectrum["ring_correlation"], axis=0)[4:], special.j0(2 * np.pi * frequency[4:]), atol=0.08)
    assert moved.scores["overshoot"].all < 0.5


def test_noise_is_a_median(tmp_path):
    image = texture(64, 64, 19, 2)
    kernel = np.outer([1, -2, 1], [1, -2, 1])[..., None] / 6
    response = abs(ndimage.convolve(image, kernel)[1:-1, 1:-1])
    found = score(image, None, tmp_path, np.ones((16, 16, 2))).scores["noise"]
    assert found.bands == pytest.approx(np.median(response, axis=(0, 1)) / 0.67449, rel=0.003)


# --- consistency's displacement --------------------------------------------------------------------------------------------------


def periodic(side: int, seed: int, bands: int = 4) -> np.ndarray:
    """Reflectance that goes on around its edges, so that displacement by a Fourier transform is exact."""
    random = np.random.default_rng(seed)
    return 0.25 + 0.06 * ndimage.gaussian_filter(random.standard_normal((side, side, bands)), (1.5, 1.5, 0), mode="wrap")


def displaced(image: np.ndarray, rows: float, columns: float) -> np.ndarray:
    planes = [np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(plane), (rows, columns))).real for plane in np.moveaxis(image, -1, 0)]
    return np.stack(planes, -1)


def consistency_shift(found: Measured) -> tuple[float | None, ...]:
    return tuple(found.scores[f"consistency_shift{axis}"].all for axis in ("_rows", "_columns", ""))


@pytest.mark.parametrize("by", [(0.0, 0.0), (0.25, -0.1), (0.02, 0.05), (0.5, 0.3), (-1.0, 0.8)])
@pytest.mark.parametrize("factor", [4, 3])
def test_a_known_displacement_to_the_input_is_recovered(tmp_path, by, factor):
    """In input pixels, within 0.02 pixel, each band alone too; of an image with gain, bias and blur of its own, an input with noise, within 0.02 too."""
    ground = periodic(240, 41)
    coarse = degrade(ground.astype(np.float32), factor).astype(np.float64)
    image = displaced(ground, by[0] * factor, by[1] * factor)
    found = score(image, None, tmp_path, coarse, border=16, groups=["consistency"])
    assert consistency_shift(found) == pytest.approx((*by, math.hypot(*by)), abs=0.02)
    for axis, expected in zip(("_rows", "_columns"), by, strict=True):
        assert found.scores[f"consistency_shift{axis}"].bands == pytest.approx((expected,) * 4, abs=0.02)
    assert found.scores["consistency_shift"].unit == "input pixels"
    other = 1.1 * ndimage.gaussian_filter(image, (0.8, 0.8, 0), mode="wrap") - 0.02
    noisy = coarse + 0.001 * np.random.default_rng(42).standard_normal(coarse.shape)
    assert consistency_shift(score(other, None, tmp_path, noisy, border=16, groups=["consistency"]))[:2] == pytest.approx(by, abs=0.02)


def test_displacement_of_quadratic_ground_by_hand(tmp_path):
    """The sensor adds a constant to a quadratic, and the polynomial through what it sees is the ground: (0.5, -0.25) input pixels, exactly."""

    def ground(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        y, x = y / 40 - 0.5, x / 40 - 0.5
        return (0.3 + 0.1 * y * y - 0.08 * x * x + 0.05 * x * y + 0.02 * x)[..., None]

    fine, coarse = (np.meshgrid(*2 * [(np.arange(n) + 0.5) * 40 / n], indexing="ij") for n in (160, 40))
    found = score(ground(fine[0] - 0.5, fine[1] + 0.25), None, tmp_path, ground(*coarse), border=16, groups=["consistency"])
    assert consistency_shift(found)[:2] == pytest.approx((0.5, -0.25), abs=1e-4)
    weights, slopes = lagrange(np.array([-1.0, 0.0, 1.0]), 0.5)
    assert list(weights) == pytest.approx([-1 / 8, 3 / 4, 3 / 8]) and list(slopes) == pytest.approx([0, -1, 1])


def test_a_displacement_that_cannot_be_told_is_not(tmp_path):
    """Further than 1.5 input pixels, of other ground, of flat ground, and from fewer than two tiles."""
    ground = periodic(240, 43)
    coarse = degrade(ground.astype(np.float32)).astype(np.float64)
    for image, given, border in (
        (displaced(ground, 8, 0), coarse, 16),
        (periodic(240, 44), coarse, 16),
        (np.full_like(ground, 0.2), np.full_like(coarse, 0.2), 16),
        (ground, coarse, 88),
    ):
        assert consistency_shift(score(image, None, tmp_path, given, border=border, groups=["consistency"])) == (None,) * 3


def test_large_images_give_a_lattice_of_tiles_whatever_the_window(tmp_path, monkeypatch):
    ground = periodic(288, 45, 1)
    coarse = degrade(ground.astype(np.float32), bands=("B4",)).astype(np.float64)
    image = displaced(ground, 1.2, -0.4)
    full = score(image, None, tmp_path, coarse, border=16, groups=["consistency"])
    monkeypatch.setattr(consistency, "SAMPLE", 4)
    few = [score(image, None, tmp_path, coarse, border=16, groups=["consistency"], window=window) for window in (64, 128, 4096)]
    assert consistency_shift(few[0]) == pytest.approx(consistency_shift(few[2]), rel=1e-9) and consistency_shift(few[1]) == pytest.approx(
        consistency_shift(few[2]), rel=1e-9
    )
    assert consistency_shift(few[0]) != consistency_shift(full) and consistency_shift(few[0])[:2] == pytest.approx((0.3, -0.1), abs=0.02)


# --- how scores answer ----------------------------------------------------------------------------------------------------------


def test_identical_images_are_perfect(tmp_path):
    image = texture()
    found = score(image, image, tmp_path, degrade(image.astype(np.float32)).astype(np.float64)).scores
    perfect = {"psnr": 200, "cpsnr": 200, "cpsnr_rows": 0, "cpsnr_columns": 0}
    perfect |= dict.fromkeys(("ssim", "uqi", "uqi_global", "correlation", "spatial_correlation"), 1)
    perfect |= dict.fromkeys(("rmse", "bias", "sam", "ergas"), 0)
    assert {name: found[name].all for name in perfect} == pytest.approx(perfect, abs=1e-9)
    assert found["consistency_rmse"].all < 1e-7 and found["consistency_sam"].all < 1e-4  # degrade() rounds to float32


def test_a_constant_offset_and_a_gain(tmp_path):
    reference = texture()
    coarse = degrade(reference.astype(np.float32)).astype(np.float64)
    by = np.array([0.01, -0.02, 0.03, 0.0])
    found = score(reference + by, reference, tmp_path, coarse).scores
    assert found["bias"].bands == pytest.approx(by, abs=1e-12) and found["rmse"].bands == pytest.approx(abs(by), abs=1e-12)
    assert found["consistency_bias"].bands == pytest.approx(by, abs=1e-6)
    assert (found["correlation"].all, found["spatial_correlation"].all) == pytest.approx((1, 1), rel=1e-12)
    assert found["cpsnr"].all == pytest.approx(200, abs=70) and found["cpsnr"].all > 130  # the offset is taken away
    assert found["sam"].all > 0.5 and found["consistency_sam"].all > 0.5
    gained = score(1.5 * reference, reference, tmp_path, coarse).scores
    assert gained["sam"].all == pytest.approx(0, abs=1e-6) and gained["consistency_sam"].all == pytest.approx(0, abs=1e-4)
    assert gained["uqi_global"].all == pytest.approx((2 * 1.5 / 3.25) ** 2)  # 4 g g m^2 v / ((1 + g^2)^2 m^2 v), g the gain
    assert gained["d_lambda"].all == pytest.approx(score(reference, reference, tmp_path, coarse).scores["d_lambda"].all)
    assert gained["noise"].all == pytest.approx(1.5 * found["noise"].all, rel=0.01)


def test_blur_lowers_what_measures_detail(tmp_path):
    reference = texture()
    runs = [score(ndimage.gaussian_filter(reference, (s, s, 0)), reference, tmp_path).scores for s in (0.0, 0.6, 1.2, 2.4)]
    for name in ("psnr", "ssim", "uqi", "spatial_correlation", "correlation"):
        values = [run[name].all for run in runs]
        assert values == sorted(values, reverse=True) and values[-1] < 0.94 * values[0]


def test_arrays_and_windows_say_the_same(tmp_path):
    """Against `quality`, which has whole arrays in memory."""
    reference = texture(128, 112)
    image = 0.95 * ndimage.gaussian_filter(reference, (0.8, 0.8, 0)) + 0.01
    coarse = degrade(reference.astype(np.float32)).astype(np.float64)
    found = score(image, reference, tmp_path, coarse, border=16, window=48).scores
    assert found["psnr"].bands == pytest.approx(quality.psnr(reference, image), rel=1e-9)
    assert found["sam"].all == pytest.approx(quality.spectral_angle(reference, image), rel=1e-9)
    assert found["consistency_rmse"].bands == pytest.approx(quality.consistency(image, coarse), rel=1e-4)  # that is float32
    assert found["consistency_sam"].all == pytest.approx(quality.spectral_consistency(image, coarse), rel=1e-3)


def test_a_border_is_like_a_smaller_image(tmp_path):
    """But for what looks beyond the pixels that count: cPSNR, the sensor, the cubic input."""
    reference, image = texture(160, 144, 20), texture(160, 144, 21)
    coarse = degrade(reference.astype(np.float32)).astype(np.float64)
    framed = everything(score(image, reference, tmp_path, coarse, border=12))
    small = everything(score(image[12:-12, 12:-12], reference[12:-12, 12:-12], tmp_path, coarse[3:-3, 3:-3]))
    beyond = ("cpsnr", "consistency", "frequency_gain", "overshoot", "undershoot", "ring_correlation")
    kept = [name for name in framed if not name.startswith(beyond)]
    assert len(kept) == 13
    for name in kept:
        assert framed[name] == pytest.approx(small[name], rel=1e-9), name


def test_scores_are_chosen_by_groups(tmp_path):
    reference = texture(64, 64)
    files = [write(tmp_path / "a.tif", reference * 0.9), write(tmp_path / "b.tif", reference)]
    files.append(write(tmp_path / "c.tif", degrade(reference.astype(np.float32)).astype(np.float64), 10.0))
    full = everything(measure(*files))
    for group in SUMS:
        found = everything(measure(*files, groups=[group]))
        assert found
        for name, values in found.items():  # whatever is counted beside it
            assert [value is None for value in values] == [value is None for value in full[name]]
            known = [[value for value in one if value is not None] for one in (values, full[name])]
            assert known[0] == pytest.approx(known[1], rel=1e-9, abs=1e-12), (group, name)
    assert choose(["basic", "noise"]) == ("pixels", "consistency", "noise") and choose(["all"]) == tuple(GROUPS)
    assert set(everything(measure(*files, groups=["basic"]))) >= {"psnr", "rmse", "bias", "sam", "ergas", "correlation", "consistency_rmse"}
    with pytest.raises(UsageError, match="--scores sharpness: no such scores; choose among basic, all, pixels"):
        measure(*files, groups=["sharpness"])
    with pytest.raises(UsageError, match="nothing to score: pixels need another file"):
        measure(files[0], None, files[2], groups=["pixels"])


def test_a_band_matrix_correlates_as_a_filter_does():
    plane, taps = texture(75, 91, 3, 1)[..., 0], np.array([0.1, 0.5, 0.2, 0.7, 0.3])
    expected = ndimage.correlate1d(ndimage.correlate1d(plane, taps, 0), taps, 1)[2:-2, 2:-2]
    np.testing.assert_allclose(correlate(plane, taps), expected, rtol=1e-12)
    for step in (2, 3, 4, 7):
        np.testing.assert_allclose(correlate(plane, taps, step), expected[::step, ::step], rtol=1e-12)


def test_angles_of_bands_without_loops():
    """By Lagrange's identity, against the arctangent of sine and cosine, with spectra of 0 too."""
    random = np.random.default_rng(31)
    for bands in (2, 4, 9):
        x, e = random.uniform(0, 0.5, (bands, 8, 9)), random.normal(0, 0.1, (bands, 8, 9))
        x[:, 0, 0], x[:, 1, 1], e[:, 1, 1], e[:, 2, 2] = 0, 0, 0, -x[:, 2, 2]
        np.testing.assert_allclose(turned(x, e), quality.angles(np.moveaxis(x, 0, -1), np.moveaxis(x + e, 0, -1)), rtol=1e-9, atol=1e-6)


# --- windows, masks, files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Image, reference and input with no-data here and there, and a mask; 212 x 260 pixels, as DN with scales of their own."""
    folder, random = tmp_path_factory.mktemp("files"), np.random.default_rng(9)
    reference = texture(212, 260, 10)
    image = ndimage.gaussian_filter(np.roll(reference, (1, 0), (0, 1)), (0.7, 0.7, 0)) * 1.05
    coarse = degrade(reference.astype(np.float32)) + 0.001 * random.standard_normal((53, 65, 4))
    image[60:64, 40:50], reference[20:25, 100:130], coarse[25:27, 30:33] = -1, np.nan, 0.0
    mask = np.ones((212, 260, 1))
    mask[90:110, 60:75] = 0
    return [
        write(folder / "image.tif", image, dtype="int16", nodata=-10000, tiled=True, blockxsize=64, blockysize=64),
        write(folder / "reference.tif", reference, dtype="float32", scale=1e-3),
        write(folder / "input.tif", coarse, 10.0, "uint16", scale=1e-4, offset=-0.1, nodata=1000),
        write(folder / "mask.tif", mask * 1e-4, dtype="uint8", names=("mask",)),
    ]


def test_whole_is_windowed(files):
    whole = measure(*files, border=8, window=4096, threads=1)
    for window, threads in ((1, 1), (64, 3), (128, 2)):
        found = measure(*files, border=8, window=window, threads=threads)
        assert found.pixels == whole.pixels
        for name, values in everything(whole).items():
            assert everything(found)[name] == pytest.approx(values, rel=1e-9, abs=1e-15), name
    assert all(one.all is not None for one in whole.scores.values())


def test_pixels_that_any_file_or_the_mask_lacks_do_not_count(files):
    found = measure(*files, border=8)
    kept = np.zeros((212, 260), bool)
    kept[8:-8, 8:-8] = True
    kept[60:64, 40:50] = kept[20:25, 100:130] = kept[100:108, 120:132] = kept[90:110, 60:75] = False
    assert found.pixels == kept.sum()
    with rasterio.open(files[0]) as one, rasterio.open(files[1]) as two:
        error = (one.read() * 1e-4 - two.read() * 1e-3)[:, kept]
    assert found.scores["rmse"].bands == pytest.approx(np.sqrt((error**2).mean(1)), rel=1e-6)
    assert measure(*files[:3], border=8).pixels == found.pixels + 20 * 15
    assert measure(files[0], files[1], border=8).scores["psnr"].all != found.scores["psnr"].all


def test_what_a_file_says_where_it_holds_nothing_is_never_used(files, tmp_path):
    """Other numbers under the mask, in all files: the same scores."""
    before = measure(*files, border=8)
    spoiled = []
    for path in files[:2]:
        with rasterio.open(path) as dataset:
            planes, profile, names, scales = dataset.read(), dataset.profile, dataset.descriptions, dataset.scales
        planes[:, 92:108, 62:73] = 3000
        with rasterio.open(tmp_path / path.name, "w", **profile) as dataset:
            dataset.write(planes)
            dataset.descriptions, dataset.scales = names, scales
        spoiled.append(tmp_path / path.name)
    after = everything(measure(*spoiled, *files[2:], border=8))
    shifted = {"cpsnr", "cpsnr_rows", "cpsnr_columns"}  # look beside the pixels that count
    under = {name for name in after if name.startswith("consistency")}  # a coarse pixel sees beyond its own footprint
    for name, values in everything(before).items():
        if name not in shifted | under:
            assert after[name] == pytest.approx(values, rel=1e-12), name


def test_scores_without_a_reference_do_not_depend_on_one(files):
    alone, both = measure(files[0], None, files[2], border=8), measure(*files[:3], border=8)
    assert set(alone.scores) == ALONE
    for name, values in everything(alone).items():
        assert everything(both)[name] == values


def test_a_mask_on_the_inputs_grid(files, tmp_path):
    chosen = np.ones((53, 65))
    chosen[10:20, 5:8] = 0
    coarse = write(tmp_path / "coarse.tif", chosen[..., None] * 1e-4, 10.0, "uint8", names=("mask",))
    fine = write(tmp_path / "fine.tif", np.kron(chosen, np.ones((4, 4)))[..., None] * 1e-4, dtype="uint8", names=("mask",))
    for border in (6, 8):  # 6 is rounded up
        assert everything(measure(*files[:3], coarse, border=border, window=44)) == everything(measure(*files[:3], fine, border=8, window=44))
    void = write(tmp_path / "void.tif", np.where(chosen > 0, chosen, 255)[..., None] * 1e-4, 10.0, "uint8", names=("mask",), nodata=255)
    assert str(everything(measure(*files[:3], void))) == str(everything(measure(*files[:3], fine)))
    # and where it begins within a pixel of the mask
    pair = files[:2]
    assert str(measure(*pair, mask=coarse, border=6, window=16)) == str(measure(*pair, mask=fine, border=6, window=16))


def test_radiometry_of_the_files_does_not_matter(tmp_path):
    image, reference = np.rint(texture(48, 48, 1) * 1e4) / 1e4, np.rint(texture(48, 48, 2) * 1e4) / 1e4
    plain = measure(write(tmp_path / "a.tif", image, dtype="uint16"), write(tmp_path / "b.tif", reference, dtype="uint16"))
    other = measure(
        write(tmp_path / "c.tif", image, dtype="int32", scale=1e-5, offset=0.05), write(tmp_path / "d.tif", reference, dtype="float64", scale=1.0, offset=-3.0)
    )
    given = measure(write(tmp_path / "e.tif", image * 0.1, dtype="int16"), write(tmp_path / "d.tif", reference, scale=1e-4, offset=0.1), scale=1e-3)
    assert plain.scores["ergas"].all is None  # needs the input's spacing
    for name in set(plain.scores) - {"ergas"}:
        assert everything(other)[name] == pytest.approx(everything(plain)[name], rel=1e-6), name
    assert given.scores["bias"].all == pytest.approx(plain.scores["bias"].all, abs=3e-4)


def test_bands_are_found_by_name(tmp_path):
    reference = texture(48, 48)
    image = write(tmp_path / "image.tif", reference[..., :3] + np.array([0.01, 0.02, 0.03]))
    with rasterio.open(image, "r+") as dataset:
        dataset.descriptions = NAMES[:3]
    other = write(tmp_path / "reference.tif", reference[..., ::-1], names=NAMES[::-1])
    found = measure(image, other)
    assert found.bands == ("B4", "B3", "B2") and found.scores["bias"].bands == pytest.approx((0.01, 0.02, 0.03))
    spot = write(tmp_path / "spot.tif", reference, names=("red", "green", "blue", "nir"))
    full = write(tmp_path / "full.tif", reference + 0.01)
    by_place = measure(full, spot)
    assert by_place.scores["bias"].all == pytest.approx(0.01)
    assert by_place.remarks == ("bands B4, B3, B2, B8 were compared with the reference's red, green, blue, nir: by place, since no name is in both",)
    assert found.remarks == ()
    with pytest.raises(InputError, match=r"bands B4, B3, B2, B11, expected B4, B3, B2, B8 as in .*; give images of the same bands"):
        measure(full, write(tmp_path / "other.tif", reference, names=("B4", "B3", "B2", "B11")))


def test_bands_coarser_than_the_input_are_left_out_of_consistency(tmp_path):
    reference = texture(64, 64, 3, 2)
    coarse = degrade(reference.astype(np.float32), bands=("B4", "B11")).astype(np.float64)
    for crs, by in (("EPSG:32631", 1.0), ("EPSG:4326", 1 / 111195), ("EPSG:2263", 3937 / 1200)):  # metres, degrees, feet
        place = {"names": ("B4", "B11"), "crs": crs, "left": 3.0, "top": 45.0}
        image = write(tmp_path / "image.tif", reference, 2.5 * by, **place)
        measured = measure(image, None, write(tmp_path / "input.tif", coarse, 10.0 * by, **place))
        found = measured.scores
        assert measured.remarks == ("B11: left out of consistency, its own pixels of 20 m are wider than the input's of 10 m",)
        assert found["consistency_rmse"].bands[0] < 1e-7 and found["consistency_rmse"].bands[1] is None
        assert found["consistency_rmse"].all == found["consistency_rmse"].bands[0] and found["consistency_sam"].all is None
    alone = [write(tmp_path / f"{n}.tif", x[..., 1], n, names=("B11",)) for x, n in ((reference, 2.5), (coarse, 10.0))]
    assert not any(name.startswith("consistency") for name in measure(alone[0], None, alone[1]).scores)


def test_memory_does_not_grow_with_the_image(tmp_path):
    """Eight times the pixels in the same memory, much less than the larger image has as numbers. The lesser of two: others in the process allocate, too."""
    peaks = []
    for size in (288, 800):
        image = texture(size, size, 1)
        pair = write(tmp_path / f"{size}.tif", image, dtype="int16"), write(tmp_path / f"r{size}.tif", image, dtype="int16")
        coarse = write(tmp_path / f"c{size}.tif", image[::4, ::4], 10.0, "int16")
        measure(*pair, coarse, window=64, threads=1)  # what is imported and planned once
        found = []
        for _ in range(2):
            gc.collect()
            tracemalloc.start()
            measure(*pair, coarse, window=64, threads=1)
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        peaks.append(min(found))
    assert peaks[1] < 1.25 * peaks[0] and peaks[1] < 800 * 800 * 4 * 8 / 4


def test_strips_are_decoded_once(tmp_path):
    """GDAL's cache holds every strip that a row of windows needs, in bytes, up to a limit."""
    wide = write(tmp_path / "wide.tif", np.full((80, 60000, 1), 0.2), dtype="float64", compress="deflate", names=("B4",))
    coarse = write(tmp_path / "input.tif", np.full((20, 15000, 1), 0.2), 10.0, compress="deflate", names=("B4",))
    scene = Scene.open(wide, None, coarse, None, 8)
    blocks = scene.read(scene.places(64), 28)
    next(blocks)
    cache = getenv()["GDAL_CACHEMAX"]
    blocks.close()
    assert 60000 * (64 + 56) * 8 < cache < 1 << 30 and cache > 64 << 20
    assert "GDAL_CACHEMAX" not in (getenv() if hasenv() else {})


def test_files_that_cannot_be_compared(files, tmp_path):
    image, reference, coarse, _ = files
    with pytest.raises(UsageError, match="nothing to compare it with; give --reference, --input or both"):
        measure(image)
    with pytest.raises(UsageError, match="border is -1 pixels"):
        measure(image, reference, border=-1)
    with pytest.raises(InputError, match="212 pixels, nothing within a border of 108; give a smaller --border"):
        measure(image, None, coarse, border=106)
    with pytest.raises(InputError, match=r"absent.tif: does not exist"):
        measure(image, tmp_path / "absent.tif")
    with pytest.raises(InputError, match="is a folder"):
        measure(image, tmp_path)
    with pytest.raises(GridError, match=r"reference\): grids differ: corner \(500000.000, 4800000.000\) spacing 2.5"):
        measure(image, coarse)
    with pytest.raises(GridError, match=r"\(--input\): has the spacing of .*, 2.5; give the coarser image"):
        measure(image, None, reference)
    moved = write(tmp_path / "moved.tif", texture(53, 65), 10.0, left=500010.0)
    with pytest.raises(GridError, match=r"\(--input\) and .*: grids do not nest"):
        measure(image, None, moved)
    with pytest.raises(GridError, match=r"\(--mask\): grids do not nest"):
        measure(image, reference, mask=moved)
    none = write(tmp_path / "none.tif", np.zeros((212, 260, 1)), dtype="uint8", names=("mask",))
    with pytest.raises(InputError, match="no pixel counts: the files, --mask and a border of 16 pixels leave nothing"):
        measure(image, reference, mask=none)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(reference.read_bytes()[: reference.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut.tif: cannot be read .*fetch the file again"):
        measure(image, cut)


# --- maps -----------------------------------------------------------------------------------------------------------------------


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        assert dataset.dtypes == ("float32",) and math.isnan(dataset.nodata)
        return dataset.read(1).astype(np.float64)


def test_maps_hold_what_the_table_sums(files, tmp_path):
    found = measure(*files, border=8, window=64, maps=tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["angle.tif", "consistency.tif", "error.tif", "ssim.tif"]
    assert [path.name for path in found.maps] == ["error.tif", "angle.tif", "ssim.tif", "consistency.tif"]
    error, angle, ssim, consistency = map(read, found.maps)
    assert np.isfinite(error).sum() == np.isfinite(angle).sum() == found.pixels
    assert np.isnan(error[:8]).all() and np.isnan(error[92:108, 62:73]).all() and np.isfinite(error[8, 8])
    assert math.sqrt(np.nanmean(error**2)) == pytest.approx(found.scores["rmse"].all, rel=1e-6)
    assert np.nanmean(angle) == pytest.approx(found.scores["sam"].all, rel=1e-6)
    assert np.nanmean(ssim) == pytest.approx(found.scores["ssim"].all, rel=1e-6)
    assert consistency.shape == (53, 65)
    assert math.sqrt(np.nanmean(consistency**2)) == pytest.approx(found.scores["consistency_rmse"].all, rel=1e-6)
    with rasterio.open(found.maps[3]) as one, rasterio.open(files[2]) as two:
        assert one.transform == two.transform and one.crs == two.crs
    measure(*files, border=8, window=4096, maps=tmp_path / "whole", threads=1)
    for path in found.maps:
        np.testing.assert_allclose(read(tmp_path / "whole" / path.name), read(path), rtol=1e-6, atol=1e-9)


def test_maps_are_whole_or_not_there(files, tmp_path):
    kept = tmp_path / "error.tif"
    kept.write_text("mine")
    with pytest.raises(OutputError, match=r"error.tif: exists already; choose another folder or give --overwrite"):
        measure(*files, maps=tmp_path)
    spoiled = write(tmp_path / "spoiled.tif", texture(212, 260), dtype="int16", compress="deflate", blockysize=32)
    with rasterio.open(spoiled) as dataset:
        begin, size = (int(dataset.get_tag_item(f"BLOCK_{what}_0_3", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    with spoiled.open("r+b") as file:  # found when it is read, after the first maps are written
        file.seek(begin)
        file.write(bytes(size))
    with pytest.raises(InputError, match=r"spoiled.tif: cannot be read at row \d+, column \d+ .*; fetch or make the file again"):
        measure(files[0], spoiled, maps=tmp_path, overwrite=True, window=64)
    none = write(tmp_path / "none.tif", np.zeros((212, 260, 1)), dtype="uint8", names=("mask",))
    with pytest.raises(InputError, match="no pixel counts"):
        measure(files[0], files[1], mask=none, maps=tmp_path, overwrite=True)
    assert kept.read_text() == "mine" and sorted(path.name for path in tmp_path.iterdir()) == ["error.tif", "none.tif", "spoiled.tif"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="maps cannot be written"):
        measure(*files, maps=tmp_path / "file" / "maps")
    assert [path.name for path in measure(files[0], files[1], maps=tmp_path, overwrite=True).maps] == ["error.tif", "angle.tif", "ssim.tif"]
    assert np.isfinite(read(kept)).any()


# --- the command ----------------------------------------------------------------------------------------------------------------


def otbsr(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(os.path.abspath(one) for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one)
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-m", "otbsr", *map(str, words)], capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def test_the_example_of_the_help_runs(files, tmp_path):
    example = otbsr("quality", "--help").stdout.partition("Example:\n  otbsr ")[2].splitlines()[0]
    words = shlex.split(example)
    names = [word for word in words if word.endswith(".tif")]
    for path, name in zip(files, names, strict=False):
        (tmp_path / name).symlink_to(path)
    done = otbsr(*words, "--scores", ",".join(SUMS), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = measure(*files[:3])
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["all", *NAMES]
    assert [line.split()[0] for line in lines[1:-3]] == list(expected.scores)
    psnr = expected.scores["psnr"]
    assert lines[1].split() == ["psnr", *(f"{value:.5g}" for value in (psnr.all, *psnr.bands)), "dB"]
    assert lines[-3:] == [f"pixels: {expected.pixels}", "factor: 4", "border: 16"]


def test_the_command_prints_json(files):
    done = otbsr("quality", files[0], "--input", files[2], "--mask", files[3], "--border", 8, "--scores", ",".join(SUMS), "--json", "--quiet")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    found = json.loads(done.stdout)
    expected = measure(files[0], None, files[2], files[3], border=8)
    assert found == json.loads(json.dumps(expected.as_dict())) and found["bands"] == list(NAMES)
    assert set(found["scores"]) == ALONE
    assert set(found["scores"]["noise"]["bands"]) == set(NAMES) and found["scores"]["noise"]["unit"] == "reflectance"


def test_errors_of_the_command_are_one_line(files, tmp_path):
    for status, words in ((2, [files[0]]), (65, [files[0], "--reference", files[2]]), (65, [tmp_path / "absent.tif", "--input", files[2]])):
        done = otbsr("quality", *words)
        assert done.returncode == status and done.stdout == ""
        assert done.stderr.startswith("otbsr: error: ") and done.stderr.count("\n") == 1
