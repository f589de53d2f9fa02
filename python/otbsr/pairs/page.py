"""The page to look at pairs: what was estimated, samples of the pairs, and of the rejected patches under their reasons; one HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.image import imsave
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from otbsr.pairs.patches import SPLITS
from otbsr.pairs.rejection import REASONS
from otbsr.progress import Report, silent

SIDE = 128
"""Of a thumbnail, pixels."""
SHOWN = {"train": 18, "valid": 6, "rejected": 6}
"""Samples of each split, and of each reason."""


def write_page(
    path: Path, manifest: Mapping[str, Any], lr: Path, target: Path, table: Mapping[str, NDArray[Any]], chosen: Mapping[str, NDArray[np.int64]],
    report: Report = silent,
) -> None:  # fmt: skip
    """Write the page. table: corners, reason and measures of all candidates; chosen: rows of each split's patches in it."""
    random = np.random.default_rng(0)
    groups: list[tuple[str, NDArray[np.int64], int]] = [(name, chosen[name], SHOWN[name]) for name in SPLITS]
    groups += [(f"rejected: {reason}", np.flatnonzero(table["reason"] == i), SHOWN["rejected"]) for i, reason in enumerate(REASONS) if reason]
    sections = []
    with rasterio.open(lr) as coarse, rasterio.open(target) as fine:
        images = [(coarse, colours(coarse), 1), (fine, colours(fine), manifest["factor"])]
        limits = stretch(*images[0][:2])
        for number, (name, rows, count) in enumerate(groups):
            sample = np.sort(random.permutation(rows)[:count])
            items = []
            for row in sample.tolist():
                top, left = (int(value) for value in table["corners"][row])
                size = manifest["patch"]
                pictures = []
                for image, bands, factor in images:
                    window = Window(left * factor, top * factor, size * factor, size * factor)
                    pictures.append(picture(image.read(bands, window=window, out_shape=(len(bands), SIDE, SIDE), resampling=Resampling.nearest), limits))
                measures = {key: float(table[key][row]) for key in ("residual", "likeness", "changed", "artificial")}
                items.append(
                    {"corner": f"{top}, {left}", "pictures": pictures, "masked": float(table["input_hidden"][row] + table["target_hidden"][row])} | measures
                )
            if len(rows):
                sections.append({"name": name, "count": len(rows), "items": items})
            report("page", (number + 1) / len(groups))
        overviews = [picture(image.read(bands, out_shape=(len(bands), *overview(image)), resampling=Resampling.average), limits) for image, bands, _ in images]
    environment = Environment(
        loader=PackageLoader("otbsr.pairs", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    path.write_text(environment.get_template("pairs.html").render(manifest=manifest, sections=sections, overviews=overviews), encoding="utf-8")


def overview(image: rasterio.DatasetReader, longest: int = 480) -> tuple[int, int]:
    """(rows, columns) of an image's overview."""
    share = longest / max(image.width, image.height)
    return max(1, round(image.height * share)), max(1, round(image.width * share))


def colours(image: rasterio.DatasetReader) -> list[int]:
    """Bands to show as red, green and blue; the first one where there are no such."""
    names = list(image.descriptions)
    return [names.index(name) + 1 for name in ("B4", "B3", "B2")] if {"B4", "B3", "B2"} <= set(names) else [1, 1, 1]


def stretch(image: rasterio.DatasetReader, bands: list[int]) -> tuple[float, float]:
    """2nd and 98th percentile of what is shown, the same for all pictures."""
    values = image.read(bands, out_shape=(len(bands), *overview(image)), resampling=Resampling.nearest)
    known = values[values != (image.nodata if image.nodata is not None else -10000)]
    low, high = np.percentile(known, (2, 98)) if known.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1))


def picture(values: NDArray[Any], limits: tuple[float, float]) -> str:
    """[3, h, w] as a PNG in a data URL; no-data is black."""
    shown = np.clip((values.astype(np.float32) - limits[0]) / (limits[1] - limits[0]), 0, 1)
    buffer = io.BytesIO()
    imsave(buffer, (255 * shown.transpose(1, 2, 0)).astype(np.uint8), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
