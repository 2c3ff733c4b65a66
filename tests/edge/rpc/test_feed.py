"""The ring's encodings and the bell."""

from __future__ import annotations

import asyncio

import pytest

from saewatch.core import limits
from saewatch.edge.pb import firing_pb2
from saewatch.edge.pipeline import Dropped
from saewatch.edge.rpc.feed import Feed
from saewatch.edge.rpc.filters import Filter
from tests.monitor.stage import Stage


def feed() -> Feed:
    return Feed(on_lag=lambda _: None)


async def test_an_event_is_encoded_once_for_each_filter() -> None:
    one = feed()
    one.take([Dropped(1, 2, 3)])
    entry = one.ring.next(one.ring.tail)
    assert entry is not None
    readers = one.enter(Filter())
    first = one.encoded(entry, readers)
    assert one.encoded(entry, one.enter(Filter())) is first
    assert one.encodings == 1
    one.encoded(entry, one.enter(Filter(tenants=frozenset({"x"}))))
    assert one.encodings == 2
    assert first is not None
    assert firing_pb2.WatchFiringsResponse.FromString(first).gap.tokens == 2


async def test_encodings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENCODINGS_BYTES", 100)
    one = feed()
    one.take([Dropped(1, 2, 3)] * 50)
    cursor, readers = one.ring.tail, one.enter(Filter())
    while (entry := one.ring.next(cursor)) is not None:
        one.encoded(entry, readers)
        cursor = entry.after
    assert one.encoded_bytes <= 100
    assert one.encodings == 50


async def test_whoever_waits_is_woken_and_nobody_else() -> None:
    one = feed()
    waiting = asyncio.create_task(one.bell.wait(10.0))
    await asyncio.sleep(0)
    one.take([Dropped(1, 2, 3)])
    await asyncio.wait_for(waiting, 1.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(one.bell.wait(10.0), 0.05)


async def test_waiting_ends_by_itself() -> None:
    await asyncio.wait_for(feed().bell.wait(0.01), 1.0)


async def test_order_is_kept_between_batches_and_other_events() -> None:
    stage = Stage().ready()
    stage.events.clear()
    stage.start(7, name="plain")
    stage.batch([(7, 0, 1)])
    stage.beat()
    stage.batch([(7, 1, 1)])
    stage.end(7)
    one = feed()
    one.take(stage.events)
    kinds, cursor = [], one.ring.tail
    while (entry := one.ring.next(cursor)) is not None:
        kinds.append(type(entry.item).__name__)
        cursor = entry.after
    assert kinds == ["Gathered", "Standing", "Gathered", "RequestEnded"]
    assert (one.ring.head.tokens, one.ring.head.firings) == (2, 0)


async def test_encodings_go_with_the_last_reader_of_their_filter() -> None:
    one = feed()
    one.take([Dropped(1, 2, 3)])
    entry = one.ring.next(one.ring.tail)
    assert entry is not None
    left, right = one.enter(Filter()), one.enter(Filter())
    one.encoded(entry, left)
    one.leave(left)
    assert (one.encodings_kept, one.encoded_bytes > 0) == (1, True)
    one.leave(right)
    assert (one.encodings_kept, one.encoded_bytes) == (0, 0)
