"""A stream's books: the design's equality after whatever happens, and that each loss is told once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.batch import NO_REQUEST, FiringBatch, Origin, Reason
from saewatch.engine import books as module
from saewatch.engine.batching import Encoded, build
from saewatch.engine.books import Books, Sight, Stream
from saewatch.engine.ledger import Ledger, Missed, Settled, Skipped
from tests.engine.shipping import opening
from tests.simulate.engine import Engine, Traffic


def batch_of(spans: list[tuple[int, int]], seq: int, missed: list[Missed] = [], firings: int = 0) -> FiringBatch:  # noqa: B006 - never changed
    """Spans of ``(request, rows)``; the firings are in the first row."""
    request = np.concatenate([np.zeros(0, np.uint32), *(np.full(rows, number, np.uint32) for number, rows in spans)])
    position = np.concatenate([np.zeros(0, np.int32), *(np.arange(rows, dtype=np.int32) for _, rows in spans)])
    settled = Settled(
        started=(),
        ended=(),
        fed=0,
        missed=(),
        row=np.arange(len(request), dtype=np.int32),
        request=request.astype(np.uint32),
        position=position.astype(np.int32),
        origin=np.full(len(request), Origin.COMPUTED, np.uint8),
    )
    none = np.zeros(len(request), dtype=bool)
    slots = np.arange(firings, dtype=np.uint16)
    encoded = Encoded(np.zeros(firings, np.int32), slots, np.ones(firings, np.float32), none, none)
    return build(settled, encoded, stream=0, watch=0, seq=seq, step=0, time_ns=0, missed=missed)


def sent(books: Books, tokens: int, *, request: int = 1, connection: int = 1, firings: int = 0) -> FiringBatch:
    """``tokens`` of ``request`` were settled and their batch is on its way."""
    books.take(tokens, tokens, [])
    books.seq += 1
    batch = batch_of([(request, tokens)], books.seq, books.tell(100), firings)
    books.send(batch, connection)
    return batch


class Consumer:
    """A sidecar's sum over the batches that it got, by connection."""

    def __init__(self) -> None:
        self.tokens = 0

    def take(self, batch: FiringBatch) -> None:
        batch.check()
        self.tokens += batch.rows - int(np.diff(batch.span_start)[batch.origin == Origin.RECOMPUTED].sum())
        self.tokens += int(batch.missed_tokens.sum())


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_the_equality_holds_after_every_step_whatever_becomes_of_the_batches(seed: int) -> None:
    random, books, ledger = Random(seed), Books(0), Ledger()
    traffic = Traffic(requests=6, prompt_max=60, output_max=20, drafts=2, asynchronous=random.random() < 0.5)
    on_its_way: list[FiringBatch] = []
    consumer, connection, connected = Consumer(), 1, True
    engine = Engine(traffic, seed)
    for simulated in engine.steps():
        settled = ledger.settle(simulated.step)
        fresh = int((settled.origin == Origin.COMPUTED).sum())
        for span in settled.skipped:
            books.skip(span, 0)
        books.take(settled.fed - sum(span.tokens for span in settled.skipped), fresh, settled.missed)
        if not connected and random.random() < 0.3:
            connected, connection = True, connection + 1
            books.forget({start.request for start in ledger.starts}, known=True)
            books.acknowledge(consumer_seq(on_its_way, consumer, arrived=random.randint(0, 3)), connection)
            on_its_way = []
        rows = len(settled.row)
        none = Encoded(
            np.zeros(0, np.int32),
            np.zeros(0, np.uint16),
            np.zeros(0, np.float32),
            np.zeros(rows, bool),
            np.zeros(rows, bool),
        )
        settled = replace(settled, row=np.arange(rows, dtype=np.int32))
        missed = books.tell(3) if connected else []
        batch = build(settled, none, stream=0, watch=0, seq=books.seq + 1, step=1, time_ns=1, missed=missed)
        if not connected:
            books.lose(batch, Reason.GAP)
        elif random.random() < 0.2:
            books.seq += 1
            books.lose(batch, Reason.QUEUE_FULL)
        else:
            books.seq += 1
            books.send(batch, connection)
            on_its_way.append(batch)
        if connected and random.random() < 0.5:
            books.acknowledge(consumer_seq(on_its_way, consumer, arrived=len(on_its_way)), connection)
            on_its_way = []
        connected = connected and random.random() > 0.1
        if not connected:
            for end in settled.ended:
                books.forget({end.request}, known=False)
        assert books.beat().imbalance == 0
        books.beat().check()
    assert books.fed == sum(len(request.seen) for request in engine.requests.values())
    books.forget(set(), known=True)
    books.acknowledge(consumer_seq(on_its_way, consumer, arrived=0), connection + 1)
    while books.untold:
        books.seq += 1
        batch = batch_of([], books.seq, books.tell(3))
        assert set(batch.missed_request.tolist()) == {NO_REQUEST}
        consumer.take(batch)
    assert books.beat().in_flight == 0
    assert consumer.tokens == books.fed  # what the sidecar adds up is what was fed
    assert books.encoded + sum(books.missed.values()) == books.fed


def consumer_seq(on_its_way: list[FiringBatch], consumer: Consumer, *, arrived: int) -> int:
    """The consumer takes the first batches; the highest number that it has then."""
    for batch in on_its_way[:arrived]:
        consumer.take(batch)
    return on_its_way[:arrived][-1].seq if on_its_way[:arrived] else 0


def test_a_new_connection_says_what_of_the_last_one_had_arrived() -> None:
    books = Books(0)
    for tokens in (1, 2, 4):
        sent(books, tokens, firings=1)
    sent(books, 8, connection=2, firings=1)
    books.forget({1}, known=True)
    books.acknowledge(2, 2)
    assert (books.encoded, dict(books.missed), books.beat().in_flight) == (3, {Reason.GAP: 4}, 8)
    assert (books.firings, books.unacknowledged) == (3, 1)
    assert books.tell(9) == [(1, Reason.GAP, 4)]


def test_what_a_lost_batch_told_is_told_again_and_counted_once() -> None:
    books = Books(0)
    books.take(5, 0, [(1, Reason.CACHED, 5)])
    batch = sent(books, 2)
    assert books.untold == {}
    books.lose(batch, Reason.QUEUE_FULL)
    assert books.missed == {Reason.CACHED: 5, Reason.QUEUE_FULL: 2}
    assert sorted(books.tell(9)) == [(1, Reason.CACHED, 5), (1, Reason.QUEUE_FULL, 2)]


def test_losses_of_requests_that_the_connection_does_not_know_are_nobodys() -> None:
    books = Books(0)
    books.take(0, 0, [(1, Reason.GAP, 5), (2, Reason.GAP, 7), (3, Reason.BLIND, 1)])
    books.forget({1}, known=False)
    assert books.untold == {(NO_REQUEST, Reason.GAP): 5, (2, Reason.GAP): 7, (3, Reason.BLIND): 1}
    books.forget({3}, known=True)
    assert books.untold == {(NO_REQUEST, Reason.GAP): 12, (3, Reason.BLIND): 1}


def test_giving_up_leaves_nothing_in_flight() -> None:
    books = Books(0)
    sent(books, 3, firings=2)
    books.give_up(Reason.SHUTDOWN)
    beat = books.beat()
    assert (beat.in_flight, beat.missed, beat.firings, beat.imbalance) == (0, {"shutdown": 3}, 0, 0)


def test_recomputed_rows_are_not_counted_again() -> None:
    books = Books(0)
    books.take(0, 0, [])
    batch = batch_of([(1, 4)], 1)
    batch = replace(batch, origin=np.full(1, Origin.RECOMPUTED, np.uint8))
    books.send(batch, 1)
    books.acknowledge(1, 1)
    assert (books.encoded, books.beat().imbalance) == (0, 0)


def test_replayed_rows_are_reused_once_they_are_acknowledged_and_lost_like_others() -> None:
    books = Books(0)
    books.skip(Skipped(1, 0, 10), 8)
    batch = replace(batch_of([(1, 8)], 1, books.tell(9), firings=2), origin=np.full(1, Origin.REUSED, np.uint8))
    assert (batch.rows, batch.reused_rows, books.beat().in_flight, books.beat().imbalance) == (8, 8, 8, 0)
    books.seq = 1
    books.send(batch, 1)
    books.acknowledge(1, 1)
    assert (books.reused, books.encoded, books.told, books.missed) == (8, 0, 10, {Reason.CACHED: 2})
    books.skip(Skipped(1, 10, 18), 8)
    books.lose(batch, Reason.GAP)
    assert (books.beat().reused, books.beat().missed["gap"], books.beat().imbalance) == (8, 8, 0)


def test_what_was_computed_elsewhere_has_a_reason_of_its_own() -> None:
    books = Books(0)
    books.skip(Skipped(1, 0, 10, external=True), 0)
    assert (books.fed, books.missed, books.beat().imbalance) == (10, {Reason.EXTERNAL: 10}, 0)


def test_a_span_of_which_everything_is_known_has_no_losses() -> None:
    books = Books(0)
    books.skip(Skipped(1, 4, 8), 4)
    assert (books.fed, books.untold, books.missed) == (4, {}, {})


def test_nobodys_losses_of_many_days_fit_their_column() -> None:
    books = Books(0)
    books.take(2**33, 0, [(NO_REQUEST, Reason.BLIND, 2**33)])
    told = 0
    while books.untold:
        batch = batch_of([], 1, books.tell(1))
        batch.check()
        told += int(batch.missed_tokens.sum())
        assert batch.missed_tokens.max() <= limits.POSITION_MAX
    assert told == 2**33


def test_untold_losses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNTOLD", 4)
    books = Books(0)
    books.take(10, 0, [(request, Reason.QUEUE_FULL, 1) for request in range(1, 11)])
    assert len(books.untold) == 5
    assert Counter(books.untold)[NO_REQUEST, Reason.QUEUE_FULL] == 6


def test_a_batch_on_its_way_is_kept_without_its_firings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNACKNOWLEDGED", 2)
    books = Books(0)
    sent(books, 1, firings=100)
    assert books._pending[0].batch.firings == 0  # noqa: SLF001 - memory is not seen from outside
    assert not books.full
    sent(books, 1)
    assert books.full


def test_what_a_fault_lost_is_written_off() -> None:
    books = Books(0)
    sent(books, 3)
    books.take(5, 5, [])
    books.write_off(Reason.BLIND)
    books.write_off(Reason.BLIND)
    assert (books.beat().in_flight, dict(books.missed), books.beat().imbalance) == (3, {Reason.BLIND: 5}, 0)


def test_why_a_stream_sees_nothing() -> None:
    sight, old = Sight(), Stream(opening=opening(1))
    assert not sight.tell([old])
    sight.turn(off=True, resumes=0)
    assert sight.tell([old])
    assert old.books.blind == "off"
    sight.pause = (1, "reload")
    assert sight.tell([old])
    assert old.books.blind == "reload", "which is what has to be over first"
    sight.turn(off=True, resumes=1)
    sight.tell([old])
    assert old.books.blind == "off"
    sight.pause = (2, "sleep")
    sight.turn(off=False, resumes=1)
    sight.tell([old])
    assert old.books.blind == "sleep", "another pause"
    sight.fault = "fault"
    sight.turn(off=False, resumes=2)
    new = Stream(opening=opening(2))
    assert sight.tell([old, new])
    assert (old.books.blind, new.books.blind) == ("fault", "fault")
    assert not sight.tell([old, new]), "no news"
