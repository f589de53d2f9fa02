"""How near an image is to the reference, and whether it still agrees with the input it was made from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from otbsr.grid import Grid
from otbsr.products.product import SCALE
from otbsr.world.sensors import degrade

BORDER = 16
"""Pixels left out on each side of the fine image: margins of interpolation are no method's merit."""


def psnr(reference: NDArray[Any], image: NDArray[Any], border: int = BORDER) -> list[float]:
    """Peak signal-to-noise ratio of each band in dB, 10 log10(1 / MSE), of reflectances [rows, columns, bands] with peak 1."""
    inner = (slice(border, -border or None), slice(border, -border or None))
    error = reference[inner].astype(np.float64) - image[inner]
    return [10 * math.log10(1 / max(float(mean), 1e-20)) for mean in np.mean(error**2, axis=(0, 1))]


def consistency(fine: NDArray[Any], coarse: NDArray[Any], factor: int = 4, border: int = 4) -> list[float]:
    """RMSE of each band between `fine` seen by the input's sensor model and the input `coarse`, both [rows, columns, bands].

    Units of the images. `border` coarse pixels are left out. The input's own noise is part of it: below it, nothing can be.
    """
    inner = (slice(border, -border or None), slice(border, -border or None))
    error = degrade(fine.astype(np.float32), factor)[inner].astype(np.float64) - coarse[inner]
    return [float(value) for value in np.sqrt(np.mean(error**2, axis=(0, 1)))]


def quality(image: Path, reference: Path, coarse: Path) -> dict[str, Any]:
    """PSNR against `reference` (same grid) and consistency with `coarse`, a band each and their means, of 4-band DN images.

    Raises `GridError` when the grids differ or do not nest.
    """
    grids = [Grid.read(path) for path in (image, reference, coarse)]
    grids[0].require_same(grids[1], f"{image.name} and {reference.name}")
    factor = grids[2].factor_to(grids[0])
    planes = []
    for path in (image, reference, coarse):
        with rasterio.open(path) as dataset:
            planes.append(np.moveaxis(dataset.read(), 0, -1).astype(np.float32) * np.float32(SCALE))
    ratio, rest = psnr(planes[1], planes[0]), consistency(planes[0], planes[2], factor)
    return {"psnr": ratio, "psnr_mean": float(np.mean(ratio)), "consistency": rest, "consistency_mean": float(np.mean(rest))}
