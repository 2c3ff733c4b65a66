"""Several steps in one message."""

from __future__ import annotations

import itertools

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.edge.rpc.gather import NO_INDEX, Gathered, Gatherer
from saewatch.monitor.events import Observed
from tests import fakes
from tests.monitor.stage import Stage, observed


def steps() -> list[Observed]:
    stage = Stage().ready()
    for request in (7, 8):
        stage.label(request)
        stage.start(request)
    stage.batch([(7, 0, 2), (8, 0, 1)], [(0, 0, 1.0), (2, 1, 2.0)], missed=[(8, Reason.GAP, 5)])
    stage.now += 1000
    stage.batch([(8, 1, 1), (99, 4, 1)], [(0, 2, 3.0), (1, 3, 4.0)], missed=[(0, Reason.GAP, 6)])
    return observed(stage.events)


def read(gathered: Gathered) -> set[tuple[str, int, int, float]]:
    batch = gathered.batch
    request, position = batch.row_positions()
    names = [one.client_id for one in gathered.requests]
    return {
        (names[request[row]] if request[row] != NO_INDEX else "", int(position[row]), int(slot), float(value))
        for row, slot, value in zip(batch.row, batch.slot, batch.value, strict=True)
    }


def test_rows_are_numbered_on_and_requests_are_named_once() -> None:
    gatherer = Gatherer()
    for one in steps():
        gatherer.add(one, 0)
    (gathered,) = gatherer.flush()
    assert [one.client_id for one in gathered.requests] == ["client-7", "client-8"]
    assert gathered.batch.request.tolist() == [0, 1, 1, NO_INDEX]
    assert gathered.batch.span_start.tolist() == [0, 2, 3, 4, 5]
    assert gathered.batch.missed_request.tolist() == [1, NO_INDEX]
    assert read(gathered) == {
        ("client-7", 0, 0, 1.0),
        ("client-8", 0, 1, 2.0),
        ("client-8", 1, 2, 3.0),
        ("", 4, 3, 4.0),
    }
    assert (gathered.first_seq, gathered.batch.seq, gathered.tokens) == (1, 2, 5 + 11)
    assert gathered.batch.time_ns - gathered.first_time_ns == 1000
    assert gatherer.flush() == []


def test_tables_are_not_mixed() -> None:
    stage = Stage().ready()
    stage.put(fakes.watch_set(stage.known, watch=2))
    stage.start(7, name="plain")
    stage.batch([(7, 0, 1)])
    stage.batch([(7, 1, 1)], watch=2)
    gatherer = Gatherer()
    for one in observed(stage.events):
        gatherer.add(one, 0)
    assert [one.batch.rows for one in gatherer.flush()] == [1, 1]


def test_it_is_due_20_ms_after_the_first() -> None:
    gatherer = Gatherer()
    due = [gatherer.due_ns]
    for now, one in enumerate(steps()):
        gatherer.add(one, 1000 + now)
        due.append(gatherer.due_ns)
    gatherer.flush()
    due.append(gatherer.due_ns)
    assert due == [None, 1000 + limits.FLUSH_NS, 1000 + limits.FLUSH_NS, None]


def full_after(rows: int, firings: int) -> int:
    """Batches that make a message."""
    stage = Stage().ready()
    stage.start(7, name="plain")
    gatherer = Gatherer()
    fired = [(row, slot, 1.0) for row, slot in itertools.product(range(rows), range(4))][:firings]
    return next(
        number for number in itertools.count(1) if gatherer.add(observed(stage.batch([(7, 0, rows)], fired))[0], 0)
    )


def test_it_is_full_at_1024_tokens_or_64_kib() -> None:
    assert full_after(rows=100, firings=0) == 11
    assert full_after(rows=200, firings=800) == 6
    assert full_after(rows=1000, firings=4000) == 2
    assert limits.FLUSH_BYTES / (10 * 4000) < 2


def test_gathering_changes_no_batch() -> None:
    first, second = steps()
    before = (first.batch.digest(), second.batch.digest())
    gatherer = Gatherer()
    for one in (first, second):
        gatherer.add(one, 0)
    (gathered,) = gatherer.flush()
    assert (first.batch.digest(), second.batch.digest()) == before
    assert np.shares_memory(gathered.batch.value, first.batch.value) is False
