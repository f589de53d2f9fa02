"""Edge MTF: known point spreads, on rotated squares whose blurred edges are known exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from image_files import write_reflectance
from scipy import special

from otbsr.evaluation import edges
from otbsr.evaluation.streams import measure

PITCH, HALF = 96, 26


def squares(side: int, sigma: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Bright squares of 52 pixels, turned at random, blurred by a Gaussian and sampled at points: exact, since a Gaussian is round."""
    random = np.random.default_rng(seed)
    image, (y, x) = np.full((side, side), 0.1), np.mgrid[:PITCH, :PITCH] - PITCH / 2.0
    for row in range(0, side - PITCH + 1, PITCH):
        for column in range(0, side - PITCH + 1, PITCH):
            angle, (p, q) = random.uniform(0, 2 * np.pi), random.uniform(-2, 2, 2)
            u, v = (x - p) * np.cos(angle) + (y - q) * np.sin(angle), (y - q) * np.cos(angle) - (x - p) * np.sin(angle)
            across = [special.ndtr((k + HALF) / sigma) - special.ndtr((k - HALF) / sigma) for k in (u, v)]
            image[row : row + PITCH, column : column + PITCH] += 0.2 * across[0] * across[1]
    return image + noise * random.standard_normal(image.shape)


def write(path: Path, *planes: np.ndarray) -> Path:
    return write_reflectance(path, np.stack(planes, -1))


def scores(path: Path, **more):
    """Against itself, since something to compare with must be given."""
    return measure(path, path, groups=["edges"], border=0, **more)


@pytest.mark.parametrize(("sigma", "noise"), [(0.4, 0.0), (0.6, 0.004), (1.0, 0.002), (2.2, 0.004)])
def test_known_point_spreads_are_recovered_within_3_percent(tmp_path, sigma, noise):
    found = scores(write(tmp_path / "image.tif", squares(384, sigma, noise, seed=int(10 * sigma)))).scores
    assert found["edge_sigma"].all == pytest.approx(sigma, rel=0.03)
    expected = math.exp(-2 * (math.pi * 0.5 * sigma) ** 2)
    # one frequency alone, unlike the Gaussian through all of them, has the noise's error: 2 % of 0.17 in repeated draws with noise 2 % of the contrast
    assert found["edge_mtf"].all == pytest.approx(expected, rel=0.06 if noise else 0.03, abs=0.007 if noise else 0.005)
    assert found["edge_sigma_low"].all < found["edge_sigma"].all < found["edge_sigma_high"].all < 1.05 * found["edge_sigma_low"].all
    if expected > 0.1:  # near 0, the modulus of what is drawn lies above
        assert found["edge_mtf_low"].all < found["edge_mtf"].all < found["edge_mtf_high"].all
    assert found["edges"].all > 50


def test_mtf_by_hand():
    """A step between pixels, sampled at its bins' middles: the line spread is one bin, whose MTF is 1 once the bin's width is mended."""
    place = (np.arange(80) + 0.5) * edges.STEP - edges.REACH
    frequency = np.array([0.1, 0.25, 0.5])
    # the step's difference is one interval, a point at 0: only the mending of bins remains, by definition
    np.testing.assert_allclose(edges.transfer((place > 0).astype(float), np.ones(80), frequency), 1 / np.sinc(0.25 * frequency) ** 2)
    wide = special.ndtr(place / 1.5)  # a Gaussian's, sampled instead of averaged: one mending too many
    np.testing.assert_allclose(edges.transfer(wide, np.ones(80), frequency) * np.sinc(0.25 * frequency), np.exp(-2 * (np.pi * frequency * 1.5) ** 2), atol=2e-3)


def test_distance_of_a_tilted_edge():
    y, x = np.mgrid[-12:13, -12:13]
    for angle in (0.0, 0.2, 1.1, 2.9, -1.5):
        expected = x * math.cos(angle) + y * math.sin(angle) - 0.3
        np.testing.assert_allclose(edges.line_distance(special.ndtr(expected / 1.2)), expected, atol=0.01)


def test_bands_and_no_data_are_counted_alone(tmp_path):
    sharp, soft = squares(384, 0.6), squares(384, 1.5)
    both = scores(write(tmp_path / "both.tif", sharp, soft)).scores
    assert both["edge_sigma"].bands == pytest.approx((0.6, 1.5), rel=0.03)
    holed = sharp.copy()
    holed[:, 200:] = -1e-4
    half = scores(write(tmp_path / "half.tif", holed)).scores
    assert 5 < half["edges"].all < 0.7 * both["edges"].bands[0] and half["edge_sigma"].all == pytest.approx(0.6, rel=0.03)


def test_whatever_the_window(tmp_path):
    path = write(tmp_path / "image.tif", squares(300, 0.8, 0.002))
    first, other = (scores(path, window=window) for window in (64, 4096))
    for name, one in first.scores.items():
        assert one.all == pytest.approx(other.scores[name].all, rel=1e-9), name
    np.testing.assert_allclose(first.edge["mtf"][0], other.edge["mtf"][0], rtol=1e-9)
    assert first.edge["mtf"][0][0] == pytest.approx(1)


def test_texture_and_curves_are_no_edges(tmp_path):
    """Nothing is told of an image without straight edges between even surfaces."""
    random = np.random.default_rng(3)
    texture = 0.2 + 0.05 * random.standard_normal((192, 192))
    y, x = np.mgrid[:192, :192]
    discs = 0.1 + 0.2 * special.ndtr((9 - np.hypot(x % 48 - 24, y % 48 - 24)) / 0.7)
    for image in (texture, discs, np.full((192, 192), 0.2)):
        found = scores(write(tmp_path / "image.tif", image))
        assert found.scores["edges"].all == 0 and found.scores["edge_mtf"].all is None and found.edge["mtf"] == [[]]
