"""Intervals and tests on data whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from otbsr.evaluation import statistics as st
from otbsr.evaluation.accuracy import accuracy


def tables(random: np.random.Generator, share: float, blocks: int, repeats: int = 2) -> np.ndarray:
    """Two balanced classes of 500 pixels a block, right with probability around `share`, blocks differing."""
    chance = np.clip(share + random.normal(0, 0.05, (1, blocks, 2)), 0.01, 0.99).repeat(repeats, 0)
    hits = random.binomial(500, chance).astype(float)
    return np.stack([np.stack([hits[..., 0], 500 - hits[..., 0]], -1), np.stack([500 - hits[..., 1], hits[..., 1]], -1)], -2)


def compared(first: np.ndarray, second: np.ndarray, areas: np.ndarray | None = None, replicates: int = 2000, seed: int = 0) -> st.Difference:
    """The difference of accuracy as `evaluate` takes it."""
    areas = np.zeros(first.shape[1], int) if areas is None else areas
    draws = st.draw(areas, len(first), replicates, seed)
    drawn = [accuracy(st.resample({"confusion": one}, draws)["confusion"]) for one in (first, second)]
    value = accuracy(st.pooled({"confusion": first})["confusion"]) - accuracy(st.pooled({"confusion": second})["confusion"])
    return st.estimate(float(value), drawn[0] - drawn[1], draws.number)


# --- the older function, of blocks of one area ---


def test_no_difference_with_itself_and_a_sure_gain() -> None:
    random = np.random.default_rng(1)
    low, high = tables(random, 0.6, 20), tables(random, 0.8, 20)
    same = st.difference(low, low, accuracy)
    assert (same.value, same.low, same.high) == (0, 0, 0) and not same.shown
    gain = st.difference(high, low, accuracy)
    assert gain.shown and gain.low < gain.value < gain.high and gain.value == pytest.approx(0.2, abs=0.05)
    loss = st.difference(low, high, accuracy)
    assert (loss.low, loss.high) == pytest.approx((-gain.high, -gain.low))


def test_interval_covers_as_often_as_it_says() -> None:
    """Blocks drawn from one population: the 95 % interval of the difference holds 0 in most of 200 studies."""
    random, held = np.random.default_rng(2), 0
    for number in range(200):
        change = st.difference(tables(random, 0.7, 24, 1), tables(random, 0.7, 24, 1), accuracy, 400, number)
        held += not change.shown
    assert 0.88 <= held / 200 <= 0.99


def test_interval_narrows_with_blocks_not_with_pixels() -> None:
    random = np.random.default_rng(3)
    first, second = tables(random, 0.7, 16), tables(random, 0.65, 16)
    few = st.difference(first, second, accuracy)
    pixels = st.difference(100 * first, 100 * second, accuracy)
    more = st.difference(np.tile(first, (1, 9, 1, 1)), np.tile(second, (1, 9, 1, 1)), accuracy)
    assert (pixels.low, pixels.high) == pytest.approx((few.low, few.high))
    assert (more.high - more.low) == pytest.approx((few.high - few.low) / 3, rel=0.15)


# --- the study's differences ---


def test_a_planted_gain_is_found_and_a_null_is_not() -> None:
    random = np.random.default_rng(4)
    low, high, other = tables(random, 0.6, 20), tables(random, 0.75, 20), tables(random, 0.6, 20)
    same = compared(low, low)
    assert (same.value, same.low, same.high, same.p, same.detectable) == (0, 0, 0, 1, 0) and not same.shown
    gain, loss, null = compared(high, low), compared(low, high), compared(other, low)
    assert gain.shown and gain.value == pytest.approx(0.15, abs=0.05) and gain.p < 1e-4
    assert (loss.value, loss.low, loss.high) == pytest.approx((-gain.value, -gain.high, -gain.low)) and loss.p == pytest.approx(gain.p)
    assert not null.shown and null.p > 0.05


def mean_of(changes: np.ndarray, areas: np.ndarray, seed: int) -> st.Difference:
    """The mean of clusters' differences as a measure of sums."""
    sums = {"total": np.stack([changes, np.ones_like(changes)], -1)[None]}
    draws = st.draw(areas, 1, 1000, seed)
    drawn = st.resample(sums, draws)["total"]
    return st.estimate(float(changes.mean()), drawn[:, 0] / drawn[:, 1], draws.number)


@pytest.mark.parametrize("clusters", [5, 12, 20])
def test_interval_covers_with_few_clusters_too(clusters: int) -> None:
    """Student's interval of 5 clusters, expanded percentiles of more; plain percentiles of 5 cover about 83 %."""
    random, held, plain, studies = np.random.default_rng(5), 0, 0, 500
    for number in range(studies):
        changes = random.normal(0, 0.05, clusters)
        held += not mean_of(changes, np.zeros(clusters, int), number).shown
        ends = np.quantile(np.random.default_rng(number).multinomial(clusters, np.full(clusters, 1 / clusters), 500) @ changes, [0.025, 0.975])
        plain += ends[0] <= 0 <= ends[1]
    assert 0.925 <= held / studies <= 0.98
    assert clusters > 5 or plain / studies < 0.9


def test_interval_covers_over_areas_that_differ() -> None:
    """12 areas of 9 blocks whose gains differ more between areas than within: drawing areas covers the mean of all areas, drawing blocks would not."""
    random, held, blocks_held, studies = np.random.default_rng(6), 0, 0, 300
    areas = np.arange(12).repeat(9)
    for number in range(studies):
        changes = random.normal(0, 0.04, 12).repeat(9) + random.normal(0, 0.03, 108)
        held += not mean_of(changes, areas, number).shown
        blocks_held += not mean_of(changes, np.zeros(108, int), number).shown
    assert 0.925 <= held / studies <= 0.98
    assert blocks_held / studies < 0.75


def test_p_agrees_with_the_interval() -> None:
    random = np.random.default_rng(7)
    for number in range(60):
        change = compared(tables(random, 0.7, 10), tables(random, 0.7 + 0.001 * number, 10), replicates=999, seed=number)
        assert abs(change.p - 0.05) < 0.01 or (change.p < 0.05) == change.shown


def test_p_goes_on_where_no_replicate_passes_zero() -> None:
    drawn = np.random.default_rng(8).normal(1, 0.1, 2000)
    near, far = st.estimate(0.5, drawn - 0.5, 20), st.estimate(1, drawn, 20)
    assert far.p < near.p < 1e-3 and far.p > 0


def test_what_is_drawn() -> None:
    few, many = st.draw(np.repeat([0, 1, 2], [4, 4, 8]), 2, 300, 0), st.draw(np.arange(8).repeat(3), 1, 300, 0)
    assert (few.unit, few.number, many.unit, many.number) == ("block", 16, "area", 8)
    for inside, size in ((slice(0, 4), 4), (slice(4, 8), 4), (slice(8, 16), 8)):  # within each area as many blocks as it has
        assert (few.weights[:, inside].sum(1) == size).all()
    assert (many.weights.reshape(300, 8, 3) == many.weights[:, ::3, None]).all() and (many.weights[:, ::3].sum(1) == 8).all()
    assert (few.repeats.sum(1) == 2).all()
    assert np.array_equal(st.draw(np.zeros(5, int), 1, 50, 3).weights, st.draw(np.zeros(5, int), 1, 50, 3).weights)


def test_resampling_pairs_the_arms() -> None:
    """Blocks that differ a lot, a gain that is the same in all: the paired interval is a point."""
    hits = np.random.default_rng(9).integers(50, 400, (1, 12)).astype(float)
    arms = [np.stack([np.stack([one, 500 - one], -1), np.zeros((1, 12, 2))], -2) for one in (hits + 25, hits)]
    change = compared(*arms)
    assert (change.low, change.value, change.high) == pytest.approx((0.05, 0.05, 0.05)) and change.shown


def test_resample_by_hand() -> None:
    draws = st.Draws("block", 2, np.array([[2.0, 0], [1, 1]]), np.array([[1.0, 1], [0, 2]]))
    sums = {"a": np.array([[[1.0, 10], [2, 20]], [[3, 30], [4, 40]]])}
    assert st.resample(sums, draws)["a"].tolist() == [[8, 80], [14, 140]]
    assert st.pooled(sums)["a"].tolist() == [10, 100]
    assert st.by_cluster(sums, np.array([0, 1]), "block")["a"].tolist() == [[4, 40], [6, 60]]
    assert st.by_cluster(sums, np.array([5, 5]), "area")["a"].tolist() == [[10, 100]]


def test_one_cluster_and_a_measure_that_is_not_there_give_no_interval() -> None:
    for one in (st.estimate(0.5, np.array([0.4, 0.6]), 1), st.estimate(float("nan"), np.array([0.4, 0.6]), 9), st.estimate(0.5, np.full(9, np.nan), 9)):
        assert np.isnan(one.low) and np.isnan(one.p) and not one.shown


# --- tests ---


def test_holm_by_hand() -> None:
    """0.01 x 4, 0.02 x 3, max(0.06, 0.03 x 2), 0.5 x 1; in the order given, what is not known left out."""
    assert st.holm([0.03, 0.01, float("nan"), 0.5, 0.02]) == pytest.approx([0.06, 0.04, float("nan"), 0.5, 0.06], nan_ok=True)
    assert st.holm([0.4, 0.6]) == pytest.approx([0.8, 0.8]) and st.holm([]) == []


def test_holm_keeps_the_share_of_studies_with_any_false_claim() -> None:
    p = np.random.default_rng(10).random((2000, 5))
    assert np.mean([min(st.holm(row)) < 0.05 for row in p]) == pytest.approx(0.05, abs=0.015)
    assert (p.min(1) < 0.05).mean() > 0.2


def test_wilcoxon() -> None:
    assert st.wilcoxon(np.arange(1.0, 7)) == pytest.approx(2 / 2**6)  # six of one sign, exact
    assert st.wilcoxon(-np.arange(1.0, 7)) == pytest.approx(2 / 2**6)
    assert np.isnan(st.wilcoxon(np.array([1.0, 2, 3, 4, 5, np.nan]))) and st.wilcoxon(np.zeros(9)) == 1
    tied = np.array([1.0, 1, 2, 2, -1, 3, 4, 0])
    assert st.wilcoxon(tied) == pytest.approx(stats.wilcoxon(tied[:-1], method="asymptotic").pvalue)


def test_mcnemar_by_hand() -> None:
    assert st.mcnemar(40, 20) == pytest.approx(stats.chi2.sf(19**2 / 60, 1))
    assert st.mcnemar(20, 40) == pytest.approx(st.mcnemar(40, 20))
    assert st.mcnemar(9, 1) == pytest.approx(2 * (1 + 10) / 2**10)  # exact below 25
    assert st.mcnemar(0, 0) == 1 and st.mcnemar(30, 30) == 1


def test_minimum_detectable_difference_is_found_in_four_studies_of_five() -> None:
    """Studies with a true difference of just that size: the interval leaves out zero in about 80 %."""
    random, found, studies, clusters = np.random.default_rng(11), 0, 200, 20
    error = 0.05 / np.sqrt(clusters)
    for number in range(studies):
        changes = random.normal(st.minimum_detectable(error, clusters), 0.05, clusters)
        drawn = np.random.default_rng(number).multinomial(clusters, np.full(clusters, 1 / clusters), 400) @ changes / clusters
        found += st.estimate(changes.mean(), drawn, clusters).shown
    assert found / studies == pytest.approx(0.8, abs=0.07)
