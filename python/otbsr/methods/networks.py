"""Networks: purely local, DN in and DN out, written with `keras.ops` so that they train on TensorFlow, JAX or PyTorch.

Every network here is a stack of stride-1 convolutions and per-pixel operations, so its output depends on the input within
`margin()` pixels only and block-wise serving is exact (Wan et al. 2024, "Swift parameter-free attention network", is such a
design). The upsampling is polyphase: all work is done on the coarse grid, one depth-to-space at the end makes the fine grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from otbsr.methods import sr4rs
from otbsr.methods.sensor import IN_GRAPH_REACH, kernel_radius, polyphase_degradation, sensor_kernels, spacing_ratio

Kernel = NDArray[np.float32]


MEANS = {"B1": 700, "B2": 700, "B3": 900, "B4": 1000, "B5": 1400, "B6": 2200, "B7": 2500, "B8": 2600, "B8A": 2700, "B9": 2600, "B11": 2100, "B12": 1500}
"""Typical DN of Sentinel-2's bands over land; only to centre a network's input."""

SIZES = {
    "tiny": {"channels": 20, "blocks": 4},
    "light": {"channels": 32, "blocks": 6},
    "base": {"channels": 64, "blocks": 8},
}
"""Named sizes: about 60 thousand, 200 thousand and 1 million parameters at x4 with 4 bands."""


class NetworkSettings(BaseModel):
    """Architecture of a network, F or P: stored in `model.json` and in checkpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    bands: tuple[str, ...] = Field(("B4", "B3", "B2", "B8"), min_length=1, description="bands in, all on one grid")
    outputs: tuple[str, ...] = Field((), description="bands out, some of the bands in; none named: all")
    factor: int = Field(4, ge=2, le=8, description="input spacing over output spacing")
    body: Literal["attention", "residual", "sr4rs"] = Field(
        "attention", description="attention: F's blocks (SPAN); residual: P's (SRResNet without normalisation); sr4rs: SR4RS's whole generator, to compare with"
    )
    channels: int = Field(32, ge=4, description="features of every layer")
    blocks: int = Field(6, ge=2, description="blocks of three (attention) or two (residual) 3x3 convolutions")
    width: int = Field(2, ge=1, description="how many times wider the convolutions are in training than when fused")
    back_projection: int = Field(1, ge=0, le=3, description="times that the difference to the input, as the sensor sees the result, is added back")
    mean: tuple[float, ...] = Field((), description="DN subtracted from each band; none: what is typical of the band")
    spread: float = Field(1000.0, gt=0, description="DN that become 1 inside the network")

    @model_validator(mode="before")
    @classmethod
    def named_size(cls, values: Any) -> Any:
        """`size: tiny|light|base` stands for channels and blocks."""
        if isinstance(values, dict) and "size" in values:
            size = values["size"]
            if not isinstance(size, str) or size not in SIZES:
                raise ValueError(f"size is {size!r}, expected one of {', '.join(SIZES)}")
            return SIZES[size] | {key: value for key, value in values.items() if key != "size"}
        return values

    @model_validator(mode="after")
    def bands_agree(self) -> NetworkSettings:
        """Bands are named once, outputs are among them, and each has its mean."""
        if len(set(self.bands)) < len(self.bands) or len(set(self.outputs)) < len(self.outputs):
            raise ValueError(f"bands {' '.join(self.bands)}, outputs {' '.join(self.outputs)}: a band is named twice")
        strange = [band for band in self.outputs if band not in self.bands]
        if strange:
            raise ValueError(f"outputs {' '.join(strange)} are not among the bands {' '.join(self.bands)}")
        if self.mean and len(self.mean) != len(self.bands):
            raise ValueError(f"mean has {len(self.mean)} values, expected one for each of the {len(self.bands)} bands")
        if self.body == "sr4rs" and (self.back_projection or self.factor not in (2, 4, 8)):
            raise ValueError(
                f"body sr4rs with factor {self.factor} and back_projection {self.back_projection}, expected factor 2, 4 or 8 and back_projection 0"
            )
        return self

    @property
    def bands_out(self) -> tuple[str, ...]:
        """Names of the bands out, in order."""
        return self.outputs or self.bands

    @property
    def bands_projected(self) -> tuple[str, ...]:
        """Bands out that back-projection works on: those of the grid's own spacing."""
        return tuple(band for band in self.bands_out if spacing_ratio(band) == 1) if self.back_projection else ()

    @property
    def means(self) -> tuple[float, ...]:
        """DN subtracted from each band."""
        return self.mean or tuple(float(MEANS.get(band, 1000)) for band in self.bands)


# --- interpolation ---------------------------------------------------------------------------------------------------------------


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


def lanczos_kernel(bands: int, factor: int, lobes: int = 3) -> Kernel:
    """Polyphase kernel of Lanczos interpolation, sinc(x) sinc(x / lobes), each phase normalised to sum 1."""
    distance = np.arange(-lobes, lobes + 1)[None, :] - fine_positions(factor)[:, None]
    taps = np.where(np.abs(distance) < lobes, np.sinc(distance) * np.sinc(distance / lobes), 0.0)
    return polyphase_kernel(bands, factor, taps / taps.sum(1, keepdims=True))


def nearest_kernel(bands: int, factor: int) -> Kernel:
    """Polyphase kernel that repeats each pixel factor x factor times (1x1 on the coarse grid)."""
    return polyphase_kernel(bands, factor, np.ones((factor, 1)))


def base_kernel(settings: NetworkSettings) -> Kernel:
    """What a network's detail is added to: [k, k, bands, factor * factor * bands out], bicubic.

    A band of coarser spacing, given on the grid by repeating its pixels, is interpolated with the cubic stretched to its spacing: smooth
    whatever the phase of the repeated pixels, so that blocks stay exact.
    """
    ratios = {band: spacing_ratio(band) for band in settings.bands_out}
    radius = 2 * max(ratios.values())
    taps = {}
    for ratio in set(ratios.values()):
        stretched = keys_cubic((np.arange(-radius, radius + 1)[None, :] - fine_positions(settings.factor)[:, None]) / ratio)
        taps[ratio] = stretched / stretched.sum(1, keepdims=True)
    factor, size = settings.factor, 2 * radius + 1
    kernel = np.zeros((size, size, len(settings.bands), factor, factor, len(settings.bands_out)))
    for index, band in enumerate(settings.bands_out):
        kernel[:, :, settings.bands.index(band), :, :, index] = np.einsum("py,qx->yxpq", taps[ratios[band]], taps[ratios[band]])
    return kernel.reshape(size, size, len(settings.bands), -1).astype(np.float32)


def depth_to_space(x: Any, factor: int) -> Any:
    """[n, h, w, factor * factor * c] -> [n, factor * h, factor * w, c]; channels ordered (row phase, column phase, c)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.depth_to_space(x, factor)
    shape = ops.shape(x)
    n, h, w, c = shape[0], shape[1], shape[2], shape[3] // factor**2
    x = ops.transpose(ops.reshape(x, (n, h, w, factor, factor, c)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (n, h * factor, w * factor, c))


def without_border(x: Any, width: int) -> Any:
    """[n, h, w, c] without `width` pixels on every side."""
    return x[:, width:-width, width:-width, :] if width else x


class DepthToSpace(keras.layers.Layer):
    """`depth_to_space` as a layer."""

    def __init__(self, factor: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.factor = factor

    def call(self, x: Any) -> Any:
        """[n, h, w, factor * factor * c] -> [n, factor * h, factor * w, c]."""
        return depth_to_space(x, self.factor)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of `call`'s result."""
        n, h, w, c = shape
        return n, h and h * self.factor, w and w * self.factor, c // self.factor**2 if c else None


class FixedConvolution(keras.layers.Layer):
    """A convolution with a kernel that is not trained; zero 'same' padding. DN need 32 bits, whatever the precision of the rest."""

    def __init__(self, kernel: Kernel, **kwargs: Any) -> None:
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.kernel = kernel

    def call(self, x: Any, padding: str = "same") -> Any:
        """[n, h, w, c] -> [n, h, w, kernel.shape[3]], smaller by the kernel's radius on every side with padding "valid"."""
        return ops.conv(x, ops.convert_to_tensor(self.kernel), padding=padding)


class BackProjection(keras.layers.Layer):
    """Adds back what the sensor would see amiss: fine + up(input - degraded(fine)), all on the coarse grid (Irani and Peleg 1991).

    Only bands of the grid's own spacing take part: what a coarser band's pixel covers depends on its phase, blocks must not.
    """

    def __init__(self, settings: NetworkSettings, **kwargs: Any) -> None:
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.factor = settings.factor
        names = settings.bands_projected
        own = [settings.bands_out.index(name) for name in names]
        count, phases = len(settings.bands_out), settings.factor**2
        kernels = sensor_kernels(names, settings.factor, IN_GRAPH_REACH)
        down = polyphase_degradation(kernels, settings.factor)
        up = bicubic_kernel(len(own), settings.factor)
        self.select = np.zeros((1, 1, len(settings.bands), len(own)), np.float32)
        for k, index in enumerate(own):
            self.select[0, 0, settings.bands.index(settings.bands_out[index]), k] = 1.0
        size = down.shape[0]
        spread = np.zeros((size, size, phases, count, len(own)), np.float32)  # coarser bands get zeros
        spread[:, :, :, own, :] = down.reshape(size, size, phases, len(own), len(own))
        self.down: Kernel = spread.reshape(size, size, phases * count, len(own))
        spread = np.zeros((5, 5, len(own), phases, count), np.float32)
        spread[..., own] = up.reshape(5, 5, len(own), phases, len(own))
        self.up: Kernel = spread.reshape(5, 5, len(own), phases * count)

    def call(self, inputs: list[Any], padding: str = "same") -> Any:
        """(fine image with its phases as channels, input), both on the coarse grid -> as the first, smaller by both radii with padding "valid"."""
        fine, lr = inputs
        down, up = (0, 0) if padding == "same" else (self.down.shape[0] // 2, self.up.shape[0] // 2)
        seen = ops.conv(fine, ops.convert_to_tensor(self.down), padding=padding)
        given = ops.conv(without_border(lr, down), ops.convert_to_tensor(self.select), padding=padding)
        return without_border(fine, down + up) + ops.conv(given - seen, ops.convert_to_tensor(self.up), padding=padding)

    def compute_output_shape(self, shapes: list[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        """Shape of `call`'s result."""
        return shapes[0]


# --- the networks ------------------------------------------------------------------------------------------------------------


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


def attention_body(head: Any, settings: NetworkSettings, convolution: Callable[[int, str], keras.layers.Layer]) -> Any:
    """F's features: attention blocks, the first, the middle and the last of them merged with the head (SPAN)."""
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
    return keras.layers.Conv2D(settings.channels, 1, name="merge_1x1")(merged)


def residual_body(head: Any, settings: NetworkSettings, convolution: Callable[[int, str], keras.layers.Layer]) -> Any:
    """P's features: residual blocks of two convolutions without normalisation, and one skip around all of them (SRResNet)."""
    features = head
    for i in range(settings.blocks):
        inner = keras.layers.LeakyReLU(0.1, name=f"block{i}_1_leaky")(convolution(settings.channels, f"block{i}_1")(features))
        features = keras.layers.Add(name=f"block{i}_skip")([features, convolution(settings.channels, f"block{i}_2")(inner)])
    return keras.layers.Add(name="long_skip")([head, convolution(settings.channels, "tail")(features)])


def assemble(settings: NetworkSettings, convolution: Callable[[int, str], keras.layers.Layer], name: str) -> keras.Model:
    """The network with 3x3 convolutions of the given kind: DN [n, h, w, bands] -> DN [n, factor h, factor w, bands out]."""
    phases = settings.factor**2 * len(settings.bands_out)
    lr = keras.Input((None, None, len(settings.bands)), name="lr")
    x = keras.layers.Rescaling(1 / settings.spread, [-mean / settings.spread for mean in settings.means], dtype="float32", name="normalise")(lr)
    body = {"attention": attention_body, "residual": residual_body}[settings.body]
    features = body(convolution(settings.channels, "head")(x), settings, convolution)
    detail = keras.layers.Rescaling(settings.spread, dtype="float32", name="to_dn")(convolution(phases, "phases")(features))
    fine = keras.layers.Add(dtype="float32", name="residual")([FixedConvolution(base_kernel(settings), name="bicubic")(lr), detail])
    for i in range(settings.back_projection if settings.bands_projected else 0):
        fine = BackProjection(settings, name=f"back_projection{i}")([fine, lr])
    return keras.Model(lr, DepthToSpace(settings.factor, name="sr")(fine), name=name)


def network(settings: NetworkSettings) -> keras.Model:
    """A network in its training form: DN in, DN out, residual over bicubic, near bicubic when untrained.

    With body "sr4rs", its outputs of coarser levels are further channels (`sr4rs.generator`).
    """
    if settings.body == "sr4rs":
        return sr4rs.generator(settings, training=True)
    model = assemble(settings, wide_convolution(settings), "network")
    last = {"attention": 3, "residual": 2}[settings.body]
    quiet = [model.get_layer(f"block{i}_{last}") for i in range(settings.blocks)] + [model.get_layer("phases")]
    for layer in quiet:  # blocks near identity
        for weight in (layer.squeeze, layer.skip):
            weight.assign(0.2 * weight)
    return model


def fuse(model: keras.Model, settings: NetworkSettings) -> keras.Model:
    """The serving form of a trained `network`: the same function with plain 3x3 convolutions, the finest output only."""
    if settings.body == "sr4rs":
        return sr4rs.serving_form(model, settings)
    plain = assemble(settings, plain_convolution, "fused")
    for layer in plain.layers:
        trained = model.get_layer(layer.name) if layer.weights else None
        if isinstance(trained, WideConvolution):
            layer.set_weights([ops.convert_to_numpy(trained.fused()), ops.convert_to_numpy(trained.bias)])
        elif trained is not None:
            layer.set_weights(trained.get_weights())
    return plain


PIXELWISE = (keras.layers.LeakyReLU, keras.layers.Rescaling, keras.layers.Add, keras.layers.Concatenate, Attention)
"""Layers whose results depend on the same pixel only."""


def phases_without_border(model: keras.Model) -> Callable[[Any], Any] | None:
    """The serving form of a network up to its last layer, `DepthToSpace`, without the border that its zero padding reaches.

    A function [n, h, w, bands] -> [n, h - 2 r, w - 2 r, factor * factor * bands out] with the same weights; r is the radius of the receptive
    field. The pixels are those of the network; every layer computes only what the inner pixels need, a fifth less in blocks of 128 pixels.
    None: there is no such last layer, or one before it is of a kind that is not known here.
    """
    *layers, last = model.layers
    kinds = (keras.layers.InputLayer, keras.layers.Conv2D, FixedConvolution, BackProjection, *PIXELWISE)
    if not isinstance(last, DepthToSpace) or len(model.inputs) != 1 or not all(type(layer) in kinds for layer in layers):
        return None
    if any(isinstance(layer, keras.layers.Conv2D) and not is_plain(layer) for layer in layers):
        return None

    def sources(layer: keras.layers.Layer) -> list[int]:
        return [id(source) for source in (layer.input if isinstance(layer.input, list) else [layer.input])]

    layers, end = layers[1:], id(last.input)
    radii = {id(model.inputs[0]): 0}  # of the receptive field of what each layer gives
    for layer in layers:
        radii[id(layer.output)] = reach(layer) + max(radii[source] for source in sources(layer))
    borders = {end: radii[end]}  # what nobody needs of it
    for layer in reversed(layers):
        for source in sources(layer):
            borders[source] = min(borders.get(source, radii[end]), borders[id(layer.output)] - reach(layer))

    def run(lr: Any) -> Any:
        done = {id(model.inputs[0]): lr}
        for layer in layers:
            border = borders[id(layer.output)] - reach(layer)
            inputs = [without_border(done[source], border - borders[source]) for source in sources(layer)]
            given = inputs if len(inputs) > 1 else inputs[0]
            if isinstance(layer, keras.layers.Conv2D):
                result = layer.activation(ops.conv(given, layer.kernel, padding="valid") + layer.bias)
            elif isinstance(layer, FixedConvolution | BackProjection):
                result = layer(given, padding="valid")
            else:
                result = layer(given)
            done[id(layer.output)] = result
        return done[end]

    return run


def reach(layer: keras.layers.Layer) -> int:
    """Radius of the input pixels that a pixel of the layer's result depends on."""
    if isinstance(layer, BackProjection):
        return layer.down.shape[0] // 2 + layer.up.shape[0] // 2
    return layer.kernel.shape[0] // 2 if isinstance(layer, keras.layers.Conv2D | FixedConvolution) else 0


def is_plain(layer: keras.layers.Conv2D) -> bool:
    """Whether a convolution is of an odd square kernel, with zero 'same' padding, nothing strided, spread or grouped, and a bias."""
    rows, columns = layer.kernel_size
    return (
        rows == columns
        and rows % 2 == 1
        and (layer.padding == "same" or rows == 1)
        and tuple(layer.strides) == tuple(layer.dilation_rate) == (1, 1)
        and layer.groups == 1
        and layer.use_bias
        and layer.data_format == "channels_last"
    )


def widen(weights: Sequence[NDArray[np.float32]], settings: NetworkSettings) -> keras.Model:
    """A training form of the network that `fuse` made these weights of: `fuse(widen(weights), settings)` has them again.

    What a shipped model is trained further from. Each kernel is put into one corner of the wide ones, whose other branches are drawn anew and
    subtracted from it, so that they can be trained although they add up to nothing. Raises `ValueError` for weights of other shapes.
    """
    plain, model = assemble(settings, plain_convolution, "fused"), network(settings)
    plain.set_weights(weights)
    for layer in model.layers:
        if not isinstance(layer, WideConvolution):
            if layer.weights:
                layer.set_weights(plain.get_layer(layer.name).get_weights())
            continue
        kernel, bias = (np.asarray(w) for w in plain.get_layer(layer.name).get_weights())
        inputs, outputs = kernel.shape[2:]
        expand, middle, squeeze = (np.array(ops.convert_to_numpy(w)) for w in (layer.expand, layer.middle, layer.squeeze))
        expand[:, :inputs], squeeze[:outputs], middle[:, :, :inputs, :outputs] = np.eye(inputs), np.eye(outputs), 0
        layer.expand.assign(expand)
        layer.squeeze.assign(squeeze)
        layer.middle.assign(middle)
        middle[:, :, :inputs, :outputs] = kernel - ops.convert_to_numpy(layer.fused())
        layer.middle.assign(middle)
        layer.bias.assign(bias)
    return model


def margin(settings: NetworkSettings) -> int:
    """Radius of the receptive field in input pixels: one per 3x3 convolution in sequence, then that of each back-projection."""
    if settings.body == "sr4rs":
        return sr4rs.radius(settings)
    convolutions = 1 + {"attention": 3, "residual": 2}[settings.body] * settings.blocks + 1 + 1
    detail = max(convolutions, base_kernel(settings).shape[0] // 2)
    if not settings.bands_projected:
        return detail
    radius = kernel_radius(sensor_kernels(settings.bands_projected, settings.factor, IN_GRAPH_REACH), settings.factor)
    return detail + settings.back_projection * (radius + 2)


def operations(settings: NetworkSettings) -> int:
    """Multiplications per input pixel of the serving form, back-projection included (blurs are not)."""
    if settings.body == "sr4rs":
        return sum(layer.multiplications() for layer in sr4rs.generator(settings).layers if isinstance(layer, sr4rs.EqualisedConvolution))
    plain = assemble(settings, plain_convolution, "counted")
    total = 0
    for layer in plain.layers:
        kernels = [layer.kernel] if isinstance(layer, keras.layers.Conv2D | FixedConvolution) else []
        kernels += [layer.down, layer.up] if isinstance(layer, BackProjection) else []
        total += sum(int(np.prod(kernel.shape)) for kernel in kernels)
    return total


def upsampler(kernel: Kernel, factor: int, name: str) -> keras.Model:
    """A model that only applies a polyphase kernel (bicubic, nearest): the baselines."""
    lr = keras.Input((None, None, kernel.shape[2]), name="lr")
    return keras.Model(lr, DepthToSpace(factor, name="sr")(FixedConvolution(kernel, name="polyphase")(lr)), name=name)
