"""What features did in one request."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.monitor.tally import Budget, Tally, frozen, raw

Firing = tuple[int, int, float]
"""Feature, position, value."""


def tally(prompt_len: int = 4) -> Tally:
    return Tally(prompt_len, Budget())


def add(one: Tally, firings: list[Firing]) -> None:
    feature, position, value = zip(*firings, strict=True) if firings else ((), (), ())
    one.add(raw(np.array(feature, np.int32), np.array(position, np.int32), np.array(value, np.float32)))


def read(one: Tally) -> dict[tuple[int, str], tuple[int, float, float, int, int]]:
    """Feature and part to count, largest, log-sum, first and peak."""
    sums = one.sums()
    columns = (sums.key, sums.count, sums.largest, sums.log_sum, sums.first, sums.peak)
    return {
        (key // 2, "answer" if key % 2 else "prompt"): (count, largest, round(log_sum, 6), first, peak)
        for key, count, largest, log_sum, first, peak in zip(*(column.tolist() for column in columns), strict=True)
    }


def slowly(firings: list[Firing], prompt_len: int) -> dict[tuple[int, str], tuple[int, float, float, int, int]]:
    groups: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for feature, position, value in firings:
        part = "prompt" if position < prompt_len else "answer"
        groups.setdefault((feature, part), []).append((position, value))
    return {
        key: (
            len(group),
            max(value for _, value in group),
            round(sum(math.copysign(math.log1p(abs(value)), value) for _, value in group), 6),
            min(position for position, _ in group),
            min(position for position, value in group if value == max(value for _, value in group)),
        )
        for key, group in groups.items()
    }


firings = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 12), st.sampled_from([0.25, 0.5, 1.0, 3.0, -0.5])), max_size=40
)


@given(st.lists(firings, max_size=5), st.sets(st.integers(0, 4)))
def test_sums_are_those_of_the_slow_way_settled_or_not(parts: list[list[Firing]], settle_after: set[int]) -> None:
    one = tally()
    for number, part in enumerate(parts):
        add(one, part)
        if number in settle_after:
            one.settle()
    assert read(one) == slowly([firing for part in parts for firing in part], 4)


def test_prompt_and_answer_are_counted_apart() -> None:
    one = tally()
    add(one, [(0, 3, 1.0), (0, 4, 2.0)])
    assert read(one).keys() == {(0, "prompt"), (0, "answer")}


def test_recomputed_positions_replace_what_they_gave() -> None:
    one = tally()
    one.saw(4, 2)
    add(one, [(0, 0, 1.0), (0, 3, 9.0), (1, 5, 2.0)])
    assert one.forget(2, 5) == 0
    add(one, [(0, 2, 4.0)])
    assert read(one) == slowly([(0, 0, 1.0), (1, 5, 2.0), (0, 2, 4.0)], 4)
    assert (one.prompt_tokens + one.answer_tokens, one.recomputed_tokens, one.kept_first_tokens) == (6, 3, 0)


def test_recomputed_positions_that_are_summed_up_keep_the_first_and_say_so() -> None:
    one = tally()
    add(one, [(0, 3, 9.0)])
    one.settle()
    assert one.forget(2, 6) == 4, "from here on its firings are taken"
    add(one, [(0, 5, 2.0)])
    assert read(one) == slowly([(0, 3, 9.0), (0, 5, 2.0)], 4)
    assert one.kept_first_tokens == 2


def test_a_request_with_very_many_firings_is_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORD_FIRINGS", 100)
    one = tally()
    for position in range(200):
        add(one, [(feature, position, 1.0) for feature in range(3)])
    assert one.budget.bytes < 12 * 256
    assert read(one)[2, "answer"][0] == 196


def test_all_open_requests_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORD_FIRINGS_BYTES", 12 * 512)
    budget = Budget()
    ones = [Tally(0, budget) for _ in range(20)]
    for one in ones:
        add(one, [(0, position, 1.0) for position in range(64)])
    assert budget.bytes <= 12 * 512 + 12 * 128
    assert all(read(one)[0, "answer"][0] == 64 for one in ones)


def test_missed_tokens_by_reason() -> None:
    one = tally()
    one.miss(Reason.GAP, 2)
    one.miss(Reason.GAP, 3)
    assert one.missed == {Reason.GAP: 5}


def test_a_frozen_copy_does_not_change() -> None:
    one = tally()
    add(one, [(0, 0, 1.0)])
    copy = frozen(one)
    add(one, [(0, 1, 1.0)])
    one.miss(Reason.GAP, 1)
    assert read(copy) == slowly([(0, 0, 1.0)], 4)
    assert copy.missed == {}
