"""Feature images: how their pixels are computed and written, band by band or in strips. int16 DN, no-data -10000, on the 2.5 m grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.windows import Window
from scipy import fft, ndimage

from otbsr.evaluation.area import FACTOR
from otbsr.grid import Grid
from otbsr.world.sensors import SENTINEL2, degrade

NODATA = -10000
WARPING = Lock()
"""Two warps of arrays at once made rasterio 1.4 say that an array has no geotransform."""
STRIP = 256
"""Rows that are computed at once where a whole image is not needed."""
Plane = NDArray[np.float32]


def band_count(path: Path) -> int:
    """How many bands an image has."""
    with rasterio.open(path) as dataset:
        return int(dataset.count)


def to_dn(values: NDArray[np.floating]) -> NDArray[np.int16]:
    """Rounded and clamped to int16."""
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def strips(grid: Grid) -> Iterator[Window]:
    """Windows of `STRIP` rows at most, from top to bottom."""
    for top in range(0, grid.height, STRIP):
        yield Window(0, top, grid.width, min(STRIP, grid.height - top))


def writer(path: Path, grid: Grid, names: Sequence[str | None]) -> rasterio.io.DatasetWriter:
    """An open int16 GeoTIFF on `grid` with band names."""
    side = 256 if min(grid.width, grid.height) >= 256 else 16
    dataset = rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=grid.width,
        height=grid.height,
        count=len(names),
        dtype="int16",
        crs=grid.crs or None,
        transform=grid.transform,
        nodata=NODATA,
        tiled=True,
        blockxsize=side,
        blockysize=side,
        compress="deflate",
        zlevel=1,
        predictor=2,
        interleave="band",
        bigtiff="if_safer",
    )
    for index, name in enumerate(names, 1):
        if name:
            dataset.set_band_description(index, name)
    return dataset


def write_planes(path: Path, grid: Grid, names: Sequence[str | None], planes: Iterator[Plane]) -> None:
    """Write bands as they come."""
    with writer(path, grid, names) as dataset:
        for index, plane in enumerate(planes, 1):
            dataset.write(to_dn(plane), index)


def combine(out: Path, grid: Grid, names: Sequence[str | None], paths: Sequence[Path], how: Callable[[list[NDArray[Any]]], NDArray[Any]]) -> None:
    """Write what `how` makes of several images' [bands, rows, columns], strip by strip."""
    datasets = [rasterio.open(path) for path in paths]
    try:
        with writer(out, grid, names) as target:
            for window in strips(grid):
                target.write(to_dn(how([dataset.read(window=window).astype(np.float32) for dataset in datasets])), window=window)
    finally:
        for dataset in datasets:
            dataset.close()


def resampled(plane: NDArray[Any], coarse: rasterio.DatasetReader, fine: Grid, how: str) -> Plane:
    """One band of the 10 m grid of `coarse` on the fine grid; pixels without data do not enter their neighbours'."""
    result = np.empty((fine.height, fine.width), np.float32)
    nodata = NODATA if coarse.nodata is None else coarse.nodata
    method = Resampling.nearest if how == "nearest" else Resampling.cubic
    crs = coarse.crs or rasterio.CRS.from_epsg(32631)  # equal on both sides: no reprojection takes place
    with WARPING:
        reproject(
            plane.astype(np.float32),
            result,
            src_transform=coarse.transform,
            dst_transform=fine.transform,
            src_crs=crs,
            dst_crs=crs,
            src_nodata=nodata,
            dst_nodata=nodata,
            resampling=method,
        )
    return result


def filled(dataset: rasterio.DatasetReader, index: int) -> Plane:
    """A band as float32, what has no data replaced by the mean, so that filters see no cliff."""
    plane = dataset.read(index, masked=True).astype(np.float32)
    return np.asarray(plane.filled(plane.mean() if plane.count() else 0.0))


def mirrored_rows(dataset: rasterio.DatasetReader, first: int, count: int) -> NDArray[np.float64]:
    """Rows `first` to `first + count` of all bands [bands, rows, columns]; beyond the image its rows are mirrored, the edge row repeated."""
    height = dataset.height
    rows = np.arange(first, first + count) % (2 * height)
    rows = np.where(rows < height, rows, 2 * height - 1 - rows)
    low, high = int(rows.min()), int(rows.max()) + 1
    return dataset.read(window=Window(0, low, dataset.width, high - low)).astype(np.float64)[:, rows - low]


def context_features(bands: NDArray[np.float64], radii: Sequence[int]) -> NDArray[np.float64]:
    """[features, rows, columns]: the bands, for each radius means and deviations, then gradients of the bands' mean; mirrored at the edges."""
    features, level = [bands], 1000.0  # squares about a common level keep the digits of small deviations
    for radius in radii:
        size = (1, 2 * radius + 1, 2 * radius + 1)
        mean = ndimage.uniform_filter(bands - level, size=size, mode="reflect")
        square = ndimage.uniform_filter((bands - level) ** 2, size=size, mode="reflect")
        features += [mean + level, np.sqrt(np.maximum(square - mean**2, 0.0))]
    brightness = bands.mean(axis=0)
    gradients = [radius * ndimage.gaussian_gradient_magnitude(brightness, radius / 2, mode="reflect", truncate=4.0) for radius in radii]
    return np.concatenate([*features, np.stack(gradients)])


def radial_frequency(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Cycles per pixel of each coefficient of a cosine transform of that shape."""
    rows, columns = (np.arange(size) / (2 * size) for size in shape)
    return np.asarray(np.hypot(rows[:, None], columns[None, :]))


def sharpened(image: Plane, like: Plane, limit: float, bins: int = 64) -> Plane:
    """`image` filtered so that its power at every radial frequency is that of `like`, by gains from 1 / `limit` to `limit`; mean kept."""
    spectrum, wanted = (fft.dctn(plane, norm="ortho", workers=1) for plane in (image, like))
    ring = np.minimum((radial_frequency((image.shape[0], image.shape[1])) / np.sqrt(0.5) * bins).astype(np.int64), bins - 1)
    ring[0, 0] = bins  # the mean has a ring of its own
    power = [np.bincount(ring.ravel(), (plane.astype(np.float64) ** 2).ravel(), bins + 1) for plane in (wanted, spectrum)]
    gain = np.sqrt(np.divide(power[0], power[1], out=np.ones(bins + 1), where=power[1] > 0))
    gain = np.clip(gain, 1 / limit, limit)
    gain[bins] = 1.0
    return np.asarray(fft.idctn(spectrum * gain[ring].astype(np.float32), norm="ortho", workers=1), np.float32)


def coarse_and_back(fine: Plane, name: str | None, mtf: float, coarse: rasterio.DatasetReader, grid: Grid) -> Plane:
    """A fine band degraded by Sentinel-2's sensor to the grid of `coarse`, in whole DN, and interpolated back."""
    band = name if name in SENTINEL2 else "B4"
    seen = degrade(fine[..., None], FACTOR, (str(band),), mtf_fine=mtf)[..., 0]
    return resampled(np.rint(seen), coarse, grid, "cubic")
