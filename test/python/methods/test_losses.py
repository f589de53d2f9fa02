"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from otbsr.methods.losses import (
    LossWeights,
    charbonnier,
    consistency,
    critic_loss,
    deception_loss,
    feature_distance,
    fidelity_loss,
    gradient,
    over_shifts,
    pattern_distance,
    shifts,
    spectral_angle,
    texture_distance,
)
from otbsr.methods.sensor import degrade, kernel_radius, observe_anew, polyphase_degradation, sensor_kernels, spacing_ratio

BOX = np.full((4, 4, 1), 1 / 16, np.float32)


def image(values):
    return np.asarray(values, np.float32)[None, ..., None]


def float_of(values):
    """The one image's value."""
    assert np.shape(values) == (1,)
    return float(np.asarray(values)[0])


def test_charbonnier():
    two = np.array([[[[3.0], [-3.0]]], [[[0.0], [0.0]]]])
    np.testing.assert_allclose(charbonnier(two, 4.0), [1.0, 0.0])  # sqrt(9 + 16) - 4, per image


def test_gradient_sees_edges_but_no_level():
    target, moved = image([[0, 0], [0, 0]]), image([[5, 5], [5, 5]])
    assert float_of(gradient(target, moved)) == pytest.approx(0, abs=1e-7)
    edge = image([[0, 3], [0, 3]])  # rows differ by 0, columns by 3: half of |3|
    assert float_of(gradient(target, edge)) == pytest.approx(0.5 * (math.sqrt(9 + 1e-4) - 1e-2), rel=1e-5)


def test_spectral_angle():
    x = np.array([[[[1.0, 0.0]]]], np.float32)
    y = np.array([[[[2.0, 2.0]]]], np.float32)
    assert float_of(spectral_angle(x, y)) == pytest.approx(1 - math.cos(math.pi / 4), abs=1e-5)
    assert float_of(spectral_angle(x, 7 * x)) == pytest.approx(0, abs=1e-5)


def test_degrade_box_is_block_mean():
    fine = np.random.default_rng(0).standard_normal((1, 12, 8, 1)).astype(np.float32)
    expected = fine.reshape(1, 3, 4, 2, 4, 1).mean((2, 4))
    np.testing.assert_allclose(np.asarray(degrade(fine, BOX, 4)), expected, atol=1e-6)


def test_degrade_keeps_a_ramp_where_it_is():
    kernels = sensor_kernels(("B4", "B8"), 4)
    assert kernels.shape[0] % 8 == 4  # an odd multiple of the factor: centred on a coarse pixel
    np.testing.assert_allclose(kernels.sum((0, 1)), 1, rtol=1e-5)
    radius = (kernels.shape[0] // 4 - 1) // 2
    x = (np.arange(64) + 0.5) / 4 - 0.5  # fine centres in coarse pixels
    ramp = np.broadcast_to((x[None, :] + 10 * x[:, None])[None, ..., None], (1, 64, 64, 2)).astype(np.float32)
    coarse = np.arange(16)[radius:-radius]
    np.testing.assert_allclose(np.asarray(degrade(ramp, kernels, 4))[0, ..., 0], coarse[None, :] + 10 * coarse[:, None], atol=1e-3)


def test_degrade_agrees_with_the_world_simulator():
    from otbsr.world.sensors import degrade as simulate

    bands = ("B4", "B3", "B2", "B8")
    kernels = sensor_kernels(bands, 4)
    radius = (kernels.shape[0] // 4 - 1) // 2
    fine = np.random.default_rng(1).uniform(0, 1, (64, 48, 4)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(degrade(fine[None], kernels, 4))[0], simulate(fine, 4, bands)[radius:-radius, radius:-radius], atol=1e-5)


def test_consistency_is_zero_only_for_what_gives_the_input_back():
    fine = np.random.default_rng(2).standard_normal((1, 16, 16, 1)).astype(np.float32)
    lr = fine.reshape(1, 4, 4, 4, 4, 1).mean((2, 4))
    assert float_of(consistency(lr, fine, BOX, 4)) == pytest.approx(0, abs=1e-6)
    assert float_of(consistency(lr, fine + 2, BOX, 4)) == pytest.approx(math.sqrt(4 + 1e-4) - 1e-2, rel=1e-4)


def test_total_is_the_weighted_sum():
    target, result, lr = image([[0.0] * 4] * 4), image([[1.0] * 4] * 4), image([[0.25]])
    one = math.sqrt(1 + 1e-4) - 1e-2
    three_quarters = math.sqrt(0.75**2 + 1e-4) - 1e-2
    weights = LossWeights(pixel=2, gradient=3, spectral=0, consistency=5)
    assert float(fidelity_loss(lr, target, result, BOX, 4, weights)) == pytest.approx(2 * one + 5 * three_quarters, rel=1e-5)


def test_registration_finds_the_shift_of_each_image():
    random = np.random.default_rng(3)
    large = random.standard_normal((2, 20, 20, 1)).astype(np.float32)
    result = large[:, 4:-4, 4:-4]
    target = np.stack([large[0, 5:-3, 2:-6], large[1, 4:-4, 4:-4]])  # the first by (1, -2), the second in place
    together = over_shifts(lambda a, b: charbonnier(a - b), target, result, 2)
    np.testing.assert_allclose(together, 0, atol=1e-7)
    assert np.asarray(over_shifts(lambda a, b: charbonnier(a - b), target, result, 1))[0] > 0.1
    assert np.asarray(over_shifts(lambda a, b: charbonnier(a - b), target, result, 0))[1] == pytest.approx(0, abs=1e-7)
    assert shifts(1)[0] == (0, 0)
    assert len(shifts(2)) == 25


def test_scores_of_the_discriminator_by_hand():
    real, fake = np.array([0.5, 1.5]), np.array([-0.25, 0.25])  # means 1 and 0: what each side wants
    assert float(critic_loss(real, fake, False)) == pytest.approx(0.5 * (0.25 + 0.0625))
    assert float(critic_loss(real, fake, True)) == pytest.approx(0.5 * (0.25 + 0.0625))
    assert float(deception_loss(real, fake, False)) == pytest.approx(0.5 * np.mean([1.25**2, 0.75**2]))
    assert float(deception_loss(real, fake, True)) == pytest.approx(0.5 * (np.mean([1.5**2, 2.5**2]) + np.mean([2.25**2, 1.75**2])))


def test_feature_distance_does_not_depend_on_the_layers_scale():
    real, fake = [np.array([1.0, -1.0]), np.array([100.0, 100.0])], [np.array([1.5, -1.5]), np.array([50.0, 150.0])]
    assert float(feature_distance(real, fake)) == pytest.approx(0.5, abs=1e-5)


def test_polyphase_degradation_is_the_degradation():
    from otbsr.methods.networks import depth_to_space

    bands, factor = ("B4", "B2"), 3
    kernels = sensor_kernels(bands, factor)
    phases = np.random.default_rng(4).standard_normal((1, 12, 11, factor * factor * 2)).astype(np.float32)
    radius = kernel_radius(kernels, factor)
    from keras import ops

    coarse = np.asarray(ops.conv(phases, polyphase_degradation(kernels, factor), padding="valid"))
    np.testing.assert_allclose(coarse, np.asarray(degrade(np.asarray(depth_to_space(phases, factor)), kernels, factor)), atol=1e-5)
    assert coarse.shape[1] == 12 - 2 * radius


def test_inputs_made_anew_vary_only_as_asked():
    bands = ("B4", "B3", "B2", "B8")
    target = np.random.default_rng(5).uniform(500, 3000, (2, 64, 64, 4)).astype(np.float32)
    from otbsr.world.sensors import degrade as simulate

    plain = observe_anew(target, bands, 4, 0.0, 0.0, (0.0, 0.0), np.random.default_rng(0))
    np.testing.assert_allclose(plain, np.stack([simulate(t, 4, bands) for t in target]), atol=0.05)
    noisy = observe_anew(target, bands, 4, 0.0, 0.0, (10.0, 10.0), np.random.default_rng(0))
    assert (noisy - plain).std() == pytest.approx(10, rel=0.05)
    blurred = [observe_anew(target, bands, 4, 0.3, 0.0, (0.0, 0.0), np.random.default_rng(seed)).std() for seed in range(4)]
    assert np.std(blurred) > 1
    x = np.broadcast_to(10 * np.arange(64, dtype=np.float32)[None, None, :, None], (1, 64, 64, 4))
    moved = observe_anew(x, bands, 4, 0.0, 0.25, (0.0, 0.0), np.random.default_rng(1)) - observe_anew(
        x, bands, 4, 0.0, 0.0, (0.0, 0.0), np.random.default_rng(1)
    )
    inner = moved[:, 4:-4, 4:-4].mean((0, 1, 2))
    assert np.all(np.abs(inner) <= 10.01)  # a quarter of a coarse pixel is one fine pixel: 10 DN
    assert np.ptp(inner) > 1, "each band its own"


def test_a_coarser_band_is_made_anew_with_its_own_pixels():
    """As the simulator's sensor sees it, repeated, noise too; 60 m pixels, which do not fill the patch, begin anywhere in it."""
    from otbsr.world.sensors import degrade as simulate

    target = np.random.default_rng(6).uniform(500, 3000, (2, 128, 128, 3)).astype(np.float32)
    target[..., 1:] = target[..., 1:].repeat(4, 1).repeat(4, 2)[:, :128, :128]
    seen = observe_anew(target, ("B4", "B11", "B1"), 4, 0.0, 0.0, (0.0, 0.0), np.random.default_rng(0))
    np.testing.assert_allclose(seen[..., :1], np.stack([simulate(t[..., :1], 4, ("B4",)) for t in target]), atol=0.05)
    own = np.stack([simulate(t[..., 1:2], 8, ("B11",)) for t in target])
    np.testing.assert_allclose(seen[..., 1:2], own.repeat(2, 1).repeat(2, 2), atol=0.05)
    phases = set()
    for seed in range(8):
        noisy = observe_anew(target, ("B4", "B11", "B1"), 4, 0.0, 0.0, (10.0, 10.0), np.random.default_rng(seed))
        np.testing.assert_allclose(noisy[:, ::2, ::2, 1], noisy[:, 1::2, 1::2, 1], atol=0.01)
        steps = np.flatnonzero(np.any(np.abs(np.diff(noisy[..., 2], axis=1)) > 0.01, axis=(0, 2)))
        assert np.all(np.diff(steps) == 6) and steps.size >= 4
        phases.add(int(steps[0]))
    assert len(phases) > 2
    flat = observe_anew(np.full((1, 128, 128, 1), 700, np.float32), ("B1",), 4, 0.1, 0.1, (0.0, 0.0), np.random.default_rng(1))
    np.testing.assert_allclose(flat, 700, rtol=1e-5)


def test_only_bands_of_the_grids_own_spacing_are_compared_with_the_input():
    """A 20 m band's pixels lie anywhere in a patch: its result cannot be degraded to them, and takes no part."""
    from otbsr.methods.losses import consistency, fidelity_loss

    random = np.random.default_rng(7)
    bands, kernels = ("B4", "B11", "B8"), sensor_kernels(("B4", "B8"), 4)
    lr, result = random.uniform(0, 1, (2, 16, 16, 3)).astype(np.float32), random.uniform(0, 1, (2, 64, 64, 3)).astype(np.float32)
    some = consistency(lr, result, kernels, 4, [0, 2])
    np.testing.assert_allclose(np.asarray(some), np.asarray(consistency(lr[..., ::2], result[..., ::2], kernels, 4)))
    np.testing.assert_array_equal(np.asarray(some), np.asarray(consistency(lr * np.float32([1, 9, 1]), result, kernels, 4, [0, 2])))
    weights = LossWeights(pixel=0, gradient=0, spectral=0, consistency=1)
    assert float(fidelity_loss(lr, result, result, kernels, 4, weights, [0, 2])) > 0
    assert float(fidelity_loss(lr, result, result, kernels, 4, weights, [])) == 0, bands


def test_spacing_of_bands_on_the_ten_metre_grid():
    assert [spacing_ratio(band) for band in ("B4", "B5", "B1", "red")] == [1, 2, 6, 1]


def test_texture_distance_is_the_log_of_a_gain_wherever_the_texture_lies():
    texture = np.random.default_rng(5).normal(0, 3, (1, 64, 64, 2)).astype(np.float32)
    assert float(texture_distance(texture, texture)) == 0
    assert float(texture_distance(texture, 2 * texture + 7)) == pytest.approx(math.log(2), rel=1e-3)
    assert float(texture_distance(2 * texture, texture)) == pytest.approx(math.log(2), rel=1e-3)
    assert float(texture_distance(texture, texture[:, ::-1, ::-1])) < 0.15 < float(texture_distance(texture, 1.3 * texture))


def test_texture_distance_of_ramps_by_hand():
    """Slopes 3 and 1: differences of 3 and 1 one pixel apart, 6 and 2 two apart: ln 3, but for the floor under flat ground."""
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32)[None, None, :, None], (1, 32, 32, 1))
    assert float(texture_distance(ramp, 3 * ramp, floor=1e-3)) == pytest.approx(math.log(3), rel=1e-5)
    assert float(texture_distance(0 * ramp, 0.004 * ramp, floor=0.003)) == pytest.approx(0.25 * (math.log(25 / 9) + math.log(73 / 9)), rel=1e-4)


def test_no_features_are_no_distance():
    assert float(feature_distance([], [])) == 0


def test_pattern_distance_sees_combs_of_the_grid_only():
    """A comb that is 1 at one of four places is 3/4 off its mean there and 1/4 elsewhere: 3/8. Offsets, ramps of coarse pixels and texture are none."""
    target = np.random.default_rng(6).normal(0, 1, (1, 40, 40, 2)).astype(np.float32)
    comb = np.tile(np.array([[1, 0], [0, 0]], np.float32), (20, 20))[None, ..., None]
    assert float(pattern_distance(target, target, 2)) == 0
    assert float(pattern_distance(target, target + comb, 2)) == pytest.approx(3 / 8, rel=1e-4)
    steps = np.arange(10, dtype=np.float32).repeat(4)[None, :, None, None]
    assert float(pattern_distance(target, target + 5 + steps, 4)) == pytest.approx(0, abs=1e-5)
    texture = np.random.default_rng(7).normal(0, 1, target.shape).astype(np.float32)
    assert float(pattern_distance(0 * texture, texture, 4)) < 0.25
