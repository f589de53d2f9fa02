"""Super-resolve a product or an image: the whole road from a download's folder to a checked file."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from otbsr.errors import GridError, InputError, OutputError
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder, Sidecar
from otbsr.products import Product, open_product, stack
from otbsr.progress import Report, silent
from otbsr.raster import damage, first_line
from otbsr.serving.otb import run_otb

STEP = "super-resolution"


@dataclass(frozen=True)
class Applied:
    """What `apply` wrote: the file, its grid, the bands, the model's name, and the seconds it took."""

    out: Path
    grid: Grid
    bands: tuple[str, ...]
    model: str
    seconds: float


def apply(
    source: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    threads: int | None = None,
    ram: int | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Applied:
    """Super-resolve `source` (SAFE folder, Theia folder or image) with a model folder into the GeoTIFF `out`.

    bands, scale: an image's band names in its order and the reflectance of one DN, where the file does not say so itself.
    ram: MiB for pixels; threads: limit of the application's threads.

    `out` has the input's corner, footprint and CRS, spacing / factor, and is moved to its name only after it was checked. Raises
    `InputError`, `GridError`, `ModelError`, `MissingToolError`, `ProcessingError` and `OutputError`.
    """
    begin, source, out = time.monotonic(), Path(source), Path(out)
    folder = ModelFolder.open(model)
    side = folder.sidecar
    require_writable(out, overwrite)
    product = open_product(source, bands, scale)
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent, ignore_cleanup_errors=True) as scratch:
        served, grid = prepare(product, side, Path(scratch))
        temporary = Path(scratch) / "out.tif"
        parameters = {"in": served, "model": folder.path, "out": [temporary, side.output.dtype], "threads": threads, "ram": ram}
        run_otb("SuperResolution", parameters, report, [temporary], STEP, threads)
        expected = grid.refined(side.factor)
        label(temporary, side, expected)
        try:
            os.replace(temporary, out)
        except OSError as error:
            raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another path") from error
    return Applied(out, expected, side.output.bands, side.name, round(time.monotonic() - begin, 2))


def prepare(product: Product, side: Sidecar, scratch: Path) -> tuple[Path, Grid]:
    """The file that the application reads, and its grid: an image that already is what the model wants, else a VRT in `scratch`."""
    wanted = list(side.input.bands)
    anonymous = product.kind == "image" and len(product.bands) == len(wanted) and all(name.startswith("band") for name in product.bands)
    order = list(product.bands) if anonymous else wanted
    chosen = product.select(order)
    same_radiometry = all((band.scale, band.offset) == (side.input.scale, side.input.offset) for band in chosen)
    if product.kind == "image" and list(product.bands) == order and same_radiometry:
        path = chosen[0].path
        if reason := damage(path):
            raise InputError(f"{path}: {reason}; fetch the file again")
        with rasterio.open(path) as dataset:
            grid = Grid.of(dataset, south_up=True)
    else:
        path = scratch / "in.vrt"
        grid = stack(product, order, path, side.input.scale, side.input.offset)
    if abs(grid.dx / side.input.spacing - 1) > 0.05 and grid.crs and not rasterio.CRS.from_string(grid.crs).is_geographic:
        raise GridError(
            f"{product.path}: spacing is {grid.dx:g} m, model {side.name} was made for {side.input.spacing:g} m; resample the image or choose another model"
        )
    return path, grid


def require_writable(out: Path, overwrite: bool) -> None:
    """Raise `OutputError` when `out` exists (without `overwrite`), is a folder, or its folder is missing or read-only."""
    if out.is_dir():
        raise OutputError(f"{out}: is a folder; give a file name such as {out / 'sr.tif'}")
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{out}: extension is '{out.suffix}', expected .tif")
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; choose another name or give --overwrite")
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent}: no such folder; create it first")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out.parent}: is not writable; choose another folder")


def label(path: Path, side: Sidecar, expected: Grid) -> None:
    """Check the image's bands, type and grid, and write what OTB does not: band names, no-data, scale. Raises `OutputError`."""
    try:
        with rasterio.open(path) as dataset:
            found, count, kind = Grid.of(dataset, south_up=True), dataset.count, dataset.dtypes[0]
        if not expected.same(found):
            raise OutputError(f"{path.name}: SuperResolution wrote {found.describe()}, expected {expected.describe()}; report this as a bug")
        if (count, kind) != (len(side.output.bands), side.output.dtype):
            raise OutputError(
                f"{path.name}: SuperResolution wrote {count} bands {kind}, expected {len(side.output.bands)} {side.output.dtype}; report this as a bug"
            )
        with rasterio.open(path, "r+") as dataset:
            dataset.descriptions = side.output.bands
            dataset.nodata = side.output.nodata
            dataset.scales = (side.output.scale,) * count
            dataset.offsets = (side.output.offset,) * count
    except (RasterioError, OSError) as error:
        raise OutputError(f"{path}: cannot be completed ({first_line(error)}); check the free space") from error
    if reason := damage(path):
        raise OutputError(f"{path}: {reason}; check the free space")
