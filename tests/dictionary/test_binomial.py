from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from saewatch.dictionary.binomial import Share, at_most

CASES = [(hits, n) for n in (1, 7, 60, 1000, 40_000) for hits in sorted({0, 1, n // 100, n // 3, n - 1, n})]


@pytest.mark.parametrize(("hits", "n"), CASES)
@pytest.mark.parametrize("confidence", [0.95, 0.975])
def test_intervals_are_those_of_scipy(hits: int, n: int, confidence: float) -> None:
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, hits, n - hits + 1) if hits else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1.0
    assert Share(hits, n).interval(confidence) == pytest.approx((low, high), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("hits", "n"), CASES)
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.01, 0.3, 0.999, 1.0])
def test_tails_are_those_of_scipy(hits: int, n: int, share: float) -> None:
    wanted = stats.binom.cdf(np.arange(hits + 1), n, share)
    np.testing.assert_allclose(at_most(hits, n, share), wanted, rtol=1e-8, atol=1e-300)


def test_of_nothing_nothing_is_known() -> None:
    assert Share(0, 0).interval() == (0.0, 1.0)
    assert math.isnan(Share(0, 0).value)


def test_an_interval_holds_the_truth_at_least_as_often_as_it_says() -> None:
    """Exactly: for each true share, the chances of all outcomes whose interval holds it are added up."""
    n = 40
    intervals = [Share(hits, n).interval() for hits in range(n + 1)]
    for true in np.linspace(0.01, 0.99, 53):
        held = [hits for hits, (low, high) in enumerate(intervals) if low <= true <= high]
        assert stats.binom.pmf(held, n, true).sum() >= 0.95
