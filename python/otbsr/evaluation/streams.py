"""Scores of images larger than memory: one pass over windows of GeoTIFFs, float64 sums that do not depend on the window.

`measure` is the way in. A measure of neighbourhoods counts a place only where its whole neighbourhood counts, so nothing is made up at
edges.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from otbsr.errors import InputError, UsageError, nearest
from otbsr.evaluation.consistency import Consistency, Displacement, SpectralDistortion
from otbsr.evaluation.corrected import PREFIX, Correction, between, rows_of
from otbsr.evaluation.edges import Edges
from otbsr.evaluation.maps import Maps, planes
from otbsr.evaluation.measures import Measure, Score, Sums, added
from otbsr.evaluation.noise import Noise
from otbsr.evaluation.opensr import OpenSR
from otbsr.evaluation.perceptual import Perception, Perceptual
from otbsr.evaluation.pixel_scores import Pixels
from otbsr.evaluation.quality import BORDER
from otbsr.evaluation.spectra import Spectrum
from otbsr.evaluation.window_scores import Boxes, Detail, Shifted, Structure
from otbsr.evaluation.windows import WINDOW, Block, Place, Plane, Reading, Scene
from otbsr.progress import Report, part, silent

GROUPS = {
    "pixels": "PSNR, RMSE, bias, SAM, ERGAS, correlation, UQI over the whole image",
    "consistency": "RMSE, bias, SAM and displacement of the image, seen by the sensor, against the input",
    "windows": "SSIM, UQI, spatial correlation, D-lambda",
    "shift": "PSNR at the best whole-pixel displacement",
    "spectra": "frequency-domain gain, overshoot, undershoot, correlation of rings",
    "noise": "noise of image and input",
    "edges": "MTF and width of the point spread, on straight edges of the image",
    "between": "displacement, gain, bias and blur between image, reference and input; beside every other score that was chosen, what it is without them",
    "opensr": "opensr-test's consistency, synthesis, improvement, omission and hallucination",
    "perceptual": "LPIPS and DISTS, with weights that you have (--perceptual)",
}
"""Scores that are chosen together, from the cheapest on."""
SETS = {"basic": ("pixels", "consistency"), "all": tuple(GROUPS)}
"""Names for several groups."""


@dataclass(frozen=True)
class BlockScores:
    """The scores of one window alone: where it begins, its size, how many of its pixels count, and each score over all bands."""

    row: int
    column: int
    height: int
    width: int
    pixels: int
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Measured:
    """All scores of one image by name, the bands' names, how many fine pixels counted, factor, and border in fine pixels."""

    scores: dict[str, Score]
    bands: tuple[str, ...]
    pixels: int
    factor: int
    border: int
    spectrum: dict[str, Any] = field(default_factory=dict)
    edge: dict[str, Any] = field(default_factory=dict)
    alignments: dict[str, Any] = field(default_factory=dict)
    maps: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    blocks: tuple[BlockScores, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints: {"bands", "pixels", "factor", "border", "scores", "spectrum", "edge", "alignments", "maps", "remarks"}.

        scores: {name: {"all", "bands": {band: value}, "unit"}}, those of the corrected image under "corrected_" and the name; spectrum:
        `Spectrum.curves`, with input and reference only; edge: `Edges.curves`; alignments: of "image" and "input" to the reference, as
        `Alignment.to_json` has them; maps: files.
        """
        rows: dict[str, dict[str, Any]] = {}
        for name, one in self.scores.items():
            rows[name] = {"all": one.all, "unit": one.unit}
            if one.bands is not None:
                rows[name]["bands"] = dict(zip(self.bands, one.bands, strict=True))
        return {
            "bands": list(self.bands),
            "pixels": self.pixels,
            "factor": self.factor,
            "border": self.border,
            "scores": rows,
            "spectrum": self.spectrum,
            "edge": self.edge,
            "alignments": self.alignments,
            "maps": list(map(str, self.maps)),
            "remarks": list(self.remarks),
        }

    @property
    def corrected(self) -> dict[str, Score]:
        """The scores of the corrected image by the plain scores' names: what has none here is not changed by a correction, or has nothing to do with one."""
        return {name.removeprefix(PREFIX): one for name, one in self.scores.items() if name.startswith(PREFIX)}

    @property
    def plain(self) -> dict[str, Score]:
        """The scores of the image as it is."""
        return {name: one for name, one in self.scores.items() if not name.startswith(PREFIX)}

    def table(self) -> str:
        """The scores as lines of text: name, all bands, corrected where something was, each band, unit; "-" where there is nothing to say."""

        def text(value: float | None) -> str:
            return "-" if value is None else f"{value:.5g}"

        corrected = self.corrected
        rows = [("", "all", *(["corrected"] if corrected else []), *self.bands, "")]
        for name, one in self.plain.items():
            after = [text(corrected[name].all) if name in corrected else ""] if corrected else []
            rows.append((name, text(one.all), *after, *map(text, one.bands or (None,) * len(self.bands)), one.unit))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = []
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)), row[-1]]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class Counted:
    """What one block gives: its place, the number of its pixels that count, each measure's sums, and maps."""

    row: int
    column: int
    pixels: int
    sums: list[Sums]
    maps: dict[str, Plane]
    blocks: list[BlockScores] = field(default_factory=list)


@dataclass(frozen=True)
class Corrections:
    """What takes away what lies between the image, and the input, and the reference; None where that cannot be told."""

    image: Correction | None = None
    input: Correction | None = None


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """The groups that a list of groups and sets names, in the order of `GROUPS`; raises `UsageError` for a name that is neither."""
    for name in names:
        if name not in GROUPS and name not in SETS:
            raise UsageError(f"--scores {name}: no such scores{nearest(name, [*SETS, *GROUPS])}; choose among {', '.join([*SETS, *GROUPS])}")
    wanted = {group for name in names for group in SETS.get(name, (name,))}
    return tuple(group for group in GROUPS if group in wanted)


def measures(scene: Scene, groups: Sequence[str], corrections: Corrections | None = None) -> list[Measure]:
    """What can be measured of these groups with the files that are there, in the order of the table."""
    corrections = corrections or Corrections()
    bands, factor, kernels = len(scene.image.bands), scene.factor, scene.kernels()
    both, given = scene.reference is not None, scene.coarse is not None
    found: list[tuple[str, bool, Callable[[], list[Measure]]]] = [
        ("pixels", both, lambda: [Pixels(bands, factor)]),
        ("windows", both, lambda: [Detail(), Boxes(), Structure()]),
        ("shift", both, lambda: [Shifted()]),
        ("spectra", both and given, lambda: [Spectrum(bands, factor, corrections.image, corrections.input)]),
        ("consistency", bool(kernels), lambda: [Consistency(bands, factor, kernels), Displacement(scene, kernels)]),
        ("windows", given, lambda: [SpectralDistortion(bands, factor)]),
        ("noise", given, lambda: [Noise(bands, coarse=True, factor=factor)]),
        ("noise", True, lambda: [Noise(bands, coarse=False)]),
        ("edges", True, lambda: [Edges(bands)]),
    ]
    return [one for group, possible, made in found if possible and group in groups for one in made()]


def corrected_measures(scene: Scene, groups: Sequence[str]) -> list[Measure]:
    """Those of `measures` that are told of the corrected image too, and are counted on it.

    cPSNR is not: it looks for the best place and takes biases away by itself; `Spectrum` corrects without resampling, in the first pass.
    """
    made: list[tuple[str, list[Measure]]] = [("pixels", [Pixels(len(scene.image.bands), scene.factor)]), ("windows", [Detail(), Boxes(), Structure()])]
    return [one for group, found in made if group in groups for one in found]


def measure(
    image: Path,
    reference: Path | None = None,
    coarse: Path | None = None,
    mask: Path | None = None,
    *,
    groups: Sequence[str] = ("all",),
    border: int = BORDER,
    scale: float | None = None,
    window: int = WINDOW,
    threads: int | None = None,
    maps: Path | None = None,
    overwrite: bool = False,
    blocks: bool = False,
    perception: Perception | None = None,
    report: Report = silent,
) -> Measured:
    """Score the super-resolved `image` against a `reference` on its grid, the `coarse` input that it was made from, or both.

    mask: an image on the fine grid, or on one in which that nests; only pixels where its first band is neither 0 nor no-data count.
    groups: which scores, names of `GROUPS` and `SETS`. border: fine pixels left out on each side, rounded up to whole input pixels.
    scale: reflectance of one DN where a file says nothing itself, 1e-4 by default. window: side of the windows in fine pixels, rounded
    to whole tiles of 16 input pixels; memory grows with its square, the result is the same but for rounding. maps: folder for maps of
    scores (`MAPS`), named after them. blocks: give the scores of each window too (those of opensr and between have none). perception:
    weights for LPIPS and DISTS, which are told whenever they are given. Raises `InputError` (`GridError`) for files that cannot be
    compared or share no pixel, `UsageError` for nothing to compare, `OutputError` for maps.
    """
    chosen = choose(groups)
    if "perceptual" in groups and perception is None:
        raise UsageError("--scores perceptual: LPIPS and DISTS need weights that you have; give their folder with --perceptual")
    scene = Scene.open(image, reference, coarse, mask, border, scale)
    apart = reference is not None and "between" in chosen
    tiled = coarse is not None and "opensr" in chosen
    perceptual = Perceptual(scene, perception, maps is not None) if perception else None
    if not (measures(scene, chosen) or maps or tiled or apart or perceptual):
        raise UsageError(f"{image}: nothing to score: {', '.join(chosen) or 'no scores'} need another file; give --reference, --input or other --scores")
    found = Found()
    if apart:
        what_lies_between(scene, found, part(report, "quality", 0, 0.1))
    drawn = Maps(maps, scene, overwrite, perception.maps if perception else (), found.corrections.image is not None) if maps else None
    try:
        for run in passes(scene, chosen, found, perceptual, drawn, window, threads, tiled):
            run.into(found, drawn, blocks, report)
        written = drawn.finish() if drawn else []
    except BaseException:
        if drawn:
            drawn.discard()
        raise
    pixels = found.pixels or count(scene, [], scene.places(window), threads).pixels
    return Measured(
        beside(found.scores) | found.between,
        scene.names,
        pixels,
        scene.factor,
        scene.border,
        found.spectrum,
        found.edge,
        found.alignments,
        tuple(written),
        (*scene.remarks, *found.remarks),
        tuple(found.blocks),
    )


def beside(scores: dict[str, Score]) -> dict[str, Score]:
    """The scores with those of the corrected image each behind its own."""
    names = [name for plain in scores if not plain.startswith(PREFIX) for name in (plain, PREFIX + plain)]
    return {name: scores[name] for name in names if name in scores}


@dataclass
class Found:
    """What the passes over the files have given so far; between: what lies between the files, as scores."""

    corrections: Corrections = field(default_factory=Corrections)
    alignments: dict[str, Any] = field(default_factory=dict)
    between: dict[str, Score] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    spectrum: dict[str, Any] = field(default_factory=dict)
    edge: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    blocks: tuple[BlockScores, ...] = ()
    pixels: int = 0


@dataclass(frozen=True)
class Pass:
    """One reading of the files: what is counted and drawn, where, and from where to where the progress goes.

    corrected: the scene corrects its files, and scores and maps get `PREFIX`. tiles: the places are no windows, so that blocks have no scores.
    """

    scene: Scene
    counted: Sequence[Any]
    places: Sequence[Place]
    threads: int | None
    draw: Callable[[Block], dict[str, Plane]] | None = None
    corrected: bool = False
    tiles: bool = False
    span: tuple[float, float] = (0.0, 1.0)

    def into(self, found: Found, drawn: Maps | None, blocks: bool, report: Report) -> None:
        """Count, and add what was found; raises `InputError` when no pixel counts as it is."""
        prefix = PREFIX if self.corrected else ""
        own = drawn if self.draw else None
        told = count(
            self.scene, self.counted, self.places, self.threads, own, self.draw, part(report, "quality", *self.span), blocks and not self.tiles, prefix
        )
        for one, sums in zip(self.counted, told.sums, strict=True):
            found.scores |= {prefix + name: value for name, value in one.scores(sums).items()}
            if isinstance(one, Spectrum):
                found.spectrum = one.curves(sums)
            elif isinstance(one, Edges):
                found.edge = one.curves(sums)
            elif isinstance(one, Perceptual) and not self.corrected:
                found.remarks += one.remarks(sums)
        if not self.tiles:
            found.blocks = together(found.blocks, told.blocks)
            found.pixels = found.pixels or told.pixels


def passes(
    scene: Scene,
    groups: Sequence[str],
    found: Found,
    perceptual: Perceptual | None,
    drawn: Maps | None,
    window: int,
    threads: int | None,
    tiled: bool,
) -> list[Pass]:
    """What is to be read, as it is and corrected.

    LPIPS and DISTS have passes of their own, since their windows are wider, with one thread, since the network has threads of its own.
    """
    kernels, places, both = scene.kernels(), scene.places(window), found.corrections
    moved = replace(scene, correction=both.image)
    runs = [Pass(scene, measures(scene, groups, both), places, threads, (lambda block: planes(block, kernels)) if drawn else None)]
    if both.image:
        runs.append(Pass(moved, corrected_measures(scene, groups), places, threads, (lambda block: planes(block, {})) if drawn else None, True))
    if perceptual:
        runs.append(Pass(scene, [perceptual], places, 1, perceptual.planes if drawn else None))
        if both.image:
            again = Perceptual(moved, perceptual.perception, drawn is not None)
            runs.append(Pass(moved, [again], places, 1, again.planes if drawn else None, True))
    if tiled:
        one = OpenSR(scene.factor, scene.reference is not None)
        runs.append(Pass(scene, [one], one.tiles(scene), threads, tiles=True))
        if both.image and both.input:
            one = OpenSR(scene.factor, True, corrected=True)
            runs.append(Pass(replace(moved, coarse_correction=both.input), [one], one.tiles(scene), threads, corrected=True, tiles=True))
    runs = [run for run in runs if run.counted or run.draw]
    first = 0.1 if "between" in groups and scene.reference else 0.0
    ends = [first + (1 - first) * i / len(runs) for i in range(len(runs) + 1)] if runs else []
    return [replace(run, span=span) for run, span in zip(runs, itertools.pairwise(ends), strict=True)]


def together(first: Sequence[BlockScores], second: Sequence[BlockScores]) -> tuple[BlockScores, ...]:
    """Scores of the same blocks from two passes over them, of which one may have been left out."""
    if not first or not second:
        return (*first, *second)
    return tuple(replace(one, scores=one.scores | other.scores) for one, other in zip(first, second, strict=True))


def what_lies_between(scene: Scene, found: Found, report: Report = silent) -> None:
    """Estimate what lies between reference and image, and reference and input: rows, estimates, corrections, and remarks where it cannot be told."""
    corrections = {}
    for what, prefix in (("image", "between"), ("input", "sensors")):
        source = scene.image if what == "image" else scene.coarse
        if source is None:
            continue
        told = between(scene, what, part(report, "quality", *((0, 0.5) if what == "image" else (0.5, 1))))
        if isinstance(told, str):
            found.remarks.append(told)
            continue
        corrections[what] = Correction(told, source.grid)
        found.alignments[what] = told.to_json()
        found.between |= rows_of(told, prefix, scene.image.grid)
    found.corrections = Corrections(**corrections)


def count(
    scene: Scene,
    counted: Sequence[Measure],
    places: Sequence[Place],
    threads: int | None,
    drawn: Maps | None = None,
    draw: Callable[[Block], dict[str, Plane]] | None = None,
    report: Report = silent,
    blocks: bool = False,
    prefix: str = "",
) -> Counted:
    """All blocks at these places together, counted in threads while the next windows are read; raises `InputError` when no pixel counts.

    draw: makes the maps of a block that `drawn` writes. prefix: of the names of scores of blocks and of maps.
    """
    margin = max([one.margin for one in counted] + ([drawn.margin] if drawn else []), default=0)

    def work(reading: Reading) -> Counted:
        block = reading.block()
        found = {prefix + name: plane for name, plane in draw(block).items()} if drawn and draw else {}
        pixels, sums = int(block.core(block.common).sum()), [one.sums(block) for one in counted]
        alone = {prefix + name: value.all for one, part_ in zip(counted, sums, strict=True) for name, value in one.scores(part_).items()} if blocks else {}
        told = [BlockScores(block.row, block.column, block.height, block.width, pixels, alone)] if blocks else []
        return Counted(block.row, block.column, pixels, sums, found, told)

    sums: list[Sums] | None = None
    each: list[BlockScores] = []
    pixels = 0

    def add(one: Counted) -> None:
        nonlocal sums, pixels
        pixels += one.pixels
        each.extend(one.blocks)
        sums = one.sums if sums is None else [added(x, y) for x, y in zip(sums, one.sums, strict=True)]
        if drawn:
            drawn.write(one.row, one.column, scene.factor, one.maps)

    workers = threads or min(4, os.cpu_count() or 1)
    with threadpool_limits(1, "blas"), closing(scene.read(places, margin, report)) as readings, ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Counted]] = deque()
        for reading in readings:
            pending.append(pool.submit(work, reading))
            if len(pending) > workers:
                add(pending.popleft().result())
        for future in pending:
            add(future.result())
    if sums is None or not (pixels or prefix):  # what a correction leaves nothing of has no scores
        raise InputError(f"{scene.image.path}: no pixel counts: the files, --mask and a border of {scene.border} pixels leave nothing that all of them hold")
    return Counted(0, 0, pixels, sums, {}, each)
