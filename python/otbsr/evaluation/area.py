"""An area of the study: its input, the truth and labelled polygons, simulated or real, under one set of file names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from pandas.api.types import is_integer_dtype
from rasterio.features import rasterize

from otbsr.errors import GridError, InputError, UsageError
from otbsr.grid import Grid
from otbsr.pairs.footprints import same_place
from otbsr.raster import damage

INPUT, LAND_COVER, POLYGONS, LEGEND = "sentinel2_10m.tif", "landcover_2m5.tif", "polygons.gpkg", "legend.json"
FACTOR = 4
"""10 m over the study's 2.5 m."""
OPTIONAL = {
    "image": "reference_2m5.tif",
    "spot": "spot_2m5.tif",
    "other": "sentinel2_other_10m.tif",
    "stack": "sentinel2_stack_10m.tif",
    "clouds": "clouds_10m.tif",
}
"""Files that some arms need: the 2.5 m reference image, Spot's, Sentinel-2's of another date and of all bands; and what hides the ground."""
ROLES = ("building", "road")
ARTIFICIAL = [
    {"code": 1, "name": "artificial", "colour": "#d7301f", "artificial": True},
    {"code": 2, "name": "other", "colour": "#a6d96a", "artificial": False},
]


@dataclass(frozen=True)
class Area:
    """A folder with the study's files, checked; `others` are those of `OPTIONAL` that it has.

    recode: (256,) from the legend's codes to the study's, 0 for not judged; None where they are the same.
    """

    name: str
    path: Path
    settings: dict[str, Any]
    classes: list[dict[str, Any]]
    fine: Grid
    source: str
    others: dict[str, Path]
    recode: tuple[int, ...] | None = None

    @classmethod
    def open(cls, path: str | Path, name: str = "", artificial: bool = False) -> Area:
        """Check that the folder holds what `otbsr simulate` writes, or real data under the same names, on nested grids.

        Needed: sentinel2_10m.tif, landcover_2m5.tif or landcover.gpkg (field class), polygons.gpkg (layer polygons or the only one, field
        class) and legend.json; `OPTIONAL` gives the rest. artificial: classes are merged into artificial surfaces and the rest. Raises
        `InputError` and `GridError`.
        """
        folder = Path(path)
        remedy = "expected a folder written by `otbsr simulate` or one with the same file names (doc/study.md)"
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; {remedy}")
        vector = folder / "landcover.gpkg"
        for needed in (INPUT, LEGEND, POLYGONS, *(() if vector.is_file() else (LAND_COVER,))):
            if not (folder / needed).is_file():
                raise InputError(f"{folder}: no {needed} in it; {remedy}")
        classes = read_legend(folder / LEGEND)
        world = read_world(folder / "world.json")
        settings = world.get("settings") or {}
        coarse = Grid.read(folder / INPUT)
        fine = coarse.refined(FACTOR) if vector.is_file() else Grid.read(folder / LAND_COVER)
        if coarse.factor_to(fine) != FACTOR:
            raise GridError(f"{folder / LAND_COVER}: spacing {fine.dx:g}, expected {coarse.dx / FACTOR:g}, a quarter of {INPUT}'s; resample it")
        others = {key: folder / file for key, file in OPTIONAL.items() if (folder / file).is_file()}
        for key, file in others.items():
            (fine if key in ("image", "spot") else coarse).require_same(Grid.read(file), str(file))
        for file in (folder / INPUT, *others.values(), *(() if vector.is_file() else (folder / LAND_COVER,))):
            if reason := damage(file):
                raise InputError(f"{file}: {reason}; fetch or make the file again")
        simulated = isinstance(settings.get("seed"), int)
        source = str(world.get("source") or ("simulated landscape (otbsr simulate)" if simulated else "images of the user"))
        recode = None
        if artificial:
            recode = tuple([0, *(1 if one["artificial"] else 2 for one in classes)] + [0] * (255 - len(classes)))
            classes = [dict(one, role="") for one in ARTIFICIAL]
        return cls(name or folder.resolve().name, folder, settings, classes, fine, source, others, recode)

    @property
    def input(self) -> Path:
        """The 10 m image."""
        return self.path / INPUT

    @property
    def seed(self) -> int | None:
        """The seed of a simulated landscape, None for a real area."""
        seed = self.settings.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies, for `same_place`: a simulated landscape's seed, or the footprint of a real area that has a CRS."""
        return {"seed": self.seed, "footprint": self.fine.footprint if self.fine.crs else None}

    def labels(self) -> NDArray[np.uint8]:
        """Class codes (height, width) on the fine grid; 0 where the truth or the input is not known, or a cloud hides the ground.

        Raises `InputError` for codes that are not in the legend.
        """
        raster = self.path / LAND_COVER
        if (self.path / "landcover.gpkg").is_file():
            table = read_vector(self.path / "landcover.gpkg")
            labels = burn(table, self.fine)
        else:
            with rasterio.open(raster) as dataset:
                labels = dataset.read(1)
                labels = np.where(labels == dataset.nodata, 0, labels) if dataset.nodata is not None else labels
        return self.recoded(labels) * self.visible().repeat(FACTOR, 0).repeat(FACTOR, 1)

    def recoded(self, labels: NDArray[Any]) -> NDArray[np.uint8]:
        """Legend codes of any shape as the study's; raises `InputError` for one that is not in the legend."""
        last = len(self.classes) if self.recode is None else int(np.flatnonzero(self.recode).max())
        if labels.size and (labels.min() < 0 or labels.max() > last):
            raise InputError(f"{self.path}: class code {int(labels.max())} is not among {LEGEND}'s 1 to {last}; correct the land cover or the legend")
        whole = labels.astype(np.uint8)
        return whole if self.recode is None else np.asarray(self.recode, np.uint8)[whole]

    def visible(self) -> NDArray[np.bool_]:
        """Where the 10 m image has data in all bands and no cloud or shadow lies: (rows, columns) of its grid."""
        with rasterio.open(self.input) as dataset:
            seen = (dataset.read_masks() > 0).all(axis=0)
        if "clouds" in self.others:
            with rasterio.open(self.others["clouds"]) as dataset:
                seen &= dataset.read(1) == 0
        return np.asarray(seen)

    def polygons(self) -> gpd.GeoDataFrame:
        """Labelled polygons: geometry, and `class` in the study's codes. Raises `InputError`."""
        table = read_vector(self.path / POLYGONS)
        if self.fine.crs and table.crs is not None and rasterio.CRS.from_string(self.fine.crs) != rasterio.CRS.from_wkt(table.crs.to_wkt()):
            table = table.to_crs(self.fine.crs)
        codes = self.recoded(table["class"].to_numpy())
        table = gpd.GeoDataFrame({"class": codes.astype(int)}, geometry=table.geometry.to_numpy(), crs=table.crs)
        return table[table["class"] > 0].reset_index(drop=True)


def open_areas(paths: Sequence[str | Path], artificial: bool = False) -> list[Area]:
    """The areas, with names that differ. Raises `UsageError` when two show the same ground or their legends differ."""
    areas: list[Area] = []
    for path in paths:
        name = Path(path).resolve().name
        taken = {one.name for one in areas}
        number = next(n for n in range(1, len(paths) + 2) if (name if n == 1 else f"{name}-{n}") not in taken)
        areas.append(Area.open(path, name if number == 1 else f"{name}-{number}", artificial))
    for index, area in enumerate(areas):
        if area.classes != areas[0].classes:
            raise UsageError(f"{area.path}: its legend.json differs from {areas[0].path}'s; areas of one study need one legend")
        for other in areas[:index]:
            if area.path.resolve() == other.path.resolve() or same_place(area.place, other.place):
                raise UsageError(
                    f"{area.path} and {other.path} show the same ground: pixels of one would train the learner that the other tests; leave one out"
                )
    return areas


def read_legend(path: Path) -> list[dict[str, Any]]:
    """Classes in the order of their codes 1..K, each with code, name, colour, artificial and role; raises `InputError`."""
    try:
        given = sorted(json.loads(path.read_text(encoding="utf-8"))["classes"], key=lambda one: int(one["code"]))
        classes = [
            {
                "code": int(one["code"]),
                "name": str(one["name"]),
                "colour": str(one.get("colour", "#888888")),
                "artificial": bool(one.get("artificial", False)),
                "role": str(one["role"]) if "role" in one else next((role for role in ROLES if str(one["name"]).lower().startswith(role)), ""),
            }
            for one in given
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path}: cannot be read ({error!r}); expected {{"classes": [{{"code": 1, "name": ..., "colour": "#rrggbb"}}]}}') from error
    if not classes or len(classes) > 255 or [one["code"] for one in classes] != list(range(1, len(classes) + 1)):
        raise InputError(f"{path}: class codes are {[one['code'] for one in classes]}, expected 1 to {len(classes)}")
    return classes


def read_world(path: Path) -> dict[str, Any]:
    """What made the area, {} where no file says it; raises `InputError` when the file is spoiled."""
    if not path.is_file():
        return {}
    try:
        world = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); simulate the area again, or delete the file of a real area") from error
    if not isinstance(world, dict):
        raise InputError(f"{path}: holds no JSON object; simulate the area again, or delete the file of a real area")
    return world


def read_vector(path: Path) -> gpd.GeoDataFrame:
    """A vector file with an integer field `class`; the layer polygons, else the first. Raises `InputError`."""
    from pyogrio import list_layers
    from pyogrio.errors import DataSourceError

    try:
        layers = [str(name) for name, _ in list_layers(path)]
        table = gpd.read_file(path, layer="polygons" if "polygons" in layers else layers[0])
    except (DataSourceError, IndexError, OSError) as error:
        raise InputError(f"{path}: cannot be read as vectors ({error}); check the file") from error
    if "class" not in table or not is_integer_dtype(table["class"].dtype):
        raise InputError(f"{path}: fields are {[name for name in table if name != 'geometry']}, expected an integer field class")
    return table


def burn(table: gpd.GeoDataFrame, grid: Grid) -> NDArray[np.uint8]:
    """Field `class` of polygons at the pixel centres of `grid`; 0 outside; later polygons cover earlier ones."""
    shapes = [(shape, int(code)) for shape, code in zip(table.geometry, table["class"], strict=True) if shape is not None and not shape.is_empty]
    if not shapes:
        return np.zeros((grid.height, grid.width), np.uint8)
    return np.asarray(rasterize(shapes, (grid.height, grid.width), transform=grid.transform, dtype="uint8"))
