"""What lies between an image and the reference (displacement, gain, bias, blur), and the image with displacement, gain and bias taken away.

PSNR between two sensors is mostly their displacement and calibration: scores are told before and after. The blur is told only; to take
it away would be to sharpen. Scores that look at the input too have it corrected by what lies between it and the reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import ndimage

from otbsr.errors import InputError
from otbsr.evaluation.measures import Score, score
from otbsr.evaluation.windows import Mask, Place, Plane, Scene, Source, spread
from otbsr.grid import Grid
from otbsr.pairs.alignment import Alignment, AlignmentSettings, estimate
from otbsr.progress import Report, silent

DECAY = 20
"""Pixels over which a cubic spline forgets the image's edge: below 1e-11."""
SPOILED = 6
"""Pixels around one without data that a spline makes useless: 4e-4 of the step is left beyond."""

ROUNDING = 1e-9
"""Pixels of displacement that are float64's, not the ground's."""
PREFIX = "corrected_"
"""Of the names of scores and maps of the corrected image."""

SETTINGS = AlignmentSettings(window=48, most=24, field=1)
"""For two images of one grid: 55,000 pixels tell the displacement to some thousandths of a pixel."""


class View:
    """A file as `alignment.estimate` reads images: [bands, rows, columns] of reflectance with NaN where nothing counts."""

    def __init__(self, source: Source, dataset: rasterio.DatasetReader, border: int, mask: tuple[Source, rasterio.DatasetReader] | None) -> None:
        self.source, self.dataset, self.border, self.mask = source, dataset, border, mask
        self.grid, self.names = source.grid, tuple(band.name for band in source.bands)

    def read(self, window: Window) -> NDArray[np.float32]:
        """Values of an integer window that may reach beyond the image (NaN there)."""
        place: Place = (int(window.row_off), int(window.col_off), int(window.height), int(window.width))
        values, valid = self.source.reflectance(self.source.read(self.dataset, place), place, "view")
        for axis, total in ((0, self.grid.height), (1, self.grid.width)):
            index = np.arange(place[axis], place[axis] + place[axis + 2])
            inside = (index >= self.border) & (index < total - self.border)
            valid = valid & (inside[:, None] if axis == 0 else inside[None, :])
        if self.mask and self.mask[0].grid.dx >= self.grid.dx:
            source, dataset = self.mask
            ratio = round(source.grid.dx / self.grid.dx)
            at = Scene.covered(place, ratio)
            marks, _ = source.reflectance(source.read(dataset, at), at, "mask")
            skip = place[0] % ratio, place[1] % ratio
            valid = valid & spread(marks[0] != 0, ratio)[skip[0] : skip[0] + place[2], skip[1] : skip[1] + place[3]]
        found: NDArray[np.float32] = values.astype(np.float32)
        found[:, ~valid] = np.nan
        return found


@dataclass(frozen=True)
class Correction:
    """Moves an image's content onto the reference and gives it its radiometry: (image(x - shift(x)) - bias) / gain.

    alignment: of the image, or of the input, to the reference; grid: of that image.
    """

    alignment: Alignment
    grid: Grid

    @property
    def most(self) -> float:
        """The largest displacement in the image, pixels along an axis."""
        left, right, top, bottom = self.grid.left, self.grid.right, self.grid.top, self.grid.bottom
        places = [(x, y) for x in (left, (left + right) / 2, right) for y in (bottom, (bottom + top) / 2, top)]
        return max(abs(part) for place in places for part in self.alignment.field.at(*place)) / min(self.grid.dx, self.grid.dy)

    @property
    def reach(self) -> int:
        """Pixels around a window that are needed."""
        return math.ceil(self.most) + DECAY

    def displacement(self, rows: Plane, columns: Plane) -> tuple[Plane, Plane]:
        """(down, right) in pixels by which things that belong at these pixels lie off their place in the image."""
        field = self.alignment.field
        x, y = self.grid.centre(columns, rows)  # type: ignore[arg-type]
        left, bottom, right, top = field.bounds
        terms = field.terms(np.clip(x, left, right).ravel(), np.clip(y, bottom, top).ravel())
        east, north = (np.reshape(terms @ np.array(part), rows.shape) for part in (field.east, field.north))
        return north / self.grid.dy, -east / self.grid.dx

    def apply(self, values: Plane, valid: Mask, place: Place) -> tuple[Plane, Mask]:
        """Values and validity of `place`, from those of the window with `reach` pixels around it.

        Beyond the image's edges its last pixels go on, so that a spline is as good there as elsewhere; nothing is made up for places
        whose content lies beyond the last pixels' centres.
        """
        row, column, height, width = place
        reach = self.reach
        values, valid = self.continued(values, valid, row - reach, column - reach)
        rows, columns = np.mgrid[row : row + height, column : column + width].astype(np.float64)
        down, right = self.displacement(rows, columns)
        down, right = down + rows, right + columns
        last = self.grid.height - 1, self.grid.width - 1
        inside = np.abs(down - last[0] / 2) < last[0] / 2 + 1e-6
        inside &= np.abs(right - last[1] / 2) < last[1] / 2 + 1e-6
        at = down - row + reach, right - column + reach
        if not valid.all():
            lost = ndimage.binary_dilation(~valid, np.ones((3, 3)), iterations=SPOILED)
            inside &= ndimage.map_coordinates(lost.astype(np.float64), at, order=1, mode="constant", cval=1.0) < 1e-6
        found = np.empty((len(values), height, width))
        for band, plane in enumerate(values):
            found[band] = (ndimage.map_coordinates(plane, at, order=3, mode="mirror") - self.alignment.bias[band]) / self.alignment.gain[band]
            found[band][~inside] = 0.0
        return found, inside

    def continued(self, values: Plane, valid: Mask, row: int, column: int) -> tuple[Plane, Mask]:
        """A window that begins at (row, column) with the image's outermost pixels repeated where it reaches beyond the image."""
        spans = []
        for begin, size, total in ((row, valid.shape[0], self.grid.height), (column, valid.shape[1], self.grid.width)):
            spans.append((max(-begin, 0), max(begin + size - total, 0)))
        if not any(part for span in spans for part in span):
            return values, valid
        inside = tuple(slice(before, size - after) for (before, after), size in zip(spans, valid.shape, strict=True))
        return np.pad(values[(slice(None), *inside)], ((0, 0), *spans), mode="edge"), np.pad(valid[inside], spans, mode="edge")


def between(scene: Scene, what: str, report: Report = silent) -> Alignment | str:
    """What lies between the reference and the "image" or the "input" (`alignment.estimate`); why it cannot be told where it cannot."""
    assert scene.reference is not None
    source = scene.image if what == "image" else scene.coarse
    assert source is not None
    with rasterio.open(scene.reference.path) as fine, rasterio.open(source.path) as coarse:
        mask = (scene.mask, rasterio.open(scene.mask.path)) if scene.mask else None
        try:
            border = scene.border if what == "image" else scene.border // scene.factor
            views: list[Any] = [View(scene.reference, fine, scene.border, mask), View(source, coarse, border, mask)]
            return estimate(views[0], views[1], SETTINGS if what == "image" else None, report)
        except InputError as error:
            return f"what lies between reference and {what} cannot be told: {error}"
        finally:
            if mask:
                mask[1].close()


def rows_of(alignment: Alignment, prefix: str, grid: Grid) -> dict[str, Score]:
    """What was found as scores: displacement of the image in the reference's pixels (down, right), its range, gain, bias, blur, windows used.

    image = gain * blurred reference + bias, things in the image lie `shift` off their place in the reference.
    """
    bounds, field = alignment.field.bounds, alignment.field
    places = [field.at(x, y) for x in np.linspace(bounds[0], bounds[2], 9) for y in np.linspace(bounds[1], bounds[3], 9)]
    apart = max(math.hypot((e - alignment.shift[0]) / grid.dx, (n - alignment.shift[1]) / grid.dy) for e, n in places)
    return {
        f"{prefix}_shift_rows": Score(alignment.shift[1] / grid.dy, None, "pixels"),
        f"{prefix}_shift_columns": Score(-alignment.shift[0] / grid.dx, None, "pixels"),
        f"{prefix}_shift_error": Score(math.hypot(alignment.precision[0] / grid.dx, alignment.precision[1] / grid.dy), None, "pixels"),
        f"{prefix}_shift_range": Score(apart if apart > ROUNDING else 0.0, None, "pixels"),
        f"{prefix}_gain": score(np.array(alignment.gain)),
        f"{prefix}_bias": score(np.array(alignment.bias), "reflectance"),
        f"{prefix}_blur": score(np.array(alignment.sigma) / grid.dx, "pixels"),
        f"{prefix}_windows": Score(float(alignment.used), None, ""),
    }
