"""Super-resolve a product or an image: the whole road from a download's folder to a checked file, and files that say how far to trust it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy.ndimage import maximum_filter1d

from otbsr.errors import GridError, InputError, ModelError, OutputError
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder, Sidecar
from otbsr.products import Product, open_product, stack
from otbsr.progress import Report, silent
from otbsr.raster import damage, first_line
from otbsr.serving.otb import run_otb

STEP = "super-resolution"
NO_DISAGREEMENT = 65535
"""No-data value of the disagreement."""
NO_DATA, PARTLY, SUPPORTED = 0, 1, 2
"""Values of the validity."""
WINDOW = 512
"""Side of the windows (input pixels) in which disagreement and validity are computed."""


@dataclass(frozen=True)
class Applied:
    """What `apply` wrote: the file, its grid, the bands, the model's name, the seconds it took, and the files beside it."""

    out: Path
    grid: Grid
    bands: tuple[str, ...]
    model: str
    seconds: float
    disagreement: Path | None = None
    validity: Path | None = None


def apply(
    source: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    against: str | Path | None = None,
    validity: bool = False,
    threads: int | None = None,
    ram: int | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Applied:
    """Super-resolve `source` (SAFE folder, Theia folder or image) with a model folder into the GeoTIFF `out`.

    bands, scale: an image's band names in its order and the reflectance of one DN, where the file does not say so itself.
    against: a second model (P): `out`_disagreement.tif gets how far its result is from `model`'s, the root mean square over the bands of the
        difference in DN of `model`'s output, uint16, 65535 where either has no data.
    validity: `out`_validity.tif gets for each pixel, uint8: 0 no data in the input; 1 no data or the image's edge within the model's margin, so
        that filled or mirrored pixels had a say; 2 data wherever the model looks.
    ram: MiB for pixels; threads: limit of the application's threads.

    `out` has the input's corner, footprint and CRS, spacing / factor, and so have the files beside it; all are moved to their names only after
    they were checked. Raises `InputError`, `GridError`, `ModelError`, `MissingToolError`, `ProcessingError` and `OutputError`.
    """
    begin, source, out = time.monotonic(), Path(source), Path(out)
    folder = ModelFolder.open(model)
    side = folder.sidecar
    second = ModelFolder.open(against) if against is not None else None
    if second:
        require_comparable(folder, second)
    beside = {key: out.with_name(f"{out.stem}_{key}.tif") for key, wanted in (("disagreement", second), ("validity", validity)) if wanted}
    for path in (out, *beside.values()):
        require_writable(path, overwrite)
    product = open_product(source, bands, scale)
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent, ignore_cleanup_errors=True) as scratch:
        temporary = {key: Path(scratch) / f"{key}.tif" for key in ("out", "second", *beside)}
        served, grid = prepare(product, side, Path(scratch) / "in.vrt")
        expected = grid.refined(side.factor)
        serve(served, folder, temporary["out"], expected, STEP, threads, ram, report)
        if second:
            other, _ = prepare(product, second.sidecar, Path(scratch) / "second.vrt")
            serve(other, second, temporary["second"], expected, "second model", threads, ram, report)
            write_disagreement(temporary["out"], temporary["second"], temporary["disagreement"], side, second.sidecar, expected, report)
        if validity:
            write_validity(served, temporary["validity"], side, expected, report)
        for key, path in (*beside.items(), ("out", out)):
            try:
                os.replace(temporary[key], path)
            except OSError as error:
                raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another path") from error
    return Applied(out, expected, side.output.bands, side.name, round(time.monotonic() - begin, 2), **beside)


def serve(served: Path, folder: ModelFolder, out: Path, expected: Grid, step: str, threads: int | None, ram: int | None, report: Report) -> None:
    """Run SuperResolution on a file that `prepare` made, and check and label the result."""
    parameters = {"in": served, "model": folder.path, "out": [out, folder.sidecar.output.dtype], "threads": threads, "ram": ram}
    run_otb("SuperResolution", parameters, report, [out], step, threads)
    label(out, folder.sidecar, expected)


def prepare(product: Product, side: Sidecar, vrt: Path) -> tuple[Path, Grid]:
    """The file that the application reads, and its grid: an image that already is what the model wants, else the file `vrt`, which is written."""
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
        path = vrt
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


def require_comparable(first: ModelFolder, second: ModelFolder) -> None:
    """Raise `ModelError` unless the results of both have the same grid and the same bands, in any order."""
    one, two = first.sidecar, second.sidecar
    if one.factor != two.factor or sorted(one.output.bands) != sorted(two.output.bands):
        given = [f"{side.name} gives {' '.join(side.output.bands)} at x{side.factor}" for side in (one, two)]
        raise ModelError(f"{second.path}: cannot be compared with {first.path}: {', '.join(given)}; choose models of one factor and the same bands")


def windows(grid: Grid, factor: int, side: int) -> list[tuple[Window, Window]]:
    """Windows of `side` input pixels that cover the image of the fine `grid`: each on the fine and on the input's grid."""
    coarse = grid.coarsened(factor)
    places = [(row, column) for row in range(0, coarse.height, side) for column in range(0, coarse.width, side)]
    inputs = [Window(column, row, min(side, coarse.width - column), min(side, coarse.height - row)) for row, column in places]
    return [(Window(w.col_off * factor, w.row_off * factor, w.width * factor, w.height * factor), w) for w in inputs]


def write_beside(path: Path, grid: Grid, kind: str, nodata: float, name: str, scale: float, blocks: Iterable[tuple[Window, NDArray[Any]]]) -> None:
    """Write a tiled one-band GeoTIFF from blocks [rows, columns] and check it; raises `OutputError`, `InputError` for the files read."""
    profile = {"driver": "GTiff", "width": grid.width, "height": grid.height, "count": 1, "dtype": kind, "nodata": nodata, "transform": grid.transform}
    storage = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2, "bigtiff": "if_safer"}
    try:
        with rasterio.open(path, "w", crs=grid.crs or None, **profile, **storage) as dataset:
            for window, block in blocks:
                dataset.write(block, 1, window=window)
            dataset.descriptions = (name,)
            dataset.scales = (scale,)
    except (RasterioError, OSError) as error:
        raise OutputError(f"{path.name}: cannot be completed ({first_line(error)}); check the input and the free space") from error
    if reason := damage(path):
        raise OutputError(f"{path.name}: {reason}; check the free space")


def write_disagreement(first: Path, second: Path, out: Path, one: Sidecar, two: Sidecar, grid: Grid, report: Report, side: int = WINDOW) -> None:
    """Write how far two results on one `grid` are apart: see `apply`. side: of the windows, input pixels."""
    order = [two.output.bands.index(band) + 1 for band in one.output.bands]
    same = (one.output.scale, one.output.offset) == (two.output.scale, two.output.offset)  # then whole numbers stay whole
    gain, offset = (1.0, 0.0) if same else (two.output.scale / one.output.scale, (two.output.offset - one.output.offset) / one.output.scale)
    places = windows(grid, one.factor, side)

    def blocks() -> Iterator[tuple[Window, NDArray[Any]]]:
        with rasterio.open(first) as a, rasterio.open(second) as b:
            for number, (fine, _) in enumerate(places):
                squares = np.zeros((fine.height, fine.width))
                lacking = np.zeros(squares.shape, bool)
                for i, j in enumerate(order, 1):  # band by band: windows of large factors are large
                    f, p = a.read(i, window=fine), b.read(j, window=fine)
                    lacking |= missing(f[None], [a.nodatavals[i - 1]]) | missing(p[None], [b.nodatavals[j - 1]])
                    squares += (f - (p * gain + offset)) ** 2
                whole = np.full(squares.shape, NO_DISAGREEMENT, np.uint16)
                whole[~lacking] = np.rint(np.minimum(np.sqrt(squares[~lacking] / len(order)), NO_DISAGREEMENT - 1))
                yield fine, whole
                report("disagreement", (number + 1) / len(places))

    write_beside(out, grid, "uint16", NO_DISAGREEMENT, "disagreement", one.output.scale, blocks())


def missing(pixels: NDArray[Any], nodata: Sequence[float | None]) -> NDArray[np.bool_]:
    """Where a pixel of [bands, rows, columns] has no data in any band, or is no number: [rows, columns]."""
    lacking = ~np.isfinite(pixels).all(axis=0)
    for band, value in zip(pixels, nodata, strict=True):
        if value is not None:
            lacking |= band.astype(np.float32) == np.float32(value)  # as OTB reads it
    return lacking


def write_validity(served: Path, out: Path, model: Sidecar, grid: Grid, report: Report, side: int = WINDOW) -> None:
    """Write what the pixels of the result on `grid` rest on: see `apply`. served: what the model was given. side: of the windows, input pixels."""
    places = windows(grid, model.factor, side)

    def blocks() -> Iterator[tuple[Window, NDArray[Any]]]:
        with rasterio.open(served) as dataset:
            for number, (fine, window) in enumerate(places):
                support = supported(dataset, window, model.margin)
                yield fine, support.repeat(model.factor, 0).repeat(model.factor, 1)
                report("validity", (number + 1) / len(places))

    write_beside(out, grid, "uint8", NO_DATA, "validity: 0 no data, 1 partly supported, 2 supported", 1.0, blocks())


def supported(dataset: rasterio.DatasetReader, window: Window, margin: int) -> NDArray[np.uint8]:
    """`NO_DATA`, `PARTLY` or `SUPPORTED` for each pixel of an input window: whether it, or the square of radius `margin` around it, is data."""
    top, left = window.row_off - margin, window.col_off - margin
    around = np.ones((window.height + 2 * margin, window.width + 2 * margin), np.uint8)  # beyond the image there is nothing
    first = max(top, 0), max(left, 0)
    last = min(window.row_off + window.height + margin, dataset.height), min(window.col_off + window.width + margin, dataset.width)
    pixels = dataset.read(window=Window(first[1], first[0], last[1] - first[1], last[0] - first[0]))
    around[first[0] - top : last[0] - top, first[1] - left : last[1] - left] = missing(pixels, dataset.nodatavals)
    inner = slice(margin, margin + window.height), slice(margin, margin + window.width)
    lacking = around[inner].astype(bool)
    for axis in (0, 1):
        around = maximum_filter1d(around, 2 * margin + 1, axis=axis, mode="constant", cval=1)
    return np.where(lacking, NO_DATA, np.where(around[inner], PARTLY, SUPPORTED)).astype(np.uint8)
