"""A product: named bands on disk, each with what turns its numbers into reflectance, masks, date and angles; and its bands stacked without a copy."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import reproject
from rasterio.windows import Window

from otbsr.errors import GridError, InputError, UsageError, first_line, nearest
from otbsr.grid import Grid
from otbsr.products.files import Files
from otbsr.products.layers import KINDS, Layer, Mask, on_grid
from otbsr.raster import ARCHIVED, known_damage, stamp

SCALE = 1e-4
"""Reflectance of one DN in working images."""
NODATA = -10000
WARPED_NODATA = -1e6
"""In float files between; no product has such numbers."""
RESAMPLINGS = ("nearest", "bilinear", "cubic", "average")
KERNEL = 3
"""Pixels around that the widest resampling looks at, in units of the coarser spacing, and one more."""
SENTINEL2_NAMES = {"blue": "B2", "green": "B3", "red": "B4", "nir": "B8"}
"""The Sentinel-2 band that sees what a band of Spot-6/7 sees."""


@dataclass(frozen=True)
class Band:
    """One band of a product: band `index` (from 1) of the file `path`.

    reflectance = DN * scale + offset; pixels equal to `nodata` (in DN) hold nothing, those at `saturated` (DN) or above are saturated.
    `spacing` is in metres. files: what else must be whole for `path` to be read.
    """

    name: str
    path: Path
    index: int
    spacing: float
    scale: float = SCALE
    offset: float = 0.0
    nodata: float | None = None
    saturated: float | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Angles:
    """Mean angles over the scene, degrees; azimuths clockwise from north, None where the product does not say."""

    sun_zenith: float | None = None
    sun_azimuth: float | None = None
    view_zenith: float | None = None
    view_azimuth: float | None = None

    @property
    def sun_elevation(self) -> float | None:
        """Degrees above the horizon."""
        return None if self.sun_zenith is None else 90.0 - self.sun_zenith


@dataclass(frozen=True)
class Product:
    """A product as downloaded: its name, kind ("image", "theia", "safe", "dimap"), date of acquisition if known, and bands by name ("B4").

    time: acquisition, UTC. layers: its masks. provenance: level, satellite, baseline, tile and so on, as the metadata spell them.
    missing: what its metadata list and its folder lacks; remarks: what a user should know. sensor: pixels are not on a map yet
    (SEN, primary): orthorectify first. extent: its corners (longitude, latitude) where the metadata give them.
    """

    name: str
    kind: str
    path: Path
    date: date | None
    bands: Mapping[str, Band]
    time: datetime | None = None
    angles: Angles = Angles()
    layers: tuple[Layer, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    sensor: bool = False
    extent: tuple[tuple[float, float], ...] = ()

    def select(self, names: Sequence[str]) -> list[Band]:
        """The named bands in this order; raises `InputError` that lists what the product has."""
        missing = [name for name in names if name not in self.bands]
        if missing:
            found, hint = ", ".join(self.bands) or "no named band", nearest(missing[0], self.bands)
            raise InputError(f"{self.path}: no band {', '.join(missing)}{hint}; it has {found}: complete the product, or name an image's bands with --bands")
        return [self.bands[name] for name in names]

    def renamed(self, names: Mapping[str, str] = SENTINEL2_NAMES) -> Product:
        """The same product with bands renamed, by default a Spot product's as the Sentinel-2 bands that see the same; others keep their name."""
        bands = {names.get(name, name): replace(band, name=names.get(name, name)) for name, band in self.bands.items()}
        if len(bands) != len(self.bands):
            raise UsageError(f"{self.path}: renaming {dict(names)} gives two bands one name; it has {', '.join(self.bands)}")
        return replace(self, bands=bands, layers=tuple(replace(one, bands=tuple(names.get(name, name) for name in one.bands)) for one in self.layers))

    @property
    def crs(self) -> str:
        """CRS of the first band as WKT, '' in sensor geometry or without georeferencing; raises as `grid` does."""
        first = next(iter(self.bands.values()), None)
        return readable_grid(first, self.sensor).crs if first else ""

    def grid(self, names: Sequence[str], nested: bool = True) -> Grid:
        """The finest grid of the named bands, in which the others nest; raises `GridError` naming two that do not, `InputError` for damaged files.

        With nested=False the bands need not nest, only share the CRS.
        """
        bands = self.select(names)
        grids = [readable_grid(band, self.sensor) for band in bands]
        first, finest = min(zip(bands, grids, strict=True), key=lambda pair: pair[1].dx)
        for band, grid in zip(bands, grids, strict=True):
            what = f"{self.path}: bands {first.name} and {band.name}"
            if grid.crs != finest.crs and (not (grid.crs and finest.crs) or rasterio.CRS.from_string(grid.crs) != rasterio.CRS.from_string(finest.crs)):
                raise GridError(f"{what} have different coordinate reference systems; reproject one (gdalwarp) first")
            if not nested:
                continue
            try:
                grid.factor_to(finest)
            except GridError:
                raise GridError(
                    f"{what} have different grids: {finest.describe()} and {grid.describe()}; "
                    "choose bands whose pixels nest, or crop all to the same ground, or resample (bilinear, cubic)"
                ) from None
        return finest

    def read(self, names: Sequence[str], window: Window | None = None, grid: Grid | None = None, resampling: str | None = None) -> NDArray[np.float32]:
        """Reflectance of the named bands, float32 of (bands, rows, columns), NaN where there is no data and outside the image.

        Args:
            names: bands in the order wanted.
            window: pixels of `grid` (column and row offset, width, height); it may reach beyond. Default: all.
            grid: where the pixels are wanted; default the finest grid of the named bands.
            resampling: "nearest" (coarser bands are repeated), "bilinear", "cubic" or "average", for bands on another grid; None is
                nearest, and refuses bands that do not nest in `grid`.

        Raises `GridError` and `InputError` as `Product.grid` does, `InputError` for pixels that cannot be decoded.

        """
        target = self.grid(names, nested=resampling is None) if grid is None else grid
        part = target if window is None else target.cropped(window)
        planes = np.empty((len(names), part.height, part.width), np.float32)
        for plane, band in zip(planes, self.select(names), strict=True):
            plane[:] = reflectance(band, part, resampling, self.sensor)
        return planes

    def mask(
        self, kinds: Iterable[str] = KINDS, names: Sequence[str] | None = None, window: Window | None = None, grid: Grid | None = None
    ) -> NDArray[np.bool_]:
        """Where any of `kinds` holds for any of the named bands, bool of (rows, columns).

        Args:
            kinds: of `layers.KINDS`; default all, that is every reason not to use a pixel.
            names: bands of which "nodata" and "saturation" are asked; default those of the finest spacing.
            window: pixels of `grid`; it may reach beyond: what is outside the image is "nodata".
            grid: default the finest grid of the named bands; any other in its CRS, nested or not.

        Raises `UsageError` for an unknown kind, `GridError` and `InputError` as `read` does, also for a mask that is damaged.

        """
        kinds = tuple(kinds)
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise UsageError(f"mask of {', '.join(unknown)}: expected some of {', '.join(KINDS)}")
        if names is None:
            finest = min((band.spacing for band in self.bands.values()), default=0.0)
            names = [name for name, band in self.bands.items() if band.spacing == finest]
        target = self.grid(names, nested=False) if grid is None else grid
        part = target if window is None else target.cropped(window)
        found: Mask = np.zeros((part.height, part.width), bool)
        bands = self.select(names)
        if "nodata" in kinds or "saturation" in kinds:
            for band in bands:
                empty, saturated = special_pixels(band, part, self.sensor)
                found |= (empty & ("nodata" in kinds)) | (saturated & ("saturation" in kinds))
        sensor = (bands[0].path, *bands[0].files) if bands and self.sensor else ()
        for layer in self.layers:
            if layer.kind in kinds and (not layer.bands or set(layer.bands) & set(names)):
                found |= layer.read(part, sensor)
        return found


def digital(band: Band, part: Grid, resampling: str | None, sensor: bool = False) -> NDArray[np.float32]:
    """A band's numbers on the pixels of `part`, float32 of (rows, columns), NaN without data; see `Product.read`."""
    own = readable_grid(band, sensor)
    result = np.full((part.height, part.width), np.nan, np.float32)
    method = resampling or "nearest"
    if method not in RESAMPLINGS:
        raise UsageError(f"resampling is '{method}', expected {', '.join(RESAMPLINGS)}")
    if resampling is None and not own.holds_pixels_of(part):
        raise GridError(f"{band.path}: {own.describe()} does not nest in {part.describe()}; name a resampling ({', '.join(RESAMPLINGS)}) or another grid")
    try:
        with rasterio.open(band.path) as file:
            window = own.window_of(part)
            cover = own.window_over(part, 0 if window else KERNEL * max(1, math.ceil(part.dx / own.dx)))
            if cover is None:
                return result
            numbers = without(file.read(band.index, window=cover), band.nodata)
    except RasterioError as error:
        raise InputError(f"{band.path}: pixels cannot be read ({first_line(error)}); fetch the file again") from error
    if window is not None:
        row, column = cover.row_off - window.row_off, cover.col_off - window.col_off
        result[row : row + cover.height, column : column + cover.width] = numbers
        return result
    crs = own.crs or part.crs or "EPSG:3857"  # without georeferencing any plane serves: both sides have the same
    reproject(
        numbers, result, src_transform=own.cropped(cover).transform, src_crs=crs, src_nodata=np.nan,
        dst_transform=part.transform, dst_crs=part.crs or crs, dst_nodata=np.nan, resampling=Resampling[method], tolerance=0,
    )  # fmt: skip
    return result


def special_pixels(band: Band, part: Grid, sensor: bool = False) -> tuple[Mask, Mask]:
    """(where a band has no data, where it is saturated), bool of the pixels of `part`; in a coarser pixel, when any within it is."""
    own = readable_grid(band, sensor)
    cover = own.window_over(part, 1)
    if cover is None:
        return np.ones((part.height, part.width), bool), np.zeros((part.height, part.width), bool)
    try:
        with rasterio.open(band.path) as file:
            numbers = file.read(band.index, window=cover)
    except RasterioError as error:
        raise InputError(f"{band.path}: pixels cannot be read ({first_line(error)}); fetch the file again") from error
    source, values = own.cropped(cover), without(numbers, band.nodata)
    empty = ~on_grid(~np.isnan(values), source, part, every=True)
    if band.saturated is None:
        return empty, np.zeros_like(empty)
    return empty, on_grid(values >= band.saturated, source, part)


def without(numbers: NDArray[np.generic], nodata: float | None) -> NDArray[np.float32]:
    """Numbers as float32, NaN where they are `nodata`."""
    values = numbers.astype(np.float32)
    if nodata is not None and not np.isnan(nodata):
        values[numbers == nodata] = np.nan
    return values


def reflectance(band: Band, part: Grid, resampling: str | None = None, sensor: bool = False) -> NDArray[np.float32]:
    """A band's reflectance on the pixels of `part`; see `Product.read`."""
    return digital(band, part, resampling, sensor) * np.float32(band.scale) + np.float32(band.offset)


def readable_grid(source: Path | Band, sensor: bool = False) -> Grid:
    """The grid of a file or band that is there and whole; else `InputError`. sensor: pixels without a map are taken as they are."""
    path = source.path if isinstance(source, Band) else source
    for file in (*(source.files if isinstance(source, Band) else ()), path):
        if reason := known_damage(file):
            raise InputError(f"{file}: {reason}; fetch the file again")
    return grid_once(*stamp(path), sensor)


@lru_cache(maxsize=4096)
def grid_once(path: Path, modified: int, size: int, sensor: bool) -> Grid:
    """The grid of a file as it was then."""
    try:
        with warnings.catch_warnings():
            if sensor:
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                return Grid.of(dataset, south_up=sensor)
    except RasterioError as error:
        raise InputError(f"{path}: cannot be read as an image ({first_line(error)}); fetch the file again") from error


def band_name(text: str) -> str:
    """A band's name as used here: "B04", "b4", "FRE_B4" give "B4"; "B8A" stays; other texts are returned stripped."""
    match = re.search(r"(?<![A-Za-z0-9])[Bb]0?(\d{1,2}[Aa]?)(?![A-Za-z0-9])", text.replace("_", " "))
    return f"B{match.group(1).upper()}" if match else text.strip()


def open_product(path: str | Path, bands: Sequence[str] | None = None, scale: float | None = None, surface: str = "FRE") -> Product:
    """Open what a user has: a SAFE (L1C, L2A), a Theia/MAJA product or a Spot-6/7 DIMAP, as a folder, a zip or its metadata file; or an image.

    bands: names of an image's bands in its order; default its band descriptions. scale: reflectance of one DN of an image; default
    the file's own scale and offset, else 1e-4. surface: of a Theia product, "FRE" (corrected for slopes) or "SRE".
    Raises `InputError` naming what was found and what was expected.
    """
    from otbsr.products import catalogue, sentinel2, spot, theia

    path = Path(path)
    require_scale(scale)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a SAFE folder, a Theia folder, a Spot DIMAP folder or an image")
    if surface.upper() not in theia.SURFACES:
        raise UsageError(f"surface is '{surface}', expected FRE (corrected for slopes) or SRE")
    if path.suffix.lower() == ".xml":
        if product := spot.read_document(Files(path.parent), path.name):
            return product
        path = path.parent
    if path.is_dir() or path.suffix.lower() == ".zip":
        files = Files(path)
        product = sentinel2.read(files) or theia.read(files, surface.upper()) or spot.read(files) or (catalogue.read_item(path) if path.is_dir() else None)
        if product and files.packed:
            return replace(product, remarks=(*product.remarks, "images in the archive are compressed once more: unpacked they are read faster"))
        if product:
            return product
        raise InputError(
            f"{path}: neither a SAFE folder (MTD_MSIL1C.xml or MTD_MSIL2A.xml) nor a Theia folder (*_FRE_B*.tif) "
            "nor a Spot-6/7 folder (DIM_SPOT*.XML); give the product's own folder"
        )
    return read_image(path, bands, scale)


def require_scale(scale: float | None) -> None:
    """Raise `UsageError` for a scale that is no positive number."""
    if scale is not None and not 0 < scale < float("inf"):
        raise UsageError(f"scale is {scale:g}, expected the reflectance of one DN, a positive number such as 0.0001")


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


def stack(
    product: Product, names: Sequence[str], out_vrt: str | Path, scale: float = SCALE, offset: float = 0.0, nodata: int = NODATA, resampling: str | None = None
) -> Grid:
    """Write a VRT of the named bands in this order, int16, reflectance = DN * scale + offset, without copying a pixel.

    Coarser bands come on the finest band's grid by repeating their pixels; with `resampling` ("nearest", "bilinear", "cubic", "average")
    they are warped to it, and need not nest in it: a warped VRT for each is written beside (`<out>.<band>.vrt`). No-data of the sources becomes
    `nodata`. Returns the grid; raises as `Product.grid` does.
    """
    if resampling not in (None, *RESAMPLINGS):
        raise UsageError(f"resampling is '{resampling}', expected {', '.join(RESAMPLINGS)}")
    bands, grid, out_vrt = product.select(names), product.grid(names, nested=resampling is None), Path(out_vrt)
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
        own = readable_grid(band, product.sensor)
        path, index, empty = band.path, band.index, band.nodata
        if resampling and not own.same(grid):
            path, index, empty, own = warped_file(band, own, grid, out_vrt.with_name(f"{out_vrt.stem}.{band.name}.vrt"), resampling), 1, WARPED_NODATA, grid
        ElementTree.SubElement(source, "SourceFilename", relativeToVRT="0").text = str(path if ARCHIVED.match(str(path)) else path.resolve())
        ElementTree.SubElement(source, "SourceBand").text = str(index)
        ElementTree.SubElement(source, "SrcRect", size | {"xSize": str(own.width), "ySize": str(own.height)})
        ElementTree.SubElement(source, "DstRect", size)
        if empty is not None:
            ElementTree.SubElement(source, "NODATA").text = f"{empty:.17g}"
        if (band.scale, band.offset) != (scale, offset):
            ElementTree.SubElement(source, "ScaleOffset").text = f"{round((band.offset - offset) / scale, 9):.17g}"
            ElementTree.SubElement(source, "ScaleRatio").text = f"{round(band.scale / scale, 12):.17g}"
    ElementTree.ElementTree(root).write(out_vrt, encoding="utf-8")
    return grid


def warped_file(band: Band, own: Grid, grid: Grid, out: Path, resampling: str) -> Path:
    """Write a VRT of one band, float32, that GDAL's warper resamples to `grid` when it is read; returns its path."""
    root = ElementTree.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height), subClass="VRTWarpedDataset")
    if grid.crs:
        ElementTree.SubElement(root, "SRS").text = grid.crs
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(f"{value:.17g}" for value in grid.transform.to_gdal())
    node = ElementTree.SubElement(root, "VRTRasterBand", dataType="Float32", band="1", subClass="VRTWarpedRasterBand")
    ElementTree.SubElement(node, "NoDataValue").text = f"{WARPED_NODATA:.17g}"
    options = ElementTree.SubElement(root, "GDALWarpOptions")
    ElementTree.SubElement(options, "ResampleAlg").text = resampling.capitalize() if resampling != "nearest" else "NearestNeighbour"
    ElementTree.SubElement(options, "WorkingDataType").text = "Float32"
    ElementTree.SubElement(options, "Option", name="INIT_DEST").text = "NO_DATA"
    ElementTree.SubElement(options, "SourceDataset", relativeToVRT="0").text = str(band.path if ARCHIVED.match(str(band.path)) else band.path.resolve())
    transformer = ElementTree.SubElement(ElementTree.SubElement(options, "Transformer"), "GenImgProjTransformer")
    for side, place in (("Src", own), ("Dst", grid)):
        for tag, matrix in (("GeoTransform", place.transform), ("InvGeoTransform", ~place.transform)):
            ElementTree.SubElement(transformer, f"{side}{tag}").text = ",".join(f"{value:.17g}" for value in matrix.to_gdal())
    mapping = ElementTree.SubElement(ElementTree.SubElement(options, "BandList"), "BandMapping", src=str(band.index), dst="1")
    if band.nodata is not None:
        ElementTree.SubElement(mapping, "SrcNoDataReal").text = f"{band.nodata:.17g}"
    ElementTree.SubElement(mapping, "DstNoDataReal").text = f"{WARPED_NODATA:.17g}"
    ElementTree.ElementTree(root).write(out, encoding="utf-8")
    return out
