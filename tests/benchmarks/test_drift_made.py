from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import drift_made
from benchmarks.drift_made import at_once, simulated, took, wanted
from benchmarks.drift_pairs import HIGH, Drawing, Drawn, planted, single
from benchmarks.drift_weeks import QUICK, Weeks
from benchmarks.drift_world import VALUE_BINS, VALUE_SPAN, Fired, Week, week
from saewatch.monitor.drift.counts import F64, I32, Indices
from saewatch.monitor.drift.pairs import drawn, strongest

TINY = replace(QUICK, name="tiny", features=300, blocks_a_day=2, baseline=(1100,), null=(1202,), surge=(), dense=())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose weeks were made by `simulated`."""
    cache = tmp_path_factory.mktemp("weeks")
    simulated(Weeks(TINY, cache), cache)
    return cache


def test_processes_make_what_one_makes(made: Path, tmp_path: Path) -> None:
    both = [(Weeks(TINY, cache), Drawn(Weeks(TINY, cache), cache)) for cache in (made, tmp_path)]
    for seed, new in ((1100, False), (1202, False), (1202, True)):
        (n, rows), (n_alone, rows_alone) = (drawings.get(seed, new=new) for _, drawings in both)
        assert (n == n_alone).all()
        assert all((one == other).all() for one, other in zip(rows, rows_alone, strict=True))
    for seed in (1100, 1202, 1300):
        first, second = (weeks.get(seed) for weeks, _ in both)
        assert all((getattr(first, one.name) == getattr(second, one.name)).all() for one in fields(Week))


def test_a_week_is_made_once_and_what_it_took_stays_in_the_book(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weeks = Weeks(TINY, made)
    before = took(weeks, made)
    assert before is not None
    assert before > 0
    monkeypatch.setattr(drift_made, "make", lambda _: pytest.fail("it was there"))
    simulated(weeks, made)
    assert took(weeks, made) == before


def test_what_weeks_took_is_not_known_of_those_that_nobody_booked(tmp_path: Path) -> None:
    weeks = Weeks(TINY, tmp_path)
    assert [one.name for one in wanted(weeks, tmp_path)] == ["1202-new", "1100", "1202", "1300"]
    for one in wanted(weeks, tmp_path)[1:]:
        drift_made.make(one)
    simulated(weeks, tmp_path)
    assert took(weeks, tmp_path) is None, "one of four is booked"


def test_a_week_without_its_drawings_is_made_again(made: Path, tmp_path: Path) -> None:
    weeks = Weeks(TINY, tmp_path)
    weeks.keep(1100, Weeks(TINY, made).get(1100))
    assert "1100" in {one.name for one in wanted(weeks, tmp_path) if not one.there}


def test_what_fails_in_a_process_is_told_and_threads_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(drift_made.THREADS, "7")
    with pytest.raises(ZeroDivisionError):
        list(at_once(_inverse, (1, 0)))
    assert os.environ[drift_made.THREADS] == "7"
    monkeypatch.delenv(drift_made.THREADS)
    assert dict(at_once(_threads, ("a",))) == {"a": "1"}
    assert drift_made.THREADS not in os.environ


def _inverse(number: int) -> float:
    return 1 / number


def _threads(_: str) -> str:
    return os.environ[drift_made.THREADS]


# --- drawings ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("new", [False, True])
def test_drawings_are_those_of_the_slow_way(new: bool, tmp_path: Path) -> None:
    of = Weeks(TINY, tmp_path).world
    pairs = planted(of) if new else {}
    fast, slow = Drawing(of, 7, pairs), _Slow(7, pairs)

    def both(number: int, fired: Fired) -> None:
        fast(number, fired)
        slow(fired, of.features)

    made = week(of, 7, days=1, blocks_a_day=4, each=both)
    for one, other in zip(fast.rows, slow.rows, strict=True):
        assert (one == other).all()
    assert (np.array(fast.n) == np.array(slow.n)).all()
    assert (np.array(fast.n) == made.n).all() != new


class _Slow:
    """Draws as the text says it: everything sorted at once, by request, feature, and the higher mark first."""

    def __init__(self, seed: int, pairs: Mapping[float, Indices]) -> None:
        self._pairs = pairs
        self._chance, self._keys = np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2))
        self.rows: list[I32] = []
        self.n: list[Indices] = []

    def __call__(self, fired: Fired, features: int) -> None:
        found = list(zip(fired.request.tolist(), fired.feature.tolist(), (-fired.mark).tolist(), strict=True))
        for share, pairs in self._pairs.items():
            for pair in pairs.tolist():
                chosen = self._chance.random(int(fired.session[-1]) + 1) < share
                requests = np.flatnonzero(chosen[fired.session]).tolist()
                found += [(request, feature, -HIGH) for request in requests for feature in pair]
        keys = self._keys.integers(0, 2**63, fired.requests)
        highest: dict[int, dict[int, float]] = {number: {} for number in range(fired.requests)}
        for request, feature, mark in sorted(found):
            highest[request].setdefault(feature, -mark)
        strong = [strongest(np.array([*one], np.intp), np.array([*one.values()])) for one in highest.values()]
        self.rows.append(drawn(strong, keys.tolist()))
        self.n.append(np.bincount([feature for one in highest.values() for feature in one], minlength=features))


@pytest.mark.parametrize("features", [200, 60_000, 70_000])
def test_of_a_feature_that_is_in_a_request_twice_the_higher_mark_counts(features: int) -> None:
    chance = np.random.default_rng(0)
    given = chance.integers(features - 9, features, 500), chance.integers(0, 300, 500), chance.normal(0.0, 1.0, 500)
    order = np.lexsort((-given[2], given[0], given[1]))
    feature, request, mark = (one[order] for one in given)
    once = np.append(True, (np.diff(feature) != 0) | (np.diff(request) != 0))
    assert once.sum() < 500
    for found, wanted_ in zip(single(*given), (feature[once], request[once], mark[once]), strict=True):
        assert (found == wanted_).all()


def test_values_are_counted_by_feature_and_bin(tmp_path: Path) -> None:
    of = Weeks(TINY, tmp_path).world
    wanted_ = np.zeros((1, of.features, VALUE_BINS), np.int32)

    def count(_: int, fired: Fired) -> None:
        bins: F64 = np.floor((fired.mark + VALUE_SPAN) * VALUE_BINS / (2 * VALUE_SPAN))
        np.add.at(wanted_[0], (fired.feature, np.clip(bins, 0, VALUE_BINS - 1).astype(int)), 1)

    assert (week(of, 7, days=1, blocks_a_day=4, each=count).values == wanted_).all()
