"""SR4RS's generator, discriminator and losses: geometry by perturbation, layers by their definitions, operations by hand, training."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from otbsr.methods import sr4rs
from otbsr.methods.networks import NetworkSettings, fuse, margin, network, operations

SMALL = NetworkSettings(body="sr4rs", channels=4, blocks=2, back_projection=0)


def reflectances(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(500, 3000, shape).astype(np.float32)


@pytest.mark.parametrize(("blocks", "factor"), [(2, 4), (3, 4), (2, 2)])
def test_margin_is_the_radius_of_the_receptive_field(blocks, factor):
    """A pixel that is no number spoils all that is computed from it, whatever the weights."""
    settings = NetworkSettings(body="sr4rs", channels=4, blocks=blocks, factor=factor, back_projection=0)
    size, centre = 2 * margin(settings) + 9, margin(settings) + 4
    lr = reflectances(1, size, size, 4)
    lr[0, centre, centre, 2] = np.nan
    rows, columns = np.nonzero(np.isnan(sr4rs.generator(settings)(lr).numpy()[0]).any(-1))
    reach = max(centre - rows.min() // factor, rows.max() // factor - centre, centre - columns.min() // factor, columns.max() // factor - centre)
    assert reach == margin(settings)


def test_margin_of_the_published_size():
    published = NetworkSettings(body="sr4rs", channels=64, blocks=16, back_projection=0)
    # 4 (9x9) + 32 + 1; at 5 m 1 + 1 + 2 and the blur, at 2.5 m 1 + 1 + 4 and the blur, each from an enlargement of 1.5: 5 more
    assert margin(published) == 42


def test_operations_by_hand():
    """For each input pixel: 1 place at 10 m, 4 at 5 m and 16 at 2.5 m; an enlargement's 4x4 taps are used once for each pixel enlarged."""
    depth, wide = 64, 256
    coarse = 81 * 4 * depth + (2 * 16 + 1) * 9 * depth**2
    middle = 16 * depth * wide + 4 * (9 + 9 + 25) * wide**2
    fine = 4 * 16 * wide**2 + 16 * ((9 + 9 + 81) * wide**2 + 4 * wide)
    assert operations(NetworkSettings(body="sr4rs", channels=64, blocks=16, back_projection=0)) == coarse + middle + fine
    assert coarse + middle + fine > 50 * operations(NetworkSettings(size="base"))


def test_serving_form_is_the_finest_output():
    model = network(SMALL)
    lr = reflectances(2, 12, 16, 4)
    both, finest = model(lr).numpy(), fuse(model, SMALL)(lr).numpy()
    assert both.shape == (2, 48, 64, 12) and finest.shape == (2, 48, 64, 4)
    np.testing.assert_allclose(both[..., :4], finest, rtol=1e-5)
    blocks = both[..., 8:].reshape(2, 12, 4, 16, 4, 4)
    assert np.ptp(blocks, axis=(2, 4)).max() == 0 and np.ptp(both[..., 4:8].reshape(2, 24, 2, 32, 2, 4), axis=(2, 4)).max() == 0
    assert len({float(x.std()) for x in (both[..., :4], both[..., 4:8], both[..., 8:])}) == 3


def test_blocks_with_margin_equal_whole():
    radius, model = margin(SMALL), sr4rs.generator(SMALL)
    lr = reflectances(1, 50, 54, 4, seed=1)
    whole = model(lr).numpy()
    block = model(lr[:, 22 - radius : 29 + radius, 19 - radius : 33 + radius]).numpy()
    np.testing.assert_allclose(block[:, 4 * radius : -4 * radius, 4 * radius : -4 * radius], whole[:, 88:116, 76:132], rtol=1e-3, atol=0.5)


def plain(layer, x, kernel=None):
    """The layer's 3x3 convolution alone, zero padded."""
    from keras import ops

    return ops.conv(x, layer.kernel * layer.scale if kernel is None else kernel, padding="same").numpy()


def test_enlargement_is_nearest_neighbour_and_a_convolution():
    x = np.random.default_rng(2).standard_normal((1, 6, 7, 3)).astype(np.float32)
    layer = sr4rs.EqualisedConvolution(5, 3, enlarge=True)
    made = layer(x).numpy()
    expected = plain(layer, x.repeat(2, 1).repeat(2, 2), layer.kernel.numpy()[::-1, ::-1] * layer.scale)
    assert made.shape == (1, 12, 14, 5) == layer.compute_output_shape((1, 6, 7, 3))
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert layer.scale == pytest.approx(np.sqrt(2 / 27))


def test_reduction_is_a_convolution_and_the_mean_of_two_by_two():
    x = np.random.default_rng(3).standard_normal((1, 8, 6, 3)).astype(np.float32)
    layer = sr4rs.EqualisedConvolution(5, 3, stride=2)
    made = layer(x).numpy()
    expected = plain(layer, x).reshape(1, 4, 2, 3, 2, 5).mean((2, 4))
    assert made.shape == (1, 4, 3, 5) == layer.compute_output_shape((1, 8, 6, 3))
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_blur_and_normalisation():
    point = np.zeros((1, 3, 3, 2), np.float32)
    point[0, 1, 1] = [16, 32]
    np.testing.assert_allclose(sr4rs.Blur()(point).numpy()[0, ..., 1], [[2, 4, 2], [4, 8, 4], [2, 4, 2]])
    np.testing.assert_allclose(sr4rs.PixelNorm()(np.array([[[[3.0, 4.0]]]], np.float32)).numpy()[0, 0, 0], np.array([3, 4]) / np.sqrt(12.5), rtol=1e-6)


def test_multiscale_l1_by_hand():
    """Off by 1, 2 and 4 at the three levels: 7. The target's own pyramid: 0."""
    target = reflectances(1, 8, 8, 1)
    exact = np.asarray(sr4rs.pyramid(target, 4))
    np.testing.assert_allclose(exact[0, :4, :4, 2], target[0, :4, :4, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(exact[0, 6:, :2, 1], target[0, 6:, :2, 0].mean(), rtol=1e-6)
    assert float(sr4rs.multiscale_l1(target, exact, 4)) == 0
    assert float(sr4rs.multiscale_l1(target, exact + np.array([1, -2, 4], np.float32), 4)) == pytest.approx(7, rel=1e-4)


def test_the_discriminator_sees_every_level_and_the_batch():
    judge = sr4rs.Discriminator(4, 4)
    image = np.random.default_rng(4).standard_normal((4, 32, 32, 6)).astype(np.float32)
    score = judge(image).numpy()
    assert score.shape == (4, 1)
    for level in range(3):
        other = image.copy()
        other[..., 2 * level : 2 * level + 2] += 1
        assert np.abs(judge(other).numpy() - score).max() > 1e-4
    assert np.abs(judge(np.repeat(image[:1], 4, 0)).numpy()[0] - score[0]) > 1e-4  # alone it would score the same
    same, apart = np.ones((2, 3, 3, 1), np.float32), np.array([0, 2], np.float32).reshape(2, 1, 1, 1) * np.ones((2, 3, 3, 1), np.float32)
    np.testing.assert_allclose(np.asarray(sr4rs.batch_spread(same))[..., 1], 1e-4, rtol=1e-3)
    np.testing.assert_allclose(np.asarray(sr4rs.batch_spread(apart))[..., 1], 1, rtol=1e-3)


def test_settings_that_sr4rs_has_not():
    with pytest.raises(ValidationError, match="body sr4rs with factor 4 and back_projection 1, expected factor 2, 4 or 8 and back_projection 0"):
        NetworkSettings(body="sr4rs")
    with pytest.raises(ValidationError, match="factor 3"):
        NetworkSettings(body="sr4rs", factor=3, back_projection=0)


@pytest.mark.parametrize("adversarial", [False, True])
def test_training_by_the_one_loop(tmp_path, adversarial):
    """Its loss falls and its model is served whole; with the discriminator, both move."""
    from otbsr.methods.augmentation import Augmentation
    from otbsr.methods.losses import LossWeights
    from otbsr.methods.patches import Patches
    from otbsr.methods.settings import AdversarialSettings, TrainingSettings
    from otbsr.methods.training import train

    lr = np.tile(reflectances(6, 1, 1, 4), (1, 16, 16, 1))
    patches = Patches(lr, lr.repeat(4, 1).repeat(4, 2))
    settings = TrainingSettings(
        network=SMALL.model_copy(update={"spread": 10000.0}),
        loss=LossWeights(pixel=200, gradient=0, spectral=0, consistency=0),
        adversarial=AdversarialSettings(weight=2, features=0, texture=0, pattern=0, start=0, ramp=1e-6, relativistic=False, channels=4)
        if adversarial
        else None,
        augmentation=Augmentation(anew=0),
        steps=6 if adversarial else 25,
        batch=4,
        rate=0.02,
        warmup=0,
        clip=1e6,
        average=0,
        border=2,
        validate_every=5,
    )
    folder = train(patches, patches, settings, tmp_path / "sr4rs")
    curve = folder.sidecar.training["curve"]
    assert folder.sidecar.margin == margin(SMALL) and folder.sidecar.method == ("perceptual" if adversarial else "fidelity")
    assert folder(lr[0]).shape == (64, 64, 4)
    if not adversarial:
        assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
