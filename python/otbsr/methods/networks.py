"""Networks: purely local, DN in and DN out, written with `keras.ops` so that they train on TensorFlow, JAX or PyTorch.

Every network here is a stack of stride-1 convolutions and per-pixel operations, so its output depends on the input within
`margin()` pixels only and block-wise serving is exact (Wan et al. 2024, "Swift parameter-free attention network", is such a
design). The upsampling is polyphase: all work is done on the coarse grid, one depth-to-space at the end makes the fine grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Kernel = NDArray[np.float32]


class NetworkSettings(BaseModel):
    """Architecture of the fidelity network: stored in `model.json` and in checkpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bands: int = Field(4, ge=1, description="bands in and out")
    factor: int = Field(4, ge=2, le=8, description="input spacing over output spacing")
    channels: int = Field(32, ge=4, description="features of every layer")
    blocks: int = Field(6, ge=2, description="attention blocks, three 3x3 convolutions each")
    width: int = Field(2, ge=1, description="how many times wider the convolutions are in training than when fused")
    mean: tuple[float, ...] = Field((1000.0, 900.0, 700.0, 2600.0), description="DN subtracted from each band")
    spread: float = Field(1000.0, gt=0, description="DN that become 1 inside the network")


# --- bicubic ---------------------------------------------------------------------------------------------------------------


def keys_cubic(distance: NDArray[np.float64], a: float = -0.5) -> NDArray[np.float64]:
    """Cubic convolution kernel of Keys (1981, eq. 15 for a = -1/2) at a distance in input pixels: exact on quadratics."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def fine_positions(factor: int) -> NDArray[np.float64]:
    """Centres of the `factor` fine pixels in a coarse pixel, in coarse pixels from its centre (nested grids share corners)."""
    return (np.arange(factor) + 0.5) / factor - 0.5


def polyphase_kernel(bands: int, factor: int, taps: NDArray[np.float64]) -> Kernel:
    """Separable taps [factor, 2r+1] as one convolution on the coarse grid: [2r+1, 2r+1, bands, factor * factor * bands].

    Channels are ordered (row phase, column phase, band), which is what `depth_to_space` reads.
    """
    size = taps.shape[1]
    kernel = np.zeros((size, size, bands, factor, factor, bands))
    for band in range(bands):
        kernel[:, :, band, :, :, band] = np.einsum("py,qx->yxpq", taps, taps)
    return kernel.reshape(size, size, bands, -1).astype(np.float32)


def bicubic_kernel(bands: int, factor: int) -> Kernel:
    """Polyphase kernel of bicubic interpolation onto the nested fine grid (5x5 on the coarse grid)."""
    return polyphase_kernel(bands, factor, keys_cubic(np.arange(-2, 3)[None, :] - fine_positions(factor)[:, None]))


def nearest_kernel(bands: int, factor: int) -> Kernel:
    """Polyphase kernel that repeats each pixel factor x factor times (1x1 on the coarse grid)."""
    return polyphase_kernel(bands, factor, np.ones((factor, 1)))


def depth_to_space(x: Any, factor: int) -> Any:
    """[n, h, w, factor * factor * c] -> [n, factor * h, factor * w, c]; channels ordered (row phase, column phase, c)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.depth_to_space(x, factor)
    shape = ops.shape(x)
    n, h, w, c = shape[0], shape[1], shape[2], shape[3] // factor**2
    x = ops.transpose(ops.reshape(x, (n, h, w, factor, factor, c)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (n, h * factor, w * factor, c))


class DepthToSpace(keras.layers.Layer):
    """`depth_to_space` as a layer."""

    def __init__(self, factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x: Any) -> Any:
        """[n, h, w, factor * factor * c] -> [n, factor * h, factor * w, c]."""
        return depth_to_space(x, self.factor)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of `call`'s result."""
        n, h, w, c = shape
        return n, h and h * self.factor, w and w * self.factor, c // self.factor**2 if c else None


class FixedConvolution(keras.layers.Layer):
    """A convolution with a kernel that is not trained; zero 'same' padding."""

    def __init__(self, kernel: Kernel, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.kernel = kernel

    def call(self, x: Any) -> Any:
        """[n, h, w, c] -> [n, h, w, kernel.shape[3]]."""
        return ops.conv(x, ops.convert_to_tensor(self.kernel), padding="same")


# --- the fidelity network ----------------------------------------------------------------------------------------------------


class Attention(keras.layers.Layer):
    """Attention without parameters (SPAN): a pixel's own response weighs it.

    2 sigmoid(0) = 1 keeps an untrained block an identity; SPAN's own sigmoid - 1/2 shrinks the signal a hundred million times
    over six untrained blocks.
    """

    def call(self, inputs: list[Any]) -> Any:
        """(response, skip), both [n, h, w, c] -> [n, h, w, c]."""
        response, skip = inputs
        return 2.0 * (response + skip) * ops.sigmoid(response)

    def compute_output_shape(self, shapes: list[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        """Shape of `call`'s result."""
        return shapes[0]


class WideConvolution(keras.layers.Layer):
    """A 3x3 convolution trained as 1x1 (wider) -> 3x3 -> 1x1 plus a 1x1 skip, all linear, hence equal to one 3x3.

    The branches are multiplied out in weight space at every step, so that training costs what the fused network costs.
    Over-parameterised linear layers train better than plain ones; `fused` gives the plain one.
    """

    def __init__(self, filters: int, width: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.width = width

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Create the branches for `shape[-1]` input channels."""
        inputs, outputs = int(shape[-1] or 0), self.filters
        wide_in, wide_out = self.width * inputs, self.width * outputs
        self.expand = self.add_weight(shape=(inputs, wide_in), initializer="glorot_normal", name="expand")
        self.middle = self.add_weight(shape=(3, 3, wide_in, wide_out), initializer="glorot_normal", name="middle")
        self.squeeze = self.add_weight(shape=(wide_out, outputs), initializer="glorot_normal", name="squeeze")
        self.skip = self.add_weight(shape=(inputs, outputs), initializer="glorot_normal", name="skip")
        self.bias = self.add_weight(shape=(outputs,), initializer="zeros", name="bias")

    def fused(self) -> Any:
        """The equivalent kernel [3, 3, inputs, filters]."""
        kernel = ops.einsum("ia,yxab,bo->yxio", self.expand, self.middle, self.squeeze)
        return kernel + ops.pad(self.skip[None, None], ((1, 1), (1, 1), (0, 0), (0, 0)))

    def call(self, x: Any) -> Any:
        """[n, h, w, inputs] -> [n, h, w, filters], zero 'same' padding."""
        return ops.conv(x, self.fused(), padding="same") + self.bias


def wide_convolution(settings: NetworkSettings) -> Callable[[int, str], keras.layers.Layer]:
    """The layer used in training."""
    return lambda filters, name: WideConvolution(filters, settings.width, name=name)


def plain_convolution(filters: int, name: str) -> keras.layers.Layer:
    """The layer used in serving."""
    return keras.layers.Conv2D(filters, 3, padding="same", name=name)


def assemble(settings: NetworkSettings, convolution: Callable[[int, str], keras.layers.Layer], name: str) -> keras.Model:
    """The network with 3x3 convolutions of the given kind: DN [n, h, w, bands] -> DN [n, factor h, factor w, bands]."""
    phases = settings.factor**2 * settings.bands
    if len(settings.mean) != settings.bands:
        raise ValueError(f"mean has {len(settings.mean)} values, expected one for each of the {settings.bands} bands")
    lr = keras.Input((None, None, settings.bands), name="lr")
    x = keras.layers.Rescaling(1 / settings.spread, [-mean / settings.spread for mean in settings.mean], name="normalise")(lr)
    head = convolution(settings.channels, "head")(x)
    features, first, middle = head, head, head
    for i in range(settings.blocks):
        skip = features
        for j in (1, 2, 3):
            features = convolution(settings.channels, f"block{i}_{j}")(features)
            if j < 3:
                features = keras.layers.LeakyReLU(0.1, name=f"block{i}_{j}_leaky")(features)
            if i == settings.blocks - 1 and j == 1:
                middle = features
        features = Attention(name=f"block{i}_attention")([features, skip])
        first = features if i == 0 else first
    tail = convolution(settings.channels, "tail")(features)
    merged = keras.layers.Concatenate(name="merge")([head, tail, first, middle])
    merged = keras.layers.Conv2D(settings.channels, 1, name="merge_1x1")(merged)
    detail = convolution(phases, "phases")(merged)
    cubic = FixedConvolution(bicubic_kernel(settings.bands, settings.factor), name="bicubic")(lr)
    detail = keras.layers.Rescaling(settings.spread, name="to_dn")(detail)
    return keras.Model(lr, DepthToSpace(settings.factor, name="sr")(keras.layers.Add(name="residual")([cubic, detail])), name=name)


def fidelity_network(settings: NetworkSettings) -> keras.Model:
    """The fidelity network F in its training form: DN in, DN out, residual over bicubic."""
    model = assemble(settings, wide_convolution(settings), "fidelity")
    quiet = [model.get_layer(f"block{i}_3") for i in range(settings.blocks)] + [model.get_layer("phases")]
    for layer in quiet:  # start near bicubic, blocks near identity
        for weight in (layer.squeeze, layer.skip):
            weight.assign(0.2 * weight)
    return model


def fuse(model: keras.Model, settings: NetworkSettings) -> keras.Model:
    """The serving form of a trained `fidelity_network`: the same function with plain 3x3 convolutions."""
    plain = assemble(settings, plain_convolution, "fidelity_fused")
    for layer in plain.layers:
        trained = model.get_layer(layer.name) if layer.weights else None
        if isinstance(trained, WideConvolution):
            layer.set_weights([ops.convert_to_numpy(trained.fused()), ops.convert_to_numpy(trained.bias)])
        elif trained is not None:
            layer.set_weights(trained.get_weights())
    return plain


def margin(settings: NetworkSettings) -> int:
    """Radius of the receptive field in input pixels: one per 3x3 convolution in sequence; bicubic's 2 is within it."""
    return max(1 + 3 * settings.blocks + 1 + 1, 2)


def upsampler(kernel: Kernel, factor: int, name: str) -> keras.Model:
    """A model that only applies a polyphase kernel (bicubic, nearest): the baselines."""
    lr = keras.Input((None, None, kernel.shape[2]), name="lr")
    return keras.Model(lr, DepthToSpace(factor, name="sr")(FixedConvolution(kernel, name="polyphase")(lr)), name=name)
