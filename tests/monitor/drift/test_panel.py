from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from saewatch.core.errors import ConfigError
from saewatch.monitor.drift import panel
from saewatch.monitor.drift.panel import CHANGED, CLEAN, COLLAPSED, NUMERICS, Replay, golden, judged
from tests.monitor.drift.panels import FEATURES, NOISE, PROMPTS, a_golden, replayed, runs

GOLDEN = a_golden()


def test_replays_as_they_were_are_clean_and_name_nothing() -> None:
    chance = np.random.default_rng(11)
    found = [judged(GOLDEN, replayed(chance)) for _ in range(100)]
    assert {one.state for one in found} == {CLEAN}
    assert max(abs(one.score) for one in found) < panel.REACH
    assert not any(one.apart for one in found)
    assert sum(bool(one.moved) for one in found) <= 3, "one in a hundred is designed for"
    assert found[0].overlap == pytest.approx(found[0].usual, abs=1e-3)


def test_one_feature_that_moved_is_named_with_its_effect() -> None:
    found = judged(GOLDEN, replayed(np.random.default_rng(4), factors={3: 0.8}))
    (moved,) = found.moved
    assert moved.feature == 3
    assert moved.value == pytest.approx(0.8, abs=0.01)
    assert moved.low < 0.8 < moved.high
    assert moved.high < 0.85


def test_what_moved_most_comes_first() -> None:
    found = judged(GOLDEN, replayed(np.random.default_rng(4), factors={3: 0.9, 5: 2.0, 7: 1.2}))
    assert [one.feature for one in found.moved] == [5, 7, 3]


def test_a_change_that_matters_and_one_that_does_not() -> None:
    chance = np.random.default_rng(5)
    assert judged(GOLDEN, replayed(chance, factors=dict.fromkeys(range(6), 1.1))).state == CHANGED
    assert judged(GOLDEN, replayed(chance, gone=0.05)).state == CHANGED
    assert judged(GOLDEN, replayed(chance, noise=1.4 * NOISE)).state == NUMERICS


def test_a_feature_that_is_far_off_changes_the_panel_though_hardly_any_of_it_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(panel, "MATERIAL", 1.0)
    chance = np.random.default_rng(12)
    for factor, state, apart in ((0.75, CHANGED, 1), (1.3, CHANGED, 1), (0.9, NUMERICS, 0), (1.0, CLEAN, 0)):
        found = judged(GOLDEN, replayed(chance, factors={3: factor}))
        assert (found.state, found.apart) == (state, apart)


@pytest.mark.parametrize(
    ("change", "effect"),
    [({"lost": {3: 0.3}}, 0.7), ({"new": {3: 0.08}}, 1.45), ({"lost": {3: 0.3}, "factors": {3: 0.97}}, 0.7)],
    ids=["gone", "new", "lower too"],
)
def test_a_feature_that_fires_as_high_as_ever_and_on_other_tokens_changes_the_panel(
    change: dict[str, Any], effect: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel, "MATERIAL", 1.0)
    found = judged(GOLDEN, replayed(np.random.default_rng(13), **change))
    (moved,) = found.moved
    assert (found.state, found.apart) == (CHANGED, 1)
    assert (moved.feature, moved.of) == (3, panel.FIRINGS)
    assert moved.low < moved.value < moved.high
    assert moved.value == pytest.approx(effect, abs=0.1)
    if "factors" in change:
        monkeypatch.setattr(panel, "APART_MIN", dict.fromkeys((panel.VALUES, panel.FIRINGS), 9.0))
        assert judged(GOLDEN, replayed(np.random.default_rng(13), **change)).state != CHANGED


def test_a_feature_whose_firings_come_and_go_by_themselves_is_told_when_more_of_them_do() -> None:
    restless = a_golden(lost={3: 0.1})
    chance = np.random.default_rng(14)
    found = [judged(restless, replayed(chance, lost={3: 0.1})) for _ in range(100)]
    assert {one.state for one in found} == {CLEAN}
    assert sum(bool(one.moved) for one in found) <= 3
    (moved,) = judged(restless, replayed(chance, lost={3: 0.4})).moved
    assert (moved.feature, moved.of) == (3, panel.FIRINGS)
    assert moved.value == pytest.approx(0.7, abs=0.1), "beside what it fired on average"


def test_most_of_it_gone_is_a_collapse_whatever_the_noise() -> None:
    assert judged(GOLDEN, replayed(np.random.default_rng(6), gone=0.6)).state == COLLAPSED
    nothing = [
        replace(one, position=one.position[:0], feature=one.feature[:0], value=one.value[:0]) for one in runs()[0]
    ]
    found = judged(GOLDEN, nothing)
    assert (found.state, found.overlap) == (COLLAPSED, 0.0)


def test_replays_equal_to_the_bit_make_no_change_of_the_smallest_noise() -> None:
    exact = a_golden(noise=0.0)
    chance = np.random.default_rng(7)
    assert judged(exact, replayed(chance, noise=0.0)).state == CLEAN
    assert judged(exact, replayed(chance, noise=1e-6)).state == CLEAN
    assert judged(exact, replayed(chance, noise=0.02)).state == CHANGED


def test_values_of_unlike_signs_have_nothing_in_common() -> None:
    flipped = [replace(one, value=-one.value) for one in replayed(np.random.default_rng(8))]
    assert judged(GOLDEN, flipped).overlap == 0.0


def test_a_feature_that_never_fires_there_is_not_exercised() -> None:
    assert GOLDEN.exercised.tolist() == [True] * (FEATURES - 1) + [False]


def test_of_several_on_a_token_the_strongest_counts() -> None:
    one = Replay.of(np.array([4, 1, 4]), np.array([2, 0, 2]), np.array([0.5, 1.0, 3.0], np.float32), 9)
    assert (one.position.tolist(), one.feature.tolist(), one.value.tolist()) == ([1, 4], [0, 2], [1.0, 3.0])


def test_what_nothing_can_be_compared_with_is_refused() -> None:
    with pytest.raises(ConfigError, match="19 replays"):
        golden(runs(count=19), FEATURES)
    with pytest.raises(ConfigError, match="15 prompts"):
        golden([run[:15] for run in runs()], FEATURES)
    other = [*runs()[:-1], replayed(np.random.default_rng(1), tokens=25)]
    with pytest.raises(ConfigError, match="prompt 1 with 24 and 25 tokens"):
        golden(other, FEATURES)
    chance = np.random.default_rng(2)
    with pytest.raises(ConfigError, match="alike"):
        golden([replayed(chance, gone=0.4) for _ in range(20)], FEATURES)


def test_more_firings_than_are_held_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "ENTRIES_MAX", 100)
    with pytest.raises(ConfigError, match="fewer prompts"):
        golden(runs(), FEATURES)


def test_a_panel_that_fires_nothing_is_alike() -> None:
    silent = [Replay.of(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), 5)] * PROMPTS
    made = golden([silent] * 20, FEATURES)
    assert judged(made, silent).state == CLEAN
    assert not made.exercised.any()
