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

import numpy as np
from threadpoolctl import threadpool_limits

from otbsr.errors import InputError, UsageError, nearest
from otbsr.evaluation.consistency import Consistency, SpectralDistortion
from otbsr.evaluation.corrected import Correction, between, rows_of
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
    "consistency": "RMSE, bias and SAM of the image, seen by the sensor, against the input",
    "windows": "SSIM, UQI, spatial correlation, D-lambda",
    "shift": "PSNR at the best whole-pixel displacement",
    "spectra": "frequency-domain gain, overshoot, undershoot, correlation of rings",
    "noise": "noise of image and input",
    "edges": "MTF and width of the point spread, on straight edges of the image",
    "between": "displacement, gain, bias and blur between image, reference and input; scores of pixels and windows without the first three",
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

        scores: {name: {"all", "bands": {band: value}, "unit"}}; spectrum: `Spectrum.curves`, with input and reference only; edge:
        `Edges.curves`; alignments: of "image" and "input" to the reference, as `Alignment.to_json` has them; maps: files.
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

    def table(self) -> str:
        """The scores as lines of text: name, all bands, each band, unit; "-" where there is nothing to say."""

        def text(value: float | None) -> str:
            return "-" if value is None else f"{value:.5g}"

        rows = [("", "all", *self.bands, "")]
        rows += [(name, text(one.all), *map(text, one.bands or (None,) * len(self.bands)), one.unit) for name, one in self.scores.items()]
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


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """The groups that a list of groups and sets names, in the order of `GROUPS`; raises `UsageError` for a name that is neither."""
    for name in names:
        if name not in GROUPS and name not in SETS:
            raise UsageError(f"--scores {name}: no such scores{nearest(name, [*SETS, *GROUPS])}; choose among {', '.join([*SETS, *GROUPS])}")
    wanted = {group for name in names for group in SETS.get(name, (name,))}
    return tuple(group for group in GROUPS if group in wanted)


def measures(scene: Scene, groups: Sequence[str]) -> list[Measure]:
    """What can be measured of these groups with the files that are there, in the order of the table."""
    bands, factor, kernels = len(scene.image.bands), scene.factor, scene.kernels()
    both, given = scene.reference is not None, scene.coarse is not None
    found: list[tuple[str, bool, Callable[[], list[Measure]]]] = [
        ("pixels", both, lambda: [Pixels(bands, factor)]),
        ("windows", both, lambda: [Detail(), Boxes(), Structure()]),
        ("shift", both, lambda: [Shifted()]),
        ("spectra", both and given, lambda: [Spectrum(bands, factor)]),
        ("consistency", bool(kernels), lambda: [Consistency(bands, factor, kernels)]),
        ("windows", given, lambda: [SpectralDistortion(bands, factor)]),
        ("noise", given, lambda: [Noise(bands, coarse=True, factor=factor)]),
        ("noise", True, lambda: [Noise(bands, coarse=False)]),
        ("edges", True, lambda: [Edges(bands)]),
    ]
    return [one for group, possible, made in found if possible and group in groups for one in made()]


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
    counted = measures(scene, chosen)
    apart = reference is not None and "between" in chosen
    tiled = OpenSR(scene.factor, reference is not None) if coarse and "opensr" in chosen else None
    perceptual = Perceptual(scene, perception, maps is not None) if perception else None
    if not (counted or maps or tiled or apart or perceptual):
        raise UsageError(f"{image}: nothing to score: {', '.join(chosen) or 'no scores'} need another file; give --reference, --input or other --scores")
    drawn = Maps(maps, scene, overwrite, perception.maps if perception else ()) if maps else None
    ends = np.cumsum([0, bool(counted or drawn), bool(perceptual), bool(tiled), bool(apart)])
    steps = [part(report, "quality", begin / ends[-1], end / ends[-1]) for begin, end in itertools.pairwise(ends)]
    total = seen = Counted(0, 0, 0, [], {})
    try:
        if counted or drawn:
            kernels = scene.kernels()
            total = count(scene, counted, scene.places(window), threads, drawn, lambda block: planes(block, kernels), steps[0], blocks)
        if perceptual:  # alone, since its windows are wider, and one at a time, since the network has threads of its own
            seen = count(scene, [perceptual], scene.places(window), 1, drawn, perceptual.planes, steps[1], blocks)
        of_blocks = together(total.blocks, seen.blocks)
        written = drawn.finish() if drawn else []
    except BaseException:
        if drawn:
            drawn.discard()
        raise
    scores: dict[str, Score] = {}
    spectrum: dict[str, Any] = {}
    edge: dict[str, Any] = {}
    for one, sums in zip(counted, total.sums, strict=True):
        scores |= one.scores(sums)
        if isinstance(one, Spectrum):
            spectrum = one.curves(sums)
        elif isinstance(one, Edges):
            edge = one.curves(sums)
    remarks, alignments = list(scene.remarks), dict[str, Any]()
    if perceptual:
        scores |= perceptual.scores(seen.sums[0])
        remarks += perceptual.remarks(seen.sums[0])
    if tiled:
        total = count(scene, [tiled], tiled.tiles(scene), threads, report=steps[2])
        scores |= tiled.scores(total.sums[0])
    if apart:
        found, alignments, more = without_what_lies_between(scene, window, threads, steps[3])
        scores, remarks = scores | found, remarks + more
    pixels = total.pixels or seen.pixels or count(scene, [], scene.places(window), threads).pixels
    return Measured(scores, scene.names, pixels, scene.factor, scene.border, spectrum, edge, alignments, tuple(written), tuple(remarks), of_blocks)


def together(first: Sequence[BlockScores], second: Sequence[BlockScores]) -> tuple[BlockScores, ...]:
    """Scores of the same blocks from two passes over them, of which one may have been left out."""
    if not first or not second:
        return (*first, *second)
    return tuple(replace(one, scores=one.scores | other.scores) for one, other in zip(first, second, strict=True))


def without_what_lies_between(scene: Scene, window: int, threads: int | None, report: Report = silent) -> tuple[dict[str, Score], dict[str, Any], list[str]]:
    """(what lies between reference, image and input, and the image's scores when it is corrected; the estimates; remarks)."""
    scores: dict[str, Score] = {}
    alignments: dict[str, Any] = {}
    remarks: list[str] = []
    for what, prefix in (("image", "between"), ("input", "sensors")):
        if what == "input" and scene.coarse is None:
            continue
        found = between(scene, what, part(report, "quality", *((0, 0.3) if what == "image" else (0.9, 1))))
        if isinstance(found, str):
            remarks.append(found)
            continue
        alignments[what] = found.to_json()
        scores |= rows_of(found, prefix, scene.image.grid)
        if what == "image":
            bands = len(scene.image.bands)
            counted: list[Measure] = [Pixels(bands, scene.factor), Detail(), Boxes(), Structure()]
            moved = replace(scene, correction=Correction(found, scene.image.grid))
            total = count(moved, counted, scene.places(window), threads, report=part(report, "quality", 0.3, 0.9))
            for one, sums in zip(counted, total.sums, strict=True):
                scores |= {f"corrected_{name}": value for name, value in one.scores(sums).items()}
    return scores, alignments, remarks


def count(
    scene: Scene,
    counted: Sequence[Measure],
    places: Sequence[Place],
    threads: int | None,
    drawn: Maps | None = None,
    draw: Callable[[Block], dict[str, Plane]] | None = None,
    report: Report = silent,
    blocks: bool = False,
) -> Counted:
    """All blocks at these places together, counted in threads while the next windows are read; raises `InputError` when no pixel counts.

    draw: makes the maps of a block that `drawn` writes.
    """
    margin = max([one.margin for one in counted] + ([drawn.margin] if drawn else []), default=0)

    def work(reading: Reading) -> Counted:
        block = reading.block()
        found = draw(block) if drawn and draw else {}
        pixels, sums = int(block.core(block.common).sum()), [one.sums(block) for one in counted]
        alone = {name: value.all for one, part_ in zip(counted, sums, strict=True) for name, value in one.scores(part_).items()} if blocks else {}
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
    if not pixels or sums is None:
        raise InputError(f"{scene.image.path}: no pixel counts: the files, --mask and a border of {scene.border} pixels leave nothing that all of them hold")
    return Counted(0, 0, pixels, sums, {}, each)
