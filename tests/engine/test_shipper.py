"""The shipper with a real socket and a sidecar that does whatever one may do; what arrives adds up to what was fed."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from saewatch.core.batch import NO_REQUEST, FiringBatch, Reason, WatchSet
from saewatch.core.records import (
    Beat,
    RequestEnd,
    RequestStart,
    StreamOpen,
)
from saewatch.engine.batching import Encoded
from saewatch.engine.books import Stream
from saewatch.engine.ledger import NewRequest, Step
from saewatch.engine.outbox import Outbox
from saewatch.engine.shipper import Shipper
from saewatch.engine.staging import Note
from tests.engine.shipping import (
    BUSY,
    TRAFFIC,
    Bench,
    at_rest,
    check_connections,
    opening,
    seen_rows,
)
from tests.simulate.engine import Engine, Traffic
from tests.simulate.sidecar import FakeSidecar, last_beat, told
from tests.waiting import wait_until


# --- what arrives -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
def test_a_sidecar_that_is_there_gets_every_row_in_order(bench: Bench, seed: int) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(seed=seed, streams=2)
        wait_until(lambda: sidecar.of(Beat))
        run.put()
        books = at_rest(run, sidecar)
        for stream in (0, 1):
            batches = [batch for batch in sidecar.of(FiringBatch) if batch.stream == stream]
            assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
            assert all(left.step <= right.step for left, right in pairwise(b for b in batches if b.step))
            assert told(sidecar.records, stream) == books.fed
        assert set(check_connections(run, sidecar).elements()) == seen_rows(run)
        assert sum(check_connections(run, sidecar).values()) == len(seen_rows(run)) == books.encoded
        assert books.firings == sum(batch.firings for batch in sidecar.of(FiringBatch) if batch.stream == 0)
        assert books.sink_calls == 5
        assert run.released == run.captured
        assert {batch.watch for batch in sidecar.of(FiringBatch)} == {9}


def test_a_connection_begins_with_streams_watch_sets_a_beat_and_the_open_requests(bench: Bench) -> None:
    run = bench.open(streams=2)
    engine = Engine(replace(TRAFFIC, cached=1.0), 1)
    steps = list(engine.steps())
    for simulated in steps[:30]:
        run.put_step(simulated.step)
    wait_until(lambda: run.released == run.captured)
    with FakeSidecar(bench.path) as sidecar:
        wait_until(lambda: sidecar.of(FiringBatch))
        kinds = [type(record) for record in sidecar.records]
        starts = kinds.count(RequestStart)
        assert kinds[:5] == [StreamOpen, WatchSet, StreamOpen, WatchSet, Beat]
        assert kinds[5 : 5 + starts] == [RequestStart] * starts
        known = {name for simulated in steps[:30] for name in simulated.step.computed}
        over = {name for simulated in steps[:30] for name in simulated.step.finished}
        assert {start.engine_id for start in sidecar.of(RequestStart)} == known - over
        assert kinds[5 + starts] == FiringBatch  # the losses until now


def test_a_sidecar_that_came_late_is_told_what_it_missed(bench: Bench) -> None:
    run = bench.open()
    run.put(len(run.steps) * 2 // 3)
    wait_until(lambda: run.released == run.captured)
    with FakeSidecar(bench.path) as sidecar:
        wait_until(lambda: sidecar.of(Beat))
        run.put()
        books = at_rest(run, sidecar)
        assert told(sidecar.records, 0) == books.fed
        assert books.missed["gap"] > 0
        assert books.encoded > 0
        nobodys = [
            int(batch.missed_tokens[batch.missed_request == NO_REQUEST].sum()) for batch in sidecar.of(FiringBatch)
        ]
        assert sum(nobodys) > 0  # of requests that had ended
        check_connections(run, sidecar)


def test_a_sidecar_that_stopped_reading_is_told_what_did_not_fit(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(bound=64 * 1024, traffic=BUSY)
        wait_until(lambda: sidecar.of(Beat))
        sidecar.reading.clear()
        run.put()
        wait_until(lambda: run.released == run.captured)
        assert run.books.imbalance == 0
        sidecar.reading.set()
        books = at_rest(run, sidecar)
        assert books.missed["queue_full"] > 0
        assert told(sidecar.records, 0) == books.fed
        batches = sidecar.of(FiringBatch)
        assert batches[-1].seq > len(batches)  # a gap in the numbers is loss after the tap
        assert len(sidecar.connections) == 1
        check_connections(run, sidecar)


@pytest.mark.parametrize("acks", [True, False])
def test_a_sidecar_that_was_killed_and_replaced_leaves_a_gap(bench: Bench, *, acks: bool) -> None:
    with FakeSidecar(bench.path, acks=acks) as first:
        run = bench.open()
        wait_until(lambda: first.of(Beat))
        run.put(len(run.steps) // 2)
        wait_until(lambda: len(first.of(FiringBatch)) > 20)
    with FakeSidecar(bench.path) as second:
        wait_until(lambda: second.of(Beat))
        run.put()
        books = at_rest(run, second)
        assert (books.missed.get("gap", 0) > 0) or acks
        arrived = told(first.records, 0, upto=first.last[0] if acks else 0)  # what it acknowledged
        assert arrived + told(second.records, 0) == books.fed
        check_connections(run, second)


def introduced(sidecar: FakeSidecar, connections: int) -> bool:
    return len(sidecar.connections) == connections and last_beat(sidecar.connections[-1]) is not None


@pytest.mark.parametrize("acks", [True, False])
def test_a_sidecar_that_survives_a_broken_connection_says_what_it_has(bench: Bench, *, acks: bool) -> None:
    with FakeSidecar(bench.path, acks=acks) as sidecar:
        run = bench.open()
        for broken in range(1, 5):
            wait_until(functools.partial(introduced, sidecar, broken))
            run.put(len(run.steps) // 4)
            if broken == 1:  # the others break while steps are on their way, wherever they are
                wait_until(lambda: run.released == run.captured)
            sidecar.hang_up()
        wait_until(lambda: len(sidecar.connections) == 5)
        sidecar.acks = True
        run.put()
        books = at_rest(run, sidecar)
        assert told(sidecar.records, 0) == books.fed
        assert max(check_connections(run, sidecar).values()) == 1


def test_no_batch_is_sent_before_it_is_known_what_of_the_last_connection_arrived(bench: Bench) -> None:
    """An acknowledgement is a highest number: it would cover batches of the last connection that were lost below it."""
    with FakeSidecar(bench.path, acks=False) as first:
        run = bench.open()
        wait_until(lambda: first.of(Beat))
        run.put(100)
        wait_until(lambda: first.of(FiringBatch))
    with FakeSidecar(bench.path, silent=True) as second:
        wait_until(lambda: len(second.of(Beat)) > 1)
        run.put(100)
        wait_until(lambda: run.released == run.captured)
        beats = len(second.of(Beat))
        wait_until(lambda: len(second.of(Beat)) > beats + 1)
        assert second.of(FiringBatch) == []
        assert run.books.imbalance == 0
        assert run.books.in_flight > 0


def test_without_a_sidecar_every_token_is_a_gap_and_nothing_grows(bench: Bench) -> None:
    run = bench.open()
    run.put()
    wait_until(lambda: run.books.fed == run.fed)
    run.shipper.stop()
    books = run.books
    assert (books.imbalance, books.in_flight, books.encoded) == (0, 0, 0)
    assert books.missed["gap"] == len(seen_rows(run))
    assert {request for request, _ in run.streams[0].books.untold} == {NO_REQUEST}


def test_a_hundred_thousand_requests_without_a_sidecar_leave_nothing_behind(bench: Bench) -> None:
    run, wave = bench.open(traffic=Traffic(requests=0)), 500
    largest = 0
    for number in range(200):
        names = [f"{number}-{child}" for child in range(wave)]
        starts = np.arange(0, 2 * wave + 1, 2, dtype=np.int32)
        positions = np.tile(np.array([1, 2], np.int32), wave)
        prompts = [NewRequest(engine_id=name, prompt_len=3, computed=1) for name in names]
        step = Step(
            number=2 * number,
            time_ns=1,
            new=prompts,
            computed=dict.fromkeys(names, 3),
            emitted=dict.fromkeys(names, (7,)),
            order=names,
            starts=starts,
            positions=positions,
        )
        run.put_step(step)
        run.shipper.put(Note(step=Step(number=2 * number + 1, time_ns=1, finished=names)))
        largest = max(largest, len(run.streams[0].books.untold))
    wait_until(lambda: run.books.fed == 3 * 200 * wave)
    run.shipper.stop()
    books = run.streams[0].books
    assert run.books.missed == {"cached": 200 * wave, "gap": 400 * wave}
    assert largest <= 2 * wave + 2  # the open requests', for two reasons
    assert set(books.untold) == {(NO_REQUEST, Reason.CACHED), (NO_REQUEST, Reason.GAP)}
    assert books.unacknowledged == 0


def test_losses_come_before_the_end_of_their_request(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(traffic=replace(TRAFFIC, uncaptured=1.0), beat_s=60)
        wait_until(lambda: sidecar.of(Beat))
        run.put()
        wait_until(lambda: run.books.fed == run.fed)
        wait_until(lambda: len(sidecar.of(RequestEnd)) == sum(item.known for item in run.engine.requests.values()))
        missed: Counter[int] = Counter()
        for record in sidecar.records:
            if isinstance(record, FiringBatch):
                for request, tokens in zip(record.missed_request.tolist(), record.missed_tokens.tolist(), strict=True):
                    missed[request] += tokens
            elif isinstance(record, RequestEnd):
                assert missed[record.request] == record.fed


# --- beats ------------------------------------------------------------------------------------------------------------
def test_beats_come_at_their_interval(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        bench.open(beat_s=0.1)
        wait_until(lambda: sidecar.of(Beat))
        time.sleep(1.05)
        assert 5 <= len(sidecar.of(Beat)) <= 13
        assert sidecar.of(Beat)[-1].stage_seconds["encode"] == 0.5
        assert sidecar.of(Beat)[-1].stage_seconds["ship"] > 0


def test_the_interval_is_a_second_and_the_thread_sleeps_in_between(tmp_path: Path) -> None:
    shipper = Shipper(
        outbox=Outbox(path=str(tmp_path / "socket"), bound=1000),
        streams=[Stream(opening=opening(0))],
        counters=lambda: [0],
        stages=dict,
    )
    with FakeSidecar(tmp_path / "socket") as sidecar:
        shipper.start()
        wait_until(lambda: len(sidecar.of(Beat)) == 2)  # the connection's own, and the first
        started, busy = time.monotonic(), time.process_time()
        wait_until(lambda: len(sidecar.of(Beat)) == 3)
        assert 0.8 < time.monotonic() - started < 3
        assert time.process_time() - busy < 0.3
        shipper.stop()


def test_an_engine_without_pause_does_not_keep_beats_and_acknowledgements_from_their_turn(bench: Bench) -> None:
    """Each step is ready only after the next was put: the inbox is never empty."""
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(beat_s=0.05)
        wait_until(lambda: sidecar.of(Beat))
        until = time.monotonic() + 1.0

        def again() -> Sequence[Encoded]:
            if time.monotonic() < until:
                run.shipper.put(Note(step=Step(number=1, time_ns=1), read=again))
            time.sleep(0.001)
            raise ValueError("nothing was captured")

        before = len(sidecar.of(Beat))
        run.shipper.put(Note(step=Step(number=1, time_ns=1), read=again))
        time.sleep(0.9)
        assert len(sidecar.of(Beat)) - before > 4
