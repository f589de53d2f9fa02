"""What there is to look at in a result: scenes, each a set of layers on one ground.

A layer is an *image* (bands of reflectance, all stretched alike), a *score* (one band of numbers, coloured) or *classes* (one band of
codes, each with its colour). Layers of a scene share a plane: their CRS, or pixels where no file has one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from otbsr.errors import GridError, InputError, first_line
from otbsr.grid import Grid
from otbsr.products import SENTINEL2_NAMES, Band, open_product

ROLES = ("B4", "B3", "B2", "B8")
"""Red, green, blue and near infrared by Sentinel-2's names: also the order of bands without names, as models have it."""
COMPOSITES = {"true": ("B4", "B3", "B2"), "false": ("B8", "B4", "B3")}
"""What can be shown in red, green and blue."""
PERCENTILES = 2.0, 98.0
"""Of the input's reflectance: black and white in every image of the scene."""
LOOK = 512
"""Longest side of what is read of a file to choose its colours, pixels."""
CLASSES = 32
"""Codes at most in a file of whole numbers that is shown as classes."""
PALETTE = (
    "#d7301f", "#737373", "#f2e26b", "#33a02c", "#1f78b4", "#b15928", "#b2df8a", "#6a3d9a", "#fdbf6f", "#a6cee3", "#e31a1c", "#ff7f00", "#cab2d6", "#444444",
)  # fmt: skip
"""Colours of classes without a legend."""
VALIDITY = ((0, "no data", "#000000"), (1, "partly supported by data", "#f0a020"), (2, "supported by data", "#2a8f5a"))
RANGES = {"ssim": (0.0, 1.0), "confidence": (0.0, 1.0), "changes": (-100.0, 100.0)}
"""Ranges of scores that have one, by a part of their names (a corrected image's too); others are shown between their 2nd and 98th percentile."""

Kind = Literal["image", "score", "classes"]


@dataclass(frozen=True)
class Layer:
    """One thing to look at. `grid` is its place in the scene's plane, in the CRS's units (pixels where there is none).

    bands: by role (`ROLES`, or the only band's name). span: (low, high) of a score, in `unit`. colours: name of a score's colour table.
    classes: (code, name, "#rrggbb") of every class.
    """

    title: str
    kind: Kind
    grid: Grid
    bands: Mapping[str, Band]
    span: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    colours: str = "viridis"
    classes: tuple[tuple[int, str, str], ...] = ()

    def composite(self, name: str) -> tuple[str, ...]:
        """Roles shown in red, green and blue: those of a composite, or the only band's three times where it lacks one of them."""
        wanted = COMPOSITES[name]
        return wanted if set(wanted) <= set(self.bands) else (next(iter(self.bands)),) * 3


@dataclass(frozen=True)
class Scene:
    """Layers on one ground.

    stretch: reflectance of black and white by role; left, right: places in `layers` of what is swiped at first; units: of coordinates.
    """

    name: str
    layers: tuple[Layer, ...]
    stretch: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    left: int = 0
    right: int = 0
    remarks: tuple[str, ...] = ()
    units: Literal["m", "degrees", "pixels"] = "m"


def open_result(paths: Sequence[Path], source: Path | None = None) -> list[Scene]:
    """The scenes of what `otbsr` wrote: a study's folder (one scene an area), or images and folders of images (one scene of all).

    `source` is the image or product that they were made from; without it, one that the image names is looked for beside it. What
    `otbsr apply` wrote beside an image (disagreement, validity) is taken too. Raises `InputError` for what cannot be read, `GridError`
    for layers that do not lie on one plane.
    """
    if len(paths) == 1 and (paths[0] / "maps.json").is_file():
        if source is not None:
            raise InputError(f"{paths[0]}: a study knows its inputs; leave out --input {source}")
        return study_scenes(paths[0])
    files: list[Path] = []
    remarks: list[str] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give an image that `otbsr apply` wrote, a folder of maps, or a study")
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix.lower() in (".tif", ".tiff") and not one.name.startswith("."))
            if not inside:
                raise InputError(f"{path}: neither a study (maps.json) nor a folder with .tif files; give the file that `otbsr` wrote")
            files += inside
        else:
            files += [path, *beside(path)]
    if source is None and (source := named_source(paths[0])) is None and len(files) == 1:
        remarks.append("There is nothing to compare with: give the image's input with --input.")
    layers = [layer_of(source, "input")] if source is not None else []
    layers += [layer_of(path, path.stem, legend_of(path.parent)) for path in dict.fromkeys(files)]
    return [scene_of(paths[0].resolve().name, layers, remarks, with_input=source is not None)]


def beside(path: Path) -> list[Path]:
    """What `otbsr apply` and `otbsr classify` write beside an image."""
    named = (path.with_name(f"{path.stem}_{what}{path.suffix}") for what in ("disagreement", "validity", "confidence"))
    return [one for one in named if one.is_file()]


def named_source(path: Path) -> Path | None:
    """The input that an image of `otbsr apply` names, where it lies beside it or in the current folder."""
    if not path.is_file():
        return None
    try:
        with quiet_open(path) as dataset:
            name = dataset.tags().get("OTBSR_SOURCE", "")
    except RasterioError:
        return None
    found = (folder / name for folder in (path.parent, Path()) if name and Path(name).name == name)
    return next((one for one in found if one.exists() and one.resolve() != path.resolve()), None)


def study_scenes(folder: Path) -> list[Scene]:
    """One scene an area of a study: its input, the arms' images, reference, maps (the first repeat's), confidence, disagreement and changes."""
    try:
        study: dict[str, Any] = json.loads((folder / "maps.json").read_text(encoding="utf-8"))
        titles = {one["name"]: one["title"] for one in study["arms"]}
        legend = legend_entries(study["classes"])
        scenes = []
        for area in study["areas"]:
            name = area["name"]
            images = [("input", area["input"]), *((titles[arm], path) for arm, path in study["images"].get(name, {}).items())]
            layers = [replace(layer_of(folder / path, title), title=title) for title, path in images if path and (folder / path).is_file()]
            first = len(layers)
            layers.append(layer_of(folder / area["reference"], "reference", legend))
            for run in study["runs"]:
                if run["area"] == name and run["repeat"] == 0:
                    title = f"map: {titles[run['arm']]}, {run['learner']}"
                    layers.append(layer_of(folder / run["map"], title, legend))
                    if run["confidence"]:
                        layers.append(layer_of(folder / run["confidence"], f"confidence: {titles[run['arm']]}, {run['learner']}"))
            others = [("disagreement", area.get("disagreement")), ("changes", f"changes/{name}.tif")]
            layers += [layer_of(folder / path, title) for title, path in others if path and (folder / path).is_file()]
            if not first:
                raise InputError(f"{folder}: the images of area {name} are gone; run `otbsr study` again")
            scenes.append(scene_of(name, layers, (), with_input=True))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/maps.json: is no study's list of maps ({error!r}); run `otbsr study` again") from error
    return scenes


def legend_entries(classes: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, str, str], ...]:
    """(code, name, colour) of each entry of a legend."""
    return tuple((int(one["code"]), str(one["name"]), str(one["colour"])) for one in classes)


def legend_of(folder: Path) -> tuple[tuple[int, str, str], ...]:
    """The legend of a folder's land cover (legend.json), where it has one."""
    path = folder / "legend.json"
    if not path.is_file():
        return ()
    try:
        return legend_entries(json.loads(path.read_text(encoding="utf-8"))["classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no legend ({error!r}); expected classes with code, name and colour") from error


def quiet_open(path: Path) -> rasterio.DatasetReader:
    """Rasterio's dataset, without its warning on files that lie on no map."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def plane(dataset: rasterio.DatasetReader) -> Grid:
    """A file's grid; of one without georeferencing, pixels from (0, 0) down to (width, -height)."""
    if dataset.transform.is_identity and not dataset.crs:
        return Grid(0.0, 0.0, 1.0, 1.0, dataset.width, dataset.height)
    return Grid.of(dataset)


def lies_on_map(grid: Grid) -> bool:
    """Whether a file's grid is of a map, not `plane`'s pixels."""
    return bool(grid.crs) or (grid.left, grid.top, grid.dx, grid.dy) != (0.0, 0.0, 1.0, 1.0)


def layer_of(path: Path, title: str, legend: tuple[tuple[int, str, str], ...] = ()) -> Layer:
    """The layer that a file or product is: images have more than one band, others are classes (whole numbers of few values) or scores."""
    if path.is_dir() or path.suffix.lower() in (".zip", ".xml"):
        return product_layer(path, title)
    try:
        with quiet_open(path) as dataset:
            grid, count, kind, colour_table = plane(dataset), dataset.count, np.dtype(dataset.dtypes[0]), colours_of(dataset)
            label = dataset.descriptions[0] or ""
            if kind.kind == "c":
                raise InputError(f"{path}: pixels are complex ({kind}); give an image of real numbers")
            sample = looked_at(dataset)
    except RasterioError as error:
        raise InputError(f"{path}: cannot be read as an image ({first_line(error)}); make or fetch the file again") from error
    if count > 1:
        bands = open_product(path, None if distinct(path) else [f"band{number}" for number in range(1, count + 1)]).bands
        return Layer(title, "image", grid, roles(bands))
    band = Band(label or "band1", path, 1, grid.dx, 1.0, 0.0, nodata_of(path))
    words = f"{title} {label} {path.stem}"
    if "validity" in words:
        return Layer(title, "classes", grid, {"code": replace(band, nodata=None)}, classes=VALIDITY)
    if kind == np.uint8 and np.unique(sample.compressed()).size <= CLASSES:
        codes = [int(code) for code in np.unique(sample.compressed()) if code]
        known = legend or tuple((code, f"class {code}", colour_table.get(code, PALETTE[(code - 1) % len(PALETTE)])) for code in codes)
        return Layer(title, "classes", grid, {"code": band}, classes=known)
    name = next((key for key in RANGES if key in words), "")
    if not name and grid_like_image(label):
        return Layer(title, "image", grid, roles(open_product(path).bands))
    unit = "DN" if "disagreement" in words else label
    colours = "rdylgn" if name == "changes" else "viridis"
    return Layer(title, "score", grid, {"score": band}, RANGES.get(name) or spread(sample), unit, colours)


def grid_like_image(label: str) -> bool:
    """Whether a single band is one of an image: it is called as a band of Sentinel-2 is."""
    return label.upper().startswith("B") and label[1:2].isdigit()


def distinct(path: Path) -> bool:
    """Whether a file's bands have different names."""
    with quiet_open(path) as dataset:
        named = [text for text in dataset.descriptions if text]
        return len(named) == len(set(named)) == dataset.count


def nodata_of(path: Path) -> float | None:
    """The no-data value of a file's first band; NaN for real numbers without one."""
    with quiet_open(path) as dataset:
        real = np.issubdtype(np.dtype(dataset.dtypes[0]), np.floating)
        return float("nan") if dataset.nodatavals[0] is None and real else dataset.nodatavals[0]


def colours_of(dataset: rasterio.DatasetReader) -> dict[int, str]:
    """A file's own colours of its codes."""
    try:
        return {code: "#{:02x}{:02x}{:02x}".format(*colour[:3]) for code, colour in dataset.colormap(1).items()}
    except ValueError:
        return {}


def product_layer(path: Path, title: str) -> Layer:
    """A product's four bands of the finest spacing."""
    product = open_product(path).renamed()
    if product.sensor:
        raise InputError(f"{path}: is in sensor geometry; orthorectify it first (`otbsr pairs --keep` does)")
    present = [name for name in ROLES if name in product.bands] or list(product.bands)[:1]
    if not present:
        raise InputError(f"{path}: has no band to show; complete the product")
    return Layer(title, "image", product.grid(present), {name: product.bands[name] for name in present})


def roles(bands: Mapping[str, Band]) -> dict[str, Band]:
    """An image's bands by role: by name where red, green and blue are named, else in the order of `ROLES`."""
    named = {SENTINEL2_NAMES.get(name.lower(), name): band for name, band in bands.items()}
    if {"B4", "B3", "B2"} <= set(named):
        return {name: named[name] for name in ROLES if name in named}
    if len(bands) < 3:
        return dict(list(bands.items())[:1])
    return dict(zip(ROLES, bands.values(), strict=False))


def looked_at(dataset: rasterio.DatasetReader, index: int = 1, nodata: float | None = None) -> Any:
    """A band, every n-th pixel of it, as a masked array without values that are no numbers."""
    step = max(1, -(-max(dataset.width, dataset.height) // LOOK))
    shape = max(1, dataset.height // step), max(1, dataset.width // step)
    sample = np.ma.masked_invalid(dataset.read(index, out_shape=shape, masked=True, resampling=Resampling.nearest))
    return sample if nodata is None else np.ma.masked_equal(sample, nodata)


def spread(sample: Any) -> tuple[float, float]:
    """The 2nd and 98th percentile of a masked array, never the same."""
    values = sample.compressed()
    if not values.size:
        return 0.0, 1.0
    low, high = (float(one) for one in np.percentile(values, PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def stretch_of(layers: Sequence[Layer]) -> dict[str, tuple[float, float]]:
    """Reflectance of black and white for every role, from the first layer that has it."""
    found: dict[str, tuple[float, float]] = {}
    for layer in layers:
        for role, band in layer.bands.items() if layer.kind == "image" else ():
            if role not in found:
                with quiet_open(band.path) as dataset:
                    low, high = spread(looked_at(dataset, band.index, band.nodata))
                found[role] = low * band.scale + band.offset, high * band.scale + band.offset
    return found


def scene_of(name: str, layers: Sequence[Layer], remarks: Sequence[str], with_input: bool) -> Scene:
    """A scene of layers on one plane, with one stretch; raises `GridError`.

    Files without georeferencing lie over each other by their sizes: the smaller one's pixels are as many pixels of the larger one as its
    size says, the same whole number both ways.
    """
    said = list(remarks)
    on_map = [lies_on_map(layer.grid) for layer in layers]
    if not all(on_map) and any(on_map):
        lost, found = (layers[on_map.index(what)].title for what in (False, True))
        raise GridError(f"{lost} has no georeferencing and {found} has; give both the same, or neither (gdal_edit.py -a_ullr, -a_srs)")
    if not any(on_map):
        layers = stretched_over(layers)
        said.append("No georeferencing: coordinates are pixels of the finest image, and layers lie over each other by their sizes.")
    for layer in layers:
        if not layer.grid.same_crs(layers[0].grid):
            raise GridError(f"{layer.title} and {layers[0].title} have different coordinate reference systems; warp one (gdalwarp) first")
    images = [place for place, layer in enumerate(layers) if layer.kind == "image"] or [0]
    right = next((place for place in images[::-1] if layers[place].title.startswith("Method F")), 0) or min(
        images, key=lambda place: (layers[place].grid.dx, place)
    )
    left = 0 if with_input else max(images, key=lambda place: layers[place].grid.dx)
    if right == left:
        right = next((place for place in range(len(layers)) if place != left), left)
    crs = layers[0].grid.crs
    units: Literal["m", "degrees", "pixels"] = "m" if any(on_map) else "pixels"
    if crs and rasterio.CRS.from_string(crs).is_geographic:
        units = "degrees"
    return Scene(name, tuple(layers), stretch_of([layers[left], *layers]), left, right, tuple(said), units)


def stretched_over(layers: Sequence[Layer]) -> list[Layer]:
    """Layers in pixels, on the ground of the one with most pixels."""
    finest = max((layer.grid for layer in layers), key=lambda grid: grid.width)
    placed = []
    for layer in layers:
        factor = finest.width / layer.grid.width
        if factor != int(factor) or finest.height != layer.grid.height * factor:
            raise GridError(
                f"{layer.title}: {layer.grid.width} x {layer.grid.height} pixels without georeferencing beside {finest.width} x {finest.height}; "
                "expected sizes that differ by a whole factor; give the files their georeferencing"
            )
        placed.append(replace(layer, grid=replace(layer.grid, dx=factor, dy=factor)))
    return placed
