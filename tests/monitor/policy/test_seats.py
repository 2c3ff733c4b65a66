"""Which tokens of a batch are new, and how those of a subject are counted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from saewatch.core.batch import Origin
from saewatch.monitor.policy.seats import NOWHERE, Seats
from saewatch.monitor.policy.wiring import Tokens
from tests import fakes

COLUMNS = ("row", "place", "position", "reply", "rank", "rank_part")


def told(tokens: Tokens) -> list[tuple[Any, ...]]:
    """Of each token, its columns."""
    return list(zip(*(getattr(tokens, name).tolist() for name in COLUMNS), strict=True))


def fresh(seats: Seats, spans: Sequence[fakes.Span], seat: Sequence[int]) -> list[tuple[Any, ...]]:
    return told(seats.fresh(fakes.batch(spans), np.array(seat)))


def test_a_position_counts_once() -> None:
    seats = Seats(numbered=False)
    place = seats.enter()
    seat = seats.sit(place, prompt_len=3)
    assert [one[2] for one in fresh(seats, [(1, 0, 4)], [seat])] == [0, 1, 2, 3]
    assert fresh(seats, [(1, 0, 4)], [seat]) == []
    found = fresh(seats, [(1, 2, 4)], [seat])
    assert found == [(2, place, 4, True, 4, 1), (3, place, 5, True, 5, 2)], "rows are those of the batch"
    assert (seats.seen(place), seats.next(place)) == ((3, 3), 6)


def test_what_is_computed_again_and_who_is_not_judged_is_left_out() -> None:
    seats = Seats(numbered=False)
    seat = seats.sit(seats.enter(), prompt_len=1)
    spans: list[fakes.Span] = [(1, 0, 2), (2, 0, 2), (1, 5, 1, int(Origin.RECOMPUTED)), (1, 2, 1, int(Origin.REUSED))]
    assert [one[:3] for one in fresh(seats, spans, [seat, NOWHERE, seat, seat])] == [(0, 0, 0), (1, 0, 1), (5, 0, 2)]


def test_an_excluded_token_has_a_position_and_no_rank() -> None:
    seats = Seats(numbered=False)
    seat = seats.sit(seats.enter(), prompt_len=4)
    found = fresh(seats, [(1, 0, 1), (1, 2, 3)], [seat, seat])
    assert [one[2:] for one in found] == [(0, False, 0, 0), (2, False, 1, 1), (3, False, 2, 2), (4, True, 3, 0)]


def test_places_are_given_again_and_begin_empty() -> None:
    seats = Seats(numbered=False)
    places = [seats.enter() for _ in range(200)]
    assert sorted(places) == list(range(200))
    seat = seats.sit(places[7], prompt_len=0)
    fresh(seats, [(1, 0, 5)], [seat])
    seats.put_off(places[7], 3)
    assert seats.rise(seat) == places[7]
    seats.leave(places[7])
    again = seats.enter()
    assert (again, seats.seen(again), seats.next(again)) == (places[7], (0, 0), 0)
    other = seats.sit(again, prompt_len=0)
    assert [one[2] for one in fresh(seats, [(2, 0, 2)], [other])] == [0, 1], "nothing came of this one before"


def test_who_is_due_is_told_when_it_has_come_that_far() -> None:
    seats = Seats(numbered=False)
    place = seats.enter()
    seat = seats.sit(place, prompt_len=0)
    seats.put_off(place, 2)
    assert seats.due(seats.fresh(fakes.batch([(1, 0, 2)]), np.array([seat]))) == []
    assert seats.due(seats.fresh(fakes.batch([(1, 2, 1)]), np.array([seat]))) == [place]


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_it_agrees_with_counting_token_by_token(numbered: bool, seed: int) -> None:
    chance, seats = random.Random(seed), Seats(numbered=numbered)
    place = [seats.enter() for _ in range(3)]
    of = [chance.choice(place) if numbered else place[number] for number in range(3)]
    prompt_len = [chance.randrange(6) for _ in of]
    seat = [seats.sit(one, prompt) for one, prompt in zip(of, prompt_len, strict=True)]
    at, seen = [0, 0, 0], {one: [0, 0] for one in place}
    for _ in range(12):
        spans: list[fakes.Span] = []
        expected: list[tuple[Any, ...]] = []
        row = 0
        for number in chance.choices(range(3), k=chance.randrange(1, 4)):
            size = chance.choice([1, 1, 3])
            spans.append((number, at[number], size))
            for position in range(at[number], at[number] + size):
                reply, counted = position >= prompt_len[number], seen[of[number]]
                rank = sum(counted)
                shown = rank if numbered else position
                expected.append((row, of[number], shown, reply, rank, counted[reply]))
                counted[reply] += 1
                row += 1
            at[number] += size + chance.choice([0, 0, 1])  # one that is excluded
        assert fresh(seats, spans, [seat[span[0]] for span in spans]) == expected
    assert {one: list(seats.seen(one)) for one in place} == seen
