"""The input sensor as networks and losses need it: how it sees the fine image, as convolutions on the coarse grid.

`world.sensors` has the physics (MTF, point spread); this file turns it into kernels for `keras.ops` and into inputs made anew from
targets, with MTF, noise and position varied within what is known of the sensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from otbsr.world.sensors import SENTINEL2, decimation_operator, degradation_kernel

Kernel = NDArray[np.float32]

IN_GRAPH_REACH = 3.0
"""Standard deviations at which a kernel inside a network is cut: each coarse pixel of radius costs margin in every block."""


def spacing_ratio(band: str, spacing: float = 10.0) -> int:
    """A band's own spacing over that of the grid it is given on: 2 for Sentinel-2's 20 m bands on the 10 m grid; 1 for unknown names."""
    known = SENTINEL2.get(band)
    return 1 if known is None else max(1, round(known.spacing / spacing))


@lru_cache(maxsize=64)
def sensor_kernels(bands: tuple[str, ...], factor: int, reach: float = 4.0) -> Kernel:
    """Sentinel-2's point spread from the fine to the coarse grid, one sum-1 kernel a band: [k, k, bands], k an odd multiple of factor.

    Bands that are no Sentinel-2 band are taken to be as B4.
    """
    taps = [degradation_kernel(band if band in SENTINEL2 else "B4", factor, reach=reach) for band in bands]
    radius = max(math.ceil((t.size - factor) / 2 / factor) for t in taps)
    size = factor * (2 * radius + 1)
    padded = [np.pad(t, (size - t.size) // 2) for t in taps]
    return np.stack([np.outer(t, t) for t in padded], -1).astype(np.float32)


def kernel_radius(kernels: Kernel, factor: int) -> int:
    """Coarse pixels that a kernel of `sensor_kernels` reaches beyond its own."""
    return (kernels.shape[0] // factor - 1) // 2


def degrade(image: Any, kernels: Kernel, factor: int) -> Any:
    """The image as the coarse sensor would see it: filter each band, keep one pixel in `factor`.

    image [n, factor h, factor w, bands]; kernels as `sensor_kernels` gives them (even sizes fall on a fine corner, as nested grids
    need). Returns the coarse pixels [n, h - 2r, w - 2r, bands] whose footprint lies wholly within the image.
    """
    return ops.depthwise_conv(image, ops.convert_to_tensor(kernels[..., None]), strides=factor, padding="valid")


def polyphase_degradation(kernels: Kernel, factor: int) -> Kernel:
    """The same kernels for an image whose fine pixels are channels: [2r + 1, 2r + 1, factor * factor * bands, bands].

    Channels are ordered (row phase, column phase, band), as `networks.depth_to_space` reads them.
    """
    size, bands = kernels.shape[0] // factor, kernels.shape[2]
    phases = kernels.reshape(size, factor, size, factor, bands).transpose(0, 2, 1, 3, 4)
    kernel = np.zeros((size, size, factor, factor, bands, bands), np.float32)
    for band in range(bands):
        kernel[..., band, band] = phases[..., band]
    return kernel.reshape(size, size, factor * factor * bands, bands)


def observe_anew(
    target: NDArray[np.float32], bands: Sequence[str], factor: int, mtf: float, shift: float, noise: tuple[float, float], random: np.random.Generator
) -> NDArray[np.float32]:
    """Inputs made from targets by a sensor drawn at random: [n, factor p, factor p, bands] -> [n, p, p, bands], in DN.

    mtf: standard deviation of the log of each band's MTF at Nyquist (one draw for the batch); shift: greatest displacement of a band in
    coarse pixels; noise: range of its standard deviation in DN. Mirrored at the patches' edges. A band of coarser spacing has its pixels
    repeated, the first of them beginning with the patch where they fill it, else anywhere.
    """
    lr = np.empty((len(target), target.shape[1] // factor, target.shape[2] // factor, target.shape[3]), np.float32)
    begins: dict[tuple[int, int], NDArray[np.int64]] = {}
    for index, band in enumerate(bands):
        known = SENTINEL2[band if band in SENTINEL2 else "B4"].mtf
        value = min(0.5, known * math.exp(random.normal(0, mtf))) if mtf else known
        ratio = spacing_ratio(band)
        operators = []
        for axis, size in enumerate(lr.shape[1:3]):
            taps = degradation_kernel("B4", factor * ratio, mtf=value, shift=random.uniform(-shift, shift) * factor)
            phase = int(random.integers(ratio)) if size % ratio else 0
            operators.append(repeated_decimation(taps, size, factor, ratio, phase))
            begins[axis, index] = np.maximum((np.arange(size) + phase) // ratio * ratio - phase, 0)
        lr[..., index] = np.einsum("yi,nij,xj->nyx", operators[0], target[..., index], operators[1], optimize=True)
    sigma = random.uniform(*noise, (len(lr), 1, 1, 1)).astype(np.float32)
    draws: NDArray[np.float32] = np.asarray(random.standard_normal(lr.shape, np.float32))
    for index in range(lr.shape[-1]):  # a coarser band's repeated pixels share their noise
        draws[..., index] = draws[:, begins[0, index]][:, :, begins[1, index], index]
    return lr + sigma * draws


def repeated_decimation(taps: NDArray[np.float64], size: int, factor: int, ratio: int, phase: int) -> NDArray[np.float32]:
    """Matrix [size, factor size] of one axis: pixels `ratio` times as wide as the grid's `size`, each repeated; the first begins `phase` before.

    taps: as `degradation_kernel` gives them for factor * ratio. Mirrored at the edges.
    """
    count = -(-(size + phase) // ratio)
    before, after = phase * factor, (count * ratio - phase - size) * factor
    source = np.pad(np.arange(size * factor), (before, after), mode="symmetric")
    wide = decimation_operator(taps, count * ratio * factor, factor * ratio).toarray()
    folded = np.zeros((size * factor, count), np.float32)
    np.add.at(folded, source, wide.T)
    return np.ascontiguousarray(folded.T[(np.arange(size) + phase) // ratio])
