"""Confusion matrices, what is read from them, and intervals from resampling whole blocks.

A confusion matrix has reference labels in rows and mapped labels in columns. Pixels of one block are alike, so an interval over
pixels would be far too narrow: blocks are the unit that is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Measure = Callable[[Matrix], Matrix]


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


def f1(matrix: Matrix) -> Matrix:
    """F1 of each class, (..., K) from (..., K, K): 2 TP / (reference + mapped); NaN for a class in neither."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    total = matrix.sum(-1) + matrix.sum(-2)
    return np.divide(2 * hits, total, out=np.full(hits.shape, np.nan), where=total > 0)


def macro_f1(matrix: Matrix) -> Matrix:
    """Mean F1 over the classes that the reference holds, (...) from (..., K, K); NaN when it holds none."""
    present = matrix.sum(-1) > 0
    score = np.where(present, np.nan_to_num(f1(matrix)), 0.0).sum(-1)
    number = present.sum(-1)
    return np.divide(score, number, out=np.full(score.shape, np.nan), where=number > 0)


def accuracy(matrix: Matrix) -> Matrix:
    """Overall accuracy: share of pixels on the diagonal, (...) from (..., K, K)."""
    hits, total = np.trace(matrix, axis1=-2, axis2=-1), matrix.sum((-2, -1))
    return np.divide(hits, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def kappa(matrix: Matrix) -> Matrix:
    """Cohen's kappa, (...) from (..., K, K): agreement beyond that of the margins' product."""
    total = np.maximum(matrix.sum((-2, -1)), 1e-300)
    chance = (matrix.sum(-1) * matrix.sum(-2)).sum(-1) / total**2
    return np.asarray((accuracy(matrix) - chance) / np.where(chance < 1, 1 - chance, np.nan))


def class_f1(index: int) -> Measure:
    """The measure "F1 of class `index`" (from 0); a class that is in neither image counts as 0."""
    return lambda matrix: np.nan_to_num(f1(matrix)[..., index])


def binary(artificial: NDArray[np.bool_]) -> Measure:
    """The measure "F1 of the artificial surfaces", classes merged into two."""

    def measure(matrix: Matrix) -> Matrix:
        hits = matrix[..., artificial, :][..., artificial].sum((-2, -1))
        total = matrix[..., artificial, :].sum((-2, -1)) + matrix[..., :, artificial].sum((-2, -1))
        return np.divide(2 * hits, total, out=np.zeros(np.shape(total)), where=total > 0)

    return measure


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


def difference(first: Matrix, second: Matrix, measure: Measure, replicates: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
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
