"""Tiles of a scene's layers on one pyramid, in the scene's own plane: nothing is warped, so that pixels stay where they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import InputError, MissingToolError, first_line
from otbsr.grid import Grid
from otbsr.products import Band
from otbsr.view.layers import Layer, Scene, quiet_open

try:
    from rio_tiler.colormap import cmap
    from rio_tiler.models import ImageData
    from rio_tiler.reader import read
except ImportError as error:
    raise MissingToolError(f"the viewer's tile reader is not installed ({error}); install it: pip install 'otbsr[view]'") from error

SIDE = 256
"""Side of a tile, pixels."""


@dataclass(frozen=True)
class Pyramid:
    """Square tiles of `SIDE` pixels over a plane, from the corner (left, top) to the right and down; `resolutions` from coarse to fine.

    The corner lies on the edges of the finest layer's pixels, and so do the finest tiles; each level has half the resolution (twice
    the spacing, CRS units) of the next.
    """

    left: float
    top: float
    extent: tuple[float, float, float, float]
    resolutions: tuple[float, ...]

    @classmethod
    def over(cls, grids: list[Grid]) -> Pyramid:
        """The pyramid over some grids, anchored at the finest one's corner."""
        anchor = min(grids, key=lambda grid: grid.dx)
        extent = (
            min(grid.left for grid in grids), min(grid.bottom for grid in grids), max(grid.right for grid in grids), max(grid.top for grid in grids),
        )  # fmt: skip
        cell = max(grid.dx for grid in grids)
        left = anchor.left - cell * math.ceil((anchor.left - extent[0]) / cell - 1e-6)
        top = anchor.top + cell * math.ceil((extent[3] - anchor.top) / cell - 1e-6)
        side = max(extent[2] - left, top - extent[1])
        levels = max(0, math.ceil(math.log2(side / anchor.dx / SIDE)))
        return cls(left, top, extent, tuple(anchor.dx * 2**level for level in range(levels, -1, -1)))

    def tile(self, zoom: int, column: int, row: int) -> Grid:
        """The grid of a tile's pixels; raises `InputError` for a level that is not there."""
        if not 0 <= zoom < len(self.resolutions):
            raise InputError(f"zoom {zoom}; expected 0 to {len(self.resolutions) - 1}")
        spacing = self.resolutions[zoom]
        return Grid(self.left + column * SIDE * spacing, self.top - row * SIDE * spacing, spacing, spacing, SIDE, SIDE)


def numbers(bands: list[Band], own: Grid, tile: Grid, averaged: bool) -> Any:
    """Values (DN x scale + offset) [bands, rows, columns] of a layer on a tile's grid, float64, masked where there is no data or no image.

    Coarser pixels are averages of finer ones (of categories: the nearest one), finer pixels repeat coarser ones. Pixels of the tile that
    reach beyond the image are left out, so that those within are where they are.
    """
    found = np.ma.masked_all((len(bands), tile.height, tile.width), np.float64)
    (first, upper), (last, lower) = tile.position(own.left, own.top), tile.position(own.right, own.bottom)
    columns = max(0, math.ceil(first - 1e-6)), min(tile.width, math.floor(last + 1e-6))
    rows = max(0, math.ceil(upper - 1e-6)), min(tile.height, math.floor(lower + 1e-6))
    if columns[0] >= columns[1] or rows[0] >= rows[1]:
        return found
    left, top = own.position(*tile.corner(columns[0], rows[0]))
    right, bottom = own.position(*tile.corner(columns[1], rows[1]))
    # Rounding must not make a window that reaches beyond the file: GDAL would resample it another way.
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(own.width)), min(bottom, float(own.height))
    window = Window(left, top, right - left, bottom - top)
    for path, group in groupby(enumerate(bands), key=lambda pair: pair[1].path):
        places, part = zip(*group, strict=True)
        try:
            with quiet_open(path) as dataset:
                # A product's coarser band lies under the same ground with fewer pixels.
                ratio_x, ratio_y = dataset.width / own.width, dataset.height / own.height
                under = Window(window.col_off * ratio_x, window.row_off * ratio_y, window.width * ratio_x, window.height * ratio_y)
                image = read(
                    dataset,
                    window=under,
                    height=rows[1] - rows[0],
                    width=columns[1] - columns[0],
                    indexes=[band.index for band in part],
                    resampling_method="average" if averaged and tile.dx > own.dx * 1.001 else "nearest",
                    nodata=part[0].nodata,
                )
        except RasterioError as error:
            raise InputError(f"{path}: cannot be read ({first_line(error)}); make or fetch the file again") from error
        for place, band, values in zip(places, part, image.array, strict=True):
            found[place, rows[0] : rows[1], columns[0] : columns[1]] = np.ma.masked_invalid(values.astype(np.float64) * band.scale + band.offset)
    return found


def colour_table(layer: Layer) -> dict[int, tuple[int, int, int, int]]:
    """Red, green, blue and opacity (0..255) of the values 0..255 of a rendered score or of a class's code."""
    if layer.kind == "score":
        table: Any = cmap.get(layer.colours)
        return {value: tuple(table[value]) for value in range(256)}
    known = {code: (*bytes.fromhex(colour[1:]), 255) for code, _, colour in layer.classes}
    return {value: known.get(value, (0, 0, 0, 0)) for value in range(256)}


def render(scene: Scene, layer: Layer, tile: Grid, composite: str = "true") -> bytes:
    """A layer's tile as PNG. Images of a scene are stretched alike: a reflectance has the same grey in all of them."""
    if layer.kind == "image":
        roles = layer.composite(composite)
        values = numbers([layer.bands[role] for role in roles], layer.grid, tile, averaged=True)
        values.mask = np.broadcast_to(np.ma.getmaskarray(values).any(axis=0), values.shape).copy()
        image = ImageData(values).rescale([scene.stretch[role] for role in roles])
        return image.render(img_format="PNG")
    values = numbers(list(layer.bands.values()), layer.grid, tile, averaged=layer.kind == "score")
    image = ImageData(values)
    image = image.rescale([layer.span]) if layer.kind == "score" else ImageData(np.ma.array(values.filled(0), mask=values.mask).astype(np.uint8))
    return image.render(img_format="PNG", colormap=colour_table(layer))


def value_at(layer: Layer, x: float, y: float) -> dict[str, float | None]:
    """A layer's values at a place: reflectance by role, score, or code; None without data, empty outside."""
    column, row = (math.floor(place) for place in layer.grid.position(x, y))
    if not (0 <= column < layer.grid.width and 0 <= row < layer.grid.height):
        return {}
    pixel = layer.grid.cropped(Window(column, row, 1, 1))
    values = numbers(list(layer.bands.values()), layer.grid, pixel, averaged=False)[:, 0, 0]
    return {role: None if np.ma.is_masked(value) else float(value) for role, value in zip(layer.bands, values, strict=True)}
