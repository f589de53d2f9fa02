"""The report: one HTML file with its images inside, made again at any time from study.json and the study's rasters.

Every number on the page is in study.json; this file chooses words, colours and places. Pictures are read from the maps and images.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from otbsr.errors import InputError, first_line
from otbsr.evaluation.answer import ALPHA, points, spread
from otbsr.evaluation.study_maps import FORMAT
from otbsr.files import write_text
from otbsr.grid import Grid
from otbsr.progress import Report, silent

Pixels = NDArray[np.uint8]

FOREST = ("macro_f1", "accuracy", "artificial_f1", "boundary_f1_1", "macro_f1_10m", "fraction_rmse", "false_buildings")
"""Measures of the forest plot."""
SUMMARY = ("macro_f1", "accuracy", "kappa", "artificial_f1", "boundary_f1_1", "macro_f1_10m", "fraction_rmse", "artificial_bias")
"""Columns of the first table."""
PLOTTED = ("native", "bicubic", "f", "p", "unsharp", "spot")
"""Arms in the curves, beside the baseline and the lead: more lines cannot be told apart without colour."""
STYLES = (
    ("#111111", "-", "o"), ("#20558a", "--", "s"), ("#b3261e", "-.", "^"), ("#14724a", ":", "D"), ("#8a6d00", (0, (5, 1)), "v"),
    ("#6b4a8f", (0, (1, 1)), "x"), ("#555555", (0, (3, 1, 1, 1, 1, 1)), "+"), ("#b06000", "-", "*"),
)  # fmt: skip
"""Colour, line and marker of a curve: told apart in grey too."""
FEW = 20
"""Reference objects below which a recall says little."""
SMALL_CLASS = 1.0
"""Hectares of reference below which a class's F1 says little."""


def write_report(folder: str | Path, report: Report = silent) -> Path:
    """Write `folder`/report.html from study.json, images and maps; return its path.

    Raises `InputError` when the study is not finished or a map is gone, `OutputError` when the page cannot be written.
    """
    folder = Path(folder)
    try:
        study: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        runs: list[dict[str, Any]] = json.loads((folder / "maps.json").read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: no finished study in it ({error}); run `otbsr study` first") from error
    if study.get("format") != FORMAT:
        raise InputError(f"{folder}/study.json: format {study.get('format')}, expected {FORMAT}; run `otbsr report {folder}` to make it again")
    report("report", 0.0)
    pictures = Pictures(folder, study, runs)
    try:
        scenes = [pictures.scene(one) for one in study["scenes"]]
        report("report", 0.5)
        examples = [pictures.example(one) for one in study["examples"]]
    except RasterioError as error:
        raise InputError(f"{folder}: a map or image cannot be read ({first_line(error)}); run `otbsr study` again") from error
    report("report", 0.8)
    environment = Environment(
        loader=PackageLoader("otbsr.evaluation", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(points=points, spread=spread, shown=shown, change=change, number=number, marked=marked, bar=bar, words=words)
    html = environment.get_template("report.html").render(
        study=study,
        titles={one["name"]: one["title"] for one in study["arms"]},
        learner=study["learners"][0],
        scenes=scenes,
        scene_data={str(place): {layer["key"]: layer["image"] for layer in scene["layers"]} for place, scene in enumerate(scenes)},
        examples=examples,
        plots=plots(study),
        forest=[key for key in FOREST if key in study["measures"]],
        summary=[key for key in SUMMARY if key in study["measures"]],
        limits=limits(study),
    )
    page = folder / "report.html"
    write_text(page, html)
    report("report", 1.0)
    return page


# --- words and numbers ----------------------------------------------------------------------------------------------------------


def number(value: float | None, unit: str) -> str:
    """A measure's value by its unit: shares in percent, rates with two digits, indices with three."""
    if value is None:
        return "–"
    text = f"{100 * value:.1f}" if unit == "%" else f"{value:.2f}" if unit == "/ha" else f"{value:.3f}"
    return text.replace("-", "−")


def change(value: float | None, unit: str) -> str:
    """A difference with its sign, in points where the unit is percent."""
    if value is None:
        return "–"
    return points(value) if unit == "%" else f"{value:+.2f}".replace("-", "−") if unit == "/ha" else f"{value:+.3f}".replace("-", "−")


def shown(one: dict[str, Any], better: int = 1) -> str:
    """CSS class of a difference: better, worse, moved (where neither is), or none shown."""
    low, high = one["low"], one["high"]
    if low is None or high is None or low <= 0 <= high:
        return "none"
    return "moved" if better == 0 else "better" if (low > 0) == (better > 0) else "worse"


def marked(one: dict[str, Any], better: int = 1) -> str:
    """A sign for what colour says too: filled where it holds after Holm's correction over arms, hollow where only the interval leaves out zero."""
    said = shown(one, better)
    held = one.get("holm") is not None and one["holm"] < ALPHA
    return {"better": "▲" if held else "△", "worse": "▼" if held else "▽", "moved": "◆" if held else "◇"}.get(said, "")


def bar(one: dict[str, Any], reach: float) -> dict[str, float]:
    """Where a forest plot's line and dot lie, in percent of the width, for differences -reach..reach, with 2 % free at the ends."""
    place = lambda value: round(50 + 48 * max(-1.0, min(1.0, (value or 0.0) / reach)), 2)  # noqa: E731
    return {"low": place(one["low"]), "high": place(one["high"]), "value": place(one["value"])}


def words(value: Any) -> str:
    """A setting in a line: tables and lists without JSON's quotes, runs of whole numbers as ranges."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(one)}" for key, one in value.items()) if value else "none"
    if isinstance(value, list):
        return "none" if not value else ranges(value) if all(type(one) is int for one in value) and len(value) > 3 else " ".join(words(one) for one in value)
    return "none" if value is None or value == "" else {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def ranges(values: list[int]) -> str:
    """Whole numbers as runs: 1 2 3 7 -> 1–3 7."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], value]
        else:
            runs.append([value])
    return " ".join("–".join(map(str, run)) for run in runs)


def several(count: float, noun: str) -> str:
    """A number with its noun: 1 area, 3 areas."""
    return f"{count:g} {noun}{'' if count == 1 else 's'}"


def limits(study: dict[str, Any]) -> list[str]:
    """What a reader must know before using the answer, with this study's numbers."""
    learner, lead, base = study["learners"][0], study["lead"], study["baseline"]
    titles = {one["name"]: one["title"] for one in study["arms"]}
    clusters, protocol, names = study["clusters"], study["protocol"], [one["name"] for one in study["classes"]]
    lines = []
    simulated = sum(bool(one.get("simulated")) for one in study["areas"])
    if simulated:
        which = "The area is" if len(study["areas"]) == 1 else "All areas are" if simulated == len(study["areas"]) else f"{simulated} of the areas are"
        lines.append(f"{which} simulated. Materials, sensor and noise are models: the answer holds for real land only as far as they do.")
    repeats = clusters["repeats"][learner]
    drawn = f"{several(clusters['areas'], 'area')}, {several(clusters['blocks'], 'test block')}. "
    if clusters["unit"] == "area":
        drawn += "Areas were drawn whole for the intervals, so that they say what other areas of this kind would give"
    else:
        drawn += f"Fewer than {study['settings']['enough_areas']} areas: blocks were drawn, and the intervals hold for these areas only, not for others"
    drawn += f"; the draw of training samples is in them ({repeats} repeats)." if repeats > 1 else "; another draw of training samples is not in them."
    lines.append(drawn)
    if protocol.get("pool"):
        lines.append("Areas share their learners, so that they are not quite independent of each other, which the intervals take them to be.")
    if clusters["number"] < 10:
        lines.append(f"Only {clusters['number']} {clusters['unit']}s were drawn: intervals from so few are rough, though they are widened for it.")
    block = {float(one["block_size"]) for one in study["areas"] if one.get("block_size")}
    if block:
        buffer = f", {float(protocol['buffer']):g} m apart from the training samples" if isinstance(protocol.get("buffer"), (int, float)) else ""
        sides = " or ".join(f"{one:g}" for one in sorted(block))
        lines.append(f"Test blocks are {sides} m wide{buffer}. Neighbouring blocks still resemble each other, which flatters every arm.")
    chosen = f"{study['measures'][study['primary']]['name']}, {study['learner_names'][learner]}"
    lines.append(
        "Holm's correction counts the arms of one measure; measures, classes and learners are not counted: of twenty independent ones, "
        f"one is expected to leave out zero by chance. The measure of the answer ({chosen}) was chosen beforehand."
    )
    rows = study["results"][learner]
    if lead in rows and base in rows[lead]["difference"]:
        one = rows[lead]["difference"][base][study["primary"]]
        if one["detectable"] is not None:
            lines.append(
                f"A true difference of macro-F1 below {100 * one['detectable']:.1f} points between {titles[lead]} and {titles[base]} "
                "would have been missed more often than one time in five."
            )
        worse = [
            f"{name} ({points(each['value'])}, {spread(each)})"
            for name, each in zip(names, rows[lead]["class_difference"][base]["f1"], strict=True)
            if shown(each) == "worse"
        ]
        lines.append(
            f"Classes that {titles[lead]} made worse: {', '.join(worse)}."
            if worse
            else f"No class was shown to be worse with {titles[lead]}; that is not proof that none is."
        )
    hectares = np.sum([one["class_hectares"] for one in study["areas"]], axis=0)
    absent = [name for name, size in zip(names, hectares, strict=True) if size == 0]
    small = [f"{name} ({size:.2f} ha)" for name, size in zip(names, hectares, strict=True) if 0 < size < SMALL_CLASS]
    if absent:
        lines.append(f"Not in the test blocks, left out of macro-F1: {', '.join(absent)}.")
    if small:
        lines.append(f"Little reference: {', '.join(small)}. Their F1 says little.")
    buildings = study["bins_reference"].get("buildings", [])
    few = [f"{name} ({count:g})" for name, count in zip(study["bins"]["sizes"], buildings, strict=False) if count < FEW]
    if few:
        lines.append(f"Few reference buildings: {', '.join(few)}. Their recall says little.")
    if any(one.get("oracle") for one in study["arms"]):
        lines.append("The oracle has its own sensor's noise, date and place: it is what better data would give, not an upper bound of what is possible.")
    lines.append(
        f"Objects are seen to {study['settings']['halo_pixels']} pixels beyond a window. A road's width is its local thickness, which is larger at junctions. "
        "A map's boundaries at the edges of test blocks, where one fold's map meets another's, count as any other."
    )
    lines += study["warnings"]
    return lines


# --- plots ----------------------------------------------------------------------------------------------------------------------


def plots(study: dict[str, Any]) -> dict[str, str]:
    """The curves as SVG images by name: sizes, widths, risk, calibration; those without data are left out."""
    learner = study["learners"][0]
    rows = study["results"][learner]
    titles = {one["name"]: one["title"] for one in study["arms"]}
    arms = [name for name in rows if name in (*PLOTTED, study["baseline"], study["lead"])][: len(STYLES)]
    found = {}
    series: list[tuple[str, Sequence[float], Sequence[float | None], Sequence[tuple[float | None, float | None]] | None]]
    for key, stem, label in (("sizes", "building_recall", "area of the building"), ("widths", "road_recall", "width of the road")):
        bins = study["bins"][key]
        series = []
        for arm in arms:
            values = [rows[arm]["values"].get(f"{stem}_{place}") for place in range(len(bins))]
            known = [one for one in values if one is not None]
            if len(known) == len(bins):
                series.append((titles[arm], list(range(len(bins))), [one["value"] for one in known], [(one["low"], one["high"]) for one in known]))
        if series:
            found[key] = draw(series, label, "pixels mapped, %", ticks=bins, bold=titles[study["lead"]])
    curves = study["risk"].get(learner, {}).get("curves", {})
    if curves:
        series = [(name, curve["coverage"], curve["risk"], None) for name, curve in curves.items()]
        series.append(("any order", [0.0, 1.0], [study["risk"][learner]["random"]] * 2, None))
        found["risk"] = draw(series, "pixels accepted, %", "of them wrong, %", markers=False, percent=True)
    series = []
    for arm in arms:
        table = rows[arm].get("calibration")
        if table and arm in (study["baseline"], study["lead"], "spot", "bicubic"):
            series.append((titles[arm], table["confidence"], table["right"], None))
    if series:
        series.append(("perfect", [0.0, 1.0], [0.0, 1.0], None))
        found["calibration"] = draw(series, "confidence, %", "right, %", percent=True, bold=titles[study["lead"]])
    return found


def draw(
    series: Sequence[tuple[str, Sequence[float], Sequence[float | None], Sequence[tuple[float | None, float | None]] | None]],
    x_label: str,
    y_label: str,
    ticks: list[str] | None = None,
    markers: bool = True,
    percent: bool = False,
    bold: str = "",
) -> str:
    """Curves (name, x, y as shares, intervals) as an SVG data URI, in few colours with own lines and markers, one of them bold."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "otbsr", "font.size": 9})
    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (name, x, y, ends) in enumerate(series):
        colour, line, marker = STYLES[place % len(STYLES)]
        across = np.array([np.nan if one is None else one for one in x], float) * (100 if percent else 1)
        up = 100 * np.array([np.nan if one is None else one for one in y], float)
        style: dict[str, Any] = {"color": colour, "linestyle": line, "label": name, "linewidth": 2.4 if name == bold else 1.3}
        if markers:
            style |= {"marker": marker, "markersize": 4.5}
        if ends is None:
            axes.plot(across, up, **style)
        else:
            spreads = 100 * np.array([[np.nan if end is None else end for end in pair] for pair in ends], float).T
            shift = 0.07 * (place - (len(series) - 1) / 2)
            away = np.nan_to_num(np.maximum(np.abs(spreads - up), 0))
            axes.errorbar(across + shift, up, yerr=away, elinewidth=0.7, capsize=2, **style)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if ticks:
        axes.set_xticks(range(len(ticks)), ticks)
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False, handlelength=3.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return uri(buffer.getvalue(), "svg+xml")


# --- pictures -------------------------------------------------------------------------------------------------------------------


def uri(content: bytes, kind: str) -> str:
    """A data URI."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def photograph(pixels: Pixels) -> str:
    """An RGB image (rows, columns, 3) as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=82, method=4)
    return uri(buffer.getvalue(), "webp")


def drawing(labels: Pixels, colours: Pixels) -> str:
    """Labels (rows, columns) as a PNG with the palette `colours` (n, 3)."""
    picture = Image.fromarray(np.minimum(labels, len(colours) - 1).astype(np.uint8), mode="L")
    picture.putpalette(colours.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return uri(buffer.getvalue(), "png")


def palette(classes: list[dict[str, Any]]) -> Pixels:
    """Colours by class code (K + 1, 3); code 0 is light grey: not judged."""
    colours = np.full((max(int(one["code"]) for one in classes) + 1, 3), 225, np.uint8)
    for one in classes:
        colours[int(one["code"])] = list(bytes.fromhex(one["colour"].lstrip("#")))
    return colours


CHANGE_COLOURS = np.array([[255, 255, 255], [205, 205, 205], [0, 0, 0], [214, 96, 38]], np.uint8)
"""Of a picture of changes: nothing, the class in the reference, mended, spoiled (every other stripe)."""


class Pictures:
    """Cuts from the study's rasters, with one stretch an area."""

    def __init__(self, folder: Path, study: dict[str, Any], runs: list[dict[str, Any]]) -> None:
        self.folder, self.study = folder, study
        self.colours = palette(study["classes"])
        self.titles = {one["name"]: one["title"] for one in study["arms"]}
        self.areas = {one["name"]: one for one in study["areas"]}
        first: dict[tuple[str, str], dict[str, Any]] = {}
        for one in sorted(runs, key=lambda run: int(run["repeat"])):
            if one["learner"] == study["learners"][0]:
                first.setdefault((one["area"], one["arm"]), one)
        self.maps = {key: folder / one["map"] for key, one in first.items()}
        self.stretches: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def image(self, area: str, arm: str) -> Path | None:
        """An arm's image of an area where it is kept."""
        given = self.study["images"].get(area, {}).get(arm)
        path = self.folder / given if given else None
        return path if path is not None and path.is_file() else None

    def reference_image(self, area: str) -> Path | None:
        """The 2.5 m image that nobody had to guess."""
        given = self.areas[area].get("image")
        path = self.folder / given if given else None
        return path if path is not None and path.is_file() else None

    def stretch(self, area: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The 1 % and 99 % quantiles of red, green and blue of the area's input: one stretch for all its images."""
        if area not in self.stretches:
            with rasterio.open(self.folder / self.areas[area]["input"]) as dataset:
                shape = (3, min(512, dataset.height), min(512, dataset.width))
                sample = dataset.read(rgb(dataset), out_shape=shape)
            low, high = np.percentile(sample.reshape(3, -1), (1, 99), axis=1)
            self.stretches[area] = low.astype(np.float32), np.maximum(high, low + 1).astype(np.float32)
        return self.stretches[area]

    def colour(self, area: str, path: Path, window: list[int]) -> str:
        """A window of an image in true colours; `window` in pixels of the reference: coarser images repeat theirs."""
        low, high = self.stretch(area)
        with rasterio.open(path) as dataset, rasterio.open(self.folder / self.areas[area]["reference"]) as fine:
            shrink = dataset.width / fine.width
            cut = Window(*(one * shrink for one in window))
            pixels = dataset.read(rgb(dataset), window=cut, out_shape=(3, window[3], window[2]), resampling=Resampling.nearest).astype(np.float32)
        share = np.clip((np.moveaxis(pixels, 0, -1) - low) / (high - low), 0, 1) ** 0.8
        return photograph(np.rint(255 * share).astype(np.uint8))

    def labels(self, path: Path, window: list[int]) -> Pixels:
        """A window of a map."""
        with rasterio.open(path) as dataset:
            cut: Pixels = dataset.read(1, window=Window(*window))
        return cut

    def scene(self, scene: dict[str, Any]) -> dict[str, Any]:
        """A scene for the viewer: layers (key, group, title, image) of reference, maps and images."""
        area, window = scene["area"], scene["window"]
        maps = [(f"map-{arm}", "Maps", self.titles[arm], self.maps[area, arm]) for arm in self.titles if (area, arm) in self.maps]
        maps.append(("map-reference", "Maps", "Reference", self.folder / self.areas[area]["reference"]))
        layers = [{"key": key, "group": group, "title": title, "image": drawing(self.labels(path, window), self.colours)} for key, group, title, path in maps]
        images = [(f"image-{arm}", self.titles[arm], self.image(area, arm)) for arm in self.titles]
        images.append(("image-reference", "Reference", self.reference_image(area)))
        layers += [{"key": key, "group": "Images", "title": title, "image": self.colour(area, path, window)} for key, title, path in images if path is not None]
        known = {one["key"] for one in layers}
        left = f"map-{self.study['baseline']}" if f"map-{self.study['baseline']}" in known else layers[0]["key"]
        right = f"map-{self.study['lead']}" if f"map-{self.study['lead']}" in known else layers[-1]["key"]
        return scene | {"layers": layers, "left": left, "right": right, "metres": self.metres(area, window), "where": self.where(area, window)}

    def example(self, example: dict[str, Any]) -> dict[str, Any]:
        """An example with its pictures: (title, image) of input, arms, reference, maps, and what changed."""
        area, window, lead, base = example["area"], example["window"], self.study["lead"], self.study["baseline"]
        found = [("Input, 10 m", self.colour(area, self.folder / self.areas[area]["input"], window))]
        for title, path in ((self.titles[lead], self.image(area, lead)), ("Reference image", self.reference_image(area))):
            if path is not None:
                found.append((title, self.colour(area, path, window)))
        truth, old, new = (self.labels(path, window) for path in (self.folder / self.areas[area]["reference"], self.maps[area, base], self.maps[area, lead]))
        found += [(f"Map: {self.titles[base]}", drawing(old, self.colours)), (f"Map: {self.titles[lead]}", drawing(new, self.colours))]
        found += [("Map: reference", drawing(truth, self.colours)), ("What changed", self.changed(truth, old, new, example["class"]))]
        return example | {"pictures": found, "metres": self.metres(area, window), "where": self.where(area, window)}

    def changed(self, truth: Pixels, old: Pixels, new: Pixels, code: int) -> str:
        """Where one class was mended (black) or spoiled (striped), on the class in the reference (grey)."""
        inside = truth == code
        before, after = (old == code) == inside, (new == code) == inside
        tone = np.where(inside, 1, 0)
        tone[after & ~before] = 2
        large = tone.repeat(4, 0).repeat(4, 1)
        spoiled = (before & ~after & (truth > 0)).repeat(4, 0).repeat(4, 1)
        stripes = np.add.outer(np.arange(large.shape[0]), np.arange(large.shape[1])) % 4 < 2
        large[spoiled & stripes] = 3
        return drawing(large.astype(np.uint8), CHANGE_COLOURS)

    def metres(self, area: str, window: list[int]) -> int:
        """Width of a window."""
        return round(Grid.read(self.folder / self.areas[area]["reference"]).dx * window[2])

    def where(self, area: str, window: list[int]) -> str:
        """Where a window's upper-left corner lies, in CRS units."""
        x, y = Grid.read(self.folder / self.areas[area]["reference"]).corner(window[0], window[1])
        return f"corner E {x:.0f}, N {y:.0f}"


def rgb(dataset: rasterio.DatasetReader) -> list[int]:
    """Bands of red, green and blue: B4, B3 and B2 where bands have names, else the first three, else the first one."""
    names = [str(name or "").upper().replace("B0", "B") for name in dataset.descriptions]
    if all(one in names for one in ("B4", "B3", "B2")):
        return [names.index(one) + 1 for one in ("B4", "B3", "B2")]
    return [1, 2, 3] if dataset.count >= 3 else [1, 1, 1]
