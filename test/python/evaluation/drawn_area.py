"""Small areas for the study, drawn from a map of labels: reflectance by class, Sentinel-2 through the sensor's blur, Spot without noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage

from otbsr.grid import Grid
from otbsr.world.sensors import degrade

BANDS = ("B4", "B3", "B2", "B8")
Spectra = Mapping[int, tuple[float, float, float, float]]
GREY = {1: (2200, 2000, 1900, 2400), 2: (600, 900, 500, 3200), 3: (1400, 1500, 1000, 2600)}
NAMES = {1: ("building", True), 2: ("crop", False), 3: ("road", True), 4: ("water", False)}


def write_bands(path: Path, planes: NDArray[np.floating], grid: Grid, nodata: int = -10000) -> None:
    profile = {"driver": "GTiff", "width": grid.width, "height": grid.height, "count": len(planes), "crs": grid.crs, "transform": grid.transform}
    with rasterio.open(path, "w", dtype="int16", nodata=nodata, **profile) as dataset:
        dataset.write(np.rint(planes).astype(np.int16))
        dataset.descriptions = BANDS[: len(planes)]


def draw_area(
    folder: Path,
    labels: NDArray[np.integer],
    spectra: Spectra = GREY,
    spread: float = 60.0,
    parcel: float = 0.0,
    noise: float = 12.0,
    world: dict[str, object] | None = None,
    left: float = 600000.0,
    headland: int = 0,
    top: float = 4800000.0,
    crs: str = "EPSG:32631",
) -> Path:
    """An area of labels (h, w) at 2.5 m. spread: texture of each pixel in DN; parcel: of each connected piece of a class; noise: Sentinel-2's.

    headland: pixels beside a boundary whose truth is not known.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(5)
    fine = Grid(left, top, 2.5, 2.5, labels.shape[1], labels.shape[0], crs)
    coarse = fine.coarsened(4)
    ground = np.zeros((4, *labels.shape))
    for code, mean in spectra.items():
        pieces, count = ndimage.label(labels == code)
        own = random.normal(0, parcel, (4, count + 1))
        ground += (labels == code) * (np.array(mean)[:, None, None] + own[:, pieces])
    ground += random.normal(0, spread, ground.shape)
    seen = degrade(ground.transpose(1, 2, 0)).transpose(2, 0, 1)
    write_bands(folder / "sentinel2_10m.tif", seen + random.normal(0, noise, seen.shape), coarse)
    write_bands(folder / "spot_2m5.tif", ground, fine)
    write_bands(folder / "reference_2m5.tif", ground, fine)
    with rasterio.open(
        folder / "landcover_2m5.tif",
        "w",
        driver="GTiff",
        width=fine.width,
        height=fine.height,
        count=1,
        dtype="uint8",
        nodata=0,
        crs=fine.crs,
        transform=fine.transform,
    ) as dataset:
        side = 2 * headland + 1
        known = ndimage.minimum_filter(labels, side) == ndimage.maximum_filter(labels, side)
        dataset.write(np.where(known, labels, 0).astype(np.uint8), 1)
    inside = np.where(ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3), labels, 0).astype(np.uint8)
    # Cut along squares of 40 m, so that a parcel is many polygons.
    squares = ((np.indices(labels.shape) // 16).sum(axis=0) % 2).astype(np.uint8)
    found = [(shapely.geometry.shape(one), int(code) // 2) for one, code in shapes(inside * 2 + squares * (inside > 0), inside > 0, transform=fine.transform)]
    table = gpd.GeoDataFrame({"class": [code for _, code in found]}, geometry=[one for one, _ in found], crs=fine.crs)
    table.to_file(folder / "polygons.gpkg", layer="polygons", driver="GPKG")
    classes = [{"code": c, "name": NAMES[c][0], "colour": "#808080", "artificial": NAMES[c][1]} for c in sorted(spectra)]
    (folder / "legend.json").write_text(json.dumps({"classes": classes}))
    if world is not None:
        (folder / "world.json").write_text(json.dumps(world))
    return folder


def town(size: int, seed: int = 0) -> NDArray[np.int64]:
    """Crop with roads 10 m wide every 80 m and buildings 10 m square between them: (size, size) at 2.5 m."""
    labels = np.full((size, size), 2)
    random = np.random.default_rng(seed)
    for row in range(10, size - 6, 8):
        for column in range(10, size - 6, 8):
            if random.random() < 0.5 and 6 < row % 32 < 26 and 6 < column % 32 < 26:
                labels[row : row + 4, column : column + 4] = 1
    labels[np.arange(size) % 32 < 4] = 3
    labels[:, np.arange(size) % 32 < 4] = 3
    return labels


def parcels(size: int, side: int = 96, classes: int = 3, seed: int = 0) -> NDArray[np.int64]:
    """Parcels of `side` pixels (96: 240 m) of random classes, each class about as often: (size, size)."""
    count = -(-size // side)
    codes = np.arange(count * count) % classes + 1
    return np.random.default_rng(seed).permutation(codes).reshape(count, count).repeat(side, 0).repeat(side, 1)[:size, :size]
