"""The report: one HTML file with its images inside, made again at any time from study.json and the study's rasters."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.image import imsave
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from otbsr.errors import InputError, OutputError
from otbsr.evaluation.statistics import Interval
from otbsr.grid import Grid
from otbsr.progress import Report, silent

CHIP = 120
"""Side of a zoom in fine pixels: 300 m."""
CHIP_SIZE = 360
"""Side of a zoom in the page, pixels."""
OVERVIEW_SIZE = 560
SEEN = {
    "unseen": "the network was trained on other landscapes, none with this seed",
    "untrained": "the model is a fixed interpolation, not trained at all",
    "unknown": "whether the network was trained on this area is not known: its model.json lists no seeds of landscapes",
}
"""What the page says of the network and this area, by `refuse_leak`'s answer."""
MEASURES = {"macro_f1": "macro-F1", "accuracy": "overall accuracy", "kappa": "kappa", "artificial_f1": "artificial-surface F1"}


def write_report(folder: str | Path, report: Report = silent) -> Path:
    """Write `folder`/report.html from study.json, the arms' images and maps; return its path.

    Raises `InputError` when the study is not finished or its area is gone, `OutputError` when the page cannot be written.
    """
    folder = Path(folder)
    try:
        content: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no finished study in it (study.json: {error}); run `otbsr study` first") from error
    world = Path(os.path.normpath(folder.resolve() / content["world"]["path"]))
    if not (world / "reference_2m5.tif").is_file():
        raise InputError(f"{world}: the study's area is gone; simulate it again with the same settings, or run the study again")
    report("report", 0.0)
    images = {name: folder / "arms" / name / "image_2m5.tif" for name in content["arms"]} | {"reference": world / "reference_2m5.tif"}
    maps = {name: folder / "arms" / name / "map_0.tif" for name in content["arms"]} | {"reference": folder / "test_2m5.tif"}
    titles = {name: arm["title"] for name, arm in content["arms"].items()} | {"reference": "Reference"}
    low, high = stretch(images["reference"])
    colours = palette(content["classes"])
    windows = chips(folder / "test_2m5.tif", content["classes"])
    zooms = []
    for number, window in enumerate(windows):
        rows = [
            {"title": titles[name], "image": png(colour(images[name], window, low, high)), "map": png(paint(maps[name], window, colours))} for name in images
        ]
        zooms.append({"where": position(maps["reference"], window), "arms": rows})
        report("report", (number + 1) / (len(windows) + 1))
    with rasterio.open(maps["reference"]) as dataset:
        whole = Window(0, 0, dataset.width, dataset.height)
    overview = [
        {
            "title": titles[name],
            "image": png(colour(images[name], whole, low, high, OVERVIEW_SIZE)),
            "map": png(paint(maps[name], whole, colours, OVERVIEW_SIZE)),
        }
        for name in ("bicubic", "f", "reference")
        if name in images
    ]
    environment = Environment(
        loader=PackageLoader("otbsr.evaluation", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(points=points, decimal=decimal, spread=spread, shown=shown, shares=shares, bar=forest)
    html = environment.get_template("report.html").render(
        study=content,
        zooms=zooms,
        overview=overview,
        titles=titles,
        measures={key: name for key, name in MEASURES.items() if key in content["arms"]["f"]},
        seen=SEEN[content["model"]["area"]],
        limits=limits(content),
        scale_bar=300,
    )
    page, temporary = folder / "report.html", folder / ".report.html.part"
    try:
        temporary.write_text(html, encoding="utf-8")
        os.replace(temporary, page)
    except OSError as error:
        raise OutputError(f"{page}: cannot be written ({error.strerror}); check the free space") from error
    report("report", 1.0)
    return page


def points(value: float) -> str:
    """A share as points: 0.0123 -> +1.2."""
    return f"{100 * value:+.1f}".replace("-", "−")


def decimal(value: float, digits: int = 1, scale: float = 100.0) -> str:
    """A share in percent, without sign."""
    return f"{scale * value:.{digits}f}"


def spread(change: dict[str, float]) -> str:
    """An interval as points: [-0.4, +2.1]."""
    return f"[{points(change['low'])}, {points(change['high'])}]"


def shown(change: dict[str, float]) -> str:
    """CSS class of a difference: better, worse, or none shown."""
    interval = Interval(**change)
    return "none" if not interval.shown else "better" if interval.value > 0 else "worse"


def shares(matrix: list[list[list[int]]]) -> list[list[float]]:
    """Row-normalised sum of confusion matrices: share of each reference class mapped as each class."""
    total = np.sum(np.array(matrix, dtype=float), axis=0)
    return (total / np.maximum(total.sum(1, keepdims=True), 1)).tolist()  # type: ignore[no-any-return]


def forest(change: dict[str, float], reach: float) -> dict[str, float]:
    """Where a forest plot's line and dot lie, in percent of the width, for differences -reach..reach."""
    place = lambda value: round(50 + 50 * max(-1.0, min(1.0, value / reach)), 2)  # noqa: E731
    return {
        "low": place(change["low"]),
        "high": place(change["high"]),
        "value": place(change["value"]),
        "width": round(place(change["high"]) - place(change["low"]), 2),
    }


def stretch(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The 1 % and 99 % quantiles of red, green and blue: one stretch for every image of the page."""
    with rasterio.open(path) as dataset:
        sample = dataset.read([1, 2, 3], out_shape=(3, min(512, dataset.height), min(512, dataset.width)))
    low, high = np.percentile(sample.reshape(3, -1), (1, 99), axis=1)
    return low.astype(np.float32), np.maximum(high, low + 1).astype(np.float32)


def colour(path: Path, window: Window, low: NDArray[np.float32], high: NDArray[np.float32], size: int = CHIP_SIZE) -> NDArray[np.uint8]:
    """A window of a 4-band image as true colours (size, size, 3): pixels repeated when enlarged, averaged when reduced."""
    how = Resampling.nearest if size >= window.width else Resampling.average
    with rasterio.open(path) as dataset:
        pixels = dataset.read([1, 2, 3], window=window, out_shape=(3, round(size * window.height / window.width), size), resampling=how).astype(np.float32)
    share = np.clip((np.moveaxis(pixels, 0, -1) - low) / (high - low), 0, 1) ** 0.8
    return np.rint(255 * share).astype(np.uint8)


def paint(path: Path, window: Window, colours: NDArray[np.uint8], size: int = CHIP_SIZE) -> NDArray[np.uint8]:
    """A window of a map in the legend's colours (size, size, 3)."""
    with rasterio.open(path) as dataset:
        labels = dataset.read(1, window=window, out_shape=(round(size * window.height / window.width), size), resampling=Resampling.nearest)
    painted: NDArray[np.uint8] = colours[np.minimum(labels, len(colours) - 1)]
    return painted


def palette(classes: list[dict[str, Any]]) -> NDArray[np.uint8]:
    """Colours by class code (codes + 1, 3); code 0 is light grey: not a test area."""
    colours = np.full((max(int(one["code"]) for one in classes) + 1, 3), 225, np.uint8)
    for one in classes:
        colours[int(one["code"])] = list(bytes.fromhex(one["colour"].lstrip("#")))
    return colours


def chips(reference: Path, classes: list[dict[str, Any]], number: int = 3) -> list[Window]:
    """The `number` windows of CHIP pixels, wholly in test blocks and apart, with the most edges of artificial surfaces."""
    with rasterio.open(reference) as dataset:
        labels = dataset.read(1)
    artificial = np.isin(labels, [int(one["code"]) for one in classes if one.get("artificial")] or [int(classes[0]["code"])])
    edges = np.zeros(labels.shape, bool)
    edges[:, 1:] |= artificial[:, 1:] != artificial[:, :-1]
    edges[1:] |= artificial[1:] != artificial[:-1]
    side = min(CHIP, *labels.shape)
    step = max(1, side // 2)
    found = []
    for top in range(0, labels.shape[0] - side + 1, step):
        for left in range(0, labels.shape[1] - side + 1, step):
            inside = labels[top : top + side, left : left + side]
            if inside.all():
                found.append((float(edges[top : top + side, left : left + side].mean()), -top, -left))
    chosen: list[tuple[int, int]] = []
    for _, top, left in sorted(found, reverse=True):
        if all(max(abs(-top - other[0]), abs(-left - other[1])) >= 2 * side for other in chosen):
            chosen.append((-top, -left))
        if len(chosen) == number:
            break
    return [Window(left, top, side, side) for top, left in chosen] or [Window(0, 0, side, side)]


def position(path: Path, window: Window) -> str:
    """Where a window's upper-left corner lies, in CRS units."""
    x, y = Grid.read(path).corner(window.col_off, window.row_off)
    return f"corner E {x:.0f} m, N {y:.0f} m"


def png(pixels: NDArray[np.uint8]) -> str:
    """An RGB image as a data URI."""
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def faults(settings: dict[str, Any]) -> str:
    """The simulated faults of the Spot image besides noise, from the area's settings."""
    east, north = settings.get("shift") or (0.0, 0.0)
    found = [f"a shift of {east:g} m east and {north:g} m north"] if (east, north) != (0, 0) else []
    found += [f"a gain of {settings['gain']:g}"] if settings.get("gain", 1.0) != 1 else []
    found += [f"a bias of {settings['bias']:g}"] if settings.get("bias", 0.0) != 0 else []
    found += [f"{settings['date_gap']} days between the dates"] if settings.get("date_gap", 0) else []
    return f" and {', '.join(found)}" if found else ", but no misregistration, gain, bias or other date here, unlike real pairs"


def split_limit(content: dict[str, Any]) -> str:
    """What the answer owes to the split: the change of each fold, or that there is only one."""
    if content["protocol"]["folds"] == 1:
        return "One half of the area is judged, the other trains: with --folds 2 both are, and the answer may be another."
    by_fold = [content["arms"][name]["macro_f1_by_fold"] for name in ("f", content["baseline"])]
    changes = " and ".join(points(f - base) for f, base in zip(*by_fold, strict=True))
    return (
        f"Two folds swap training and test blocks; the change of macro-F1 over bicubic is {changes} points in them. "
        "Their learners differ and each judges many blocks, which the draw of blocks does not count: the interval may be somewhat too narrow."
    )


def limits(content: dict[str, Any]) -> list[str]:
    """What a reader must know before using the answer, with this study's numbers."""
    counts, protocol = content["counts"], content["protocol"]
    settings = content["world"]["settings"]
    lines = [
        f"The area is simulated (seed {settings.get('seed', 'unknown')}). Materials, sensor and noise are models: "
        "the answer holds for real land only as far as they do.",
        f"One area, {counts['blocks']['test']} test blocks of about {protocol['block']:g} m. The interval covers the draw of test blocks"
        + (f" and of training samples ({protocol['repeats']} repeats)" if protocol["repeats"] > 1 else "")
        + ", not other training polygons, landscapes, dates or sensors.",
        "Training and test blocks alternate like a chequerboard, "
        f"{protocol['buffer']:g} m apart for the training polygons. Neighbouring blocks still resemble each other, which flatters every arm.",
        split_limit(content),
        "Four bands of one date. With 13 bands or a time series, the native image classifies better and the gain may be smaller.",
        "Differences are not corrected for the number of arms and classes looked at: of twenty independent ones, one is expected to leave out zero by chance.",
        f"The Spot oracle has Spot's own noise{faults(settings)}: it is what better data would give, not an upper bound of what is possible.",
    ]
    fewest = np.array(counts["polygons"]).min(axis=0).tolist()
    weak = [str(one["name"]) for one, number, test in zip(content["classes"], fewest, counts["test_pixels"], strict=True) if test and number < 3]
    absent = [str(one["name"]) for one, test in zip(content["classes"], counts["test_pixels"], strict=True) if not test]
    if content["model"]["area"] == "unknown":
        lines.append("The network's model.json lists no seeds of landscapes: had it been trained on this area, method F would look better than it is.")
    if counts["blocks"]["test"] < 10:
        lines.append(f"Only {counts['blocks']['test']} test blocks: percentile intervals from so few blocks tend to be too narrow.")
    if weak:
        lines.append(f"Fewer than 3 training polygons{' in one of the folds' if protocol['folds'] > 1 else ''}: {', '.join(weak)}. Their F1 says little.")
    if absent:
        lines.append(f"Not in the test blocks, left out of macro-F1: {', '.join(absent)}.")
    worse = [
        f"{one['name']} ({points(change['value'])}, {spread(change)})"
        for one, change in zip(content["classes"], content["arms"]["f"]["class_difference"], strict=True)
        if Interval(**change).shown and change["value"] < 0
    ]
    lines.append(
        f"Classes that method F made worse: {', '.join(worse)}." if worse else "No class was shown to be worse with method F; that is not proof that none is."
    )
    return lines
