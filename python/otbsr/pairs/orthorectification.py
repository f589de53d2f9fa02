"""What is done to a Spot product before it is compared: reflectance, a map's geometry, one image of four bands at the sharpest spacing.

Gains, biases and solar irradiance are the product's own, matched by BAND_ID, since OTB's OpticalCalibration takes them by their
position in the metadata; orthorectification and pansharpening are OTB's. The values go through OTB's interpolation only where a
product needs these two; shift and change of grid come later, in one resampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from otbsr.errors import InputError, first_line
from otbsr.grid import Grid
from otbsr.pairs.memory import RAM, WINDOW
from otbsr.products.product import NODATA, SCALE, Product
from otbsr.progress import Report, silent
from otbsr.serving.otb import run_otb


def working_profile(grid: Grid, count: int) -> dict[str, Any]:
    """How intermediate images are written: int16 reflectance x 10000, tiled, little compressed."""
    return {
        "driver": "GTiff", "width": grid.width, "height": grid.height, "count": count, "dtype": "int16", "crs": grid.crs or None, "transform": grid.transform,
        "nodata": NODATA, "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 1, "predictor": 2, "bigtiff": "if_safer",
    }  # fmt: skip


def shares(grid: Grid) -> Iterator[tuple[float, Window]]:
    """The windows in which an image on `grid` is made, with the share of it that is done after each."""
    done = 0.0
    for window in grid.windows(WINDOW):
        done += window.width * window.height
        yield done / (grid.width * grid.height), window


def calibrate(
    product: Product, names: list[str], out: Path, grid: Grid | None = None, report: Report = silent, resampling: str | None = None
) -> dict[str, Any]:
    """Write bands as reflectance x 10000, int16, window by window; RPC are kept.

    grid: default the bands' own (their finest). resampling: of bands that lie otherwise (`Product.read`), which are refused without.
    """
    own = grid or product.grid(names)
    bands = product.select(names)
    with rasterio.open(out, "w", **working_profile(own, len(names))) as file:
        file.descriptions = tuple(names)
        if product.sensor and (rpcs := rpcs_of(bands[0].path)):
            file.rpcs = rpcs
        for done, window in shares(own):
            values = product.read(names, window, own, resampling)
            numbers = np.where(np.isfinite(values), np.clip(np.rint(np.nan_to_num(values) / SCALE), -9999, 32767), NODATA)
            file.write(numbers.astype(np.int16), window=window)
            report("calibration", done)
    return {band.name: {"scale": band.scale, "offset": band.offset} for band in bands}


def rpcs_of(path: Path) -> RPC | None:
    """An image's rational polynomial coefficients, None when it has none."""
    try:
        with rasterio.open(path) as file:
            return file.rpcs
    except RasterioError as error:
        raise InputError(f"{path}: cannot be read as an image ({first_line(error)}); fetch the file again") from error


def footprint(product: Product, name: str, crs: str) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of a product in a CRS, at mean height for one in sensor geometry; raises `InputError` without RPC."""
    grid = product.grid([name])
    if not product.sensor:
        if not grid.crs:
            raise InputError(f"{product.path}: has no coordinate reference system; give an image on a map (gdal_edit.py -a_srs)")
        left, bottom, right, top = transform_bounds(grid.crs, crs, *grid.bounds, densify_pts=21)
        return left, bottom, right, top
    rpcs = rpcs_of(product.select([name])[0].path)
    if rpcs is None:
        raise InputError(f"{product.path}: is in sensor geometry and has no RPC (RPC_*.XML); fetch the whole product, or order ORTHO")
    rows, columns = [0, 0, grid.height, grid.height], [0, grid.width, 0, grid.width]
    with RPCTransformer(rpcs) as transformer:
        x, y = transformer.xy(rows, columns, zs=[rpcs.height_off] * 4, offset="ul")
    left, bottom, right, top = transform_bounds("EPSG:4326", crs, min(x), min(y), max(x), max(y))
    return left, bottom, right, top


def orthorectify(image: Path, out: Path, crs: str, spacing: float, dem: Path | None, geoid: Path | None, ram: int = RAM, report: Report = silent) -> None:
    """OTB's OrthoRectification of an image with RPC onto a map of `crs` (an EPSG code's); dem: folder of elevation tiles; default height 0."""
    if rpcs := rpcs_of(image):
        image.with_suffix(".geom").write_text(geom_file(rpcs), encoding="utf-8")
    run_orthorectification(image, out, crs, spacing, dem, geoid, ram, report)
    name_bands(out, image)


def run_orthorectification(
    image: Path, out: Path, crs: str, spacing: float, dem: Path | None, geoid: Path | None, ram: int = RAM, report: Report = silent
) -> None:
    """The OTB application of `orthorectify` alone."""
    code = rasterio.CRS.from_string(crs).to_epsg()
    if code is None:
        raise InputError("the Sentinel-2 image's coordinate reference system has no EPSG code, which orthorectification needs; reproject it (gdalwarp) first")
    parameters: dict[str, Any] = {
        "io.in": image, "io.out": [out, "int16"], "map": "epsg", "map.epsg.code": code, "outputs.mode": "autosize", "outputs.spacingx": spacing,
        "outputs.spacingy": -spacing, "outputs.default": NODATA, "opt.gridspacing": 4 * spacing, "opt.ram": ram,
        "elev.dem": dem, "elev.geoid": geoid,
    }  # fmt: skip
    run_otb("OrthoRectification", parameters, report, products=[out])


def geom_file(rpcs: RPC) -> str:
    """RPC as a .geom file beside an image has them: OTB reads those in an image's own tags only for the products that it knows."""
    lines = [f"{name}_{key}:  {getattr(rpcs, f'{name}_{key}')!r}" for name in ("height", "lat", "line", "long", "samp") for key in ("off", "scale")]
    for name in ("line_num", "line_den", "samp_num", "samp_den"):
        lines += [f"{name}_coeff_{i:02d}:  {float(value)!r}" for i, value in enumerate(getattr(rpcs, f"{name}_coeff"))]
    return "\n".join([*lines, "polynomial_format:  B", "type:  ossimRpcModel", ""])


def pansharpen(pan: Path, multispectral: Path, out: Path, method: str, ram: int = RAM, report: Report = silent) -> None:
    """OTB's BundleToPerfectSensor: the multispectral bands at the panchromatic spacing; method rcs, lmvm or bayes."""
    run_pansharpening(pan, multispectral, out, method, ram, report)
    name_bands(out, multispectral)


def run_pansharpening(pan: Path, multispectral: Path, out: Path, method: str, ram: int = RAM, report: Report = silent) -> None:
    """The OTB application of `pansharpen` alone."""
    run_otb("BundleToPerfectSensor", {"inp": pan, "inxs": multispectral, "out": [out, "int16"], "method": method, "ram": ram}, report, products=[out])


def name_bands(out: Path, like: Path) -> None:
    """Give a product of OTB the band names and the no-data value of the image that it was made from."""
    with rasterio.open(like) as source, rasterio.open(out, "r+") as file:
        file.descriptions = source.descriptions
        file.nodata = source.nodata


def reproject(image: Path, out: Path, crs: str, report: Report = silent) -> None:
    """The image in another CRS at about its own spacing, by Lanczos' interpolation, window by window."""
    with rasterio.open(image) as source, WarpedVRT(source, crs=crs, resampling=Resampling.lanczos, nodata=NODATA, tolerance=0.05) as warped:
        grid = Grid.of(warped)
        with rasterio.open(out, "w", **working_profile(grid, warped.count)) as file:
            file.descriptions = source.descriptions
            for done, window in shares(grid):
                file.write(warped.read(window=window), window=window)
                report("reprojection", done)
