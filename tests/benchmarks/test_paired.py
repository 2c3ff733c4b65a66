from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import wilcoxon

from benchmarks.paired import ratio, rounds

ARMS = ("bare", "off", "watching")


def noisy(true: float, count: int, *, seed: int, noise: float = 0.02, drift: float = 0.0) -> tuple[list[float], ...]:
    """Seconds of two arms, whose machine grows slower by ``drift`` over the run."""
    chance = np.random.default_rng(seed)
    machine = np.exp(drift * np.linspace(0.0, 1.0, count))
    under = machine * np.exp(noise * chance.standard_normal(count))
    over = true * machine * np.exp(noise * chance.standard_normal(count))
    return over.tolist(), under.tolist()


def test_a_ratio_of_equal_rounds_is_that_ratio_without_width() -> None:
    found = ratio([1.1, 2.2, 3.3], [1.0, 2.0, 3.0])
    assert (found.median, found.lower95, found.upper95) == pytest.approx((1.1, 1.1, 1.1))


def test_a_machine_that_grows_three_times_slower_does_not_move_it() -> None:
    over, under = noisy(1.02, 120, seed=1, drift=np.log(3.0))
    found = ratio(over, under)
    assert found.median == pytest.approx(1.02, abs=0.006)
    assert found.upper95 - found.lower95 < 0.02


def test_rounds_that_something_disturbed_hardly_move_it() -> None:
    over, under = noisy(1.01, 120, seed=2, noise=0.005)
    disturbed = [5.0 * value if index % 10 == 0 else value for index, value in enumerate(over)]
    assert ratio(disturbed, under).upper95 < 1.015


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """150 runs of 60 rounds: 95 % expected; below 88 % or never wrong would be a fault of the interval."""
    intervals = [ratio(*noisy(1.02, 60, seed=seed)) for seed in range(150)]
    held = sum(one.lower95 <= 1.02 <= one.upper95 for one in intervals)
    assert 132 <= held < 150


def test_over_and_under_are_not_exchangeable() -> None:
    over, under = noisy(1.05, 60, seed=3)
    assert ratio(over, under).lower95 > 1.0 > ratio(under, over).upper95


def test_the_interval_is_that_of_the_signed_rank_test() -> None:
    over, under = noisy(1.03, 40, seed=4)
    found = ratio(over, under)
    logs = np.log(over) - np.log(under)
    inside, outside = (
        wilcoxon(logs - np.log(bound) + nudge, method="asymptotic").pvalue
        for bound, nudge in ((found.upper95, 1e-4), (found.upper95, -1e-4))
    )
    assert inside > 0.05 > outside


def test_arms_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        ratio([1.0, 1.0], [1.0, 1.0, 1.0])


def test_each_round_has_every_arm_once() -> None:
    assert all(sorted(one) == sorted(ARMS) for one in rounds(ARMS, 50, seed=0))


def test_each_arm_stands_in_each_place_about_as_often() -> None:
    places = Counter((place, arm) for one in rounds(ARMS, 300, seed=0) for place, arm in enumerate(one))
    assert len(places) == len(ARMS) ** 2
    assert all(70 <= count <= 130 for count in places.values())


def test_the_order_is_that_of_the_seed() -> None:
    assert rounds(ARMS, 20, seed=1) == rounds(ARMS, 20, seed=1) != rounds(ARMS, 20, seed=2)
