"""Losses of super-resolution, in `keras.ops`: each maps [n, h, w, bands] images to one number.

Images are in DN divided by the network's spread, so that 1 means about 0.1 reflectance and weights are comparable.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

EPSILON = 1e-7


class LossWeights(BaseModel):
    """Weight of each term of `fidelity_loss`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pixel: float = Field(1.0, ge=0)
    gradient: float = Field(0.2, ge=0)
    spectral: float = Field(0.05, ge=0)
    consistency: float = Field(0.2, ge=0)


def charbonnier(difference: Any, epsilon: float = 1e-2) -> Any:
    """Mean of sqrt(d^2 + epsilon^2) - epsilon: |d| with a smooth foot (Charbonnier et al. 1994)."""
    return ops.mean(ops.sqrt(difference**2 + epsilon**2) - epsilon)


def gradient(target: Any, result: Any) -> Any:
    """Charbonnier of the difference's first differences along rows and columns: edges in place, whatever their level."""
    d = result - target
    return 0.5 * (charbonnier(d[:, 1:] - d[:, :-1]) + charbonnier(d[:, :, 1:] - d[:, :, :-1]))


def spectral_angle(target: Any, result: Any) -> Any:
    """Mean of 1 - cos(angle between the two pixels' spectra); 1 - cos has a gradient at 0, where the angle has none."""
    dot = ops.sum(target * result, -1)
    norms = ops.sqrt((ops.sum(target**2, -1) + EPSILON) * (ops.sum(result**2, -1) + EPSILON))
    return ops.mean(1.0 - dot / norms)


def degrade(image: Any, kernels: NDArray[np.float32], factor: int) -> Any:
    """The image as the coarse sensor would see it: filter each band, keep one pixel in `factor`.

    image [n, factor h, factor w, bands]; kernels [factor (2r + 1), factor (2r + 1), bands] on the fine grid, each summing to 1,
    centred on a coarse pixel's centre (even sizes fall on a fine corner, as nested grids need). Returns the coarse pixels
    [n, h - 2r, w - 2r, bands] whose footprint lies wholly within the image.
    """
    return ops.depthwise_conv(image, ops.convert_to_tensor(kernels[..., None]), strides=factor, padding="valid")


def consistency(lr: Any, result: Any, kernels: NDArray[np.float32], factor: int) -> Any:
    """Charbonnier between the result degraded by the sensor and its input, away from the border."""
    radius = (kernels.shape[0] // factor - 1) // 2
    inner = lr[:, radius : ops.shape(lr)[1] - radius, radius : ops.shape(lr)[2] - radius]
    return charbonnier(degrade(result, kernels, factor) - inner)


def fidelity_loss(lr: Any, target: Any, result: Any, kernels: NDArray[np.float32], factor: int, weights: LossWeights) -> Any:
    """Weighted sum of pixel (Charbonnier), gradient, spectral angle and sensor consistency."""
    total = weights.pixel * charbonnier(result - target)
    if weights.gradient:
        total = total + weights.gradient * gradient(target, result)
    if weights.spectral:
        total = total + weights.spectral * spectral_angle(target, result)
    if weights.consistency:
        total = total + weights.consistency * consistency(lr, result, kernels, factor)
    return total


def psnr(target: Any, result: Any, maximum: float) -> Any:
    """Peak signal-to-noise ratio in dB, per band over the batch, then the mean over bands; `maximum` in the images' unit."""
    error = ops.mean((result - target) ** 2, axis=(0, 1, 2))
    return ops.mean(10.0 * ops.log(maximum**2 / (error + keras.config.epsilon())) / np.log(10.0))
