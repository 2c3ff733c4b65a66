"""Chances and q-values. Oracle: scipy, which the product does without."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from saewatch.monitor.diff import tails


def test_students_t_is_scipys() -> None:
    t = np.array([0.0, 0.3, -1.7, 2.5, 8.0, -40.0, np.inf, 1e-9])
    for freedom in (1.0, 4.5, 9.0, 60.3, 5000.0, 2e5):
        found = tails.student(t, np.full(len(t), freedom))
        assert found == pytest.approx(2.0 * stats.t.sf(np.abs(t), freedom), rel=1e-8, abs=1e-300)
    assert np.isnan(tails.student(np.array([np.nan]), np.array([9.0]))).all()


def test_the_bound_of_students_t_is_close_enough_for_an_interval() -> None:
    freedom = np.array([9.0, 12.5, 30.0, 700.0])
    assert tails.student_bound(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


def test_fair_coins_are_mcnemars_exact_test() -> None:
    pairs = [(0, 0), (1, 0), (5, 5), (3, 17), (0, 40), (700, 812), (60_000, 61_000)]
    left, right = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    expected = [stats.binomtest(a, a + b).pvalue if a + b else 1.0 for a, b in pairs]
    assert tails.fair(left, right) == pytest.approx(expected, rel=1e-7)


def test_a_count_after_others_is_scipys_negative_binomial() -> None:
    pairs = [(0, 0), (1, 0), (3, 0), (7, 0), (40, 600), (2, 40), (900, 100), (30_000, 500_000)]
    count, before = np.array([one for one, _ in pairs]), np.array([one for _, one in pairs])
    expected = stats.nbinom.sf(count - 1, before + 0.5, 20.0 / 21.0)
    assert tails.more_counted(count, before, 20) == pytest.approx(expected, rel=1e-7)


def test_normal_is_scipys_and_keeps_what_is_no_number() -> None:
    z = np.array([0.0, 1.96, -5.0, 30.0])
    assert tails.normal(z) == pytest.approx(2.0 * stats.norm.sf(np.abs(z)), rel=1e-10)
    assert np.isnan(tails.normal(np.array([np.nan]))).all()


def test_q_values_are_scipys_over_those_that_were_tested() -> None:
    p = np.random.default_rng(3).random(200) ** 3
    assert tails.q_values(p) == pytest.approx(stats.false_discovery_control(p))
    holes = p.copy()
    holes[::7] = np.nan
    found = tails.q_values(holes)
    assert np.isnan(found[::7]).all()
    kept = np.isfinite(holes)
    assert found[kept] == pytest.approx(stats.false_discovery_control(holes[kept]))
    assert np.isnan(tails.q_values(np.full(3, np.nan))).all()
