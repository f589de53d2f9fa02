"""Images as files, as the tests write and read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

BANDS = ("B4", "B3", "B2", "B8")
TRANSFORM = Affine(10, 0, 300000, 0, -10, 4900020)
"""Where an image lies whose test does not care."""


def at(spacing: float, left: float = TRANSFORM.c, top: float = TRANSFORM.f) -> Affine:
    """The transform of a north-up image."""
    return Affine(spacing, 0, left, 0, -spacing, top)


def write(path: Path, pixels: np.ndarray, *, names: Sequence[str] = (), **profile: object) -> Path:
    """A GeoTIFF of `pixels` (bands, rows, columns) or (rows, columns) in their type, of 10 m in EPSG:32631 unless `profile` says otherwise."""
    planes = pixels if pixels.ndim == 3 else pixels[None]
    settings = {"driver": "GTiff", "crs": "EPSG:32631", "transform": TRANSFORM, "dtype": planes.dtype, **profile}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", count=planes.shape[0], height=planes.shape[1], width=planes.shape[2], **settings) as dataset:
        dataset.write(planes)
        if names:
            dataset.descriptions = tuple(names)
    return path


def write_random(path: Path, height: int, width: int, missing: tuple | None = None, **profile: object) -> Path:
    """Four bands as networks want them: numbers from 0 to 4999, int16. missing: index [bands, rows, columns] of what has no data (-10000)."""
    pixels = np.random.default_rng(5).integers(0, 5000, (4, height, width)).astype(np.int16)
    if missing is not None:
        pixels[missing] = -10000
    return write(path, pixels, names=BANDS, **{"nodata": -10000, **profile})


def write_reflectance(path: Path, image: np.ndarray, spacing: float = 2.5, **profile: object) -> Path:
    """[rows, columns, bands] of reflectance x 10000 as float64; -1 stands for no data."""
    planes = np.moveaxis(np.where(image == -1, -1, image * 1e4), -1, 0)
    return write(path, planes, names=BANDS[: len(planes)], nodata=-1, transform=at(spacing, 500000, 4800000), **profile)


def read(path: Path) -> np.ndarray:
    """The pixels (bands, rows, columns)."""
    with rasterio.open(path) as dataset:
        return dataset.read()
