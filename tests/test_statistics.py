"""The ratio estimator, the paired difference and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from medcot.statistics import Estimate, interval, paired_difference, ratio, wilson


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of uneven length whose per-token mean varies from row to row."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 400, n).astype(float)
    return sizes * rng.gamma(8.0, 0.25, n), sizes


def test_the_estimate_is_the_pooled_mean_and_not_the_mean_of_rows():
    estimate = ratio([10.0, 1.0], [10, 2])
    assert estimate.value == 11 / 12
    assert estimate.value != (10 / 10 + 1 / 2) / 2


def test_for_equal_denominators_the_se_is_that_of_a_mean():
    y = [1.0, 4.0, 2.5, 7.25]
    estimate = ratio(y, [1.0] * 4)
    assert estimate.se == pytest.approx(np.std(y, ddof=1) / 2, rel=1e-14)


def test_the_se_is_the_cluster_robust_one_of_statsmodels():
    # Σy/Σx is weighted least squares of the row means on a constant; HC1 is the linearisation variance with n/(n−1).
    y, x = rows(50, seed=1)
    fit = sm.WLS(y / x, np.ones_like(x), weights=x).fit(cov_type="HC1")
    estimate = ratio(y, x)
    assert estimate.value == pytest.approx(fit.params[0], rel=1e-12)
    assert estimate.se == pytest.approx(fit.bse[0], rel=1e-12)


def test_the_se_agrees_with_a_bootstrap_of_rows():
    y, x = rows(200, seed=2)
    draws = np.random.default_rng(3).integers(0, len(y), (4000, len(y)))
    assert ratio(y, x).se == pytest.approx(np.std(y[draws].sum(1) / x[draws].sum(1)), rel=0.06)


def test_a_single_row_has_a_value_but_neither_se_nor_interval():
    estimate = ratio([6.0], [3])
    assert estimate == Estimate(2.0, None, 1)
    assert interval(estimate, 0.95) is None


@pytest.mark.parametrize(("y", "x"), [([], []), ([1.0], [0.0]), ([1.0, 2.0], [1.0])])
def test_rows_that_have_no_ratio_are_an_error(y, x):
    with pytest.raises(ValueError, match="a ratio needs"):
        ratio(y, x)


def test_the_interval_is_students_t_with_n_minus_one_degrees_of_freedom():
    low, high = interval(Estimate(1.0, 0.1, 5), 0.9)
    assert (low, high) == pytest.approx(stats.t.interval(0.9, 4, loc=1.0, scale=0.1), rel=1e-12)


def test_rows_that_all_agree_give_an_interval_of_width_zero():
    assert interval(ratio([2.0, 4.0, 8.0], [1, 2, 4]), 0.95) == (2.0, 2.0)


def test_swapping_the_arms_negates_the_difference_exactly():
    (base, sizes), (tuned, _) = rows(33, seed=4), rows(33, seed=5)
    forth, back = paired_difference(base, tuned, sizes), paired_difference(tuned, base, sizes)
    assert forth.value == -back.value != 0
    assert forth.se == back.se
    assert interval(forth, 0.95) == tuple(-bound for bound in reversed(interval(back, 0.95)))


def test_pairing_removes_what_the_rows_have_in_common():
    base, sizes = rows(60, seed=6)
    difference = paired_difference(base, base - 0.1 * sizes, sizes)
    assert difference.value == pytest.approx(-0.1, rel=1e-9)
    assert difference.se < 1e-9 < ratio(base, sizes).se


@pytest.mark.parametrize("n", [30, 80])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(n):
    rng = np.random.default_rng(7)
    truth, hits, trials = 2.0, 0, 2000
    for _ in range(trials):
        sizes = rng.integers(20, 400, n).astype(float)
        low, high = interval(ratio(sizes * rng.gamma(8.0, truth / 8.0, n), sizes), 0.95)
        hits += low <= truth <= high
    assert abs(hits / trials - 0.95) < 0.02, hits / trials
    assert math.isfinite(high)


@pytest.mark.parametrize(("hits", "total"), [(0, 7), (7, 7), (19, 19), (26, 80), (500, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_proportion_is_wilson_s(hits: int, total: int, confidence: float) -> None:
    expected = sm.stats.proportion_confint(hits, total, 1 - confidence, "wilson")
    assert wilson(hits, total, confidence) == pytest.approx(expected)


def test_of_nothing_any_proportion_is_possible() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
