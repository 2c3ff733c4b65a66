from __future__ import annotations

import numpy as np
import pytest

from saewatch.monitor.drift.flips import Flips, flipped


def flips(gone: list[int], fresh: list[int]) -> Flips:
    return Flips(gone=np.array(gone), fresh=np.array(fresh))


def test_what_is_gone_and_what_is_fresh_are_counted_by_feature() -> None:
    value = np.array([1.0, 0.0, -2.0, 0.0, 3.0, 0.0], np.float32)
    steady = np.array([True, True, False, False, True, True])
    found = Flips.of(value, steady, np.array([0, 0, 0, 1, 2, 2]), 4)
    both = found + found
    assert (found.gone.tolist(), found.fresh.tolist()) == ([1, 0, 1, 0], [1, 0, 0, 0])
    assert (both.gone.tolist(), both.fresh.tolist()) == ([2, 0, 2, 0], [2, 0, 0, 0])


def test_effects_are_beside_what_the_golden_replays_lost_and_gained() -> None:
    before = flips([0, 100, 0, 0], [0, 0, 0, 40])
    found = flipped(flips([0, 30, 0, 50], [0, 0, 25, 2]), before, 20, np.full(4, 50), np.array([0, 1, 2, 3]))
    assert found.effect == pytest.approx([1.0, 0.5, 1.5, 0.0])
    assert (found.low <= found.effect).all()
    assert (found.effect <= found.high).all()
    assert found.chance[0] == 1.0
    assert (found.chance[1:] < 1e-6).all()
    assert found.low[0] == pytest.approx(1.0 - 3.7 / 50, abs=1e-3), "nothing gone of 50 is not nothing"


def test_only_the_features_that_are_asked_for_are_tested() -> None:
    now = flips([9, 0, 7], [0, 0, 0])
    found = flipped(now, flips([0, 0, 0], [0, 0, 0]), 20, np.array([10, 0, 10]), np.array([2]))
    assert found.effect == pytest.approx([0.3])


def test_a_count_as_the_golden_ones_is_told_as_rarely_as_its_chance_says() -> None:
    draw = np.random.default_rng(5)
    rate = draw.gamma(1.0, 2.0, 4000)
    before = draw.poisson(rate * 20)
    nothing = np.zeros(4000, np.int64)
    found = flipped(
        Flips(gone=draw.poisson(rate), fresh=nothing),
        Flips(gone=before, fresh=nothing),
        20,
        nothing + 99,
        np.arange(4000),
    )
    assert (found.chance < 0.01).mean() < 0.01
