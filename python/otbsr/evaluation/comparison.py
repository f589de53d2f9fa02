"""Several super-resolved images side by side: paired differences by scene, or by block of one scene, with bootstrap intervals.

Scenes differ far more than methods do, so means over scenes say little; what one method gains over another on the same ground does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from otbsr.documents import read_document
from otbsr.errors import InputError, UsageError
from otbsr.evaluation.perceptual import WHITE, read_perception
from otbsr.evaluation.quality import BORDER, paired
from otbsr.evaluation.statistics import Interval
from otbsr.evaluation.streams import Measured, measure
from otbsr.progress import Report, part, silent

LEAST = 5
"""Scenes or blocks below which no interval is told."""


class SceneFiles(BaseModel):
    """One scene of a list: images by the method's name, and what they are compared with; scenes of one `ground` are drawn together."""

    model_config = ConfigDict(extra="forbid")

    name: str
    images: dict[str, Path]
    reference: Path | None = None
    input: Path | None = None
    mask: Path | None = None
    ground: str | None = None


@dataclass(frozen=True)
class Difference:
    """How one image's score differs from the first one's on the same scenes or blocks; no interval from fewer than `LEAST`."""

    score: str
    image: str
    first: str
    value: float
    interval: Interval | None
    units: int

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        ends = {"low": self.interval.low, "high": self.interval.high, "shown": self.interval.shown} if self.interval else {}
        return {"score": self.score, "image": self.image, "minus": self.first, "difference": self.value, **ends, "units": self.units}


@dataclass(frozen=True)
class Comparison:
    """Scores of each image in each scene, and the paired differences from the first image over scenes, or over blocks of the one scene."""

    unit: str
    images: tuple[str, ...]
    measured: Mapping[str, Mapping[str, Measured]]
    differences: tuple[Difference, ...]

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints: {"unit", "scenes": {scene: {image: as of one image}}, "differences": [...]}."""
        scenes = {scene: {image: found.as_dict() for image, found in images.items()} for scene, images in self.measured.items()}
        return {"unit": self.unit, "scenes": scenes, "differences": [one.as_dict() for one in self.differences]}

    def table(self) -> str:
        """As lines of text: score, the images' means over the scenes, and the differences with their intervals; * leaves out 0."""
        rows = [["", *self.images, *(f"{image} - {self.images[0]}" for image in self.images[1:])]]
        for name in dict.fromkeys(one.score for one in self.differences):
            values = [[found[image].scores[name].all for found in self.measured.values()] for image in self.images]
            row = [name, *(f"{mean(of):.5g}" for of in values)]
            for image in self.images[1:]:
                told = [one for one in self.differences if (one.score, one.image) == (name, image)]
                row.append(difference_text(told[0]) if told else "-")
            rows.append(row)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in rows]
        return "\n".join(line.rstrip() for line in lines)


def difference_text(one: Difference) -> str:
    """+0.31 [0.12, 0.48] *."""
    if one.interval is None:
        return f"{one.value:+.4g} ({one.units} only)"
    return f"{one.value:+.4g} [{one.interval.low:.4g}, {one.interval.high:.4g}]{' *' if one.interval.shown else '  '}"


def mean(values: Sequence[float | None]) -> float:
    """Mean of what there is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def read_scenes(path: Path) -> list[SceneFiles]:
    """The scenes of a YAML or JSON list; paths are those of the list's folder. Raises `InputError` naming what is wrong."""
    content = read_document(path, "a list of scenes in YAML or JSON")
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: holds no list of scenes; expected entries with name, images ({{method: file}}), reference, input")
    try:
        scenes = [SceneFiles.model_validate(one) for one in content]
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; expected name, images, reference, input, mask, ground") from error
    names = [scene.name for scene in scenes]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two scenes are called {next(name for name in names if names.count(name) > 1)}; give each its own name")
    for scene in scenes:
        if set(scene.images) != set(scenes[0].images):
            raise InputError(f"{path}: scene {scene.name} has images {', '.join(scene.images)}, expected {', '.join(scenes[0].images)} as in {names[0]}")
    folder = path.parent
    return [
        scene.model_copy(
            update={key: folder / value for key, value in (("reference", scene.reference), ("input", scene.input), ("mask", scene.mask)) if value}
            | {"images": {name: folder / image for name, image in scene.images.items()}}
        )
        for scene in scenes
    ]


def image_names(images: Sequence[Path]) -> dict[str, Path]:
    """Short names that tell the images apart: stems, with their folders where stems are alike."""
    for depth in range(1, max(len(image.parts) for image in images) + 1):
        names = ["/".join((*image.parts[-depth:-1], image.stem)) for image in images]
        if len(set(names)) == len(names):
            return dict(zip(names, images, strict=True))
    raise UsageError(f"{images[0]}: the same image is given twice; give different ones")


def compare(scenes: Sequence[SceneFiles], *, seed: int = 0, report: Report = silent, **options: Any) -> Comparison:
    """Score every image of every scene, and compare each with the first one: by scene, by block of `window` fine pixels where there is one scene.

    options: as `streams.measure` has them. Differences are means over the units of score - score of the first image, with 95 % intervals
    from drawing units (scenes of one ground together) with replacement. Blocks count where at least half of their pixels do in all images.
    """
    images = tuple(scenes[0].images)
    if len(images) < 2:
        raise UsageError(f"{images[0]}: one image only; give at least two to compare")
    by_block = len(scenes) == 1
    measured: dict[str, dict[str, Measured]] = {}
    for number, scene in enumerate(scenes):
        measured[scene.name] = {}
        for place, image in enumerate(images):
            step = number * len(images) + place
            own = part(report, "quality", step / (len(scenes) * len(images)), (step + 1) / (len(scenes) * len(images)))
            files = scene.images[image], scene.reference, scene.input, scene.mask
            measured[scene.name][image] = measure(*files, blocks=True, report=own, **options)
    differences = []
    groups = None if by_block else [scene.ground or scene.name for scene in scenes]
    for name in next(iter(measured.values()))[images[0]].scores:
        columns = block_values(measured[scenes[0].name], images, name) if by_block else scene_values(measured, images, name)
        for image, values in zip(images[1:], columns[1:], strict=True):
            pairs = [(a, b, i) for i, (a, b) in enumerate(zip(values, columns[0], strict=True)) if a is not None and b is not None]
            if not pairs:
                continue
            first, second = [a for a, _, _ in pairs], [b for _, b, _ in pairs]
            own_groups = [groups[i] for _, _, i in pairs] if groups else None
            units = len(set(own_groups)) if own_groups else len(pairs)
            value = sum(first) / len(first) - sum(second) / len(second)
            interval = paired(first, second, own_groups, seed) if units >= LEAST else None
            differences.append(Difference(name, image, images[0], value, interval, units))
    return Comparison("block" if by_block else "scene", images, measured, tuple(differences))


@dataclass(frozen=True)
class Scored:
    """What `otbsr quality` tells: the one image's scores, or a comparison; and the files that were written."""

    one: Measured | None
    comparison: Comparison | None
    html: Path | None = None
    maps: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        content = self.one.as_dict() if self.one else self.comparison.as_dict() if self.comparison else {}
        return content | ({"html": str(self.html)} if self.html else {})

    def lines(self) -> list[str]:
        """What is printed otherwise."""
        found = []
        if self.one:
            found += [self.one.table(), *(f"remark: {remark}" for remark in self.one.remarks)]
            found += [f"{key}: {getattr(self.one, key)}" for key in ("pixels", "factor", "border")]
        if self.comparison:
            every = [one for images in self.comparison.measured.values() for one in images.values()]
            found += [self.comparison.table(), *(f"remark: {remark}" for remark in dict.fromkeys(remark for one in every for remark in one.remarks))]
            units = max((one.units for one in self.comparison.differences), default=0)
            found += [f"{self.comparison.unit}s: {units}", f"factor: {every[0].factor}", f"border: {every[0].border}"]
        return found + [f"{key}: {path}" for key, path in (("maps", self.maps), ("html", self.html)) if path]


def score_all(
    images: Sequence[Path],
    listed: Path | None,
    reference: Path | None,
    coarse: Path | None,
    mask: Path | None,
    *,
    block: int,
    maps: Path | None = None,
    html: Path | None = None,
    perceptual: Path | None = None,
    white: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    report: Report = silent,
    **options: Any,
) -> Scored:
    """One image's scores, or the comparison of several images of one scene or of a list of scenes; and their page.

    perceptual: folder of weights for LPIPS and DISTS; white: reflectance that they see as white. options: groups, border, scale, threads as
    `streams.measure` has them. Raises `UsageError` for options that contradict one another.
    """
    from otbsr.evaluation.page import require_free, write_page
    from otbsr.products.product import require_scale

    require_scale(options.get("scale"))
    if bool(images) == bool(listed) or (listed and (reference or coarse or mask)):
        raise UsageError("give either images with --reference and --input, or a list with --scenes that names them")
    scenes = read_scenes(listed) if listed else [SceneFiles(name="scene", images=image_names(images), reference=reference, input=coarse, mask=mask)]
    several = len(scenes[0].images) > 1
    if maps and (several or len(scenes) > 1):
        raise UsageError(f"--maps {maps}: maps are those of one image; give one, or --html for several")
    if not several and len(scenes) > 1:
        raise UsageError(f"{listed}: one image a scene; give at least two methods to compare")
    if html:
        require_free(html, overwrite)
    if white is not None and not perceptual:
        raise UsageError(f"--white {white:g}: is for LPIPS and DISTS; give their weights with --perceptual, or leave it out")
    if perceptual:
        options["perception"] = read_perception(perceptual, WHITE if white is None else white, options.get("threads"))
    one, comparison = None, None
    measured: Mapping[str, Mapping[str, Measured]]
    if several:
        comparison = compare(scenes, seed=seed, report=report, window=block, **options)
        measured = comparison.measured
    else:
        (name, image), scene = next(iter(scenes[0].images.items())), scenes[0]
        window: dict[str, Any] = {"window": block, "blocks": True} if html else {}
        one = measure(image, scene.reference, scene.input, scene.mask, maps=maps, overwrite=overwrite, report=report, **window, **options)
        measured = {scene.name: {name: one}}
    if html:
        write_page(html, scenes, measured, comparison, border=options.get("border", BORDER), scale=options.get("scale"), overwrite=overwrite)
    return Scored(one, comparison, html, maps)


def scene_values(measured: Mapping[str, Mapping[str, Measured]], images: Sequence[str], name: str) -> list[list[float | None]]:
    """A score by image and scene."""
    return [[found[image].scores[name].all if name in found[image].scores else None for found in measured.values()] for image in images]


def block_values(measured: Mapping[str, Measured], images: Sequence[str], name: str) -> list[list[float | None]]:
    """A score by image and block; None where less than half of the block's pixels count in an image."""
    kept = [all(2 * one.pixels >= one.height * one.width for one in blocks) for blocks in zip(*(measured[i].blocks for i in images), strict=True)]
    return [[one.scores.get(name) if used else None for one, used in zip(measured[image].blocks, kept, strict=True)] for image in images]
