"""Pixel geometry: the only place in Python that knows where a pixel's edge is.

A `Grid` is a north-up raster of square or rectangular pixels given by its upper-left *corner* (edge, not centre),
its spacing and its size. Coordinates are CRS units (metres for UTM); rows grow southward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from otbsr.errors import GridError, InputError

TOLERANCE = 1e-6
"""Share of a pixel below which two grids are the same; float64 keeps 1e-9 m at UTM coordinates."""


@dataclass(frozen=True)
class Grid:
    """A pixel grid: corner (left, top), spacing (dx > 0 eastward, dy > 0 southward), size, CRS as WKT or ''.

    All lengths are in units of the CRS.
    """

    left: float
    top: float
    dx: float
    dy: float
    width: int
    height: int
    crs: str = ""

    @classmethod
    def of(cls, dataset: rasterio.DatasetReader, south_up: bool = False) -> Grid:
        """The grid of an open rasterio dataset; raises `GridError` when it is rotated, sheared or south-up.

        With `south_up`, rows that grow northward (and images without georeferencing) are taken as they are: dy < 0.
        """
        t = dataset.transform
        if not all(math.isfinite(value) for value in t[:6]):
            raise GridError(f"{dataset.name}: geotransform {tuple(t[:6])} has values that are no numbers; fetch the file again")
        if t.b != 0 or t.d != 0:
            raise GridError(f"{dataset.name}: geotransform is rotated or sheared ({t.b:g}, {t.d:g}); warp it to a north-up grid (gdalwarp) first")
        if t.is_identity and not south_up:
            raise GridError(f"{dataset.name}: has no georeferencing, expected a corner and a spacing; give it its own (gdal_edit.py -a_srs -a_ullr) first")
        if t.a <= 0 or (t.e >= 0 and not south_up):
            raise GridError(f"{dataset.name}: spacing ({t.a:g}, {t.e:g}) is not north-up; warp it (gdalwarp) first")
        crs = dataset.crs.to_wkt() if dataset.crs else ""
        return cls(t.c, t.f, t.a, -t.e, dataset.width, dataset.height, crs)

    @classmethod
    def read(cls, path: str | Path) -> Grid:
        """The grid of the raster file `path`; raises `InputError` when it cannot be opened."""
        try:
            with rasterio.open(path) as dataset:
                return cls.of(dataset)
        except RasterioIOError as error:
            raise InputError(f"{path}: cannot be read as an image ({error}); check the path and the file") from error

    @property
    def transform(self) -> Affine:
        """Affine transform from (column, row) of pixel corners to coordinates."""
        return Affine(self.dx, 0.0, self.left, 0.0, -self.dy, self.top)

    @property
    def right(self) -> float:
        """Coordinate of the right edge."""
        return self.left + self.dx * self.width

    @property
    def bottom(self) -> float:
        """Coordinate of the lower edge."""
        return self.top - self.dy * self.height

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) edges."""
        return self.left, self.bottom, self.right, self.top

    @property
    def footprint(self) -> dict[str, Any]:
        """The ground for a JSON file: {"crs": its short name where it has one ("EPSG:32631"), "bounds": [left, bottom, right, top]}."""
        return {"crs": rasterio.CRS.from_string(self.crs).to_string() if self.crs else "", "bounds": list(self.bounds)}

    def refined(self, factor: int) -> Grid:
        """The nested grid with `factor` times smaller spacing: same corner, same footprint."""
        if factor < 1:
            raise GridError(f"factor {factor} must be at least 1")
        return replace(self, dx=self.dx / factor, dy=self.dy / factor, width=self.width * factor, height=self.height * factor)

    def coarsened(self, factor: int) -> Grid:
        """The grid with `factor` times larger spacing; raises `GridError` when the size is not a multiple."""
        if factor < 1 or self.width % factor or self.height % factor:
            raise GridError(f"size {self.width} x {self.height} is not a multiple of factor {factor}; crop the image first")
        return replace(self, dx=self.dx * factor, dy=self.dy * factor, width=self.width // factor, height=self.height // factor)

    def cropped(self, window: Window) -> Grid:
        """The sub-grid under an integer pixel window (column offset, row offset, width, height)."""
        left, top = self.left + window.col_off * self.dx, self.top - window.row_off * self.dy
        return replace(self, left=left, top=top, width=int(window.width), height=int(window.height))

    def windows(self, side: int) -> Iterator[Window]:
        """Windows of at most `side` x `side` pixels that cover the grid, from top to bottom, then the next column of them: neighbours share blocks of files."""
        for left in range(0, self.width, side):
            for top in range(0, self.height, side):
                yield Window(left, top, min(side, self.width - left), min(side, self.height - top))

    def centre(self, column: float, row: float) -> tuple[float, float]:
        """Coordinates of the centre of pixel (column, row)."""
        return self.left + (column + 0.5) * self.dx, self.top - (row + 0.5) * self.dy

    def corner(self, column: float, row: float) -> tuple[float, float]:
        """Coordinates of the upper-left corner of pixel (column, row)."""
        return self.left + column * self.dx, self.top - row * self.dy

    def axes(self, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres of the columns and rows of an integer window, which may reach beyond the grid: x, and -y, both ascending."""
        columns, rows = np.arange(int(window.width)) + window.col_off, np.arange(int(window.height)) + window.row_off
        return self.left + (columns + 0.5) * self.dx, (rows + 0.5) * self.dy - self.top

    def position(self, x: float, y: float) -> tuple[float, float]:
        """Fractional (column, row) of a coordinate, counted from the corner: floor() gives the pixel."""
        return (x - self.left) / self.dx, (self.top - y) / self.dy

    def factor_to(self, fine: Grid) -> int:
        """The integer factor by which `fine` is nested in this grid with the same footprint; else `GridError`."""
        factor = round(self.dx / fine.dx)
        if factor < 1 or not self.refined(factor).same(fine):
            raise GridError(f"grids do not nest: {self.beside(fine)}; {self.remedy(fine)}")
        return factor

    def remedy(self, fine: Grid) -> str:
        """What mends that `fine` is not nested in this grid."""
        if not self.same_crs(fine):
            return "warp one into the other's CRS (gdalwarp -t_srs)"
        factor = round(fine.dx / self.dx)
        if factor > 1 and fine.refined(factor).same(self):
            return "the coarse one comes first"
        return "resample one onto the other's refined grid"

    def window_of(self, other: Grid) -> Window | None:
        """The integer window of this grid's pixels, perhaps reaching beyond it, that are the pixels of `other`; None when they are other pixels."""
        column, row = self.position(other.left, other.top)
        near_x, near_y = TOLERANCE * max(1, other.width), TOLERANCE * max(1, other.height)
        if abs(other.dx / self.dx - 1) * other.width > near_x or abs(other.dy / self.dy - 1) * other.height > near_y:
            return None
        if abs(column - round(column)) > near_x or abs(row - round(row)) > near_y or not self.same_crs(other):
            return None
        return Window(round(column), round(row), other.width, other.height)

    def window_over(self, other: Grid, margin: int = 0) -> Window | None:
        """The smallest window of this grid's pixels that covers `other` and `margin` pixels around it, within this grid; None when they are apart."""
        (first, upper), (last, lower) = self.position(other.left, other.top), self.position(other.right, other.bottom)
        # An edge that lies on a pixel's edge but for rounding takes no further pixel.
        near_x, near_y = TOLERANCE * max(1, other.width), TOLERANCE * max(1, other.height)
        columns = max(0, math.floor(first + near_x) - margin), min(self.width, math.ceil(last - near_x) + margin)
        rows = max(0, math.floor(upper + near_y) - margin), min(self.height, math.ceil(lower - near_y) + margin)
        return Window.from_slices(rows, columns) if rows[0] < rows[1] and columns[0] < columns[1] else None

    def holds_pixels_of(self, fine: Grid) -> bool:
        """Whether each pixel of `fine` lies within one of this grid's pixels (or beyond it), an integer number of them along its side."""
        factor = round(self.dx / fine.dx)
        return factor >= 1 and self.refined(factor).window_of(fine) is not None

    def same_crs(self, other: Grid) -> bool:
        """Whether both grids have the same CRS, when both know theirs."""
        return not self.crs or not other.crs or self.crs == other.crs or rasterio.CRS.from_string(self.crs) == rasterio.CRS.from_string(other.crs)

    def same(self, other: Grid) -> bool:
        """Whether both grids have the same pixels (CRS included, when both know it)."""
        tol_x, tol_y = TOLERANCE * abs(self.dx), TOLERANCE * abs(self.dy)
        return (
            (self.width, self.height) == (other.width, other.height)
            and math.isclose(self.left, other.left, rel_tol=0, abs_tol=tol_x)
            and math.isclose(self.top, other.top, rel_tol=0, abs_tol=tol_y)
            and math.isclose(self.right, other.right, rel_tol=0, abs_tol=tol_x)
            and math.isclose(self.bottom, other.bottom, rel_tol=0, abs_tol=tol_y)
            and self.same_crs(other)
        )

    def require_same(self, other: Grid, what: str) -> None:
        """Raise `GridError` naming both grids unless they are the same."""
        if not self.same(other):
            raise GridError(f"{what}: grids differ: {self.beside(other)}")

    def beside(self, other: Grid) -> str:
        """Both grids in a line, with their CRS where these differ."""
        if self.same_crs(other):
            return f"{self.describe()} and {other.describe()}"
        return " and ".join(f"{one.describe()} in {one.footprint['crs']}" for one in (self, other))

    def describe(self) -> str:
        """One line: corner, spacing, size."""
        return f"corner ({self.left:.3f}, {self.top:.3f}) spacing {self.dx:g} x {self.dy:g} size {self.width} x {self.height}"


def reach_of_centres(pixels: int, spacing: float) -> float:
    """How far the centres of the outermost of `pixels` pixels in a row lie from the row's middle, in units of the spacing."""
    return 0.5 * (pixels - 1) * spacing
