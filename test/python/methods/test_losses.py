"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from otbsr.methods.losses import LossWeights, charbonnier, consistency, degrade, fidelity_loss, gradient, spectral_angle

BOX = np.full((4, 4, 1), 1 / 16, np.float32)


def image(values):
    return np.asarray(values, np.float32)[None, ..., None]


def test_charbonnier():
    assert float(charbonnier(np.array([3.0, -3.0]), 4.0)) == pytest.approx(1.0)  # sqrt(9 + 16) - 4
    assert float(charbonnier(np.zeros(3))) == 0.0


def test_gradient_sees_edges_but_no_level():
    target, moved = image([[0, 0], [0, 0]]), image([[5, 5], [5, 5]])
    assert float(gradient(target, moved)) == pytest.approx(0, abs=1e-7)
    edge = image([[0, 3], [0, 3]])  # rows differ by 0, columns by 3: half of |3|
    assert float(gradient(target, edge)) == pytest.approx(0.5 * (math.sqrt(9 + 1e-4) - 1e-2), rel=1e-5)


def test_spectral_angle():
    x = np.array([[[[1.0, 0.0]]]], np.float32)
    y = np.array([[[[2.0, 2.0]]]], np.float32)
    assert float(spectral_angle(x, y)) == pytest.approx(1 - math.cos(math.pi / 4), abs=1e-5)
    assert float(spectral_angle(x, 7 * x)) == pytest.approx(0, abs=1e-5)


def test_degrade_box_is_block_mean():
    fine = np.random.default_rng(0).standard_normal((1, 12, 8, 1)).astype(np.float32)
    expected = fine.reshape(1, 3, 4, 2, 4, 1).mean((2, 4))
    np.testing.assert_allclose(np.asarray(degrade(fine, BOX, 4)), expected, atol=1e-6)


def test_degrade_keeps_a_ramp_where_it_is():
    from otbsr.methods.training import sensor_kernels

    kernels = sensor_kernels(("B4", "B8"), 4)
    assert kernels.shape[0] % 8 == 4  # an odd multiple of the factor: centred on a coarse pixel
    np.testing.assert_allclose(kernels.sum((0, 1)), 1, rtol=1e-5)
    radius = (kernels.shape[0] // 4 - 1) // 2
    x = (np.arange(64) + 0.5) / 4 - 0.5  # fine centres in coarse pixels
    ramp = np.broadcast_to((x[None, :] + 10 * x[:, None])[None, ..., None], (1, 64, 64, 2)).astype(np.float32)
    coarse = np.arange(16)[radius:-radius]
    np.testing.assert_allclose(np.asarray(degrade(ramp, kernels, 4))[0, ..., 0], coarse[None, :] + 10 * coarse[:, None], atol=1e-3)


def test_degrade_agrees_with_the_world_simulator():
    from otbsr.methods.training import sensor_kernels
    from otbsr.world.sensors import degrade as simulate

    bands = ("B4", "B3", "B2", "B8")
    kernels = sensor_kernels(bands, 4)
    radius = (kernels.shape[0] // 4 - 1) // 2
    fine = np.random.default_rng(1).uniform(0, 1, (64, 48, 4)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(degrade(fine[None], kernels, 4))[0], simulate(fine, 4, bands)[radius:-radius, radius:-radius], atol=1e-5)


def test_consistency_is_zero_only_for_what_gives_the_input_back():
    fine = np.random.default_rng(2).standard_normal((1, 16, 16, 1)).astype(np.float32)
    lr = fine.reshape(1, 4, 4, 4, 4, 1).mean((2, 4))
    assert float(consistency(lr, fine, BOX, 4)) == pytest.approx(0, abs=1e-6)
    assert float(consistency(lr, fine + 2, BOX, 4)) == pytest.approx(math.sqrt(4 + 1e-4) - 1e-2, rel=1e-4)


def test_total_is_the_weighted_sum():
    target, result, lr = image([[0.0] * 4] * 4), image([[1.0] * 4] * 4), image([[0.25]])
    one = math.sqrt(1 + 1e-4) - 1e-2
    three_quarters = math.sqrt(0.75**2 + 1e-4) - 1e-2
    weights = LossWeights(pixel=2, gradient=3, spectral=0, consistency=5)
    assert float(fidelity_loss(lr, target, result, BOX, 4, weights)) == pytest.approx(2 * one + 5 * three_quarters, rel=1e-5)
