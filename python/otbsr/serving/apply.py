"""Super-resolve a product or an image: the whole road from a download's folder to a checked file, and files that say how far to trust it.

The work goes by windows, each a run of SuperResolution over a box of the output, which is exact at its seams; finished windows are kept
until the product is whole.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy.ndimage import maximum_filter1d

from otbsr import __version__
from otbsr.errors import GridError, InputError, ModelError, OtbsrError, OutputError, UsageError
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder, Sidecar, graph_files
from otbsr.products import Product, open_product, stack
from otbsr.progress import Report, silent
from otbsr.raster import damage, first_line
from otbsr.serving.cog import TILE, Layer, Piece, add_overviews, assemble, levels_inside
from otbsr.serving.otb import run_otb
from otbsr.serving.vrt import write_mosaic
from otbsr.serving.windows import WindowFolder, window_folder

STEP = "super-resolution"
NO_DISAGREEMENT = 65535
"""No-data value of the disagreement."""
NO_DATA, PARTLY, SUPPORTED = 0, 1, 2
"""Values of the validity."""
WINDOW = 512
"""Side of the parts (input pixels) in which disagreement and validity are computed."""
SIDE = 4096
"""Side of the windows that are kept, input pixels: minutes of work, a start of the application costs a hundredth."""
LEAST_BLOCK = 64
"""Smallest block (input pixels) that is tried when TensorFlow's memory does not suffice."""
OUT_OF_MEMORY = re.compile(r"\bOOM\b|resource exhausted|bad_alloc|failed to allocate|out of memory|cannot allocate memory", re.IGNORECASE)


@dataclass(frozen=True)
class Applied:
    """What `apply` wrote, and how: the file, its grid and bands, the model's name, the seconds it took, the files beside it, its windows.

    reused: how many of the windows an earlier run had finished.
    """

    out: Path
    grid: Grid
    bands: tuple[str, ...]
    model: str
    seconds: float
    disagreement: Path | None = None
    validity: Path | None = None
    windows: int = 1
    reused: int = 0


def apply(
    source: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    surface: str = "FRE",
    resampling: str | None = None,
    against: str | Path | None = None,
    validity: bool = False,
    threads: int | None = None,
    ram: int | None = None,
    window: int = SIDE,
    trust_model: bool = False,
    overwrite: bool = False,
    report: Report = silent,
) -> Applied:
    """Super-resolve `source` (SAFE folder, Theia folder or image) with a model folder into `out`: a COG (.tif), or a .vrt over its windows.

    bands, scale: an image's band names in its order and the reflectance of one DN, where the file does not say so itself.
    surface, resampling: as `open_product` and `stack` take them: which of Theia's reflectances, and how coarser bands that do not nest in the
        finest one's grid come onto it ("bilinear", "cubic" ...); by default they are refused.
    against: a second model (P): `out`_disagreement gets how far its result is from `model`'s, the root mean square over the bands of the
        difference in DN of `model`'s output, uint16, 65535 where either has no data.
    validity: `out`_validity gets for each pixel, uint8: 0 no data in the input; 1 no data or the image's edge within the model's margin, so
        that filled or mirrored pixels had a say; 2 data wherever the model looks.
    ram: MiB for pixels; threads: limit of the application's threads. window: side of the windows, input pixels, a multiple of 512.
    trust_model: run a model whose sidecar does not list the hashes of its files. A SavedModel is a program: it can read and write files.

    `out` has the input's corner, footprint and CRS, spacing / factor, and so have the files beside it; all are moved to their names only after
    they were checked. Finished windows lie in the folder `out`.windows, and the same call goes on from them; with a .tif they go away at the
    end, with a .vrt they are the product. Raises `InputError`, `GridError`, `ModelError`, `MissingToolError`, `ProcessingError`,
    `UsageError` and `OutputError`.
    """
    begin, source, out = time.monotonic(), Path(source), Path(out)
    models = [open_trusted(path, trust_model) for path in (model, against) if path is not None]
    side = models[0].sidecar
    if len(models) > 1:
        require_comparable(*models)
    if window < TILE or window % TILE:
        raise UsageError(f"window of {window} input pixels; expected a multiple of {TILE}")
    beside = {key: out.with_name(f"{out.stem}_{key}{out.suffix}") for key, wanted in (("disagreement", against), ("validity", validity)) if wanted}
    finals = {**beside, "out": out}
    for path in finals.values():
        require_writable(path, overwrite)
    product = open_product(source, bands, scale, surface)
    identity = {
        "source": [*source_identity(product), surface, resampling],
        "model": [folder.sidecar.sha256 for folder in models],
        "window": window,
        "products": sorted(finals),
        "otbsr": __version__,
    }
    with window_folder(out.with_name(f"{out.name}.windows"), identity, overwrite) as kept:
        served = [prepare(product, folder.sidecar, kept.folder / f"in_{number}.vrt", resampling) for number, folder in enumerate(models)]
        expected = served[0][1].refined(side.factor)
        layers = layers_of(side, expected, list(finals))
        places = windows(expected, side.factor, window)
        levels = levels_inside(window * side.factor, len(places) == 1, expected)
        # The overviews and the checksum of a window are made while the next one begins.
        with ThreadPoolExecutor(1) as pool:
            last: Future[None] | None = None
            for number, (fine, coarse) in enumerate(places):
                name = window_name(coarse)
                todo = [key for key in layers if f"{key}_{name}" not in kept.done]
                if not todo:
                    continue
                made = make_window(kept, todo, name, fine, coarse, served, models, expected, layers, threads, ram, progress_of(report, number, len(places)))
                if last:
                    last.result()
                last = pool.submit(finish_window, kept, name, made, layers, levels)
            if last:
                last.result()
        report(STEP, 1.0)
        if all(kept.path(f"out_{window_name(coarse)}") is None for _, coarse in places):
            kept.done.clear()  # nothing worth keeping
            raise InputError(f"{source}: the image has no valid pixel: every pixel is no-data or not a number; check the no-data value")
        tags = {
            "OTBSR_VERSION": __version__,
            "OTBSR_MODEL": side.name,
            "OTBSR_MODEL_SHA256": side.sha256.get("saved_model.pb", "unknown"),
            "OTBSR_SOURCE": product.path.name,
            "TIFFTAG_SOFTWARE": f"otbsr {__version__}",
        }
        report("writing", 0.0)
        for number, key in enumerate(finals):
            pieces = [
                Piece(int(fine.col_off), int(fine.row_off), int(fine.width), int(fine.height), kept.path(f"{key}_{window_name(coarse)}"))
                for fine, coarse in places
            ]
            whole = kept.folder / f"whole_{key}{out.suffix}"
            if out.suffix.lower() == ".vrt":
                write_mosaic(whole, pieces, layers[key], tags)
            else:
                assemble(pieces, layers[key], levels, whole, tags)
            report("writing", (number + 1) / len(finals))
        for key, path in finals.items():
            try:
                os.replace(kept.folder / f"whole_{key}{out.suffix}", path)
            except OSError as error:
                raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another path") from error
        reused = sum(all(f"{key}_{window_name(coarse)}" in kept.found for key in layers) for _, coarse in places)
        if out.suffix.lower() != ".vrt":
            shutil.rmtree(kept.folder, ignore_errors=True)
    return Applied(out, expected, side.output.bands, side.name, round(time.monotonic() - begin, 2), **beside, windows=len(places), reused=reused)


def open_trusted(path: str | Path, trust: bool) -> ModelFolder:
    """A model folder all of whose files have the hashes that its sidecar lists; raises `ModelError`. trust: a missing list is accepted."""
    folder = ModelFolder.open(path)
    unlisted = sorted(set(graph_files(folder.path)) - set(folder.sidecar.sha256))
    if unlisted and not trust:
        raise ModelError(
            f"{folder.path}: model.json has no sha256 of {', '.join(unlisted)}; a SavedModel is a program: give --trust-model if you know where it comes from"
        )
    return folder


def source_identity(product: Product) -> list[list[Any]]:
    """What tells whether the input is still the same: the product's and its bands' files with size and time of change."""
    files = sorted({product.path.resolve(), *(band.path.resolve() for band in product.bands.values())})
    return [[str(path), status.st_size, status.st_mtime_ns] for path in files if path.exists() and (status := path.stat())]


def window_name(coarse: Window) -> str:
    """A window's name: row and column of its first input pixel."""
    return f"{coarse.row_off:06d}_{coarse.col_off:06d}"


def progress_of(report: Report, number: int, count: int) -> Report:
    """A `Report` that counts each step over `count` windows, of which this is the window `number`."""
    return lambda step, share: report(step, (number + share) / count)


def layers_of(side: Sidecar, grid: Grid, keys: Sequence[str]) -> dict[str, Layer]:
    """The products' layers by key, the image first."""
    out = side.output
    nodata = float("nan") if out.nodata is None and out.dtype.startswith("float") else out.nodata
    image = Layer(grid, out.dtype, out.bands, nodata, out.scale, out.offset)
    known = {"out": image, "disagreement": disagreement_layer(side, grid), "validity": validity_layer(grid)}
    return {key: layer for key, layer in known.items() if key in keys}


def make_window(
    kept: WindowFolder,
    todo: Sequence[str],
    name: str,
    fine: Window,
    coarse: Window,
    served: Sequence[tuple[Path, Grid]],
    models: Sequence[ModelFolder],
    whole: Grid,
    layers: dict[str, Layer],
    threads: int | None,
    ram: int | None,
    report: Report,
) -> dict[str, Path | None]:
    """Make what is lacking of a window: partial files by key, None for a window without data."""
    if is_empty(served[0][0], coarse):
        return dict.fromkeys(todo)
    grid, side = whole.cropped(fine), models[0].sidecar
    made: dict[str, Path | None] = {key: kept.partial(f"{key}_{name}") for key in todo}
    first = made.get("out")
    if first:
        serve(served[0][0], models[0], first, fine, grid, STEP, threads, ram, report)
    else:
        first = kept.path(f"out_{name}")
    if first and (out := made.get("disagreement")):
        second = kept.partial(f"second_{name}")
        serve(served[1][0], models[1], second, fine, grid, "second model", threads, ram, report)
        write_disagreement(first, second, out, side, models[1].sidecar, grid, report)
        second.unlink()
    if out := made.get("validity"):
        write_validity(served[0][0], out, side, grid, report, at=coarse)
    return made


def finish_window(kept: WindowFolder, name: str, made: dict[str, Path | None], layers: dict[str, Layer], levels: int) -> None:
    """Give a window's files their overviews and names."""
    for key, partial in made.items():
        if partial is not None:
            add_overviews(partial, layers[key], levels)
        kept.finish(f"{key}_{name}", partial)


def is_empty(path: Path, window: Window) -> bool:
    """Whether no pixel of an input window has data in all bands."""
    with rasterio.open(path) as dataset:
        shape = (dataset.count, min(64, int(window.height)), min(64, int(window.width)))
        if not missing(dataset.read(window=window, out_shape=shape), dataset.nodatavals).all():
            return False
        return all(missing(dataset.read(window=one), dataset.nodatavals).all() for one in parts(window, WINDOW))


def serve(served: Path, folder: ModelFolder, out: Path, box: Window, expected: Grid, step: str, threads: int | None, ram: int | None, report: Report) -> None:
    """Run SuperResolution on a file that `prepare` made, for a box of its output, and check and label the result on the grid `expected`.

    Where TensorFlow's memory does not suffice, blocks are made smaller, down to `LEAST_BLOCK`; then its error is raised.
    """
    parameters = serving_parameters(served, folder, out, box, threads, ram)
    block = None
    while True:
        try:
            run_otb("SuperResolution", {**parameters, "block": block}, report, [out], step, threads)
            break
        except OtbsrError as error:
            smaller = block // 2 if block else WINDOW // 2
            if not OUT_OF_MEMORY.search(str(error)) or smaller < LEAST_BLOCK:
                raise
            block = smaller
    label(out, folder.sidecar, expected)


def serving_parameters(served: Path, folder: ModelFolder, out: Path, box: Window | None, threads: int | None, ram: int | None) -> dict[str, object]:
    """SuperResolution's parameters for a `box` of the output, or for all of it."""
    kind = folder.sidecar.output.dtype
    options = {"TILED": "YES", "BLOCKXSIZE": TILE, "BLOCKYSIZE": TILE, "COMPRESS": "ZSTD", "ZSTD_LEVEL": 1, "PREDICTOR": 3 if kind.startswith("float") else 2}
    part = f"&box={box.col_off}:{box.row_off}:{box.width}:{box.height}" if box else ""
    extended = f"{out}?{part}" + "".join(f"&gdal:co:{key}={value}" for key, value in {**options, "BIGTIFF": "YES", "NUM_THREADS": min(2, threads or 2)}.items())
    return {"in": served, "model": folder.path, "out": [extended, kind], "threads": threads, "ram": ram}


def prepare(product: Product, side: Sidecar, vrt: Path, resampling: str | None = None) -> tuple[Path, Grid]:
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
        grid = stack(product, order, path, side.input.scale, side.input.offset, resampling=resampling)
    if abs(grid.dx / side.input.spacing - 1) > 0.05 and grid.crs and not rasterio.CRS.from_string(grid.crs).is_geographic:
        raise GridError(
            f"{product.path}: spacing is {grid.dx:g} m, model {side.name} was made for {side.input.spacing:g} m; resample the image or choose another model"
        )
    return path, grid


def require_writable(out: Path, overwrite: bool) -> None:
    """Raise `OutputError` when `out` exists (without `overwrite`), is a folder, or its folder is missing or read-only."""
    if out.is_dir():
        raise OutputError(f"{out}: is a folder; give a file name such as {out / 'sr.tif'}")
    if out.suffix.lower() not in (".tif", ".tiff", ".vrt"):
        raise OutputError(f"{out}: extension is '{out.suffix}', expected .tif, or .vrt to keep the windows")
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


def windows(grid: Grid, factor: int, side: int, at: Window | None = None) -> list[tuple[Window, Window]]:
    """Windows of `side` input pixels that cover the image of the fine `grid`: each on the fine and on the input's grid.

    at: where on the input's grid the fine grid's image begins.
    """
    coarse = grid.coarsened(factor)
    inputs = parts(Window(0, 0, coarse.width, coarse.height), side)
    left, top = (at.col_off, at.row_off) if at else (0, 0)
    return [
        (Window(w.col_off * factor, w.row_off * factor, w.width * factor, w.height * factor), Window(left + w.col_off, top + w.row_off, w.width, w.height))
        for w in inputs
    ]


def parts(window: Window, side: int) -> list[Window]:
    """A window cut into windows of at most `side` pixels, row by row."""
    places = [(row, column) for row in range(0, window.height, side) for column in range(0, window.width, side)]
    return [Window(window.col_off + column, window.row_off + row, min(side, window.width - column), min(side, window.height - row)) for row, column in places]


def disagreement_layer(side: Sidecar, grid: Grid) -> Layer:
    """What the disagreement's file is."""
    return Layer(grid, "uint16", ("disagreement",), NO_DISAGREEMENT, side.output.scale)


def validity_layer(grid: Grid) -> Layer:
    """What the validity's file is."""
    return Layer(grid, "uint8", ("validity: 0 no data, 1 partly supported, 2 supported",), NO_DATA, categories=True)


def write_beside(path: Path, layer: Layer, blocks: Iterable[tuple[Window, NDArray[Any]]]) -> None:
    """Write a layer of one band from blocks [rows, columns] and check it; raises `OutputError`, `InputError` for the files read."""
    try:
        with rasterio.open(path, "w", **layer.profile()) as dataset:
            for window, block in blocks:
                dataset.write(block, 1, window=window)
            layer.label(dataset)
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

    write_beside(out, disagreement_layer(one, grid), blocks())


def missing(pixels: NDArray[Any], nodata: Sequence[float | None]) -> NDArray[np.bool_]:
    """Where a pixel of [bands, rows, columns] has no data in any band, or is no number: [rows, columns]."""
    lacking = ~np.isfinite(pixels).all(axis=0)
    for band, value in zip(pixels, nodata, strict=True):
        if value is not None:
            lacking |= band.astype(np.float32) == np.float32(value)  # as OTB reads it
    return lacking


def write_validity(served: Path, out: Path, model: Sidecar, grid: Grid, report: Report, side: int = WINDOW, at: Window | None = None) -> None:
    """Write what the pixels of the result on `grid` rest on: see `apply`.

    served: what the model was given. side: of the windows, input pixels. at: where in it the grid's image begins.
    """
    places = windows(grid, model.factor, side, at)

    def blocks() -> Iterator[tuple[Window, NDArray[Any]]]:
        with rasterio.open(served) as dataset:
            for number, (fine, window) in enumerate(places):
                support = supported(dataset, window, model.margin)
                yield fine, support.repeat(model.factor, 0).repeat(model.factor, 1)
                report("validity", (number + 1) / len(places))

    write_beside(out, validity_layer(grid), blocks())


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
