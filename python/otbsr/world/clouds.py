"""Clouds over the Sentinel-2 image: how opaque, and where their shadow falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from otbsr.grid import Grid

Plane = NDArray[np.float32]
HEIGHT = 700.0
"""Of the clouds above ground, metres."""
SEEN = 0.2
"""Opacity from which a pixel counts as cloud or shadow."""


@dataclass(frozen=True)
class Clouds:
    """Opacity 0..1 of the cloud above each pixel of a 10 m grid, and of the cloud that stands between it and the sun."""

    opacity: Plane
    shadow: Plane

    def coarsened(self, factor: int) -> Clouds:
        """The same at `factor` times the spacing."""
        return Clouds(block_mean(self.opacity, factor), block_mean(self.shadow, factor))

    def over(self, reflectance: Plane, cloud_reflectance: float, sky: float) -> Plane:
        """What is seen of `reflectance`: shaded down to the share `sky` of the light, then veiled by the cloud."""
        ground = reflectance * (1.0 - (1.0 - sky) * self.shadow)
        return np.asarray(ground * (1.0 - self.opacity) + cloud_reflectance * self.opacity, np.float32)

    def mask(self) -> NDArray[np.uint8]:
        """0 clear, 1 cloud, 2 cloud shadow."""
        return np.where(self.opacity > SEEN, 1, np.where(self.shadow > SEEN, 2, 0)).astype(np.uint8)


def make_clouds(seed: int, grid: Grid, cover: float, sun: tuple[float, float]) -> Clouds:
    """Clouds with a share `cover` of the pixels of `grid` under them; `sun` is elevation and azimuth in degrees."""
    elevation, azimuth = (math.radians(angle) for angle in sun)
    reach = HEIGHT / math.tan(elevation)
    down, right = reach * math.cos(azimuth) / grid.dy, -reach * math.sin(azimuth) / grid.dx
    margin = math.ceil(reach / grid.dx) + 1
    shape = (grid.height + 2 * margin, grid.width + 2 * margin)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 6]))
    field = np.zeros(shape, np.float32)
    for scale, weight in ((30.0, 1.0), (10.0, 0.45), (4.0, 0.2)):
        layer = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), scale, mode="wrap")
        field += np.float32(weight) * layer / layer.std()
    inside = (slice(margin, margin + grid.height), slice(margin, margin + grid.width))
    edge = np.quantile(field[inside], 1.0 - cover) if cover > 0 else np.inf
    soft = 0.4
    opacity = np.clip((field - edge) / soft + SEEN, 0.0, 1.0).astype(np.float32)
    # The shadow lies away from the sun: a pixel is shaded by the cloud that stands towards the sun.
    shadow = ndimage.shift(opacity, (down, right), order=1, mode="nearest")
    return Clouds(opacity[inside], np.asarray(shadow[inside], np.float32))


def block_mean(plane: Plane, factor: int) -> Plane:
    """Mean of each factor x factor block."""
    height, width = plane.shape
    return np.asarray(plane.reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3)), np.float32)
