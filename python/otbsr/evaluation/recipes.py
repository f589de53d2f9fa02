"""Recipes: how one feature image is made, from an area's files or from the images of other arms.

A recipe is a mapping with one verb, as in YAML: `{stack: [f, native]}`. Pixels are int16 DN; the first bands are spectral ones.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import fft

from otbsr.errors import GridError, UsageError, flaw
from otbsr.evaluation.area import Area
from otbsr.evaluation.feature_images import (
    Plane,
    band_count,
    coarse_and_back,
    combine,
    context_features,
    filled,
    mirrored_rows,
    resampled,
    sharpened,
    strips,
    to_dn,
    write_planes,
    writer,
)
from otbsr.grid import Grid
from otbsr.methods.model_folder import ModelFolder
from otbsr.progress import Report, silent
from otbsr.serving.apply import apply
from otbsr.world.sensors import SPOT_2M5

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
                for strip in strips(grid):
                    around = mirrored_rows(dataset, strip.row_off - halo, strip.height + 2 * halo)
                    features = context_features(around, self.radii)[:, halo : halo + strip.height]
                    target.write(to_dn(features), window=strip)
                    making.report("context", (strip.row_off + strip.height) / grid.height)


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


def require_bands(one: int, two: int, first: str, second: str) -> None:
    """Raise `GridError` when two arms that are to be compared have unequal numbers of bands."""
    if one != two:
        raise GridError(f"arms {first} and {second} have {one} and {two} bands; choose arms with the same bands")
