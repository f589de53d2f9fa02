"""A product: named bands on disk, each with what turns its numbers into reflectance; and its bands stacked without a copy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from otbsr.errors import GridError, InputError
from otbsr.grid import Grid
from otbsr.raster import damage, first_line

SCALE = 1e-4
"""Reflectance of one DN in working images."""
NODATA = -10000


@dataclass(frozen=True)
class Band:
    """One band of a product: band `index` (from 1) of the file `path`.

    reflectance = DN * scale + offset; pixels equal to `nodata` (in DN) hold nothing. `spacing` is in metres.
    """

    name: str
    path: Path
    index: int
    spacing: float
    scale: float = SCALE
    offset: float = 0.0
    nodata: float | None = None


@dataclass(frozen=True)
class Product:
    """A product as downloaded: its name, kind ("image", "theia", "safe"), date of acquisition if known, and bands by name ("B4")."""

    name: str
    kind: str
    path: Path
    date: date | None
    bands: Mapping[str, Band]

    def select(self, names: Sequence[str]) -> list[Band]:
        """The named bands in this order; raises `InputError` that lists what the product has."""
        missing = [name for name in names if name not in self.bands]
        if missing:
            found = ", ".join(self.bands) or "no named band"
            raise InputError(f"{self.path}: no band {', '.join(missing)}; it has {found}: complete the product, or name an image's bands with --bands")
        return [self.bands[name] for name in names]

    def grid(self, names: Sequence[str]) -> Grid:
        """The finest grid of the named bands, in which the others nest; raises `GridError` naming two that do not, `InputError` for damaged files."""
        bands = self.select(names)
        grids = [readable_grid(band.path) for band in bands]
        first, finest = min(zip(bands, grids, strict=True), key=lambda pair: pair[1].dx)
        for band, grid in zip(bands, grids, strict=True):
            what = f"{self.path}: bands {first.name} and {band.name}"
            if grid.crs != finest.crs and (not (grid.crs and finest.crs) or rasterio.CRS.from_string(grid.crs) != rasterio.CRS.from_string(finest.crs)):
                raise GridError(f"{what} have different coordinate reference systems; reproject one (gdalwarp) first")
            try:
                grid.factor_to(finest)
            except GridError:
                raise GridError(
                    f"{what} have different grids: {finest.describe()} and {grid.describe()}; choose bands whose pixels nest, or crop all to the same ground"
                ) from None
        return finest


def readable_grid(path: Path) -> Grid:
    """The grid of a file that is there and whole; else `InputError`."""
    if reason := damage(path):
        raise InputError(f"{path}: {reason}; fetch the file again")
    return Grid.read(path)


def band_name(text: str) -> str:
    """A band's name as used here: "B04", "b4", "FRE_B4" give "B4"; "B8A" stays; other texts are returned stripped."""
    match = re.search(r"(?<![A-Za-z0-9])[Bb]0?(\d{1,2}[Aa]?)(?![A-Za-z0-9])", text.replace("_", " "))
    return f"B{match.group(1).upper()}" if match else text.strip()


def open_product(path: str | Path, bands: Sequence[str] | None = None, scale: float | None = None) -> Product:
    """Open what a user has: a SAFE folder (L1C, L2A), a Theia/MAJA folder, or an image that GDAL reads.

    bands: names of an image's bands in its order; default its band descriptions. scale: reflectance of one DN of an image; default
    the file's own scale and offset, else 1e-4. Raises `InputError` naming what was found and what was expected.
    """
    from otbsr.products import sentinel2, theia

    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a SAFE folder, a Theia folder or an image")
    if path.suffix.lower() == ".zip":
        raise InputError(f"{path}: is an archive; unzip it and give the folder")
    if path.is_dir() or path.name.startswith("MTD_MSI"):
        folder = path if path.is_dir() else path.parent
        for reader in (sentinel2.read, theia.read):
            product = reader(folder)
            if product:
                return product
        raise InputError(f"{path}: neither a SAFE folder (MTD_MSIL1C.xml or MTD_MSIL2A.xml) nor a Theia folder (*_FRE_B*.tif); give the product's own folder")
    return read_image(path, bands, scale)


def read_image(path: Path, names: Sequence[str] | None, scale: float | None) -> Product:
    """An image that GDAL reads as a product; bands named by `names`, else by the file's band descriptions."""
    try:
        with rasterio.open(path) as dataset:
            found = list(names) if names else [description or "" for description in dataset.descriptions]
            if len(found) != dataset.count:
                raise InputError(f"{path}: {dataset.count} bands, but {len(found)} names were given ({', '.join(found)}); name every band in order")
            if any(np.issubdtype(np.dtype(kind), np.complexfloating) for kind in dataset.dtypes if not kind.startswith("complex_int")) or any(
                kind.startswith("complex_int") for kind in dataset.dtypes
            ):
                raise InputError(f"{path}: pixels are complex ({dataset.dtypes[0]}); expected reflectance as real numbers")
            bands: dict[str, Band] = {}
            for index, text in enumerate(found, 1):
                own = dataset.scales[index - 1], dataset.offsets[index - 1]
                given = (scale, 0.0) if scale is not None else own if own != (1.0, 0.0) else (SCALE, 0.0)
                nodata = dataset.nodatavals[index - 1]
                if nodata is None and np.issubdtype(np.dtype(dataset.dtypes[index - 1]), np.floating):
                    nodata = float("nan")
                name = band_name(text) or f"band{index}"
                if name in bands:
                    raise InputError(f"{path}: two bands are called {name}; name the bands in order with --bands")
                bands[name] = Band(name, path, index, abs(dataset.transform.a), given[0], given[1], nodata)
    except RasterioError as error:
        raise InputError(f"{path}: cannot be read as an image ({first_line(error)}); expected a SAFE folder, a Theia folder or an image") from error
    return Product(path.stem, "image", path, None, bands)


def stack(product: Product, names: Sequence[str], out_vrt: str | Path, scale: float = SCALE, offset: float = 0.0, nodata: int = NODATA) -> Grid:
    """Write a VRT of the named bands in this order, int16, reflectance = DN * scale + offset, without copying a pixel.

    Coarser bands come on the finest band's grid by repeating their pixels. No-data of the sources becomes `nodata`. Returns the grid;
    raises as `Product.grid` does.
    """
    bands, grid = product.select(names), product.grid(names)
    root = ElementTree.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs:
        ElementTree.SubElement(root, "SRS").text = grid.crs
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(f"{value:.17g}" for value in grid.transform.to_gdal())
    size = {"xOff": "0", "yOff": "0", "xSize": str(grid.width), "ySize": str(grid.height)}
    for number, band in enumerate(bands, 1):
        node = ElementTree.SubElement(root, "VRTRasterBand", dataType="Int16", band=str(number))
        ElementTree.SubElement(node, "Description").text = band.name
        ElementTree.SubElement(node, "NoDataValue").text = str(nodata)
        source = ElementTree.SubElement(node, "ComplexSource")
        ElementTree.SubElement(source, "SourceFilename", relativeToVRT="0").text = str(band.path.resolve())
        ElementTree.SubElement(source, "SourceBand").text = str(band.index)
        own = readable_grid(band.path)
        ElementTree.SubElement(source, "SrcRect", size | {"xSize": str(own.width), "ySize": str(own.height)})
        ElementTree.SubElement(source, "DstRect", size)
        if band.nodata is not None:
            ElementTree.SubElement(source, "NODATA").text = f"{band.nodata:.17g}"
        if (band.scale, band.offset) != (scale, offset):
            ElementTree.SubElement(source, "ScaleOffset").text = f"{round((band.offset - offset) / scale, 9):.17g}"
            ElementTree.SubElement(source, "ScaleRatio").text = f"{round(band.scale / scale, 12):.17g}"
    ElementTree.ElementTree(root).write(out_vrt, encoding="utf-8")
    return grid
