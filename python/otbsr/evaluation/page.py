"""Quality as one HTML file with its pictures inside: table, spectra, radial frequency plots, error maps, and zooms where the errors are."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from rasterio.enums import Resampling
from rasterio.windows import Window

from otbsr.errors import OutputError
from otbsr.evaluation.comparison import Comparison, SceneFiles, difference_text
from otbsr.evaluation.corrected import PREFIX, Correction
from otbsr.evaluation.streams import Measured
from otbsr.evaluation.windows import Array, Plane, Scene, Source, grown
from otbsr.files import write_text
from otbsr.pairs.alignment import Alignment

ZOOM = 96
"""Side of a zoom, fine pixels."""
SHOWN = 288
"""Side of a zoom in the page, pixels."""
WHOLE = 512
"""Longest side of an error map in the page; larger images show every n-th pixel."""
ZOOMS = 4


@dataclass(frozen=True)
class Views:
    """One scene's files opened as the scores open them: the images by name, the reference and the input; and the images' corrections."""

    images: Mapping[str, Source]
    reference: Source | None
    coarse: Source | None
    factor: int
    border: int
    corrections: Mapping[str, Correction]

    @classmethod
    def open(cls, files: SceneFiles, border: int, scale: float | None, measured: Mapping[str, Measured]) -> Views:
        """Raises as `Scene.open` does."""
        scenes = {name: Scene.open(image, files.reference, files.input, files.mask, border, scale) for name, image in files.images.items()}
        first = next(iter(scenes.values()))
        told = {name: one.alignments["image"] for name, one in measured.items() if "image" in one.alignments}
        corrections = {name: Correction(Alignment.from_json(one), scenes[name].image.grid) for name, one in told.items()}
        return cls({name: scene.image for name, scene in scenes.items()}, first.reference, first.coarse, first.factor, first.border, corrections)

    def corrected(self, name: str, window: Window) -> Plane:
        """An image's reflectance [rows, columns, bands] of a window, corrected; NaN where nothing is."""
        source, correction = self.images[name], self.corrections[name]
        place = int(window.row_off), int(window.col_off), int(window.height), int(window.width)
        wide = grown(place, correction.reach)
        with rasterio.open(source.path) as dataset:
            values, valid = correction.apply(*source.reflectance(source.read(dataset, wide), wide, "page"), place)
        values[:, ~valid] = np.nan
        return np.moveaxis(values, 0, -1)

    def corrected_error(self, name: str, longest: int) -> Plane:
        """Error of the corrected image [rows, columns]; every n-th pixel where it is longer than `longest`."""
        assert self.reference is not None
        grid = self.reference.grid
        step = max(1, -(-max(grid.width, grid.height) // longest))
        rows = 1 if step > 1 else 128
        found = []
        for row in range(0, grid.height, rows if step == 1 else step):
            window = Window(0, row, grid.width, min(rows, grid.height - row))
            found.append(error_of(self.corrected(name, window), read(self.reference, window))[:, ::step])
        return np.concatenate(found)


def read(source: Source, window: Window | None = None, longest: int | None = None) -> Plane:
    """Reflectance [rows, columns, bands] of a window, NaN where nothing is; every n-th pixel where it is longer than `longest`."""
    with rasterio.open(source.path) as dataset:
        window = window or Window(0, 0, dataset.width, dataset.height)
        step = max(1, -(-max(window.width, window.height) // longest)) if longest else 1
        shape = len(source.bands), int(-(-window.height // step)), int(-(-window.width // step))
        found = dataset.read([band.index for band in source.bands], window=window, out_shape=shape, resampling=Resampling.nearest, masked=True)
    values = np.ma.filled(found.astype(np.float64), np.nan)
    for index, band in enumerate(source.bands):
        values[index] = np.where(values[index] == band.nodata, np.nan, values[index]) * band.scale + band.offset
    return np.moveaxis(values, 0, -1)


def png(image: Array) -> str:
    """An image as a data URI."""
    target = io.BytesIO()
    imsave(target, image, format="png")
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()


def picture(figure: Figure) -> str:
    """A figure as a data URI."""
    target = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(target, format="png", dpi=100, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode()


def colours(image: Plane, low: Array, high: Array) -> Array:
    """The first three bands as 8-bit colours, one stretch for all pictures of the page; grey where nothing is."""
    bands = image[..., [0, 1, 2]] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2)
    shown = np.clip((bands - low) / (high - low), 0, 1)
    return np.where(np.isfinite(shown), np.nan_to_num(shown) * 255, 128).astype(np.uint8)


def heat(error: Plane, most: float) -> Array:
    """An error as colours from black (0) over red to yellow (`most`); grey where nothing is."""
    from matplotlib import colormaps

    found = np.asarray(colormaps["inferno"](np.clip(np.nan_to_num(error) / most, 0, 1))[..., :3] * 255).astype(np.uint8)
    found[~np.isfinite(error)] = 128
    return found


def enlarged(image: Array, side: int) -> Array:
    """Pixels repeated to about `side`."""
    times = max(1, side // max(image.shape[:2]))
    return np.repeat(np.repeat(image, times, 0), times, 1)


def error_of(image: Plane, other: Plane) -> Plane:
    """Root mean square over the bands."""
    return np.asarray(np.sqrt(np.mean((image - other) ** 2, axis=-1)))


def spectra(views: Views) -> str:
    """Mean reflectance of each band in images, reference and input."""
    figure = Figure(figsize=(5.2, 3.2))
    axes = figure.add_subplot()
    names = [band.name for band in next(iter(views.images.values())).bands]
    others = [(name, source) for name, source in (("reference", views.reference), ("input", views.coarse)) if source]
    for name, source in [*views.images.items(), *others]:
        values = read(source, longest=1024).reshape(-1, len(names))
        style = {"linestyle": "--", "color": "black" if name == "reference" else "grey"} if (name, source) in others else {}
        axes.errorbar(range(len(names)), np.nanmean(values, 0), np.nanstd(values, 0) / 10, label=name, capsize=3, **style)  # type: ignore[arg-type]
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="mean reflectance (bar: a tenth of the deviation)", title="Spectra")
    axes.legend(fontsize=8)
    return picture(figure)


def radial(measured: Mapping[str, Measured]) -> str | None:
    """Power against the reference, share restored and correlation over frequency, means over the bands; MTF on edges. None without curves."""
    kinds = [
        ("over_reference_db", "power over the reference, dB", "spectrum"),
        ("restored", "share of what the input lacks", "spectrum"),
        ("ring_correlation", "correlation with the reference", "spectrum"),
        ("mtf", "MTF on straight edges", "edge"),
    ]
    used = [kind for kind in kinds if any(any(map(len, getattr(one, kind[2]).get(kind[0], []))) for one in measured.values())]
    if not used:
        return None
    figure = Figure(figsize=(3.2 * len(used), 3.0))
    for number, (key, title, where) in enumerate(used):
        axes = figure.add_subplot(1, len(used), number + 1)
        for place, (name, one) in enumerate(measured.items()):
            curves = getattr(one, where)
            for told, style, label in ((curves, "-", name), (curves.get("corrected", {}), "--", f"{name}, corrected")):
                bands = [band for band in told.get(key, []) if band]
                if bands:
                    values = np.array(bands, np.float64)
                    known = np.isfinite(values).any(0)
                    axes.plot(np.array(curves["frequency"])[known], np.nanmean(values[:, known], 0), style, color=f"C{place}", label=label)
        factor = next(iter(measured.values())).factor
        if factor > 1:
            axes.axvline(0.5 / factor, color="grey", linestyle=":")
        axes.set_xlabel("cycles per pixel")
        axes.set_title(title, fontsize=9)
        axes.legend(fontsize=7)
    figure.tight_layout()
    return picture(figure)


def places(measured: Measured, views: Views) -> list[tuple[str, Window]]:
    """Windows to zoom on: the blocks with the largest errors, and the median one; (why, where)."""
    key = "rmse" if views.reference else "consistency_rmse"
    told = [(value, one) for one in measured.blocks if (value := one.scores.get(key)) is not None and 2 * one.pixels >= one.height * one.width]
    told.sort(key=lambda pair: -pair[0])
    chosen = [(f"{key} {value:.3g}, the {('largest', 'second', 'third')[i]} of the blocks", one) for i, (value, one) in enumerate(told[: ZOOMS - 1])]
    if len(told) >= ZOOMS:
        value, one = told[len(told) // 2]
        chosen.append((f"{key} {value:.3g}, the median of the blocks", one))
    found = []
    grid = next(iter(views.images.values())).grid
    for why, one in chosen:
        side = min(ZOOM // views.factor * views.factor, grid.width, grid.height)
        begin = [(start + (size - side) // 2) // views.factor * views.factor for start, size in ((one.row, one.height), (one.column, one.width))]
        row, column = (min(max(at, 0), total - side) for at, total in zip(begin, (grid.height, grid.width), strict=True))
        found.append((why, Window(column, row, side, side)))
    return found


def zooms(measured: Measured, views: Views, low: Array, high: Array, most: float) -> list[dict[str, Any]]:
    """Each place: where, and the pictures of input, images, their errors and reference with captions."""
    found = []
    for why, window in places(measured, views):
        shown = []
        if views.coarse:
            factor = views.factor
            coarse = Window(window.col_off // factor, window.row_off // factor, window.width // factor, window.height // factor)
            shown.append({"title": "input", "image": png(enlarged(colours(read(views.coarse, coarse), low, high), SHOWN))})
        truth = read(views.reference, window) if views.reference else None
        for name, source in views.images.items():
            image = read(source, window)
            shown.append({"title": name, "image": png(enlarged(colours(image, low, high), SHOWN))})
            if truth is not None:
                shown.append({"title": f"{name}: error", "image": png(enlarged(heat(error_of(image, truth), most), SHOWN))})
                if name in views.corrections:
                    error = error_of(views.corrected(name, window), truth)
                    shown.append({"title": f"{name}: error, corrected", "image": png(enlarged(heat(error, most), SHOWN))})
        if truth is not None:
            shown.append({"title": "reference", "image": png(enlarged(colours(truth, low, high), SHOWN))})
        found.append({"where": f"row {window.row_off}, column {window.col_off}: {why}", "shown": shown})
    return found


def rows(measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """The table: a row a score with the images' values over all bands, before and after correction, and of each band."""

    def text(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}"

    found = []
    for name, one in next(iter(measured.values())).plain.items():
        values = []
        for of in measured.values():
            told, after = of.scores.get(name), of.corrected.get(name)
            values.append({"before": text(told.all if told else None), "after": text(after.all) if after else ""})
        after = next(iter(measured.values())).corrected.get(name)
        bands = [{"before": text(value), "after": ""} for value in one.bands or ()]
        for cell, value in zip(bands, (after.bands if after else None) or (), strict=False):
            cell["after"] = text(value)
        found.append({"name": name, "unit": one.unit, "values": values, "bands": bands})
    return found


def differences(comparison: Comparison) -> list[dict[str, Any]]:
    """The table of differences: a row a score in the table's order, with each further image's difference before and after correction."""
    told = {(one.score, one.image): one for one in comparison.differences}
    found = []
    for name in dict.fromkeys(one.score.removeprefix(PREFIX) for one in comparison.differences):
        cells, units = [], 0
        for image in comparison.images[1:]:
            before, after = (told.get((prefix + name, image)) for prefix in ("", PREFIX))
            cells.append({"before": difference_text(before) if before else "", "after": difference_text(after) if after else ""})
            units = max(units, *(one.units for one in (before, after) if one), 0)
        found.append({"name": name, "cells": cells, "units": units})
    return found


def write_page(
    page: Path,
    scenes: Sequence[SceneFiles],
    measured: Mapping[str, Mapping[str, Measured]],
    comparison: Comparison | None = None,
    *,
    border: int,
    scale: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the page of all scenes; raises `OutputError` for a page that exists without `overwrite` or cannot be written."""
    require_free(page, overwrite)
    parts = []
    for files in scenes:
        found = measured[files.name]
        views = Views.open(files, border, scale, found)
        first = next(iter(found.values()))
        sample = read(views.reference or next(iter(views.images.values())), longest=512)
        stretch = sample[..., :3] if sample.shape[2] >= 3 else np.repeat(sample[..., :1], 3, 2)
        low, high = np.nanpercentile(stretch.reshape(-1, 3), (1, 99), axis=0)
        high = np.maximum(high, low + 1e-6)
        maps, most = [], 1.0
        if views.reference:
            truth = read(views.reference, longest=WHOLE)
            errors = {name: error_of(read(source, longest=WHOLE), truth) for name, source in views.images.items()}
            known = np.concatenate([error[np.isfinite(error)] for error in errors.values()])
            most = max(float(np.percentile(known, 99)), 1e-9) if known.size else 1.0
            for name in views.corrections:
                errors[f"{name}, corrected"] = views.corrected_error(name, WHOLE)
            maps = [{"title": name, "image": png(enlarged(heat(error, most), WHOLE))} for name, error in errors.items()]
        remarks = list(dict.fromkeys(remark for one in found.values() for remark in one.remarks))
        parts.append(
            {
                "name": files.name,
                "facts": f"{first.pixels} pixels, factor {first.factor}, border {first.border}",
                "remarks": remarks,
                "images": list(found),
                "bands": first.bands,
                "rows": rows(found),
                "corrected": bool(first.corrected),
                "spectra": spectra(views),
                "radial": radial(found),
                "maps": maps,
                "most": f"{most:.3g}",
                "zooms": zooms(first, views, low, high, most),
            }
        )
    environment = Environment(
        loader=PackageLoader("otbsr.evaluation", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rows_ = differences(comparison) if comparison else []
    after = any(cell["after"] for row in rows_ for cell in row["cells"])
    html = environment.get_template("quality.html").render(scenes=parts, comparison=comparison, differences=rows_, corrected=after)
    write_text(page, html, "choose another place")
    return page


def require_free(page: Path, overwrite: bool) -> None:
    """Raise `OutputError` for a page that exists, before anything is computed."""
    if page.exists() and not overwrite:
        raise OutputError(f"{page}: exists already; choose another name or give --overwrite")
