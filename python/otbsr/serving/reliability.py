"""What says how far to trust a super-resolved image: its disagreement with a second model's, and the validity of what it rests on.

Each is a file of one band on the image's grid, computed by parts of the input, so that any size will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.ndimage import maximum_filter1d

from otbsr.grid import Grid
from otbsr.methods.model_folder import Sidecar
from otbsr.progress import Report
from otbsr.raster import new_raster
from otbsr.serving.cog import Layer

NO_DISAGREEMENT = 65535
"""No-data value of the disagreement."""
NO_DATA, PARTLY, SUPPORTED = 0, 1, 2
"""Values of the validity."""
WINDOW = 512
"""Side of the parts (input pixels) in which disagreement and validity are computed."""


def disagreement_layer(side: Sidecar, grid: Grid) -> Layer:
    """What the disagreement's file is."""
    return Layer(grid, "uint16", ("disagreement",), NO_DISAGREEMENT, side.output.scale)


def validity_layer(grid: Grid) -> Layer:
    """What the validity's file is."""
    return Layer(grid, "uint8", ("validity: 0 no data, 1 partly supported, 2 supported",), NO_DATA, categories=True)


def write_beside(out: Path, layer: Layer, blocks: Iterable[tuple[Window, NDArray[Any]]]) -> None:
    """Write a layer of one band from blocks [rows, columns]; raises `OutputError`."""
    with new_raster(out, "check the input and the free space") as temporary, rasterio.open(temporary, "w", **layer.profile()) as dataset:
        for window, block in blocks:
            dataset.write(block, 1, window=window)
        layer.label(dataset)


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
