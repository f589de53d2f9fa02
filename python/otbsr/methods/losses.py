"""Losses of super-resolution, in `keras.ops`: each maps [n, h, w, bands] images to one number.

Images are in DN divided by the network's spread, so that 1 means about 0.1 reflectance and weights are comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from otbsr.methods.sensor import degrade, kernel_radius

EPSILON = 1e-7


class LossWeights(BaseModel):
    """Weight of each term of `fidelity_loss`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    pixel: float = Field(1.0, ge=0)
    gradient: float = Field(0.2, ge=0)
    spectral: float = Field(0.05, ge=0)
    consistency: float = Field(0.2, ge=0)
    foot: float = Field(
        0.01, gt=0, description="difference (the network's spread is 1) below which pixel and gradient terms are squares, above it absolute values"
    )
    registration: int = Field(0, ge=0, le=4, description="target pixels over which each pair's best shift is searched (pixel and gradient terms)")


def charbonnier(difference: Any, epsilon: float = 1e-2) -> Any:
    """Mean of sqrt(d^2 + epsilon^2) - epsilon, per image [n]: |d| with a smooth foot (Charbonnier et al. 1994)."""
    return ops.mean(ops.sqrt(difference**2 + epsilon**2) - epsilon, axis=(1, 2, 3))


def gradient(target: Any, result: Any, epsilon: float = 1e-2) -> Any:
    """Charbonnier of the difference's first differences along rows and columns, per image: edges in place, whatever their level."""
    d = result - target
    return 0.5 * (charbonnier(d[:, 1:] - d[:, :-1], epsilon) + charbonnier(d[:, :, 1:] - d[:, :, :-1], epsilon))


def shifts(radius: int) -> list[tuple[int, int]]:
    """All (rows, columns) within `radius`, the nearest first."""
    span = range(-radius, radius + 1)
    return sorted(((dy, dx) for dy in span for dx in span), key=lambda s: (s[0] ** 2 + s[1] ** 2, s))


def over_shifts(term: Callable[[Any, Any], Any], target: Any, result: Any, radius: int) -> Any:
    """A per-image term at the shift of the target, of at most `radius` pixels each way, where it is least: [n].

    Between two sensors some misregistration is left in every pair; compared in place, a network learns to blur by it.
    """
    if radius == 0:
        return term(target, result)
    height, width = ops.shape(target)[1], ops.shape(target)[2]
    inner = result[:, radius : height - radius, radius : width - radius]
    moved = [target[:, radius + dy : height - radius + dy, radius + dx : width - radius + dx] for dy, dx in shifts(radius)]
    return ops.min(ops.stack([term(image, inner) for image in moved]), axis=0)


def spectral_angle(target: Any, result: Any) -> Any:
    """Mean of 1 - cos(angle between the two pixels' spectra), per image; 1 - cos has a gradient at 0, where the angle has none."""
    dot = ops.sum(target * result, -1)
    norms = ops.sqrt((ops.sum(target**2, -1) + EPSILON) * (ops.sum(result**2, -1) + EPSILON))
    return ops.mean(1.0 - dot / norms, axis=(1, 2))


def consistency(lr: Any, result: Any, kernels: NDArray[np.float32], factor: int, bands: Sequence[int] | None = None) -> Any:
    """Charbonnier between the result degraded by the sensor and its input, per image, away from the border.

    bands: indices of those of lr and result that the kernels are for; not given: all.
    """
    if bands is not None and len(bands) < lr.shape[-1]:
        lr, result = ops.take(lr, list(bands), axis=-1), ops.take(result, list(bands), axis=-1)
    radius = kernel_radius(kernels, factor)
    inner = lr[:, radius : ops.shape(lr)[1] - radius, radius : ops.shape(lr)[2] - radius]
    return charbonnier(degrade(result, kernels, factor) - inner)


def fidelity_loss(
    lr: Any, target: Any, result: Any, kernels: NDArray[np.float32], factor: int, weights: LossWeights, consistent: Sequence[int] | None = None
) -> Any:
    """Mean over the batch of the weighted sum of pixel (Charbonnier), gradient, spectral angle and sensor consistency (of the bands `consistent`)."""

    def in_place(moved: Any, inner: Any) -> Any:
        edges = weights.gradient * gradient(moved, inner, weights.foot) if weights.gradient else 0.0
        return weights.pixel * charbonnier(inner - moved, weights.foot) + edges

    total = over_shifts(in_place, target, result, weights.registration)
    if weights.spectral:
        total = total + weights.spectral * spectral_angle(target, result)
    if weights.consistency and (consistent is None or len(consistent)):
        total = total + weights.consistency * consistency(lr, result, kernels, factor, consistent)
    return ops.mean(total)


# --- adversarial ---------------------------------------------------------------------------------------------------------------


def critic_loss(real: Any, fake: Any, relativistic: bool) -> Any:
    """What the discriminator minimises, from its scores of real and made images, any shape: least squares (Mao et al. 2017).

    Relativistic average: a real image should score 1 above the mean of the made ones, and the reverse (Jolicoeur-Martineau 2019).
    """
    if relativistic:
        return 0.5 * (ops.mean((real - ops.mean(fake) - 1.0) ** 2) + ops.mean((fake - ops.mean(real) + 1.0) ** 2))
    return 0.5 * (ops.mean((real - 1.0) ** 2) + ops.mean(fake**2))


def deception_loss(real: Any, fake: Any, relativistic: bool) -> Any:
    """What the generator minimises against the same scores."""
    if relativistic:
        return 0.5 * (ops.mean((real - ops.mean(fake) + 1.0) ** 2) + ops.mean((fake - ops.mean(real) - 1.0) ** 2))
    return 0.5 * ops.mean((fake - 1.0) ** 2)


def feature_distance(real: list[Any], fake: list[Any]) -> Any:
    """Mean over layers of the mean absolute difference of features, each layer scaled by its own mean size on the real image; no layer: 0."""
    terms = [ops.mean(ops.abs(f - ops.stop_gradient(r))) / (ops.mean(ops.abs(ops.stop_gradient(r))) + EPSILON) for r, f in zip(real, fake, strict=True)]
    return sum(terms) / max(1, len(terms))


def texture_distance(target: Any, result: Any, window: int = 8, floor: float = 2e-2) -> Any:
    """Mean of |ln(strength of texture of the result) - ln(that of the target)|, whatever the texture's place.

    Strength: root of the mean square of differences between pixels one and two apart along rows and columns, each over windows of
    `window` pixels that overlap by half, plus `floor` (the images' unit), which leaves noise of flat ground out. Two distances shape the spectrum
    beyond the input's Nyquist frequency; a discriminator alone needs far more steps to find how much texture there is.
    """
    terms = []
    for apart in (1, 2):
        strengths = []
        for x in (target, result):
            rows, columns = (x[:, apart:, :-apart] - x[:, :-apart, :-apart]) ** 2, (x[:, :-apart, apart:] - x[:, :-apart, :-apart]) ** 2
            strengths.append(ops.log(ops.average_pool(rows + columns, window, strides=window // 2, padding="valid") + floor**2))
        terms.append(0.5 * ops.mean(ops.abs(strengths[1] - strengths[0])))
    return sum(terms) / len(terms)


def pattern_distance(target: Any, result: Any, factor: int, window: int = 5) -> Any:
    """Mean size of what a result has more than its target at one place within every coarse pixel of a neighbourhood: a pattern of the grid.

    The difference's mean over `window` x `window` coarse pixels for each of the factor x factor fine places, less that over the places. What
    truly lies there differs from coarse pixel to coarse pixel and averages out; the comb of an upsampling network does not.
    """
    d = result - target
    n, height, width, bands = ops.shape(d)[0], ops.shape(d)[1] // factor, ops.shape(d)[2] // factor, d.shape[3]
    places = ops.transpose(ops.reshape(d, (n, height, factor, width, factor, bands)), (0, 1, 3, 2, 4, 5))
    means = ops.average_pool(ops.reshape(places, (n, height, width, factor**2 * bands)), window, strides=1, padding="valid")
    means = ops.reshape(means, (n, height - window + 1, width - window + 1, factor**2, bands))
    return ops.mean(ops.abs(means - ops.mean(means, axis=3, keepdims=True)))


def psnr(target: Any, result: Any, maximum: float) -> Any:
    """Peak signal-to-noise ratio in dB, per band over the batch, then the mean over bands; `maximum` in the images' unit."""
    error = ops.mean((result - target) ** 2, axis=(0, 1, 2))
    return ops.mean(10.0 * ops.log(maximum**2 / (error + keras.config.epsilon())) / np.log(10.0))
