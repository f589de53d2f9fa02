"""Patches images as arrays.

A patches image holds n patches stacked vertically: width = patch width, height = n * patch height. Patches are square, so the width tells
the height of one.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

_lock = threading.Lock()


def gdal_open(filename: str) -> rasterio.DatasetReader:
    """Open a raster with GDAL (through rasterio; upstream returns an osgeo.gdal dataset).

    Raises:
        OSError: the file is missing or is not an image.

    """
    try:
        with _lock, warnings.catch_warnings():  # catch_warnings changes the whole process
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # patches have no place of their own
            return rasterio.open(filename)
    except RasterioIOError as error:
        raise OSError(f"{filename}: cannot be read as an image ({error})") from error


def number_of_patches(dataset: rasterio.DatasetReader) -> int:
    """Number of square patches in an open patches image.

    Raises:
        ValueError: the height is not a multiple of the width.

    """
    if dataset.height % dataset.width:
        raise ValueError(
            f"{dataset.name}: {dataset.width} x {dataset.height} pixels are no stack of square patches: the height must be a multiple of the "
            "width; is it an image that PatchesExtraction wrote, with patchsizex = patchsizey?"
        )
    return dataset.height // dataset.width


def read_as_np_arr(gdal_ds: Any, as_patches: bool = True) -> np.ndarray:
    """Read a whole raster in its own pixel type.

    Args:
        gdal_ds: a rasterio dataset, an osgeo.gdal dataset, or a file name.
        as_patches: whether to cut the image into square patches.

    Returns:
        (n, width, width, bands) as patches, else (1, height, width, bands).

    """
    if isinstance(gdal_ds, str):
        with gdal_open(gdal_ds) as dataset:
            return read_as_np_arr(dataset, as_patches)
    if isinstance(gdal_ds, rasterio.DatasetReader):
        pixels = read_window(gdal_ds, Window(0, 0, gdal_ds.width, gdal_ds.height))
    else:
        pixels = np.asarray(gdal_ds.ReadAsArray())
        pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    height, width, bands = pixels.shape
    if not as_patches:
        return pixels[np.newaxis]
    if height % width:
        raise ValueError(f"{width} x {height} pixels are no stack of square patches: the height must be a multiple of the width")
    return pixels.reshape(height // width, width, width, bands)


def read_window(dataset: rasterio.DatasetReader, window: Window) -> np.ndarray:
    """Pixels of a window, [rows, columns, bands], in the file's type; GDAL puts the bands side by side, nothing is copied."""
    pixels = np.empty((window.height, window.width, dataset.count), dataset.dtypes[0])
    dataset.read(window=window, out=pixels.transpose(2, 0, 1))
    return pixels
