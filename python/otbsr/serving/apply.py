"""Super-resolve a product or an image: the whole road from a download's folder to a checked file.

The work goes by windows, each a run of SuperResolution over a box of the output, which is exact at its seams; finished windows are kept
until the product is whole.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr import __version__
from otbsr.errors import GridError, InputError, OtbsrError, OutputError, UsageError, first_line
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder, Sidecar, graph_files
from otbsr.products import Product, stack
from otbsr.progress import Report, silent
from otbsr.raster import damage, settle
from otbsr.serving.cog import TILE, Layer, Piece, add_overviews, assemble, levels_inside
from otbsr.serving.options import ApplyOptions
from otbsr.serving.otb import run_otb
from otbsr.serving.reliability import WINDOW, disagreement_layer, missing, parts, validity_layer, windows, write_disagreement, write_validity
from otbsr.serving.vrt import write_mosaic
from otbsr.serving.windows import Attempt, Made, WindowFolder, key_of, leave_record, shared_folder, window_folder

STEP = "super-resolution"
LEAST_BLOCK = 64
"""Smallest block (input pixels) that is tried when TensorFlow's memory does not suffice."""
RUN_TAG = "OTBSR_RUN"
"""Tag of a product: a digest of all that decides its pixels."""
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


@dataclass(frozen=True)
class Work:
    """All that making the windows of one product takes, on this machine or another that sees the same files.

    folder: of the windows. served: each model's input and its grid. layers: the product's files. places: each window on the fine and on the
    input's grid. levels: overviews inside a window's files. options: of `apply`. watched: what all windows are to be made from.
    """

    folder: Path
    served: tuple[tuple[Path, Grid], ...]
    models: tuple[ModelFolder, ...]
    grid: Grid
    layers: dict[str, Layer]
    places: tuple[tuple[Window, Window], ...]
    levels: int
    options: ApplyOptions
    watched: Watched | None = None

    def names(self, number: int) -> dict[str, str]:
        """What the files of a window are called, by the product's keys."""
        return {key: f"{key}_{window_name(self.places[number][1])}" for key in self.layers}

    def lacking(self, done: dict[str, dict[str, Any]]) -> list[int]:
        """The windows that are not finished."""
        return [number for number in range(len(self.places)) if any(name not in done for name in self.names(number).values())]


Run = Callable[[WindowFolder, Work, Report], None]
"""Makes the windows that a folder lacks."""


def make_here(kept: WindowFolder, work: Work, report: Report) -> None:
    """Make the windows that `kept` lacks in turn, in this process; the overviews and the checksum of one while the next one begins."""
    with ThreadPoolExecutor(1) as pool:
        last: Future[None] | None = None
        for number in work.lacking(kept.done):
            made = make_window(kept, work, number, progress_of(report, number, len(work.places)))
            if last:
                last.result()
            last = pool.submit(finish_window, kept, made, work.layers, work.levels)
        if last:
            last.result()


def make_elsewhere(attempt: Attempt, work: Work, number: int) -> dict[str, Made]:
    """Make what is lacking of one window beside the folder's holder, who has to adopt it: files by name. Deletes its files when it fails."""
    try:
        made = make_window(attempt, work, number, silent)
        for (key, _), partial in made.items():
            if partial is not None:
                add_overviews(partial, work.layers[key], work.levels)
        return {name: Made.of(partial) for (_, name), partial in made.items()}
    except BaseException:
        attempt.discard()
        raise


def apply(
    source: str | Path,
    model: str | Path,
    out: str | Path,
    options: ApplyOptions | None = None,
    *,
    overwrite: bool = False,
    report: Report = silent,
    run: Run = make_here,
    only: int | None = None,
    **words: Any,
) -> Applied:
    """Super-resolve `source` (SAFE folder, Theia folder or image) with a model folder into `out`: a COG (.tif), or a .vrt over its windows.

    options: see `ApplyOptions`; `words` are options by their names, such as `validity=True`, and win.
    run: how the windows are made. only: make just the window of this number and leave it for a later run without `only`, which finds it and puts
        the product together; runs for different windows may go side by side, on machines that see the same files.

    `out` has the input's corner, footprint and CRS, spacing / factor, and so have the files beside it; all are moved to their names only after
    they were checked. Finished windows lie in the folder `out`.windows, and the same call goes on from them; with a .tif they go away at the
    end, with a .vrt they are the product. Raises `InputError`, `GridError`, `ModelError`, `MissingToolError`, `ProcessingError`,
    `UsageError` and `OutputError`.
    """
    begin, source, out = time.monotonic(), Path(source).absolute(), Path(out)  # other machines and processes have other working folders
    options = replace(options or ApplyOptions(), **words).absolute()
    models = options.open_models(Path(model).absolute())
    side = models[0].sidecar
    if options.window < TILE or options.window % TILE:
        raise UsageError(f"window of {options.window} input pixels; expected a multiple of {TILE}")
    finals = options.files(out)
    beside = {key: path for key, path in finals.items() if key != "out"}
    for path in finals.values():
        require_writable(path, overwrite)
    product = options.open_source(source)
    pixels = pixels_identity(product, models, options)
    identity = {**pixels, "window": options.window, "otbsr": __version__}
    folder = out.absolute().with_name(f"{out.name}.windows")
    watched = Watched(product, models)

    def work_in(where: Attempt) -> Work:
        served = tuple(prepare(product, one.sidecar, where.folder / f"in{where.mark}_{number}.vrt", options.resampling) for number, one in enumerate(models))
        expected = served[0][1].refined(side.factor)
        places = tuple(windows(expected, side.factor, options.window))
        levels = levels_inside(options.window * side.factor, len(places) == 1, expected)
        return Work(where.folder, served, models, expected, layers_of(side, expected, list(finals)), places, levels, options, watched)

    if only is not None:
        with shared_folder(folder, identity) as attempt, watched:
            work = work_in(attempt)
            known = make_one(attempt, work, only, identity)
        return Applied(out, work.grid, side.output.bands, side.name, round(time.monotonic() - begin, 2), **beside, windows=1, reused=int(known))
    with window_folder(folder, identity, overwrite) as kept, watched:
        work = work_in(kept)
        places, expected = work.places, work.grid
        run(kept, work, report)
        report(STEP, 1.0)
        if all(kept.path(f"out_{window_name(coarse)}") is None for _, coarse in places):
            kept.done.clear()  # nothing worth keeping
            raise InputError(f"{source}: the image has no valid pixel: every pixel is no-data or not a number; check the no-data value")
        put_together(kept, work, finals, tags_of(side, product, key_of(pixels)), report)
        reused = len(places) - len(work.lacking({name: kept.done[name] for name in kept.found}))
        if out.suffix.lower() != ".vrt":
            shutil.rmtree(kept.folder, ignore_errors=True)
        else:
            kept.tidy()
    return Applied(out, expected, side.output.bands, side.name, round(time.monotonic() - begin, 2), **beside, windows=len(places), reused=reused)


def make_one(attempt: Attempt, work: Work, number: int, identity: dict[str, Any]) -> bool:
    """Make one window in a shared folder and leave a record of it; whether it was finished already. Raises `UsageError` for a wrong number."""
    if not 0 <= number < len(work.places):
        raise UsageError(f"window {number} of {work.served[0][0]}; expected 0 to {len(work.places) - 1}")
    known = number not in work.lacking(attempt.done)
    if not known:
        leave_record(attempt, identity, make_elsewhere(attempt, work, number))
    for path in attempt.folder.glob(f"in{attempt.mark}_*"):
        path.unlink(missing_ok=True)
    return known


def tags_of(side: Sidecar, product: Product, run: str) -> dict[str, str]:
    """Where a product comes from, for its metadata."""
    return {
        "OTBSR_VERSION": __version__,
        "OTBSR_MODEL": side.name,
        "OTBSR_MODEL_SHA256": side.sha256.get("saved_model.pb", "unknown"),
        "OTBSR_SOURCE": product.path.name,
        RUN_TAG: run,
        "TIFFTAG_SOFTWARE": f"otbsr {__version__}",
    }


def put_together(kept: WindowFolder, work: Work, finals: dict[str, Path], tags: dict[str, str], report: Report) -> None:
    """Write the product's files from the finished windows and give them their names. Raises `OutputError`."""
    report("writing", 0.0)
    for number, (key, path) in enumerate(finals.items()):
        pieces = [
            Piece(int(fine.col_off), int(fine.row_off), int(fine.width), int(fine.height), kept.path(f"{key}_{window_name(coarse)}"))
            for fine, coarse in work.places
        ]
        whole = kept.folder / f"whole_{key}{path.suffix}"
        if path.suffix.lower() == ".vrt":
            write_mosaic(whole, pieces, work.layers[key], tags)
        else:
            assemble(pieces, work.layers[key], work.levels, whole, tags)
        report("writing", (number + 1) / len(finals))
    for key, path in finals.items():
        try:
            settle(kept.folder / f"whole_{key}{path.suffix}", path)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another path") from error


def pixels_identity(product: Product, models: Sequence[ModelFolder], options: ApplyOptions) -> dict[str, Any]:
    """All that decides what a product's pixels are; JSON."""
    return {
        "source": [*source_identity(product), options.surface, options.resampling],
        "model": [folder.sidecar.sha256 for folder in models],
        "bands": [list(options.bands) if options.bands else None, options.scale],
        "products": sorted(options.files(product.path)),
    }


def run_key(source: str | Path, model: str | Path, options: ApplyOptions) -> str:
    """The digest that `apply` with these options leaves in its products under `RUN_TAG`."""
    return key_of(pixels_identity(options.open_source(Path(source).absolute()), options.open_models(model), options))


def window_count(source: str | Path, model: str | Path, options: ApplyOptions) -> int:
    """How many windows `apply` with these options works by; raises as `apply` does."""
    side = options.open_models(model)[0].sidecar
    with tempfile.TemporaryDirectory() as folder:
        _, grid = prepare(options.open_source(Path(source).absolute()), side, Path(folder) / "in.vrt", options.resampling)
    return len(parts(Window(0, 0, grid.width, grid.height), options.window))


def source_identity(product: Product) -> list[list[Any]]:
    """What tells whether the input is still the same: the product's and its bands' files with size and time of change."""
    return states([product.path, *(band.path for band in product.bands.values())])


def states(files: Iterable[Path]) -> list[list[Any]]:
    """Path, size and time of change of the files that are there, in order."""
    known = sorted({path.resolve() for path in files})
    return [[str(path), status.st_size, status.st_mtime_ns] for path in known if path.exists() and (status := path.stat())]


class Watched:
    """The files that a run reads from, which nobody may change or remove before its end: half of its product would be of something else."""

    def __init__(self, product: Product, models: Sequence[ModelFolder]) -> None:
        """Remember how they are now."""
        self.what = product.path
        self.files = [product.path, *(band.path for band in product.bands.values())]
        self.files += [folder.path / name for folder in models for name in graph_files(folder.path)]
        self.before = states(self.files)

    def check(self, cause: BaseException | None = None) -> None:
        """Raise `InputError` when one is no longer as it was."""
        now = states(self.files)
        for state in self.before:
            if state not in now:
                how = "changed" if Path(state[0]).exists() else "was removed"
                raise InputError(f"{state[0]}: {how} while {self.what} was worked on; put it back and run the same command again, or start anew") from cause

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (OtbsrError, RasterioError, OSError)):
            self.check(error)
        if isinstance(error, RasterioError):
            raise InputError(f"{self.what}: cannot be read ({first_line(error)}); check the file") from error


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


def make_window(where: Attempt, work: Work, number: int, report: Report) -> dict[tuple[str, str], Path | None]:
    """Make what is lacking of a window: partial files by key and name, None for a window without data."""
    fine, coarse = work.places[number]
    names = work.names(number)
    todo = {key: name for key, name in names.items() if name not in where.done}
    if is_empty(work.served[0][0], coarse):
        return dict.fromkeys(todo.items())
    grid, models, side = work.grid.cropped(fine), work.models, work.models[0].sidecar
    made: dict[str, Path | None] = {key: where.partial(name) for key, name in todo.items()}
    first = made.get("out")
    if first:
        serve(work.served[0][0], models[0], first, fine, grid, STEP, work.options, report)
    else:
        first = where.path(names["out"])
    if first and (out := made.get("disagreement")):
        second = where.partial(f"second_{window_name(coarse)}")
        serve(work.served[1][0], models[1], second, fine, grid, "second model", work.options, report)
        write_disagreement(first, second, out, side, models[1].sidecar, grid, report)
        second.unlink()
    if out := made.get("validity"):
        write_validity(work.served[0][0], out, side, grid, report, at=coarse)
    if work.watched:
        work.watched.check()
    return {(key, name): made[key] for key, name in todo.items()}


def finish_window(kept: WindowFolder, made: dict[tuple[str, str], Path | None], layers: dict[str, Layer], levels: int) -> None:
    """Give a window's files their overviews and names."""
    for (key, name), partial in made.items():
        if partial is not None:
            add_overviews(partial, layers[key], levels)
        kept.finish(name, partial)


def is_empty(path: Path, window: Window) -> bool:
    """Whether no pixel of an input window has data in all bands."""
    with rasterio.open(path) as dataset:
        shape = (dataset.count, min(64, int(window.height)), min(64, int(window.width)))
        if not missing(dataset.read(window=window, out_shape=shape), dataset.nodatavals).all():
            return False
        return all(missing(dataset.read(window=one), dataset.nodatavals).all() for one in parts(window, WINDOW))


def serve(served: Path, folder: ModelFolder, out: Path, box: Window, expected: Grid, step: str, options: ApplyOptions, report: Report) -> None:
    """Run SuperResolution on a file that `prepare` made, for a box of its output, and check and label the result on the grid `expected`.

    Where TensorFlow's memory does not suffice, blocks are made smaller, down to `LEAST_BLOCK`; then its error is raised.
    """
    parameters = serving_parameters(served, folder, out, box, options)
    block = None
    while True:
        try:
            run_otb("SuperResolution", {**parameters, "block": block}, report, [out], step, options.threads)
            break
        except OtbsrError as error:
            smaller = block // 2 if block else WINDOW // 2
            if not OUT_OF_MEMORY.search(str(error)) or smaller < LEAST_BLOCK:
                raise
            block = smaller
    label(out, folder.sidecar, expected)


def serving_parameters(served: Path, folder: ModelFolder, out: Path, box: Window | None, options: ApplyOptions) -> dict[str, object]:
    """SuperResolution's parameters for a `box` of the output, or for all of it."""
    kind = folder.sidecar.output.dtype
    creation = {"TILED": "YES", "BLOCKXSIZE": TILE, "BLOCKYSIZE": TILE, "COMPRESS": "ZSTD", "ZSTD_LEVEL": 1, "PREDICTOR": 3 if kind.startswith("float") else 2}
    part = f"&box={box.col_off}:{box.row_off}:{box.width}:{box.height}" if box else ""
    extended = f"{out}?{part}" + "".join(
        f"&gdal:co:{key}={value}" for key, value in {**creation, "BIGTIFF": "YES", "NUM_THREADS": min(2, options.threads or 2)}.items()
    )
    return {"in": served, "model": folder.path, "out": [extended, kind], "threads": options.threads, "ram": options.ram}


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
