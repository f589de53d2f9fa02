"""Paired differences of maps, with intervals from resampling whole blocks or areas, and tests.

Pixels of one block are alike, so an interval over pixels would be far too narrow: blocks are drawn. Blocks of one landscape are alike
too: with `ENOUGH_AREAS` areas or more, areas are drawn whole (Davison & Hinkley 1997, section 3.8: drawing the highest level with
replacement and keeping what lies in it comes nearest to the variance), and the interval says what another area would give. With
fewer areas, blocks are drawn within each area, and the interval holds for these areas only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from otbsr.evaluation.accuracy import Matrix as Matrix
from otbsr.evaluation.accuracy import Sums

Measure = Callable[[Matrix], Matrix]
OfSums = Callable[[Sums], Matrix]

ENOUGH_AREAS = 8
"""Areas from which on areas are drawn instead of blocks: fewer say too little of how areas differ."""
FEW_CLUSTERS = 10
"""Clusters below which percentiles are no use: no draw goes beyond the extreme cluster, and of 5 clusters widened percentiles cover 89 %."""
LEVEL = 0.95
POWER = 0.8
FEW_PAIRS = 25
"""Discordant pixels below which McNemar's test is the exact binomial one."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference: interval, standard error, two-sided p, the smallest true difference found with a power of 80 %, clusters drawn.

    p agrees with the interval: it is below 0.05 where the 95 % interval leaves out zero.
    """

    error: float
    p: float
    detectable: float
    clusters: int


@dataclass(frozen=True)
class Draws:
    """How often each cluster and each repeat is drawn: weights (replicates, clusters), repeats (replicates, repeats); what is drawn."""

    unit: str
    number: int
    weights: Matrix
    repeats: Matrix


def draw(areas: NDArray[np.integer], repeats: int, replicates: int, seed: int) -> Draws:
    """Draw clusters: `areas` (clusters,) is the index of each cluster's area. Areas are drawn when there are enough, else blocks in each area.

    Repeats (seeds of samples and learner) are drawn too, the same for all: their spread is part of the interval. The same `seed` draws
    the same, so that differences of several arms can be compared.
    """
    random = np.random.default_rng(seed)
    names, members = np.unique(areas, return_inverse=True)
    if len(names) >= ENOUGH_AREAS:
        unit, number = "area", len(names)
        weights = random.multinomial(number, np.full(number, 1 / number), replicates)[:, members].astype(np.float64)
    else:
        unit, number = "block", len(areas)
        weights = np.zeros((replicates, len(areas)))
        for one in range(len(names)):
            inside = np.flatnonzero(members == one)
            weights[:, inside] = random.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), replicates)
    by_repeat = random.multinomial(repeats, np.full(repeats, 1 / repeats), replicates).astype(np.float64)
    return Draws(unit, number, weights, by_repeat)


def resample(sums: Sums, draws: Draws) -> Sums:
    """The sums (replicates, ...) of each draw from those (repeats, clusters, ...) of one arm."""
    drawn = {}
    for key, table in sums.items():
        flat = table.reshape(*table.shape[:2], -1)
        total = np.zeros((len(draws.weights), flat.shape[-1]))
        for number, one in enumerate(flat):
            total += draws.repeats[:, number, None] * (draws.weights @ one)
        drawn[key] = total.reshape(len(total), *table.shape[2:])
    return drawn


def pooled(sums: Sums) -> Sums:
    """The sums (...) of all repeats and clusters from (repeats, clusters, ...)."""
    return {key: table.sum((0, 1)) for key, table in sums.items()}


def estimate(value: float, drawn: Matrix, clusters: int, level: float = LEVEL) -> Difference:
    """An estimate with an expanded percentile interval from its bootstrap replicates (Hesterberg 2015, section 4.3).

    Percentile intervals of n clusters are as narrow as normal ones with the variance divided by n; the percentiles are moved outward to
    make up for n - 1 and Student's t. With fewer than `FEW_CLUSTERS`: Student's interval with the bootstrap's standard error. p inverts
    the interval; where no replicate passes zero, the tail is continued with the standard error. All NaN with fewer than two clusters or
    replicates that hold the measure.
    """
    drawn = drawn[np.isfinite(drawn)]
    if clusters < 2 or drawn.size < 2 or not np.isfinite(value):
        unknown = float("nan")
        return Difference(float(value), unknown, unknown, unknown, unknown, unknown, clusters)
    freedom, widen = clusters - 1, np.sqrt(clusters / (clusters - 1))
    error = float(drawn.std() * widen)
    reach = float(special.stdtrit(freedom, (1 + level) / 2))
    if error == 0:
        low, high, p = value, value, 1.0 if value == 0 else 0.0
    elif clusters < FEW_CLUSTERS:
        low, high, p = value - reach * error, value + reach * error, 2 * special.stdtr(freedom, -abs(value) / error)
    else:
        outer = float(special.ndtr(-widen * reach))
        low, high = np.quantile(drawn, [outer, 1 - outer])
        tail = min((drawn <= 0).mean(), (drawn >= 0).mean())
        z = float(special.ndtri(tail)) if tail > 0 else min(float(special.ndtri(1 / drawn.size)), -abs(value) / float(drawn.std()))
        p = min(1.0, 2 * special.stdtr(freedom, min(z, 0.0) / widen))
    return Difference(float(value), float(low), float(high), error, float(p), minimum_detectable(error, clusters, level), clusters)


def minimum_detectable(error: float, clusters: int, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that a test at `level` finds with `power`: (t(level) + t(power)) standard errors (Bloom 1995)."""
    freedom = clusters - 1
    return float((special.stdtrit(freedom, (1 + level) / 2) + special.stdtrit(freedom, power)) * error)


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down (1979), in the same order; NaN stays and does not count."""
    p = np.asarray(values, np.float64)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted = p.copy()
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * (len(order) - np.arange(len(order)))))
    return [float(one) for one in adjusted]


def wilcoxon(changes: Matrix) -> float:
    """Two-sided p of Wilcoxon's signed-rank test over clusters' differences (clusters,); NaN with fewer than 6, which cannot reach 0.05.

    Clusters without a difference are left out, as Wilcoxon did. Exact up to 50 without ties, else by the normal approximation.
    """
    changes = changes[np.isfinite(changes)]
    if len(changes) < 6:
        return float("nan")
    changes = changes[changes != 0]
    if len(changes) == 0:
        return 1.0
    exact = len(changes) <= 50 and len(np.unique(np.abs(changes))) == len(changes)
    return float(stats.wilcoxon(changes, method="exact" if exact else "asymptotic").pvalue)


def mcnemar(first_only: float, second_only: float) -> float:
    """Two-sided p of McNemar's test from pixels that only one of two maps has right: chi2 = (|b - c| - 1)^2 / (b + c), exact when few.

    Neighbouring pixels are not independent: give counts of thinned pixels only.
    """
    b, c = round(first_only), round(second_only)
    if b + c == 0:
        return 1.0
    if b + c < FEW_PAIRS:
        return float(stats.binomtest(b, b + c).pvalue)
    return float(stats.chi2.sf(max(abs(b - c) - 1, 0) ** 2 / (b + c), 1))


def by_cluster(sums: Sums, areas: NDArray[np.integer], unit: str) -> Sums:
    """The sums (clusters, ...) of all repeats, or with `unit` "area" (areas, ...), from (repeats, clusters, ...)."""
    total = {key: table.sum(0) for key, table in sums.items()}
    if unit == "block":
        return total
    names, members = np.unique(areas, return_inverse=True)
    return {key: np.stack([table[members == one].sum(0) for one in range(len(names))]) for key, table in total.items()}


def difference(first: Matrix, second: Matrix, measure: Measure, replicates: int = 2000, seed: int = 0, level: float = LEVEL) -> Interval:
    """measure(first) - measure(second) with a percentile bootstrap interval.

    first, second: (repeats, blocks, K, K), paired: same repeats, same blocks. Blocks, and repeats when there are several, are drawn
    with replacement, the same ones for both; matrices are summed before the measure is taken (Efron & Tibshirani 1993, ch. 13;
    cluster bootstrap). The same `seed` draws the same blocks, so intervals of several arms can be compared.
    """
    repeats, blocks = first.shape[:2]
    random = np.random.default_rng(seed)
    by_block = random.multinomial(blocks, np.full(blocks, 1 / blocks), replicates).astype(np.float64)
    by_repeat = random.multinomial(repeats, np.full(repeats, 1 / repeats), replicates).astype(np.float64)
    drawn = [measure(np.einsum("nr,nb,rbij->nij", by_repeat, by_block, one, optimize=True)) for one in (first, second)]
    value = float(measure(first.sum((0, 1))) - measure(second.sum((0, 1))))
    low, high = np.nanquantile(drawn[0] - drawn[1], [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
