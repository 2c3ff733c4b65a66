"""What a recording lacks is told as its engine would have told it: to the token, where the engine is at rest."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from saewatch.core.batch import NO_REQUEST, FiringBatch, Origin, Reason
from saewatch.core.records import Beat, Record, StreamBeat, StreamEnd
from saewatch.edge.shortfall import FIRINGS, REUSED, ROWS, TOKENS, Shortfall
from saewatch.engine.books import Books
from tests import fakes

KNOWN = fakes.dictionary()
KEPT = (fakes.stream_open(KNOWN), fakes.watch_set(KNOWN))


def through(shortfall: Shortfall, records: Iterable[Record]) -> list[Record]:
    """What is given in their place, on one connection."""
    return [given for record in records for given in shortfall.amended(1, record)]


def batches(records: Iterable[Record]) -> list[FiringBatch]:
    return [record for record in records if isinstance(record, FiringBatch)]


def books(records: Iterable[Record]) -> StreamBeat:
    """The last ones."""
    return [record for record in records if isinstance(record, Beat)][-1].streams[0]


def gap(records: Iterable[Record]) -> int:
    """Tokens that are missed as `gap`."""
    found = batches(records)
    return sum(int(one.missed_tokens[one.missed_reason == Reason.GAP].sum()) for one in found)


def step(seq: int) -> FiringBatch:
    """Three rows with two firings, and a missed token."""
    return fakes.batch([(7, 3 * seq, 3)], [(0, 1, 2.0), (2, 1, 2.0)], missed=[(7, Reason.EXCLUDED, 1)], seq=seq)


def beat(steps: int) -> Beat:
    """Of an engine at rest that was told so many steps."""
    told = {"told": 4 * steps, "told_firings": 2 * steps, "firings": 2 * steps}
    return fakes.beat(seq=steps, fed=4 * steps, encoded=3 * steps, missed={"excluded": steps}, **told)


def test_what_is_whole_is_not_touched() -> None:
    records: list[Record] = [*KEPT, beat(0), step(1), step(2), beat(2)]
    shortfall = Shortfall()
    assert through(shortfall, records) == records
    assert not shortfall.lost
    assert list(shortfall.rest({1})) == []


def test_a_lost_batch_is_a_gap_in_the_books_and_in_the_next_batch() -> None:
    shortfall = Shortfall()
    given = through(shortfall, [*KEPT, beat(0), step(1), step(3), beat(3), step(4)])
    assert shortfall.lost == {TOKENS: 4, ROWS: 3, FIRINGS: 2}
    found = books(given)
    assert (found.encoded, found.missed, found.firings, found.imbalance) == (6, {"excluded": 3, "gap": 3}, 4, 0)
    last = batches(given)[-1]
    last.check()
    assert last.missed_request.tolist() == [7, NO_REQUEST]
    assert last.missed_tokens.tolist() == [1, 4]
    assert [one.seq for one in batches(given)] == [1, 3, 4]
    assert gap(given) == 4, "once"
    assert list(shortfall.rest({1})) == []


def test_a_lost_replay_is_taken_from_what_was_reused() -> None:
    shortfall = Shortfall()
    replay = fakes.batch([(7, 0, 2, Origin.REUSED)], [(0, 1, 2.0)], seq=2)
    told = beat(1).streams[0]
    after = replace(told, seq=2, fed=6, reused=2, told=6, told_firings=3, firings=3)
    given = through(shortfall, [*KEPT, beat(0), step(1), replace(beat(1), streams=(after,))])
    assert shortfall.lost == {TOKENS: 2, REUSED: 2, FIRINGS: 1}
    found = books(given)
    assert (found.encoded, found.reused, found.missed, found.imbalance) == (3, 0, {"excluded": 1, "gap": 2}, 0)
    whole = Shortfall()
    through(whole, [*KEPT, beat(0), step(1), replay, replace(beat(1), streams=(after,))])
    assert not whole.lost


def test_without_a_next_batch_the_last_one_is_made_up() -> None:
    shortfall = Shortfall()
    through(shortfall, [*KEPT, beat(0), step(1), beat(3)])
    assert list(shortfall.rest({2})) == [], "nobody is there to tell it"
    ((link, made),) = shortfall.rest({1})
    made.check()
    assert (link, made.seq, made.rows, made.firings, gap([made])) == (1, 2, 0, 0, 8)


def test_a_stream_that_ends_tells_it_before_and_its_number_begins_anew() -> None:
    shortfall, final = Shortfall(), beat(2).streams[0]
    given = through(shortfall, [*KEPT, beat(0), step(1), StreamEnd(stream=1, reason="swap", final=final)])
    *_, made, end = given
    assert isinstance(end, StreamEnd)
    assert (gap([made]), end.final.missed["gap"], end.final.imbalance) == (4, 3, 0)
    again = through(shortfall, [*KEPT, beat(0), step(1), beat(1)])
    assert books(again).missed == {"excluded": 1}
    assert shortfall.lost[TOKENS] == 4


def test_what_was_told_before_the_recording_is_not_missing() -> None:
    shortfall = Shortfall()
    through(shortfall, [*KEPT, beat(5), step(6), beat(6)])
    assert not shortfall.lost


@pytest.mark.parametrize(("first", "lost"), [(1, 4), (6, 0)])
def test_a_first_beat_that_is_lost_too(first: int, lost: int) -> None:
    """From number 1 on everything is ours; otherwise nobody knows, and what comes after is compared."""
    shortfall = Shortfall()
    through(shortfall, [*KEPT, step(first), beat(first + 1)])
    assert shortfall.lost[TOKENS] == lost
    through(shortfall, [beat(first + 3)])
    assert shortfall.lost[TOKENS] == lost + 8


def test_a_batch_that_comes_twice_counts_once() -> None:
    shortfall = Shortfall()
    through(shortfall, [*KEPT, beat(0), step(1), step(1), beat(2)])
    assert shortfall.lost[TOKENS] == 4


def test_a_batch_of_an_unknown_engine_passes() -> None:
    records: list[Record] = [step(1)]
    assert through(Shortfall(), records) == records


@pytest.mark.parametrize("seed", range(20))
def test_an_engine_that_is_behind_with_its_books(seed: int) -> None:
    """Beats know of acknowledged batches only: the loss is told late, never too large, and exactly at the end."""
    chance, engine, shortfall = random.Random(seed), Books(1), Shortfall()
    given = through(shortfall, KEPT)
    lost = rows = acknowledged = 0
    for seq in range(1, 120):
        one = fakes.batch([(7, seq, chance.randint(1, 5))], [(0, 1, 2.0)], seq=seq)
        engine.seq = seq
        engine.take(one.rows, one.rows, [])
        engine.send(one, 1)
        if chance.random() < 0.1:
            lost += one.rows
        else:
            given += through(shortfall, [one])
            rows += one.rows
        if chance.random() < 0.2:
            acknowledged = chance.randint(acknowledged, seq)
            engine.acknowledge(acknowledged, 1)
        if seq == 1 or chance.random() < 0.2:
            given += through(shortfall, [Beat(engine="engine-0", epoch=1000, time_ns=0, streams=(engine.beat(),))])
            assert shortfall.lost[TOKENS] <= lost
    engine.acknowledge(engine.seq, 1)
    given += through(shortfall, [Beat(engine="engine-0", epoch=1000, time_ns=0, streams=(engine.beat(),))])
    given += [batch for _, batch in shortfall.rest({1})]
    assert shortfall.lost[TOKENS] == gap(given) == lost > 0
    found = books(given)
    assert (found.encoded, found.missed.get("gap", 0), found.imbalance) == (rows, lost, 0)
    assert np.all(np.diff([one.seq for one in batches(given)]) > 0)
