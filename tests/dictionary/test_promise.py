from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from saewatch.core.errors import ConfigError
from saewatch.dictionary.promise import Promise

ALPHAS = [0.3, 0.05, 0.01, 0.005, 0.001]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("delta", [0.05, 0.05 / 16, 0.3, 0.7])
@pytest.mark.parametrize("n", [1, 2, 13, 100, 1000, 3001])
def test_the_rank_is_the_largest_that_the_beta_distribution_allows(alpha: float, delta: float, n: int) -> None:
    j = np.arange(1, n + 1)
    allowed = j[stats.beta.ppf(1 - delta, j, n + 1 - j) <= alpha]
    assert Promise(alpha=alpha, delta=delta).rank(n) == allowed.max(initial=0)


def test_published_points() -> None:
    """Ranks at 95 %, and the fewest benign requests for 2, 1, 0.5, 0.2 and 0.1 %: n of the reference's table."""
    ranks = {(0.01, 300): 1, (0.01, 1000): 5, (0.01, 2000): 13, (0.005, 1000): 2, (0.01, 4000): 30}
    for (alpha, n), j in ranks.items():
        assert Promise(alpha=alpha, delta=0.05).rank(n) == j
    needed = [Promise(alpha=alpha, delta=0.05).needed for alpha in (0.02, 0.01, 0.005, 0.002, 0.001)]
    assert needed == [149, 299, 598, 1497, 2995]
    assert Promise(alpha=0.01, delta=0.05, family=16).needed == 574


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("family", [1, 20])
def test_one_less_than_needed_is_too_few_and_what_n_supports_is_just_enough(alpha: float, family: int) -> None:
    promise = Promise(alpha=alpha, delta=0.05, family=family)
    assert promise.rank(promise.needed) == 1
    assert promise.rank(promise.needed - 1) == 0
    supported = promise.supported(50)
    assert Promise(alpha=supported * (1 + 1e-9), delta=0.05, family=family).rank(50) == 1
    assert Promise(alpha=supported * (1 - 1e-9), delta=0.05, family=family).rank(50) == 0


@pytest.mark.parametrize("tied", [False, True])
def test_the_promise_is_kept_in_simulation(*, tied: bool) -> None:
    """4,000 calibrations from a known distribution: at most 5 % of the limits have a rate over alpha (3 sd: 6.0 %)."""
    chance, promise, n = np.random.default_rng(7), Promise(alpha=0.05, delta=0.05), 200
    drawn = chance.exponential(size=(4000, n))
    drawn = np.floor(4 * drawn) / 4 if tied else drawn
    limit = np.sort(drawn, axis=1)[:, n - promise.rank(n)]
    rate = np.exp(-(limit + 0.25)) if tied else np.exp(-limit)  # of a floor above the limit: at the next quarter
    assert (rate > promise.alpha).mean() <= 0.06


def test_no_scores_support_nothing() -> None:
    promise = Promise(alpha=0.01, delta=0.05)
    assert (promise.rank(0), promise.supported(0)) == (0, 1.0)


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"delta": 0.0}, {"delta": -1.0}])
def test_a_promise_of_nothing_or_everything_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Promise(**{"alpha": 0.01, "delta": 0.05, **wrong})  # type: ignore[arg-type]  # family stays 1
