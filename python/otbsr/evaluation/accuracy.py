"""How good a land-cover map is: sums by block, from which every measure is read.

All that is kept of a map are sums over the pixels, cells and objects of each block (`Sums`: name -> float64 array, block first), so that
blocks can be added, drawn again and compared without the map. Labels are 1..K, 0: not judged; a confusion matrix has the reference in
rows and the map in columns.

An area is read by windows with a halo, so that memory does not grow with the area. Objects (connected pixels, 8 neighbours) count in the
block of their first pixel; what lies more than `HALO` pixels beyond a window's core is not seen, which cuts objects longer than that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
Matrix = NDArray[np.float64]
Sums = dict[str, Matrix]

HALO = 64
"""Pixels read around a window: 160 m at 2.5 m."""
TOLERANCES = (1, 2)
"""How far a boundary may lie from the reference's, pixels."""
SIZES = (100.0, 400.0, 1600.0)
"""Ends of the bins of a building's area, m2: a pixel of 10 m, four, sixteen."""
WIDTHS = (5.0, 10.0, 20.0)
"""Ends of the bins of a road's width, m: half a pixel of 10 m, one, two."""
DETECTED = 0.5
"""Share of an object's pixels that must be mapped as its class for it to be found."""
SMALLEST = 4
"""Pixels that a mapped building must have to count as an object: 25 m2 at 2.5 m."""
NEAR = 2
"""Pixels within which a reference building supports a mapped one."""
CONFIDENCE_BINS = 50
CALIBRATION_BINS = 10
DISAGREEMENTS: Matrix = np.concatenate(([0.0], np.geomspace(1, 10000, 64)))
"""Lower ends of the bins of disagreement, DN."""
NO_DISAGREEMENT = 65535
DISAGREEMENT_BIN: NDArray[np.int64] = np.digitize(np.arange(NO_DISAGREEMENT + 1), DISAGREEMENTS) - 1
"""The bin of each uint16."""
EIGHT: NDArray[np.bool_] = ndimage.generate_binary_structure(2, 2)


@dataclass(frozen=True)
class Legend:
    """The classes 1..K by name, and what they are: artificial surfaces, buildings, roads (class numbers from 0)."""

    names: tuple[str, ...]
    artificial: tuple[int, ...] = ()
    building: tuple[int, ...] = ()
    road: tuple[int, ...] = ()

    @classmethod
    def of(cls, classes: Sequence[dict[str, Any]]) -> Legend:
        """From maps.json's `classes`, in the order of their codes; raises `ValueError` unless the codes are 1..K."""
        ordered = sorted(classes, key=lambda one: int(one["code"]))
        codes = [int(one["code"]) for one in ordered]
        if codes != list(range(1, len(codes) + 1)):
            raise ValueError(f"class codes {codes}; expected 1 to {len(codes)} without gaps")
        chosen = {role: tuple(i for i, one in enumerate(ordered) if one.get("role") == role) for role in ("building", "road")}
        return cls(
            tuple(str(one["name"]) for one in ordered), tuple(i for i, one in enumerate(ordered) if one.get("artificial")), chosen["building"], chosen["road"]
        )

    @property
    def number(self) -> int:
        """K."""
        return len(self.names)


# --- counting -------------------------------------------------------------------------------------------------------------------


def within(labels: Array, classes: Sequence[int]) -> NDArray[np.bool_]:
    """Where `labels` (1..K) is one of `classes` (from 0)."""
    return np.isin(labels, [one + 1 for one in classes])


def boundary(mask: NDArray[np.bool_], judged: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of `mask` with a judged neighbour (of 4) outside it; the image's edge and unjudged pixels make no boundary."""
    outside = judged & ~mask
    found = np.zeros_like(mask)
    found[1:] |= outside[:-1]
    found[:-1] |= outside[1:]
    found[:, 1:] |= outside[:, :-1]
    found[:, :-1] |= outside[:, 1:]
    return found & mask


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its neighbours (of 4): dilation by a cross; n times gives the disc of radius n for n up to 2."""
    found = mask.copy()
    found[1:] |= mask[:-1]
    found[:-1] |= mask[1:]
    found[:, 1:] |= mask[:, :-1]
    found[:, :-1] |= mask[:, 1:]
    return found


def thickness(mask: NDArray[np.bool_], widths: Sequence[float]) -> NDArray[np.int64]:
    """Bin of the local thickness of each pixel of `mask`: how many of `widths` (pixels, ascending) it reaches; 0 outside it.

    Local thickness (Hildebrand & Rueegsegger 1997): the diameter of the largest disc inside the mask that covers the pixel. On a grid of
    half pixels a straight strip of n pixels holds discs of diameter n exactly. Rows, columns.
    """
    bins = np.zeros(mask.shape, np.int64)
    if mask.all() or not mask.any():
        return bins + len(widths) * mask
    double = mask.repeat(2, 0).repeat(2, 1)
    inner = ndimage.distance_transform_edt(double)
    for width in widths:
        centres = inner >= width
        if not centres.any():
            break
        covered = ndimage.distance_transform_edt(~centres) < width
        bins += covered.reshape(mask.shape[0], 2, mask.shape[1], 2).any((1, 3))
    return np.where(mask, bins, 0)


def first_pixels(objects: Array, number: int) -> NDArray[np.int64]:
    """Flat index of the first pixel (row by row) of the objects 1..number; index 0 of the result is void."""
    flat = objects.ravel()
    places = np.flatnonzero(flat)[::-1]
    first = np.zeros(number + 1, np.int64)
    first[flat[places]] = places  # the last assignment holds: the first pixel
    return first


@dataclass
class Truth:
    """The reference of one window, and what is derived from it once for all maps.

    labels, blocks: (rows, columns) of the window with its halo; core: the slices that are counted; spacing: metres; cell: pixels per side
    of a 10 m cell; origin: row and column of the window in its area.
    """

    labels: Array
    blocks: Array
    count: int
    legend: Legend
    spacing: float
    core: tuple[slice, slice]
    cell: int = 4
    origin: tuple[int, int] = (0, 0)
    where: NDArray[np.int64] = field(init=False)
    judged: NDArray[np.bool_] = field(init=False)
    edges: list[tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]] = field(init=False)

    def __post_init__(self) -> None:
        if self.labels.max(initial=0) > self.legend.number:
            raise ValueError(f"label {self.labels.max()} in the reference; expected 1 to {self.legend.number}, or 0")
        self.judged = (self.labels > 0) & (self.blocks >= 0)
        self.where = np.full(self.labels.shape, -1, np.int64)
        self.where[self.core] = np.where(self.judged, self.blocks, -1)[self.core]
        self.edges = [self.boundaries(mask) for mask in self.masks(self.labels)]
        buildings = within(self.labels, self.legend.building) & self.judged
        self.buildings, self.building_number = ndimage.label(buildings, EIGHT)
        pixels = np.bincount(self.buildings.ravel(), minlength=self.building_number + 1)
        self.building_pixels = pixels
        self.building_bin = np.digitize(pixels * self.spacing**2, SIZES)
        self.building_first = first_pixels(self.buildings, self.building_number)
        self.near_building = buildings
        for _ in range(NEAR):
            self.near_building = grown(self.near_building)
        roads = within(self.labels, self.legend.road) & self.judged
        self.roads = roads
        self.road_bin = thickness(roads, [width / self.spacing for width in WIDTHS])
        self.cells, self.cell_block = self.cells_of(self.labels), self.cell_blocks()

    def masks(self, labels: Array) -> list[NDArray[np.bool_]]:
        """The mask of each class, then that of all artificial surfaces."""
        return [(labels == code + 1) & self.judged for code in range(self.legend.number)] + [within(labels, self.legend.artificial) & self.judged]

    def boundaries(self, mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], list[NDArray[np.bool_]]]:
        """The mask's boundary, and where a boundary lies within each of `TOLERANCES` (Euclidean: crosses repeated once or twice are discs)."""
        edge = boundary(mask, self.judged)
        near = [grown(edge)]
        near.append(grown(near[0]))
        return edge, near

    def cells_of(self, labels: Array) -> Matrix:
        """Share of each class in the cells of the core, (rows, columns, K)."""
        rows, columns = (size // self.cell for size in self.where[self.core].shape)
        cut, k = labels[self.core][: rows * self.cell, : columns * self.cell], self.legend.number
        index = np.add.outer(np.arange(rows * self.cell) // self.cell * columns, np.arange(columns * self.cell) // self.cell) * (k + 1)
        shares = np.bincount((index + np.minimum(cut, k)).ravel(), minlength=rows * columns * (k + 1)).reshape(rows, columns, k + 1)
        return shares[..., 1:] / self.cell**2

    def cell_blocks(self) -> NDArray[np.int64]:
        """Block of the core's cells: cells with an unjudged pixel, or of two blocks, are -1."""
        core = self.where[self.core]
        rows, columns = core.shape[0] // self.cell, core.shape[1] // self.cell
        core = core[: rows * self.cell, : columns * self.cell].reshape(rows, self.cell, columns, self.cell)
        low, high = core.min((1, 3)), core.max((1, 3))
        return np.where(low == high, low, -1)

    def tally(self, where: Array, kinds: int, kind: Array, *weights: Array | None) -> Matrix:
        """Sums (count, kinds, weights) by block of each of `weights` (None: 1) over the places with `where` >= 0; all flat or of one shape."""
        places = np.flatnonzero(where >= 0)
        index = where.ravel()[places] * kinds + kind.ravel()[places]
        total = [np.bincount(index, None if one is None else one.ravel()[places], self.count * kinds) for one in weights]
        return np.stack(total, -1).reshape(self.count, kinds, len(weights)).astype(np.float64)


def count(
    truth: Truth,
    mapped: Array,
    confidence: Array | None = None,
    disagreement: Array | None = None,
    baseline: Array | None = None,
    thinning: int = 0,
) -> Sums:
    """The sums of one map in the core of one window, by block.

    mapped, baseline: labels like the reference's (baseline: the map of the arm that super-resolution must beat); confidence: 0..1, NaN
    where there is none; disagreement: DN as uint16, `NO_DISAGREEMENT` where there is none; thinning: pixels between those that McNemar's test
    counts, 0: none. All of the window's shape. Raises `ValueError` for a judged pixel without a label of 1..K.

    confusion (K, K); cells (K, K): majority in 10 m cells, of equals the lowest class; fractions (K, 3): sum of squared errors of the
    class's share, of errors, and number of cells; boundary (tolerances, K + 1, 4): boundary pixels mapped, of these near the reference's,
    boundary pixels of the reference, of these near the map's; the last kind is all artificial surfaces; sizes (bins, 4): pixels of
    reference buildings, mapped as such, objects, found; widths (bins, 2): pixels of reference roads, mapped as such; invented (4): mapped
    buildings, those without reference building within `NEAR`, those of them where the baseline maps no building pixel either, their
    pixels; confidence (bins, 3): pixels, sum of confidence, right; brier (2): pixels, sum of (confidence - right) squared; disagreement
    (bins, 2): pixels, wrong; discordant (2): right in this map only, right in the baseline only.
    """
    legend, where, k = truth.legend, truth.where, truth.legend.number
    used = where >= 0
    inside = mapped[used]
    if inside.size and (inside.min() < 1 or inside.max() > k):
        raise ValueError(f"labels {inside.min()} to {inside.max()} where the map is judged; expected 1 to {k}")
    right = mapped == truth.labels
    sums: Sums = {
        "confusion": truth.tally(where, k * k, (truth.labels.astype(np.int64) - 1) * k + mapped - 1, None).reshape(truth.count, k, k),
    }
    sums.update(count_cells(truth, mapped))
    sums["boundary"] = count_boundaries(truth, mapped)
    if legend.building:
        sums.update(count_buildings(truth, mapped, baseline))
    if legend.road:
        hit = within(mapped, legend.road)
        kinds = len(WIDTHS) + 1
        roads = np.where(truth.roads, where, -1)
        sums["widths"] = truth.tally(roads, kinds, truth.road_bin, None, hit)
    if confidence is not None:
        given = np.where(np.isfinite(confidence), where, -1)
        clean = np.clip(np.nan_to_num(confidence), 0, 1).astype(np.float64)
        bins = np.minimum((clean * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
        each = truth.tally(given, CONFIDENCE_BINS, bins, None, clean, right, (clean - right) ** 2)
        sums["confidence"], sums["brier"] = each[..., :3], each[..., [0, 3]].sum(1)
    if disagreement is not None:
        given = np.where(disagreement != NO_DISAGREEMENT, where, -1)
        bins = DISAGREEMENT_BIN[disagreement]
        sums["disagreement"] = truth.tally(given, len(DISAGREEMENTS), bins, None, ~right)
    if baseline is not None and thinning:
        other = baseline == truth.labels
        rows, columns = ((np.arange(size) + start) % thinning == thinning // 2 for size, start in zip(where.shape, truth.origin, strict=True))
        kept = np.where(np.logical_and.outer(rows, columns) & (right != other), where, -1)
        sums["discordant"] = truth.tally(kept, 2, other, None)[..., 0]
    return sums


def count_cells(truth: Truth, mapped: Array) -> Sums:
    """`cells` and `fractions` of `count`."""
    k, block = truth.legend.number, truth.cell_block
    shares = truth.cells_of(mapped)
    error = shares - truth.cells
    kind = truth.cells.argmax(-1) * k + shares.argmax(-1)
    weights = [error[..., one] ** power for one in range(k) for power in (2, 1, 0)]
    fractions = truth.tally(block, 1, np.zeros_like(block), *weights).reshape(truth.count, k, 3)
    return {"cells": truth.tally(block, k * k, kind, None).reshape(truth.count, k, k), "fractions": fractions}


def count_boundaries(truth: Truth, mapped: Array) -> Matrix:
    """`boundary` of `count`."""
    found = np.zeros((truth.count, len(TOLERANCES), truth.legend.number + 1, 4))
    where = truth.where.ravel()

    def places(edge: NDArray[np.bool_]) -> NDArray[np.int64]:
        flat = np.flatnonzero(edge)
        return flat[where[flat] >= 0]

    def by_block(flat: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(where[flat], minlength=truth.count)

    for kind, (mask, (edge, near)) in enumerate(zip(truth.masks(mapped), truth.edges, strict=True)):
        own, own_near = truth.boundaries(mask)
        drawn, expected = places(own), places(edge)
        for step in range(len(TOLERANCES)):
            hit, met = drawn[near[step].ravel()[drawn]], expected[own_near[step].ravel()[expected]]
            found[:, step, kind] = np.stack([by_block(one) for one in (drawn, hit, expected, met)], -1)
    return found


def count_buildings(truth: Truth, mapped: Array, baseline: Array | None) -> Sums:
    """`sizes` and `invented` of `count`."""
    legend, where, kinds = truth.legend, truth.where, len(SIZES) + 1
    hit = within(mapped, legend.building) & truth.judged
    pixels = np.where(truth.buildings > 0, where, -1)
    size = truth.building_bin[truth.buildings]
    hits = np.bincount(truth.buildings.ravel(), hit.ravel(), truth.building_number + 1)
    found = hits >= DETECTED * truth.building_pixels
    place = where.ravel()[truth.building_first]
    place[0] = -1
    sizes = [truth.tally(pixels, kinds, size, None, hit), truth.tally(place, kinds, truth.building_bin, None, found)]
    objects, number = ndimage.label(hit, EIGHT)
    area = np.bincount(objects.ravel(), minlength=number + 1)
    supported = np.bincount(objects.ravel(), truth.near_building.ravel(), number + 1) > 0
    kept = area >= SMALLEST
    place = where.ravel()[first_pixels(objects, number)]
    place[0] = -1
    zero = np.zeros(number + 1, np.int64)
    false = kept & ~supported
    columns = [kept, false]
    if baseline is not None:
        other = within(baseline, legend.building)
        new = false & (np.bincount(objects.ravel(), other.ravel(), number + 1) == 0)
        columns += [new, new * area]
    else:
        columns += [np.full(number + 1, np.nan)] * 2
    return {"sizes": np.concatenate(sizes, -1), "invented": truth.tally(place, 1, zero, *columns)[:, 0]}


def correlation_length(wrong: NDArray[np.bool_], judged: NDArray[np.bool_], limit: int, level: float = 0.1) -> int:
    """Pixels beyond which errors resemble each other less than `level`: the first lag, along rows and columns, of a lower autocorrelation.

    At most `limit`; 1 where there are no errors, or errors only.
    """
    share = wrong[judged].mean() if judged.any() else 0.0
    spread = share * (1 - share)
    if spread == 0:
        return 1
    centred = np.where(judged, wrong - share, 0.0).astype(np.float32)
    lags = sorted({min(limit, round(1.25**step)) for step in range(60) if 1.25 ** (step - 1) < limit})
    for lag in lags:
        total = number = 0.0
        for one, other, both in (
            (centred[lag:], centred[:-lag], judged[lag:] & judged[:-lag]),
            (centred[:, lag:], centred[:, :-lag], judged[:, lag:] & judged[:, :-lag]),
        ):
            total += float(np.sum(one * other, dtype=np.float64))
            number += float(both.sum())
        if number == 0 or total / number / spread < level:
            return lag
    return limit


# --- measures -------------------------------------------------------------------------------------------------------------------


def ratio(top: Array, bottom: Array) -> Matrix:
    """Quotient; NaN where bottom is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def confusion(reference: NDArray[np.integer], mapped: NDArray[np.integer], classes: int, blocks: NDArray[np.integer], count: int) -> Matrix:
    """Confusion matrices (count, classes, classes) of labels 1..classes, one a block 0..count-1; pixels of reference 0 are left out.

    All three images have the same shape. A mapped label outside 1..classes raises `ValueError`: nothing is dropped silently.
    """
    used = reference > 0
    truth, found, where = reference[used].astype(np.int64), mapped[used].astype(np.int64), blocks[used].astype(np.int64)
    if found.size and (found.min() < 1 or found.max() > classes or truth.max() > classes):
        raise ValueError(f"labels {found.min()} to {found.max()} in the map, {truth.max()} in the reference; expected 1 to {classes}")
    index = (where * classes + truth - 1) * classes + found - 1
    return np.bincount(index, minlength=count * classes * classes).reshape(count, classes, classes).astype(np.float64)


def diagonal(matrix: Matrix) -> Matrix:
    """Pixels mapped right, (..., K) from (..., K, K)."""
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def f1(matrix: Matrix) -> Matrix:
    """F1 of each class, (..., K) from (..., K, K): 2 TP / (reference + mapped); NaN for a class in neither."""
    return ratio(2 * diagonal(matrix), matrix.sum(-1) + matrix.sum(-2))


def iou(matrix: Matrix) -> Matrix:
    """Intersection over union of each class, (..., K) from (..., K, K); NaN for a class in neither."""
    hits = diagonal(matrix)
    return ratio(hits, matrix.sum(-1) + matrix.sum(-2) - hits)


def precision(matrix: Matrix) -> Matrix:
    """Share of the pixels mapped as a class that are of it (user's accuracy), (..., K) from (..., K, K); NaN for a class never mapped."""
    return ratio(diagonal(matrix), matrix.sum(-2))


def recall(matrix: Matrix) -> Matrix:
    """Share of a class's pixels that are mapped as it (producer's accuracy), (..., K) from (..., K, K); NaN for a class not there."""
    return ratio(diagonal(matrix), matrix.sum(-1))


def bias(matrix: Matrix) -> Matrix:
    """Mapped over reference area less one, (..., K) from (..., K, K); NaN for a class not there."""
    return ratio(matrix.sum(-2) - matrix.sum(-1), matrix.sum(-1))


def mean_over(present: NDArray[np.bool_], score: Matrix) -> Matrix:
    """Mean over the last axis where `present`, NaN as 0; NaN when nothing is present."""
    return ratio(np.where(present, np.nan_to_num(score), 0.0).sum(-1), present.sum(-1))


def macro_f1(matrix: Matrix) -> Matrix:
    """Mean F1 over the classes that the reference holds, (...) from (..., K, K); NaN when it holds none."""
    return mean_over(matrix.sum(-1) > 0, f1(matrix))


def accuracy(matrix: Matrix) -> Matrix:
    """Overall accuracy: share of pixels on the diagonal, (...) from (..., K, K)."""
    return ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum((-2, -1)))


def kappa(matrix: Matrix) -> Matrix:
    """Cohen's kappa, (...) from (..., K, K): agreement beyond that of the margins' product."""
    total = np.maximum(matrix.sum((-2, -1)), 1e-300)
    chance = (matrix.sum(-1) * matrix.sum(-2)).sum(-1) / total**2
    return np.asarray((accuracy(matrix) - chance) / np.where(chance < 1, 1 - chance, np.nan))


def merged(matrix: Matrix, classes: Sequence[int]) -> Matrix:
    """The confusion matrix (..., 2, 2) of `classes` (from 0) against all others; index 0 is `classes`."""
    chosen = np.zeros(matrix.shape[-1], bool)
    chosen[list(classes)] = True
    weights = np.stack([chosen, ~chosen]).astype(np.float64)
    found: Matrix = weights @ matrix @ weights.T
    return found


def boundary_f1(counts: Matrix) -> Matrix:
    """Harmonic mean of both shares of boundary pixels that are near the other's, (...) from (..., 4) (Csurka et al. 2013); NaN without any.

    0 when only one of the two has boundaries.
    """
    mapped, hit, expected, found = np.moveaxis(counts, -1, 0)
    first, second = np.nan_to_num(ratio(hit, mapped)), np.nan_to_num(ratio(found, expected))
    score = np.nan_to_num(ratio(2 * first * second, first + second))
    return np.where(mapped + expected > 0, score, np.nan)


def fraction_rmse(fractions: Matrix) -> Matrix:
    """Root mean square error of the classes' shares in 10 m cells, (..., K) from (..., K, 3)."""
    return np.sqrt(ratio(fractions[..., 0], fractions[..., 2]))


def calibration(confidence: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """(pixels, mean confidence, share right) of `CALIBRATION_BINS` bins, each (..., bins), from (..., `CONFIDENCE_BINS`, 3)."""
    shape = confidence.shape[:-2]
    coarse = confidence.reshape(*shape, CALIBRATION_BINS, -1, 3).sum(-2)
    return coarse[..., 0], ratio(coarse[..., 1], coarse[..., 0]), ratio(coarse[..., 2], coarse[..., 0])


def expected_calibration_error(confidence: Matrix) -> Matrix:
    """Mean distance of confidence and share right over `CALIBRATION_BINS` bins weighted by pixels (Guo et al. 2017), (...) from (..., bins, 3)."""
    number, sure, right = calibration(confidence)
    return ratio((number * np.abs(np.nan_to_num(sure - right))).sum(-1), number.sum(-1))


def risk_coverage(pixels: Matrix, wrong: Matrix) -> tuple[Matrix, Matrix]:
    """(coverage, risk) when the bins are accepted from first to last, each (bins,), from counts (bins,); empty bins are left out."""
    used = pixels > 0
    kept, errors = np.cumsum(pixels[used]), np.cumsum(wrong[used])
    return ratio(kept, pixels.sum()), ratio(errors, kept)


def area_under_risk(pixels: Matrix, wrong: Matrix) -> float:
    """Mean risk over all coverages (area under the risk-coverage curve, Geifman & El-Yaniv 2017), within a bin in random order."""
    used = pixels > 0
    pixels, wrong = pixels[used], wrong[used]
    if not pixels.size:
        return float("nan")
    before, failed = np.cumsum(pixels) - pixels, np.cumsum(wrong) - wrong
    rate = wrong / pixels
    # the integral of (failed + rate x) / (before + x) over a bin's pixels x
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = np.where(before > 0, (failed - rate * before) * np.log1p(pixels / np.maximum(before, 1e-300)), 0.0)
    return float((rate * pixels + grown).sum() / pixels.sum())


@dataclass(frozen=True)
class Measure:
    """A number read from sums: its name, unit, what it reads, whether more is better (1), less is (-1) or neither (0).

    compared: whether a difference to the baseline says something; what is counted where the baseline has none does not.
    """

    name: str
    unit: str
    better: int
    reads: tuple[str, ...]
    of: Callable[[Sums], Matrix]
    compared: bool = True


def bin_names(ends: Sequence[float], unit: str) -> list[str]:
    """Names of bins by their ends: "<100 m2", "100-400 m2", ">=400 m2"."""
    middle = [f"{low:g}–{high:g} {unit}" for low, high in itertools.pairwise(ends)]
    return [f"<{ends[0]:g} {unit}", *middle, f"≥{ends[-1]:g} {unit}"]


def recall_of(key: str, number: int, top: int = 1, bottom: int = 0) -> Callable[[Sums], Matrix]:
    """The share of columns `top` over `bottom` of bin `number` of the sums `key`."""
    return lambda sums: ratio(sums[key][..., number, top], sums[key][..., number, bottom])


def measures(legend: Legend, hectares_per_pixel: float) -> dict[str, Measure]:
    """Every measure of a whole map by its key; shares are 0..1."""
    artificial = legend.artificial

    def read(name: str, key: str, of: Callable[[Matrix], Matrix], better: int = 1, unit: str = "%") -> Measure:
        return Measure(name, unit, better, (key,), lambda sums: of(sums[key]))

    def boundaries(step: int) -> Callable[[Matrix], Matrix]:
        def score(counts: Matrix) -> Matrix:
            each = counts[..., step, :-1, :]
            return mean_over(each[..., 2] > 0, boundary_f1(each))

        return score

    found = {
        "macro_f1": read("macro-F1", "confusion", macro_f1),
        "accuracy": read("overall accuracy", "confusion", accuracy),
        "kappa": read("kappa", "confusion", kappa, unit=""),
        "boundary_f1_1": read("boundary F1, 1 pixel", "boundary", boundaries(0)),
        "boundary_f1_2": read("boundary F1, 2 pixels", "boundary", boundaries(1)),
        "macro_f1_10m": read("macro-F1 at 10 m", "cells", macro_f1),
        "accuracy_10m": read("overall accuracy at 10 m", "cells", accuracy),
        "fraction_rmse": read("RMSE of fractions at 10 m", "fractions", lambda sums: fraction_rmse(sums).mean(-1), -1),
    }
    if artificial:
        found |= {
            "artificial_f1": read("artificial F1", "confusion", lambda m: f1(merged(m, artificial))[..., 0]),
            "artificial_iou": read("artificial IoU", "confusion", lambda m: iou(merged(m, artificial))[..., 0]),
            "artificial_bias": read("artificial area bias", "confusion", lambda m: bias(merged(m, artificial))[..., 0], 0),
            "artificial_area_error": read("artificial area error", "confusion", lambda m: np.abs(bias(merged(m, artificial))[..., 0]), -1),
            "artificial_boundary_f1_1": read("artificial boundary F1, 1 pixel", "boundary", lambda c: boundary_f1(c[..., 0, -1, :])),
            "artificial_boundary_f1_2": read("artificial boundary F1, 2 pixels", "boundary", lambda c: boundary_f1(c[..., 1, -1, :])),
        }
    if legend.building:
        for number, name in enumerate(bin_names(SIZES, "m²")):
            found[f"building_recall_{number}"] = Measure(f"buildings {name}: pixels mapped", "%", 1, ("sizes",), recall_of("sizes", number))
            found[f"building_found_{number}"] = Measure(f"buildings {name}: found", "%", 1, ("sizes",), recall_of("sizes", number, 3, 2))

        def per_hectare(column: int) -> Callable[[Sums], Matrix]:
            return lambda sums: ratio(sums["invented"][..., column], sums["confusion"].sum((-2, -1)) * hectares_per_pixel)

        reads = ("invented", "confusion")
        found["false_buildings"] = Measure("mapped buildings without a real one", "/ha", -1, reads, per_hectare(1))
        found["invented_buildings"] = Measure("hallucinated buildings", "/ha", -1, reads, per_hectare(2), False)
        found["invented_share"] = Measure(
            "share of mapped buildings hallucinated", "%", -1, ("invented",), lambda sums: ratio(sums["invented"][..., 2], sums["invented"][..., 0]), False
        )
    if legend.road:
        for number, name in enumerate(bin_names(WIDTHS, "m")):
            found[f"road_recall_{number}"] = Measure(f"roads {name}: pixels mapped", "%", 1, ("widths",), recall_of("widths", number))
    found["calibration_error"] = read("calibration error of the confidence", "confidence", expected_calibration_error, -1)
    found["brier"] = read("Brier score of the confidence", "brier", lambda sums: ratio(sums[..., 1], sums[..., 0]), -1, "")
    return found


CLASS_MEASURES: dict[str, Measure] = {
    "f1": Measure("F1", "%", 1, ("confusion",), lambda sums: f1(sums["confusion"])),
    "iou": Measure("IoU", "%", 1, ("confusion",), lambda sums: iou(sums["confusion"])),
    "precision": Measure("precision", "%", 1, ("confusion",), lambda sums: precision(sums["confusion"])),
    "recall": Measure("recall", "%", 1, ("confusion",), lambda sums: recall(sums["confusion"])),
    "bias": Measure("area bias", "%", 0, ("confusion",), lambda sums: bias(sums["confusion"])),
    "boundary_f1_1": Measure("boundary F1, 1 pixel", "%", 1, ("boundary",), lambda sums: boundary_f1(sums["boundary"][..., 0, :-1, :])),
    "boundary_f1_2": Measure("boundary F1, 2 pixels", "%", 1, ("boundary",), lambda sums: boundary_f1(sums["boundary"][..., 1, :-1, :])),
    "fraction_rmse": Measure("RMSE of the fraction at 10 m", "%", -1, ("fractions",), lambda sums: fraction_rmse(sums["fractions"])),
}
"""Measures of each class: (..., K)."""
