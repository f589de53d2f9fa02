"""Measures computed by hand, and intervals on data whose answer is known."""

import numpy as np
import pytest

from otbsr.evaluation import statistics as st

HAND = np.array([[8.0, 2, 0], [1, 5, 4], [0, 0, 0]])


def test_measures_by_hand() -> None:
    assert st.accuracy(HAND) == pytest.approx(13 / 20)
    assert st.f1(HAND).tolist() == pytest.approx([16 / 19, 10 / 17, 0])  # class 3 is mapped, but nowhere: 0 of 4
    assert st.macro_f1(HAND) == pytest.approx((16 / 19 + 10 / 17) / 2)  # over the classes of the reference
    chance = (10 * 9 + 10 * 7 + 0 * 4) / 400
    assert st.kappa(HAND) == pytest.approx((13 / 20 - chance) / (1 - chance))
    assert st.binary(np.array([True, True, False]))(HAND) == pytest.approx(2 * 16 / (20 + 16))
    assert np.isnan(st.f1(np.zeros((2, 2)))).all()


def test_measures_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    truth, found = random.integers(1, 6, 4000), random.integers(1, 6, 4000)
    found[:2500] = truth[:2500]
    matrix = st.confusion(truth, found, 5, np.zeros(4000, int), 1)[0]
    assert np.array_equal(matrix, metrics.confusion_matrix(truth, found))
    assert st.kappa(matrix) == pytest.approx(metrics.cohen_kappa_score(truth, found))
    assert st.macro_f1(matrix) == pytest.approx(metrics.f1_score(truth, found, average="macro"))


def test_confusion_by_blocks() -> None:
    truth = np.array([[1, 1, 2], [0, 2, 2]])
    found = np.array([[1, 2, 2], [1, 2, 1]])
    blocks = np.array([[0, 0, 1], [0, 1, 1]])
    assert st.confusion(truth, found, 2, blocks, 2).tolist() == [[[1, 1], [0, 0]], [[0, 0], [1, 2]]]
    with pytest.raises(ValueError, match="expected 1 to 2"):
        st.confusion(truth, found * 3, 2, blocks, 2)


def tables(random: np.random.Generator, share: float, blocks: int, repeats: int = 2) -> np.ndarray:
    """Two balanced classes of 500 pixels a block, right with probability around `share`, blocks differing."""
    chance = np.clip(share + random.normal(0, 0.05, (1, blocks, 2)), 0.01, 0.99).repeat(repeats, 0)
    hits = random.binomial(500, chance).astype(float)
    return np.stack([np.stack([hits[..., 0], 500 - hits[..., 0]], -1), np.stack([500 - hits[..., 1], hits[..., 1]], -1)], -2)


def test_no_difference_with_itself_and_a_sure_gain() -> None:
    random = np.random.default_rng(1)
    low, high = tables(random, 0.6, 20), tables(random, 0.8, 20)
    same = st.difference(low, low, st.accuracy)
    assert (same.value, same.low, same.high) == (0, 0, 0) and not same.shown
    gain = st.difference(high, low, st.accuracy)
    assert gain.shown and gain.low < gain.value < gain.high and gain.value == pytest.approx(0.2, abs=0.05)
    loss = st.difference(low, high, st.accuracy)
    assert (loss.low, loss.high) == pytest.approx((-gain.high, -gain.low))


def test_interval_covers_as_often_as_it_says() -> None:
    """Blocks drawn from one population: the 95 % interval of the difference holds 0 in most of 200 studies."""
    random, held = np.random.default_rng(2), 0
    for number in range(200):
        change = st.difference(tables(random, 0.7, 24, 1), tables(random, 0.7, 24, 1), st.accuracy, 400, number)
        held += not change.shown
    assert 0.88 <= held / 200 <= 0.99


def test_interval_narrows_with_blocks_not_with_pixels() -> None:
    random = np.random.default_rng(3)
    first, second = tables(random, 0.7, 16), tables(random, 0.65, 16)
    few = st.difference(first, second, st.accuracy)
    pixels = st.difference(100 * first, 100 * second, st.accuracy)
    more = st.difference(np.tile(first, (1, 9, 1, 1)), np.tile(second, (1, 9, 1, 1)), st.accuracy)
    assert (pixels.low, pixels.high) == pytest.approx((few.low, few.high))
    assert (more.high - more.low) == pytest.approx((few.high - few.low) / 3, rel=0.15)
