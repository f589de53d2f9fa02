"""The networks' geometry: bicubic against analysis, receptive field against perturbation, fused against unfused."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from otbsr.methods.networks import (
    SIZES,
    DepthToSpace,
    NetworkSettings,
    WideConvolution,
    bicubic_kernel,
    depth_to_space,
    fine_positions,
    fuse,
    keys_cubic,
    lanczos_kernel,
    margin,
    nearest_kernel,
    network,
    operations,
    phases_without_border,
    upsampler,
    widen,
)
from otbsr.methods.sensor import degrade, kernel_radius, sensor_kernels

TINY = NetworkSettings(channels=8, blocks=2, back_projection=0)


def loud(settings: NetworkSettings, seed: int = 0):
    """A network with weights large enough for every path to show in the output."""
    keras.utils.set_random_seed(seed)
    model = network(settings)
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, WideConvolution):
            layer.set_weights([w if i < 4 else 0.1 * random.standard_normal(w.shape) for i, w in enumerate(layer.get_weights())])
            layer.skip.assign(random.normal(0, 0.5, layer.skip.shape))
            layer.middle.assign(3 * layer.middle.numpy())
    return model


def test_positions_of_nested_grid():
    np.testing.assert_allclose(fine_positions(4), [-0.375, -0.125, 0.125, 0.375])
    np.testing.assert_allclose(fine_positions(3), [-1 / 3, 0, 1 / 3], atol=1e-15)


def test_keys_cubic_values():
    np.testing.assert_allclose(keys_cubic(np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])), [1, 0.5625, 0, -0.0625, 0, 0])


@pytest.mark.parametrize("factor", [2, 3, 4, 6])
def test_bicubic_reproduces_quadratics_at_half_pixel_positions(factor):
    def surface(y, x):
        return 1000 + 30 * x - 7 * y + 0.5 * x * x - 0.25 * y * y + 0.75 * x * y

    rows, columns = 13, 17
    coarse = surface(np.arange(rows)[:, None], np.arange(columns)[None, :])
    lr = np.stack([coarse, 2 * coarse], -1)[None].astype(np.float32)
    sr = upsampler(bicubic_kernel(2, factor), factor, "bicubic")(lr).numpy()[0]
    y = ((np.arange(rows * factor) + 0.5) / factor - 0.5)[:, None]
    x = ((np.arange(columns * factor) + 0.5) / factor - 0.5)[None, :]
    inner = slice(2 * factor, -2 * factor)
    expected = surface(y, x)[inner, inner]
    np.testing.assert_allclose(sr[inner, inner, 0], expected, atol=5e-3)
    np.testing.assert_allclose(sr[inner, inner, 1], 2 * expected, atol=1e-2)


def test_nearest_repeats_pixels():
    lr = np.arange(2 * 3 * 2, dtype=np.float32).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(upsampler(nearest_kernel(2, 4), 4, "nearest")(lr).numpy(), lr.repeat(4, 1).repeat(4, 2))


def test_depth_to_space_order():
    x = np.arange(2 * 2 * 12, dtype=np.float32).reshape(1, 2, 2, 12)
    fine = np.asarray(depth_to_space(x, 2))
    for row in range(4):
        for column in range(4):
            for band in range(3):
                assert fine[0, row, column, band] == x[0, row // 2, column // 2, (row % 2) * 6 + (column % 2) * 3 + band]


def test_untrained_network_is_near_bicubic():
    lr = np.random.default_rng(1).uniform(200, 3000, (1, 24, 24, 4)).astype(np.float32)
    cubic = upsampler(bicubic_kernel(4, 4), 4, "bicubic")(lr).numpy()
    difference = network(NetworkSettings(back_projection=0))(lr).numpy() - cubic
    assert 0 < np.sqrt(np.mean(difference**2)) < 0.5 * lr.std()


@pytest.mark.parametrize(("blocks", "body"), [(2, "attention"), (3, "attention"), (3, "residual")])
def test_margin_bounds_the_receptive_field_and_is_tight(blocks, body):
    settings = NetworkSettings(channels=8, blocks=blocks, body=body, back_projection=0)
    radius, model = margin(settings), fuse(loud(settings), settings)
    size = 2 * radius + 9
    lr = np.random.default_rng(2).uniform(500, 2500, (1, size, size, 4)).astype(np.float32)
    moved, centre = lr.copy(), size // 2
    moved[0, centre, centre] += 2000
    changed = np.abs(model(moved).numpy() - model(lr).numpy())[0].max(-1) > 0
    rows, columns = np.nonzero(changed)
    reach = max(centre - rows.min() // 4, rows.max() // 4 - centre, centre - columns.min() // 4, columns.max() // 4 - centre)
    assert reach <= radius
    assert reach >= radius - 1


def test_margin_of_default_network():
    assert margin(NetworkSettings()) == 25
    assert margin(NetworkSettings(back_projection=0)) == 21


def test_blocks_with_margin_equal_whole():
    radius, model = margin(TINY), fuse(loud(TINY), TINY)
    lr = np.random.default_rng(3).uniform(500, 2500, (1, 60, 60, 4)).astype(np.float32)
    whole = model(lr).numpy()
    block = model(lr[:, 20 - radius : 31 + radius, 17 - radius : 40 + radius]).numpy()
    np.testing.assert_allclose(block[:, 4 * radius : -4 * radius, 4 * radius : -4 * radius], whole[:, 80:124, 68:160], atol=1e-2)


def test_fused_equals_branches():
    import keras
    from keras import ops

    layer = WideConvolution(6, width=3)
    x = np.random.default_rng(4).standard_normal((2, 9, 9, 5)).astype(np.float32)
    y = layer(x).numpy()
    layer.bias.assign(np.arange(6))
    inner = ops.conv(ops.conv(ops.conv(x, layer.expand[None, None]), layer.middle, padding="same"), layer.squeeze[None, None])
    branches = inner + ops.conv(x, layer.skip[None, None]) + layer.bias
    np.testing.assert_allclose(layer(x).numpy(), branches.numpy(), atol=1e-4)
    np.testing.assert_allclose(branches.numpy() - y, np.broadcast_to(np.arange(6), y.shape), atol=1e-4)
    assert keras.ops.shape(layer.fused()) == (3, 3, 5, 6)


def test_fused_network_equals_trained_form_and_is_small():
    model = loud(TINY)
    fused = fuse(model, TINY)
    lr = np.random.default_rng(5).uniform(0, 4000, (2, 20, 24, 4)).astype(np.float32)
    np.testing.assert_allclose(fused(lr).numpy(), model(lr).numpy(), rtol=1e-4, atol=0.05)
    assert fused.count_params() < 0.4 * model.count_params()
    settings = NetworkSettings()
    assert 150_000 <= fuse(network(settings), settings).count_params() <= 450_000


@pytest.mark.parametrize("body", ["attention", "residual"])
def test_a_fused_network_can_be_trained_further(body):
    """The same function in its training form, with branches that are not idle."""
    settings = NetworkSettings(channels=8, blocks=2, body=body)
    plain = fuse(loud(settings), settings)
    model = widen(plain.get_weights(), settings)
    for given, again in zip(plain.get_weights(), fuse(model, settings).get_weights(), strict=True):
        np.testing.assert_allclose(again, given, atol=2e-6)
    assert all(np.abs(layer.middle.numpy()[:, :, -1, -1]).max() > 0 for layer in model.layers if isinstance(layer, WideConvolution))
    with pytest.raises(ValueError, match="shape"):
        widen(plain.get_weights(), NetworkSettings(channels=10, blocks=2, body=body))


def test_sizes():
    for name, low, high in (("tiny", 50_000, 70_000), ("light", 180_000, 220_000), ("base", 0.9e6, 1.1e6)):
        settings = NetworkSettings(size=name)
        assert SIZES[name]["blocks"] == settings.blocks
        assert low < fuse(network(settings), settings).count_params() < high
    assert operations(NetworkSettings(size="base")) > 4 * operations(NetworkSettings(size="light"))
    with pytest.raises(ValueError, match="size is 'huge', expected one of tiny, light, base"):
        NetworkSettings(size="huge")


def test_lanczos_keeps_constants_and_is_exact_at_centres_of_odd_factors():
    lr = np.random.default_rng(6).uniform(0, 3000, (1, 14, 14, 1)).astype(np.float32)
    sr = upsampler(lanczos_kernel(1, 3), 3, "lanczos")(lr).numpy()
    np.testing.assert_allclose(sr[0, 13:-12:3, 13:-12:3, 0], lr[0, 4:-4, 4:-4, 0], rtol=1e-5)
    flat = upsampler(lanczos_kernel(1, 4), 4, "lanczos")(np.full((1, 12, 12, 1), 700.0, np.float32)).numpy()
    np.testing.assert_allclose(flat[0, 12:-12, 12:-12], 700, rtol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6, 8])
def test_every_factor_from_one_definition(factor):
    """Untrained, a ramp comes out as a ramp on the nested grid; so geometry and back-projection are right for each factor."""
    settings = NetworkSettings(channels=8, blocks=2, factor=factor, back_projection=1)
    model = network(settings)
    model.get_layer("phases").set_weights([0 * w for w in model.get_layer("phases").get_weights()])
    size = 2 * margin(settings) + 5
    x = np.arange(size, dtype=np.float32)
    lr = np.broadcast_to((1000 + 10 * x[None, :] + 30 * x[:, None])[None, ..., None], (1, size, size, 4)).copy()
    cut = margin(settings) * factor
    fine = (np.arange(size * factor) + 0.5) / factor - 0.5
    expected = (1000 + 10 * fine[None, :] + 30 * fine[:, None])[cut:-cut, cut:-cut]
    np.testing.assert_allclose(model(lr).numpy()[0, cut:-cut, cut:-cut, 2], expected, atol=0.05)


def test_back_projection_brings_the_result_closer_to_the_input():
    lr = np.random.default_rng(7).uniform(500, 2500, (1, 48, 48, 4)).astype(np.float32)
    lr = 0.25 * (lr + np.roll(lr, 1, 1) + np.roll(lr, 1, 2) + np.roll(lr, (1, 1), (1, 2)))
    kernels = sensor_kernels(NetworkSettings().bands, 4)
    radius, misses = kernel_radius(kernels, 4), []
    for times in (0, 1, 2):
        settings = NetworkSettings(channels=8, blocks=2, back_projection=times)
        seen = np.asarray(degrade(loud(settings)(lr).numpy(), kernels, 4))
        misses.append(np.abs(seen - lr[:, radius:-radius, radius:-radius])[:, 8:-8, 8:-8].mean())
    assert misses[0] > 1.3 * misses[1] > 1.3 * misses[2]


def test_blocks_with_margin_equal_whole_with_back_projection():
    settings = NetworkSettings(channels=8, blocks=2, back_projection=2)
    radius, model = margin(settings), fuse(loud(settings), settings)
    lr = np.random.default_rng(8).uniform(500, 2500, (1, 70, 70, 4)).astype(np.float32)
    whole = model(lr).numpy()
    block = model(lr[:, 28 - radius : 37 + radius, 25 - radius : 44 + radius]).numpy()
    np.testing.assert_allclose(block[:, 4 * radius : -4 * radius, 4 * radius : -4 * radius], whole[:, 112:148, 100:176], atol=2e-2)


@pytest.mark.parametrize(
    "settings",
    [
        NetworkSettings(channels=8, blocks=2, back_projection=2),
        NetworkSettings(channels=8, blocks=3, body="residual", factor=2, back_projection=0),
        NetworkSettings(channels=8, blocks=2, bands=("B2", "B3", "B4", "B8", "B5", "B11"), outputs=("B11", "B4")),
    ],
    ids=["attention", "residual", "coarser bands"],
)
def test_phases_without_border_are_the_inner_pixels(settings):
    model, radius = fuse(loud(settings), settings), margin(settings)
    lr = np.random.default_rng(9).uniform(500, 2500, (1, 61, 66, len(settings.bands))).astype(np.float32)
    inner = phases_without_border(model)(lr).numpy()
    assert inner.shape == (1, 61 - 2 * radius, 66 - 2 * radius, settings.factor**2 * len(settings.bands_out))
    whole = keras.Model(model.inputs, model.layers[-1].input)(lr).numpy()
    np.testing.assert_allclose(inner, whole[:, radius:-radius, radius:-radius], atol=2e-2)


def test_phases_without_border_of_known_layers_only():
    lr = keras.Input((None, None, 4))
    assert phases_without_border(keras.Model(lr, keras.layers.Conv2D(4, 3, padding="same")(lr))) is None, "no depth to space"
    for layer in (keras.layers.Conv2D(64, 3, padding="same", dilation_rate=2), keras.layers.Conv2D(64, 2, padding="same"), keras.layers.BatchNormalization()):
        assert phases_without_border(keras.Model(lr, DepthToSpace(4)(keras.layers.Conv2D(64, 1)(layer(lr))))) is None
    assert phases_without_border(keras.Model(lr, DepthToSpace(4)(keras.layers.Conv2D(64, 3, padding="same")(lr)))) is not None


def test_bands_out_are_the_named_ones_whatever_the_spacing():
    bands = ("B2", "B3", "B4", "B8", "B5", "B11")
    some = NetworkSettings(channels=8, blocks=2, bands=bands, outputs=("B11", "B4"))
    model = network(some)
    model.get_layer("phases").set_weights([0 * w for w in model.get_layer("phases").get_weights()])
    size = 2 * margin(some) + 6
    lr = np.broadcast_to(np.arange(1.0, 7.0, dtype=np.float32) * 100, (1, size, size, 6)).copy()
    cut = margin(some) * 4
    np.testing.assert_allclose(model(lr).numpy()[0, cut:-cut, cut:-cut], np.broadcast_to([600.0, 300.0], (24, 24, 2)), rtol=1e-4)
    # a 20 m band's repeated pixels come out smooth: no step within a pixel, none kept at its edge
    lr[..., 5] = np.repeat(np.where(np.arange(size // 2) < size // 4, 0.0, 1000.0), 2)[None, None, :size] if size % 2 == 0 else lr[..., 5]
    steps = np.abs(np.diff(model(lr).numpy()[0, cut:-cut, cut:-cut, 0], axis=1))
    assert steps.max() < 250
    with pytest.raises(ValueError, match="outputs B8A are not among the bands"):
        NetworkSettings(bands=bands, outputs=("B8A",))
    with pytest.raises(ValueError, match="named twice"):
        NetworkSettings(bands=("B4", "B4"))


def test_a_network_whose_outputs_are_all_of_coarser_spacing():
    """Nothing to back-project: the margin is that of the convolutions and of the stretched cubic."""
    settings = NetworkSettings(bands=("B4", "B8", "B11"), outputs=("B11",), channels=4, blocks=2)
    lr = np.random.default_rng(0).uniform(0, 3000, (1, 20, 20, 3)).astype(np.float32)
    assert np.asarray(network(settings)(lr)).shape == (1, 80, 80, 1)
    assert margin(settings) == 9
    assert NetworkSettings().bands_projected == ("B4", "B3", "B2", "B8")
    assert NetworkSettings(bands=("B4", "B8", "B11")).bands_projected == ("B4", "B8")
