"""Arms: what the learner sees. Each is a recipe that makes one feature image on the 2.5 m grid, from the area's files or from other arms.

A recipe is a mapping with one verb, as in YAML: `{stack: [f, native]}`. Pixels are int16 DN; the first bands are spectral ones.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.windows import Window
from scipy import fft, ndimage

from otbsr.errors import GridError, InputError, UsageError, flaw, nearest
from otbsr.evaluation.area import FACTOR, Area
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder
from otbsr.progress import Report, silent
from otbsr.raster import new_raster
from otbsr.serving.apply import apply
from otbsr.world.sensors import SENTINEL2, SPOT_2M5, degrade

BASELINE = "bicubic-context"
"""What every difference is taken from: an arm must beat what the neighbourhood alone tells."""
ALWAYS = ("bicubic", BASELINE)
NODATA = -10000
WARPING = Lock()
"""Two warps of arrays at once made rasterio 1.4 say that an array has no geotransform."""
STRIP = 256
"""Rows that are computed at once where a whole image is not needed."""
Plane = NDArray[np.float32]
Images = Mapping[str, Path]


@dataclass(frozen=True)
class Making:
    """What a recipe works with: the area, the images of the arms it is made from, a seed, progress, whether models without hashes are run."""

    area: Area
    images: Images
    seed: int = 0
    report: Report = silent
    trust: bool = False


class Recipe(BaseModel):
    """How one feature image is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def sources(self) -> tuple[str, ...]:
        """The arms whose images it needs."""
        return ()

    @property
    def models(self) -> tuple[Path, ...]:
        """The model folders that it runs."""
        return ()

    @property
    def kind(self) -> str:
        """What the report calls it."""
        return type(self).__name__.lower()

    def missing(self, area: Area) -> str:
        """What the area lacks for this arm, in words; '' when nothing."""
        return ""

    def bands(self, area: Area, of: Mapping[str, int]) -> int:
        """How many the image has; of: those of the arms that it is made from. Default: those of its first source."""
        return of[self.sources[0]]

    @abstractmethod
    def write(self, making: Making, out: Path) -> None:
        """Write the image into the file `out`, which does not exist."""


class Resample(Recipe):
    """The 10 m image on the fine grid by GDAL's warper: nearest, or Keys' cubic convolution. all_bands: the stack of all bands."""

    resample: Literal["nearest", "cubic"]
    all_bands: bool = False

    @property
    def kind(self) -> str:
        """Nearest is the image as it is."""
        return "native" if self.resample == "nearest" else "interpolation"

    def missing(self, area: Area) -> str:
        """The stack is optional."""
        return "sentinel2_stack_10m.tif (`otbsr simulate --bands all`)" if self.all_bands and "stack" not in area.others else ""

    def source(self, area: Area) -> Path:
        """The 10 m image."""
        return area.others["stack"] if self.all_bands else area.input

    def bands(self, area: Area, of: Mapping[str, int]) -> int:
        """The 10 m image's."""
        return band_count(self.source(area))

    def write(self, making: Making, out: Path) -> None:
        """Band by band."""
        with rasterio.open(self.source(making.area)) as dataset:
            names = dataset.descriptions
            planes = (resampled(plane, dataset, making.area.fine, self.resample) for plane in (dataset.read(i + 1) for i in range(dataset.count)))
            write_planes(out, making.area.fine, names, planes)


class Model(Recipe):
    """A model folder's result, as `otbsr apply` writes it. other_date: from the area's other Sentinel-2 image."""

    model: Path
    other_date: bool = False

    @property
    def models(self) -> tuple[Path, ...]:
        """One."""
        return (self.model,)

    def bands(self, area: Area, of: Mapping[str, int]) -> int:
        """The model's output bands."""
        return len(ModelFolder.open(self.model, trust=True).sidecar.output.bands)

    def source(self, area: Area, trust: bool) -> Path:
        """The four-band image where the model's bands are in it, else the stack."""
        side = ModelFolder.open(self.model, trust).sidecar
        source = area.others["other"] if self.other_date else area.input
        with rasterio.open(source) as dataset:
            held = {name.upper() for name in dataset.descriptions if name}
        if not self.other_date and "stack" in area.others and held and not {name.upper() for name in side.input.bands} <= held:
            source = area.others["stack"]
        return source

    def write(self, making: Making, out: Path) -> None:
        """By `apply`."""
        apply(self.source(making.area, making.trust), self.model, out, trust_model=making.trust, report=making.report)


class ImageFile(Recipe):
    """An image that already is on the fine grid; a path that is not absolute is looked for in the area's folder."""

    image: Path

    def missing(self, area: Area) -> str:
        """A file of its own."""
        return "" if (area.path / self.image).is_file() else str(self.image)

    def bands(self, area: Area, of: Mapping[str, int]) -> int:
        """The file's."""
        return band_count(area.path / self.image)

    def write(self, making: Making, out: Path) -> None:
        """A relative link instead of a copy."""
        source = making.area.path / self.image
        making.area.fine.require_same(Grid.read(source), str(source))
        out.symlink_to(os.path.relpath(source.resolve(), out.parent.resolve()))


class Context(Recipe):
    """An arm's bands and, for each radius (fine pixels), their mean and deviation in the square around, and the gradient of their mean.

    Gradient: magnitude of the derivatives of a Gaussian with half the radius as standard deviation, DN a pixel, times the radius.
    """

    context: str
    radii: tuple[int, ...] = Field(default=(4, 8, 16), min_length=1)

    @property
    def sources(self) -> tuple[str, ...]:
        """One arm."""
        return (self.context,)

    def bands(self, area: Area, of: Mapping[str, int]) -> int:
        """The arm's, mean and deviation of each, and one gradient a radius."""
        return of[self.context] * (1 + 2 * len(self.radii)) + len(self.radii)

    def write(self, making: Making, out: Path) -> None:
        """In strips with the largest window's reach around them, mirrored at the image's edge."""
        if min(self.radii) < 1 or max(self.radii) > 64:
            raise UsageError(f"radii are {list(self.radii)}, expected pixels from 1 to 64")
        halo = 3 * max(self.radii)
        grid = making.area.fine
        with rasterio.open(making.images[self.context]) as dataset:
            own = [name or f"band {index}" for index, name in enumerate(dataset.descriptions, 1)]
            each = [f"{what} {name} {radius}" for radius in self.radii for what in ("mean", "deviation") for name in own]
            names = [*own, *each, *(f"gradient {radius}" for radius in self.radii)]
            with writer(out, grid, names) as target:
                for top in range(0, grid.height, STRIP):
                    rows = min(STRIP, grid.height - top)
                    around = mirrored_rows(dataset, top - halo, rows + 2 * halo)
                    features = context_features(around, self.radii)[:, halo : halo + rows]
                    target.write(to_dn(features), window=Window(0, top, grid.width, rows))
                    making.report("context", (top + rows) / grid.height)


class Sharpen(Recipe):
    """An arm with the radial power spectrum of another: each frequency's gain is the root of their ratio, `limit` at most.

    What F gains beyond this came from more than sharpness. Cosine transform: the filter acts on the image mirrored at its edges.
    """

    sharpen: str
    like: str
    limit: float = Field(default=10.0, gt=1)

    @property
    def kind(self) -> str:
        """The report's word."""
        return "unsharp"

    @property
    def sources(self) -> tuple[str, ...]:
        """Image and example."""
        return self.sharpen, self.like

    def write(self, making: Making, out: Path) -> None:
        """Band by band, the whole area at once."""
        with rasterio.open(making.images[self.sharpen]) as image, rasterio.open(making.images[self.like]) as like:
            require_bands(image.count, like.count, self.sharpen, self.like)
            planes = (sharpened(filled(image, i), filled(like, i), self.limit) for i in range(1, image.count + 1))
            write_planes(out, making.area.fine, image.descriptions, planes)


class Stack(Recipe):
    """The bands of several arms, one after the other."""

    stack: tuple[str, ...] = Field(min_length=2)

    @property
    def sources(self) -> tuple[str, ...]:
        """All of them."""
        return self.stack

    def bands(self, area: Area, of: Mapping[str, int]) -> int:
        """All together."""
        return sum(of[name] for name in self.stack)

    def write(self, making: Making, out: Path) -> None:
        """Strip by strip."""
        paths = [making.images[name] for name in self.stack]
        names = []
        for arm, path in zip(self.stack, paths, strict=True):
            with rasterio.open(path) as dataset:
                names += [f"{arm} {name or index}" for index, name in enumerate(dataset.descriptions, 1)]
        combine(out, making.area.fine, names, paths, lambda parts: np.concatenate(parts))


class Blend(Recipe):
    """The weighted mean of two arms; share: of the second."""

    blend: tuple[str, str]
    share: float = Field(default=0.5, ge=0, le=1)

    @property
    def sources(self) -> tuple[str, ...]:
        """Both."""
        return self.blend

    def write(self, making: Making, out: Path) -> None:
        """Strip by strip."""
        paths = [making.images[name] for name in self.blend]
        with rasterio.open(paths[0]) as one, rasterio.open(paths[1]) as two:
            require_bands(one.count, two.count, *self.blend)
            names = one.descriptions
        combine(out, making.area.fine, names, paths, lambda parts: (1 - self.share) * parts[0] + self.share * parts[1])


class Degrade(Recipe):
    """A fine image seen with Sentinel-2's MTF at 10 m, then bicubic: what is lost by resolution alone. mtf: of the fine image at Nyquist."""

    degrade: str
    mtf: float = SPOT_2M5["B0"].mtf

    @property
    def sources(self) -> tuple[str, ...]:
        """One arm."""
        return (self.degrade,)

    @property
    def kind(self) -> str:
        """An oracle of another resolution."""
        return "oracle"

    def write(self, making: Making, out: Path) -> None:
        """Band by band; bands without a Sentinel-2 name have B4's MTF."""
        area = making.area
        with rasterio.open(making.images[self.degrade]) as fine, rasterio.open(area.input) as coarse:
            planes = (coarse_and_back(filled(fine, i), name, self.mtf, coarse, area.fine) for i, name in enumerate(fine.descriptions, 1))
            write_planes(out, area.fine, fine.descriptions, planes)


class Shuffle(Recipe):
    """Control: an arm's detail over another arm (difference of the two) with random phases: its spectrum, and nothing of where it lies.

    All bands' phases are turned by the same angles, so that their cross-spectra stay too (Prichard and Theiler 1994).
    """

    shuffle: str
    over: str = "bicubic"

    @property
    def kind(self) -> str:
        """A control."""
        return "control"

    @property
    def sources(self) -> tuple[str, ...]:
        """Image and base."""
        return self.shuffle, self.over

    def write(self, making: Making, out: Path) -> None:
        """Band by band, the whole area at once."""
        grid = making.area.fine
        noise = np.random.default_rng([making.seed, 31]).standard_normal((grid.height, grid.width), dtype=np.float32)
        turn = np.exp(1j * np.angle(fft.rfft2(noise))).astype(np.complex64)
        with rasterio.open(making.images[self.shuffle]) as image, rasterio.open(making.images[self.over]) as base:
            require_bands(image.count, base.count, self.shuffle, self.over)

            def plane(index: int) -> Plane:
                under = filled(base, index)
                return np.asarray(under + fft.irfft2(fft.rfft2(filled(image, index) - under) * turn, s=under.shape), np.float32)

            write_planes(out, grid, base.descriptions, (plane(index) for index in range(1, base.count + 1)))


class OtherDate(Recipe):
    """Control: the detail of another date over this date's bicubic image.

    The model's detail of the area's other Sentinel-2 image; without one, Spot's own detail where it was taken on another date.
    """

    other_date: Path
    over: str = "bicubic"

    @property
    def models(self) -> tuple[Path, ...]:
        """The one whose detail it is."""
        return (self.other_date,)

    @property
    def kind(self) -> str:
        """A control."""
        return "control"

    @property
    def sources(self) -> tuple[str, ...]:
        """The base."""
        return (self.over,)

    def missing(self, area: Area) -> str:
        """Two ways."""
        if "other" in area.others or ("spot" in area.others and area.settings.get("date_gap")):
            return ""
        return "sentinel2_other_10m.tif, Sentinel-2's image of another date (or spot_2m5.tif of another date: `otbsr simulate --date-gap`)"

    def write(self, making: Making, out: Path) -> None:
        """The other date's image less its own interpolation, added to this date's."""
        area, other = making.area, making.area.others.get("other")
        temporary = out.with_name(f"{out.stem}-other.tif")
        try:
            if other:
                Model(model=self.other_date, other_date=True).write(making, temporary)
            sharp = temporary if other else area.others["spot"]
            with rasterio.open(sharp) as image, rasterio.open(making.images[self.over]) as base, rasterio.open(other or area.input) as coarse:
                require_bands(image.count, base.count, "other date", self.over)

                def plane(index: int) -> Plane:
                    fine = filled(image, index)
                    if other:
                        blurred = resampled(coarse.read(coarse.descriptions.index(image.descriptions[index - 1]) + 1), coarse, area.fine, "cubic")
                    else:
                        blurred = coarse_and_back(fine, image.descriptions[index - 1], SPOT_2M5["B0"].mtf, coarse, area.fine)
                    return np.asarray(filled(base, index) + fine - blurred, np.float32)

                write_planes(out, area.fine, base.descriptions, (plane(index) for index in range(1, base.count + 1)))
        finally:
            temporary.unlink(missing_ok=True)


VERBS: dict[str, type[Recipe]] = {
    "resample": Resample,
    "model": Model,
    "image": ImageFile,
    "context": Context,
    "sharpen": Sharpen,
    "stack": Stack,
    "blend": Blend,
    "degrade": Degrade,
    "shuffle": Shuffle,
    "other_date": OtherDate,
}
ORACLES = ("spot", "spot-10m")


@dataclass(frozen=True)
class Arm:
    """A name, its recipe, and what the report says of it."""

    name: str
    title: str
    recipe: Recipe
    control: bool = False
    oracle: bool = False
    model: str = ""
    hidden: bool = False
    made_of: tuple[str, ...] = field(default=())

    @property
    def kind(self) -> str:
        """native, interpolation, context, unsharp, model, stack, blend, oracle, control, imagefile."""
        return "oracle" if self.oracle else self.recipe.kind


def built_in(f: Path | None, p: Path | None) -> dict[str, tuple[str, dict[str, Any]]]:
    """Title and recipe of the arms that have a name, those of missing models left out."""
    arms: dict[str, tuple[str, dict[str, Any]]] = {
        "native": ("Native 10 m (nearest)", {"resample": "nearest"}),
        "bicubic": ("Bicubic to 2.5 m", {"resample": "cubic"}),
        "bicubic-context": ("Bicubic and context features", {"context": "bicubic"}),
        "spot": ("Spot oracle 2.5 m", {"image": "spot_2m5.tif"}),
        "spot-10m": ("Spot seen at 10 m, bicubic", {"degrade": "spot"}),
        "s2-13": ("Sentinel-2, all bands, bicubic", {"resample": "cubic", "all_bands": True}),
    }
    if f:
        arms |= {
            "unsharp": ("Unsharp, spectrum of F", {"sharpen": "bicubic", "like": "f"}),
            "f": ("Method F", {"model": f}),
            "s2-13-f": ("All bands and F", {"stack": ["s2-13", "f"]}),
            "shuffled": ("Control: F's detail, phases shuffled", {"shuffle": "f"}),
            "wrong-date": ("Control: detail of another date", {"other_date": f}),
        }
    if p:
        arms["p"] = ("Method P", {"model": p})
    if f and p:
        arms |= {"f-p": ("F and P stacked", {"stack": ["f", "p"]}), "blend": ("Blend of F and P", {"blend": ["f", "p"]})}
    return arms


def default_arms(areas: Sequence[Area], f: Path | None, p: Path | None) -> list[str]:
    """native, bicubic, bicubic-context, the models' arms, and Spot where every area has it."""
    spot = ["spot"] if all("spot" in area.others for area in areas) else []
    return ["native", "bicubic", BASELINE, *(["f"] if f else []), *(["p"] if p else []), *(["f-p", "blend"] if f and p else []), *spot]


def resolve(names: Sequence[str], own: Mapping[str, Mapping[str, Any]], f: Path | None, p: Path | None) -> list[Arm]:
    """The arms of those names in an order in which each comes after those it is made of; helpers that were not asked for are `hidden`.

    own: recipes of the user. `ALWAYS` are added. Raises `UsageError` for unknown names, verbs and circles.
    """
    known = built_in(f, p)
    for name, recipe in own.items():
        if name in known:
            raise UsageError(f"arm {name} has a meaning already; give your own arm another name")
        if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
            raise UsageError(f"arm '{name}': expected letters, digits, - and _ as a name")
        known[name] = (name, dict(recipe))
    done: dict[str, Arm] = {}

    def add(name: str, hidden: bool, path: tuple[str, ...]) -> None:
        if name in path:
            raise UsageError(f"arm {name} is made of itself: {' -> '.join((*path, name))}; correct its recipe")
        if name in done:
            return
        if name not in known:
            needs = {"p": "--against", "f-p": "--model and --against", "blend": "--model and --against"}
            lacking = f"; {name} needs {needs.get(name, '--model')}" if name in {*needs, "f", "unsharp", "shuffled", "wrong-date", "s2-13-f"} else ""
            raise UsageError(f"no arm is called '{name}'{lacking or nearest(name, known)}; known: {', '.join(known)}")
        title, content = known[name]
        recipe = parse(name, content)
        for source in recipe.sources:
            add(source, source not in wanted, (*path, name))
        model = recipe.model if isinstance(recipe, Model) else None
        label = ModelFolder.open(model, trust=True).sidecar.name if model else ""
        made_of = tuple(dict.fromkeys([*recipe.sources, *(deep for source in recipe.sources for deep in done[source].made_of)]))
        done[name] = Arm(name, f"{title} ({label})" if label else title, recipe, recipe.kind == "control", name in ORACLES, label, hidden, made_of)

    wanted = list(dict.fromkeys([*names, *ALWAYS]))
    for name in wanted:
        add(name, False, ())
    return list(done.values())


def parse(name: str, content: Mapping[str, Any]) -> Recipe:
    """A recipe from its mapping; raises `UsageError` that names the arm."""
    verbs = [verb for verb in VERBS if verb in content]
    verbs = [verb for verb in verbs if verb != "other_date"] or verbs  # an option of `model`, too
    if len(verbs) != 1:
        raise UsageError(f"arm {name}: its recipe has {verbs or list(content)}, expected one of {', '.join(VERBS)}, such as {{stack: [f, native]}}")
    try:
        return VERBS[verbs[0]].model_validate(dict(content))
    except ValidationError as error:
        raise UsageError(f"arm {name}: {flaw(error, flags=False)}; correct the recipe") from error


def make(arm: Arm, making: Making, out: Path) -> None:
    """Write an arm's image under a temporary name, check it, and give it its name. Raises what the recipe does, and `OutputError`."""
    lacking = arm.recipe.missing(making.area)
    if lacking:
        raise InputError(f"{making.area.path}: arm {arm.name} needs {lacking}; add it, or leave the arm out")
    with new_raster(out, "check the folder's rights and the space left on the disk") as temporary:
        arm.recipe.write(making, temporary)
        making.area.fine.require_same(Grid.read(temporary), f"arm {arm.name} in {making.area.path}")


def band_count(path: Path) -> int:
    """How many bands an image has."""
    with rasterio.open(path) as dataset:
        return int(dataset.count)


def require_bands(one: int, two: int, first: str, second: str) -> None:
    """Raise `GridError` when two arms that are to be compared have unequal numbers of bands."""
    if one != two:
        raise GridError(f"arms {first} and {second} have {one} and {two} bands; choose arms with the same bands")


def to_dn(values: NDArray[np.floating]) -> NDArray[np.int16]:
    """Rounded and clamped to int16."""
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def writer(path: Path, grid: Grid, names: Sequence[str | None]) -> rasterio.io.DatasetWriter:
    """An open int16 GeoTIFF on `grid` with band names."""
    side = 256 if min(grid.width, grid.height) >= 256 else 16
    dataset = rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=grid.width,
        height=grid.height,
        count=len(names),
        dtype="int16",
        crs=grid.crs or None,
        transform=grid.transform,
        nodata=NODATA,
        tiled=True,
        blockxsize=side,
        blockysize=side,
        compress="deflate",
        zlevel=1,
        predictor=2,
        interleave="band",
        bigtiff="if_safer",
    )
    for index, name in enumerate(names, 1):
        if name:
            dataset.set_band_description(index, name)
    return dataset


def write_planes(path: Path, grid: Grid, names: Sequence[str | None], planes: Iterator[Plane]) -> None:
    """Write bands as they come."""
    with writer(path, grid, names) as dataset:
        for index, plane in enumerate(planes, 1):
            dataset.write(to_dn(plane), index)


def combine(out: Path, grid: Grid, names: Sequence[str | None], paths: Sequence[Path], how: Callable[[list[NDArray[Any]]], NDArray[Any]]) -> None:
    """Write what `how` makes of several images' [bands, rows, columns], strip by strip."""
    datasets = [rasterio.open(path) for path in paths]
    try:
        with writer(out, grid, names) as target:
            for top in range(0, grid.height, STRIP):
                window = Window(0, top, grid.width, min(STRIP, grid.height - top))
                target.write(to_dn(how([dataset.read(window=window).astype(np.float32) for dataset in datasets])), window=window)
    finally:
        for dataset in datasets:
            dataset.close()


def resampled(plane: NDArray[Any], coarse: rasterio.DatasetReader, fine: Grid, how: str) -> Plane:
    """One band of the 10 m grid of `coarse` on the fine grid; pixels without data do not enter their neighbours'."""
    result = np.empty((fine.height, fine.width), np.float32)
    nodata = NODATA if coarse.nodata is None else coarse.nodata
    method = Resampling.nearest if how == "nearest" else Resampling.cubic
    crs = coarse.crs or rasterio.CRS.from_epsg(32631)  # equal on both sides: no reprojection takes place
    with WARPING:
        reproject(
            plane.astype(np.float32),
            result,
            src_transform=coarse.transform,
            dst_transform=fine.transform,
            src_crs=crs,
            dst_crs=crs,
            src_nodata=nodata,
            dst_nodata=nodata,
            resampling=method,
        )
    return result


def filled(dataset: rasterio.DatasetReader, index: int) -> Plane:
    """A band as float32, what has no data replaced by the mean, so that filters see no cliff."""
    plane = dataset.read(index, masked=True).astype(np.float32)
    return np.asarray(plane.filled(plane.mean() if plane.count() else 0.0))


def mirrored_rows(dataset: rasterio.DatasetReader, first: int, count: int) -> NDArray[np.float64]:
    """Rows `first` to `first + count` of all bands [bands, rows, columns]; beyond the image its rows are mirrored, the edge row repeated."""
    height = dataset.height
    rows = np.arange(first, first + count) % (2 * height)
    rows = np.where(rows < height, rows, 2 * height - 1 - rows)
    low, high = int(rows.min()), int(rows.max()) + 1
    return dataset.read(window=Window(0, low, dataset.width, high - low)).astype(np.float64)[:, rows - low]


def context_features(bands: NDArray[np.float64], radii: Sequence[int]) -> NDArray[np.float64]:
    """[features, rows, columns]: the bands, for each radius means and deviations, then gradients of the bands' mean; mirrored at the edges."""
    features, level = [bands], 1000.0  # squares about a common level keep the digits of small deviations
    for radius in radii:
        size = (1, 2 * radius + 1, 2 * radius + 1)
        mean = ndimage.uniform_filter(bands - level, size=size, mode="reflect")
        square = ndimage.uniform_filter((bands - level) ** 2, size=size, mode="reflect")
        features += [mean + level, np.sqrt(np.maximum(square - mean**2, 0.0))]
    brightness = bands.mean(axis=0)
    gradients = [radius * ndimage.gaussian_gradient_magnitude(brightness, radius / 2, mode="reflect", truncate=4.0) for radius in radii]
    return np.concatenate([*features, np.stack(gradients)])


def radial_frequency(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Cycles per pixel of each coefficient of a cosine transform of that shape."""
    rows, columns = (np.arange(size) / (2 * size) for size in shape)
    return np.asarray(np.hypot(rows[:, None], columns[None, :]))


def sharpened(image: Plane, like: Plane, limit: float, bins: int = 64) -> Plane:
    """`image` filtered so that its power at every radial frequency is that of `like`, by gains from 1 / `limit` to `limit`; mean kept."""
    spectrum, wanted = (fft.dctn(plane, norm="ortho", workers=1) for plane in (image, like))
    ring = np.minimum((radial_frequency((image.shape[0], image.shape[1])) / np.sqrt(0.5) * bins).astype(np.int64), bins - 1)
    ring[0, 0] = bins  # the mean has a ring of its own
    power = [np.bincount(ring.ravel(), (plane.astype(np.float64) ** 2).ravel(), bins + 1) for plane in (wanted, spectrum)]
    gain = np.sqrt(np.divide(power[0], power[1], out=np.ones(bins + 1), where=power[1] > 0))
    gain = np.clip(gain, 1 / limit, limit)
    gain[bins] = 1.0
    return np.asarray(fft.idctn(spectrum * gain[ring].astype(np.float32), norm="ortho", workers=1), np.float32)


def coarse_and_back(fine: Plane, name: str | None, mtf: float, coarse: rasterio.DatasetReader, grid: Grid) -> Plane:
    """A fine band degraded by Sentinel-2's sensor to the grid of `coarse`, in whole DN, and interpolated back."""
    band = name if name in SENTINEL2 else "B4"
    seen = degrade(fine[..., None], FACTOR, (str(band),), mtf_fine=mtf)[..., 0]
    return resampled(np.rint(seen), coarse, grid, "cubic")
