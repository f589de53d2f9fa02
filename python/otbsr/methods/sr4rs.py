"""SR4RS's generator, discriminator and losses (Cresson 2022, J. Open Research Software 10(1):1), rebuilt from their description to compare with.

What is as there: 9x9 head, residual blocks with normalisation of each pixel's features, two enlargements with four times the features,
convolutions of 3x3, 3x3 and 5x5, then 3x3, 3x3 and 9x9 after them; outputs at 10, 5 and 2.5 m, all in the L1 loss and seen by the
discriminator (Karnewar and Wang 2020), which knows the spread of a batch; weights of unit variance scaled at run time and [1 2 1] blur (Karras et
al. 2018). No residual over an interpolation, no back-projection. What is not: the VGG term (its weights are no part of this program),
and WGAN-GP, for which its other choice, least squares, stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

if TYPE_CHECKING:
    from otbsr.methods.networks import NetworkSettings

SCALE = 1e-4
"""Inside the network, images are reflectance."""
SLOPE = 0.2
"""Of the leaky rectifier."""


class EqualisedConvolution(keras.layers.Layer):
    """A convolution whose weights have unit variance and are scaled by sqrt(2 / inputs) at run time; zero 'same' padding.

    enlarge: nearest-neighbour enlargement by two comes first, in one transposed convolution with the kernel's taps summed.
    `places` is the number of its input pixels (enlarge) or output pixels for each of the network's, to count operations with.
    """

    def __init__(self, filters: int, size: int, enlarge: bool = False, stride: int = 1, places: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.size, self.enlarge, self.stride, self.places = filters, size, enlarge, stride, places

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Create the weights for `shape[-1]` input channels."""
        inputs = int(shape[-1] or 0)
        self.kernel = self.add_weight(
            shape=(self.size, self.size, inputs, self.filters), initializer=keras.initializers.RandomNormal(stddev=1.0), name="kernel"
        )
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.scale = float(np.sqrt(2.0 / (self.size**2 * inputs)))

    def call(self, x: Any) -> Any:
        """[n, h, w, inputs] -> [n, h, w, filters]; twice (enlarge) or half (stride 2) as high and wide."""
        kernel = self.kernel * self.scale
        if self.enlarge:
            kernel = ops.transpose(summed(kernel), (0, 1, 3, 2))
            return ops.conv_transpose(x, kernel, strides=2, padding="same") + self.bias
        if self.stride == 2:
            kernel = 0.25 * summed(kernel)  # the mean of 2x2 pixels after the convolution
        return ops.conv(x, kernel, strides=self.stride, padding="same") + self.bias

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of `call`'s result."""
        n, h, w, _ = shape
        factor = 2 if self.enlarge else 1
        return n, h and -(-h * factor // self.stride), w and -(-w * factor // self.stride), self.filters

    def multiplications(self) -> int:
        """For each of the network's input pixels."""
        side = self.size + (self.enlarge or self.stride == 2)
        return self.places * side**2 * int(self.kernel.shape[2]) * self.filters


def summed(kernel: Any) -> Any:
    """A kernel followed or preceded by a box of 2x2: one tap more each way, [k + 1, k + 1, ...]."""
    wide = ops.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))
    return wide[1:, 1:] + wide[:-1, 1:] + wide[1:, :-1] + wide[:-1, :-1]


class Blur(keras.layers.Layer):
    """Each channel by [1 2 1] / 4 along both axes; zero 'same' padding."""

    def call(self, x: Any) -> Any:
        """[n, h, w, c] -> [n, h, w, c]."""
        taps = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
        return ops.depthwise_conv(x, ops.convert_to_tensor(np.tile(taps[:, :, None, None], (1, 1, int(x.shape[-1]), 1))), padding="same")


class PixelNorm(keras.layers.Layer):
    """Each pixel's features over their root mean square: local, so that blocks stay exact."""

    def call(self, x: Any) -> Any:
        """[n, h, w, c] -> [n, h, w, c]."""
        return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-8)


class Enlarged(keras.layers.Layer):
    """Each pixel repeated `factor` x `factor` times."""

    def __init__(self, factor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x: Any) -> Any:
        """[n, h, w, c] -> [n, factor h, factor w, c]."""
        return repeated(x, self.factor)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of `call`'s result."""
        n, h, w, c = shape
        return n, h and h * self.factor, w and w * self.factor, c


def repeated(x: Any, factor: int) -> Any:
    """Each pixel `factor` x `factor` times."""
    return ops.repeat(ops.repeat(x, factor, 1), factor, 2) if factor > 1 else x


def levels(factor: int) -> list[int]:
    """Pixel sizes of the outputs in fine pixels, finest first: 1, 2 and 4 for factor 4."""
    return [2**i for i in range(factor.bit_length())]


def generator(settings: NetworkSettings, training: bool = False) -> keras.Model:
    """SR4RS's generator, DN [n, h, w, bands] -> DN [n, factor h, factor w, bands out].

    `channels` is its depth (64 in the published model), `blocks` its residual blocks (16). training: the coarser outputs too, repeated onto
    the fine grid, as further channels after the finest: [.., bands out * (log2 factor + 1)].
    """
    depth, bands = settings.channels, len(settings.bands_out)
    lr = keras.Input((None, None, len(settings.bands)), name="lr")

    def convolution(x: Any, filters: int, size: int, name: str, places: int = 1, enlarge: bool = False) -> Any:
        return EqualisedConvolution(filters, size, enlarge, places=places, name=name)(x)

    def leaky(x: Any, name: str) -> Any:
        return keras.layers.LeakyReLU(SLOPE, name=f"{name}_leaky")(x)

    def normalised(x: Any, name: str) -> Any:
        return PixelNorm(name=f"{name}_norm")(x)

    x = keras.layers.Rescaling(SCALE, name="to_reflectance")(lr)
    head = features = leaky(convolution(x, depth, 9, "head"), "head")
    for i in range(settings.blocks):
        inner = normalised(leaky(convolution(features, depth, 3, f"block{i}_1"), f"block{i}_1"), f"block{i}_1")
        inner = normalised(convolution(inner, depth, 3, f"block{i}_2"), f"block{i}_2")
        features = keras.layers.Add(name=f"block{i}_skip")([features, inner])
    features = normalised(convolution(features, depth, 3, "tail"), "tail")
    features = keras.layers.Add(name="long_skip")([head, features])
    outputs: list[Any] = []
    for level in reversed(levels(settings.factor)):
        places = (settings.factor // level) ** 2
        if level < settings.factor:
            name = f"level{level}"
            features = convolution(features, 4 * depth, 3, f"{name}_enlarge", places // 4, enlarge=True)
            features = normalised(leaky(Blur(name=f"{name}_blur")(features), f"{name}_enlarge"), f"{name}_enlarge")
            for k, size in enumerate((3, 3, 9 if level == 1 else 5)):
                features = normalised(leaky(convolution(features, 4 * depth, size, f"{name}_{k}", places), f"{name}_{k}"), f"{name}_{k}")
        if training or level == 1:
            outputs.insert(0, Enlarged(level, name=f"level{level}_repeat")(convolution(features, bands, 1, f"level{level}_output", places)))
    fine = keras.layers.Concatenate(name="pyramid")(outputs) if training else outputs[0]
    return keras.Model(lr, keras.layers.Rescaling(1 / SCALE, name="sr")(fine), name="sr4rs")


def serving_form(trained: keras.Model, settings: NetworkSettings) -> keras.Model:
    """The same weights without the coarser outputs."""
    plain = generator(settings)
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(trained.get_layer(layer.name).get_weights())
    return plain


def radius(settings: NetworkSettings) -> int:
    """Input pixels that an output pixel depends on beyond its own: followed back from both ends of a coarse pixel."""
    low, high = 0, settings.factor - 1
    for level in levels(settings.factor)[:-1]:
        reach = 1 + 1 + (4 if level == 1 else 2) + 1  # two of 3x3, one of 9x9 or 5x5, the blur
        low, high = -((reach + 2 - low) // 2), (high + reach + 1) // 2
    return max(-low, high) + 1 + 2 * settings.blocks + 4


# --- losses ---------------------------------------------------------------------------------------------------------------------


def pyramid(fine: Any, factor: int) -> Any:
    """A fine image as the generator's training form gives it: its means over 2x2, 4x4 ... pixels as further channels."""
    shape = ops.shape(fine)
    parts = [fine]
    for level in levels(factor)[1:]:
        blocks = ops.reshape(fine, (shape[0], shape[1] // level, level, shape[2] // level, level, shape[3]))
        parts.append(repeated(ops.mean(blocks, axis=(2, 4)), level))
    return ops.concatenate(parts, -1)


def multiscale_l1(target: Any, result: Any, factor: int) -> Any:
    """Sum over the outputs of their mean absolute difference to the target averaged over their pixels.

    target [n, h, w, bands], result [n, h, w, bands * levels] as the generator's training form gives it.
    """
    return len(levels(factor)) * ops.mean(ops.abs(result - pyramid(target, factor)))


class Discriminator(keras.layers.Layer):
    """SR4RS's discriminator: sees every output at its own resolution, and how much the images of a batch differ."""

    def __init__(self, factor: int, depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor
        self.stages: list[list[EqualisedConvolution]] = []
        for k in range(len(levels(factor))):
            last = k == len(levels(factor)) - 1
            first, wide = depth * 2 ** max(0, k - 1), depth * 2**k
            inner = [EqualisedConvolution(wide, 3, name=f"stage{k}_{i}") for i in range(1 if last else 3)]
            self.stages.append([EqualisedConvolution(first, 1, name=f"stage{k}_input"), *inner, EqualisedConvolution(wide, 3, stride=2, name=f"stage{k}_down")])
        wide = depth * 2 ** len(levels(factor))
        self.end = [EqualisedConvolution(wide, 3, name="end_1"), EqualisedConvolution(wide, 3, stride=2, name="end_down")]
        self.judge = [EqualisedConvolution(2 * wide, 1, name="judge"), EqualisedConvolution(1, 1, name="score")]

    def call(self, image: Any) -> Any:
        """A pyramid [n, h, w, bands * levels] -> scores [n, 1]."""
        sizes, bands = levels(self.factor), int(image.shape[-1]) // len(levels(self.factor))
        x: Any = None
        for k, (size, stage) in enumerate(zip(sizes, self.stages, strict=True)):
            seen = image[:, ::size, ::size, k * bands : (k + 1) * bands]
            seen = ops.leaky_relu(stage[0](seen), SLOPE)
            x = batch_spread(seen if x is None else ops.concatenate([seen, x], -1))
            for layer in stage[1:]:
                x = ops.leaky_relu(layer(x), SLOPE)
        for layer in self.end:
            x = ops.leaky_relu(layer(x), SLOPE)
        x = ops.leaky_relu(self.judge[0](batch_spread(x)), SLOPE)
        return ops.mean(self.judge[1](x), axis=(1, 2))


def batch_spread(x: Any) -> Any:
    """One more channel: the standard deviation over the batch, averaged over all places and channels."""
    deviation = ops.sqrt(ops.mean(ops.square(x - ops.mean(x, axis=0, keepdims=True)), axis=0) + 1e-8)
    return ops.concatenate([x, 0 * x[..., :1] + ops.mean(deviation)], -1)
