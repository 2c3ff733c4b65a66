"""The shipper with a real socket and a sidecar that does whatever one may do; what arrives adds up to what was fed."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.core.batch import NO_REQUEST, Census, FiringBatch, Origin, Reason, SlotKind, WatchSet
from saewatch.core.records import (
    Beat,
    Command,
    RequestEnd,
    RequestStart,
    Result,
    StreamBeat,
    StreamEnd,
    StreamOpen,
)
from saewatch.core.wire import encode
from saewatch.engine import books as books_module
from saewatch.engine.batching import Encoded
from saewatch.engine.ledger import NewRequest, Step
from saewatch.engine.outbox import Outbox
from saewatch.engine.shipper import INBOX_NOTES, Note, Shipper, Stream
from tests.simulate.engine import Engine, Simulated, Traffic
from tests.simulate.sidecar import FakeSidecar, last_beat, told, wait_until

SLOTS = 8
BUSY = Traffic(requests=150, prompt_max=600, output_max=5, budget=4096, running_max=64, arrivals=1.0)
"""Much more than the queue and the kernel take."""
TRAFFIC = Traffic(requests=12, prompt_max=200, output_max=60, stops=0.005, preempted=0.02, drafts=2, asynchronous=True)


def watch_set(stream: int) -> WatchSet:
    every = np.arange(SLOTS, dtype=np.uint32)
    kinds = np.full(SLOTS, SlotKind.LATENT, np.uint8)
    floors = np.zeros(SLOTS, np.float32)
    return WatchSet(
        stream=stream, watch=9, digest="sha256:" + "0" * 64, first=0, total=SLOTS, row=every, floor=floors, kind=kinds
    )


def opening(stream: int) -> StreamOpen:
    return StreamOpen(stream=stream, engine="engine-0", epoch=77, hook_point="resid_post.1", model_name="m")


def firings_at(position: int) -> dict[int, float]:
    """What fires at a position, by slot."""
    return {slot: position + slot / 8 for slot in range(SLOTS) if (7 * position + 3 * slot) % 5 == 0}


def left_out(position: int) -> Reason | None:
    return Reason.EXCLUDED if position % 97 == 5 else Reason.OVERFLOW if position % 101 == 7 else None


def encoded_of(step: Step) -> Encoded:
    """The firings of a step's rows, rejected drafts and all."""
    assert step.starts is not None
    assert step.positions is not None
    positions = step.positions[: int(step.starts[-1])].astype(np.int64)
    fires = (7 * positions[:, None] + 3 * np.arange(SLOTS)) % 5 == 0
    row, slot = np.nonzero(fires)
    return Encoded(
        row=row.astype(np.int32),
        slot=slot.astype(np.uint16),
        value=(positions[row] + slot / 8).astype(np.float32),
        excluded=positions % 97 == 5,
        overflowed=positions % 101 == 7,
    )


@dataclass(slots=True)
class Run:
    """A shipper, and the engine that feeds it."""

    shipper: Shipper
    streams: list[Stream]
    engine: Engine
    steps: list[Simulated]
    released: int = 0
    captured: int = 0

    @property
    def books(self) -> StreamBeat:
        return self.streams[0].books.beat()

    @property
    def fed(self) -> int:
        """The truth."""
        return sum(len(request.seen) for request in self.engine.requests.values())

    def put(self, count: int | None = None) -> None:
        """The next ``count`` steps, or all that are left."""
        count = len(self.steps) if count is None else count
        for simulated in self.steps[:count]:
            self.put_step(simulated.step)
        del self.steps[:count]

    def put_step(self, step: Step) -> None:
        if step.positions is None:
            self.shipper.put(Note(step=step))
            return
        self.captured += 1
        encoded, positions = [encoded_of(step)] * len(self.streams), step.positions
        self.shipper.put(
            Note(
                step=replace(step, positions=None),
                read=lambda: encoded,
                positions=lambda: positions,
                release=self._release,
            )
        )

    def _release(self) -> None:
        self.released += 1


@dataclass(slots=True, kw_only=True)
class Bench:
    """Makes shippers on one socket path and stops them."""

    path: Path
    runs: list[Run]

    def open(
        self,
        *,
        seed: int = 0,
        traffic: Traffic = TRAFFIC,
        streams: int = 1,
        bound: int = limits.QUEUE_BYTES,
        beat_s: float = 0.02,
    ) -> Run:
        several = [Stream(opening=opening(stream), watch=[watch_set(stream)]) for stream in range(streams)]
        shipper = Shipper(
            outbox=Outbox(path=str(self.path), bound=bound),
            streams=several,
            counters=lambda: [5] * streams,
            stages=lambda: {"encode": 0.5},
            beat_every_s=beat_s,
            connect_every_s=0.02,
        )
        engine = Engine(traffic, seed)
        run = Run(shipper, several, engine, list(engine.steps()))
        self.runs.append(run)
        shipper.start()
        return run


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(path=tmp_path / "socket", runs=[])
    yield made
    for run in made.runs:
        run.shipper.stop()


def at_rest(run: Run, sidecar: FakeSidecar) -> StreamBeat:
    """The books when the sidecar has been told of everything that was fed."""

    def rests() -> bool:
        beat = last_beat(sidecar.records)
        return beat is not None and all(
            books.in_flight == 0 and books.fed == run.fed and not run.streams[books.stream].books.untold
            for books in beat.streams
        )

    wait_until(rests)
    beat = last_beat(sidecar.records)
    assert beat is not None
    assert all(books.imbalance == 0 for item in sidecar.of(Beat) for books in item.streams)
    return beat.streams[0]


def check_connections(run: Run, sidecar: FakeSidecar) -> Counter[tuple[str, int]]:
    """Each connection explains its numbers first, and each row says the right thing. Gives the rows that came."""
    came: Counter[tuple[str, int]] = Counter()
    for records in sidecar.connections:
        names: dict[int, str] = {}
        seq = dict.fromkeys(range(len(run.streams)), 0)
        for record in records:
            if isinstance(record, RequestStart):
                names[record.request] = record.engine_id
            elif isinstance(record, FiringBatch):
                assert record.seq > seq[record.stream]
                seq[record.stream] = record.seq
                assert set(record.missed_request.tolist()) <= {NO_REQUEST, *names}
                came += rows_came(record, names) if record.stream == 0 else Counter()
            elif isinstance(record, RequestEnd):
                assert record.fed == len(run.engine.requests[names[record.request]].seen)
    return came


def rows_came(batch: FiringBatch, names: dict[int, str]) -> Counter[tuple[str, int]]:
    came: Counter[tuple[str, int]] = Counter()
    requests, positions = batch.row_positions()
    origins = np.repeat(batch.origin, np.diff(batch.span_start))
    for row, (request, position) in enumerate(zip(requests.tolist(), positions.tolist(), strict=True)):
        at = batch.row == row
        assert dict(zip(batch.slot[at].tolist(), batch.value[at].tolist(), strict=True)) == firings_at(position)
        if origins[row] == Origin.COMPUTED:
            came[names[request], position] += 1
    return came


def seen_rows(run: Run) -> set[tuple[str, int]]:
    """Rows that a sidecar which loses nothing gets."""
    return {
        (request.name, position)
        for request in run.engine.requests.values()
        for position, reason in request.seen.items()
        if reason is None and left_out(position) is None
    }


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
    wait_until(lambda: run.books.fed == 3 * 200 * wave, timeout_s=30)
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


# --- cuts, floods and overflows ---------------------------------------------------------------------------------------
def long_step(rows: int, firings: int, number: int = 1) -> tuple[Step, Encoded]:
    """A prompt of ``rows`` tokens of which each fires ``firings`` times."""
    step = Step(
        number=number,
        time_ns=1,
        new=[NewRequest(engine_id=f"long-{number}", prompt_len=rows, computed=0)],
        computed={f"long-{number}": rows},
        emitted={f"long-{number}": (1,)},
        order=[f"long-{number}"],
        starts=np.array([0, rows], np.int32),
        positions=np.arange(rows, dtype=np.int32),
    )
    none = np.zeros(rows, bool)
    row = np.repeat(np.arange(rows, dtype=np.int32), firings)
    slot = np.tile(np.arange(firings, dtype=np.uint16), rows)
    return step, Encoded(row, slot, np.ones(rows * firings, np.float32), none, none)


def test_a_batch_that_fits_no_frame_arrives_in_pieces(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        for number in (1, 2):
            step, encoded = long_step(3000, 20, number)
            run.shipper.put(Note(step=step, read=functools.partial(list, [encoded])))
        wait_until(lambda: run.books.encoded == 6000)
        batches = sidecar.of(FiringBatch)
        assert [batch.seq for batch in batches] == list(range(1, len(batches) + 1))
        assert len(batches) > 4
        assert sum(batch.firings for batch in batches) == run.books.firings == 120_000
        assert told(sidecar.records, 0) == run.books.fed == 6000
        assert run.books.imbalance == 0


def test_pieces_of_a_batch_are_lost_one_by_one_when_the_sidecar_dies_between_them(bench: Bench) -> None:
    run = bench.open()
    step, encoded = long_step(3000, 20)
    with FakeSidecar(bench.path, acks=False) as first:
        wait_until(lambda: first.of(Beat))
        run.shipper.put(Note(step=step, read=lambda: [encoded]))
        wait_until(lambda: len(first.of(FiringBatch)) > 4)
    rows = sum(batch.rows for batch in first.of(FiringBatch)[:2])
    with FakeSidecar(bench.path, last={0: 2}) as second:
        wait_until(lambda: run.books.in_flight == 0)
        assert run.books.encoded == rows
        wait_until(lambda: told(second.records, 0) == 3000 - rows)
        assert run.books.missed == {"gap": 3000 - rows}


def test_a_row_that_no_frame_takes_is_an_overflow(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        step, encoded = long_step(1, 14_000)
        run.shipper.put(Note(step=step, read=lambda: [encoded]))
        wait_until(lambda: told(sidecar.records, 0) == 1)
        assert (run.books.missed, run.books.imbalance) == ({"overflow": 1}, 0)
        assert run.shipper.faults == 0


def test_a_connection_that_is_given_up_in_the_middle_of_a_step_keeps_the_equality(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTROL_BYTES", 2 * 1024)
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(bound=48 * 1024, traffic=replace(BUSY, requests=80), beat_s=0.002)
        wait_until(lambda: sidecar.of(Beat))
        sidecar.reading.clear()
        for _ in range(20):
            run.put(len(run.steps) // 20)
            wait_until(lambda: run.released == run.captured)
            assert run.books.imbalance == 0
        wait_until(lambda: run.shipper._outbox.connection > 2)  # noqa: SLF001 - nobody else sees it
        run.put()
        sidecar.reading.set()
        books = at_rest(run, sidecar)
        assert len(sidecar.connections) > 1
        assert told(sidecar.records, 0) == books.fed
        assert max(check_connections(run, sidecar).values()) == 1


def test_a_sidecar_that_reads_and_never_acknowledges_is_sent_no_more_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books_module, "UNACKNOWLEDGED", 10)
    with FakeSidecar(bench.path, acks=False) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        run.put()
        wait_until(lambda: run.books.fed == run.fed)
        assert run.streams[0].books.unacknowledged <= 10
        assert run.books.missed["queue_full"] > 0
        assert run.books.imbalance == 0


def test_nonsense_from_the_sidecar_is_counted_and_a_command_is_answered(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        for data in (b"nonsense", b"SAEW" + bytes(100), bytes(100_000), encode(opening(0))[:-1]):
            sidecar.say(data)
        sidecar.say(encode(Command(command=3, verb="off")))
        wait_until(lambda: sidecar.of(Result))
        assert (sidecar.of(Result)[0].command, sidecar.of(Result)[0].good) == (3, False)
        assert run.shipper._outbox.bad_frames == 4  # noqa: SLF001 - no record carries it yet
        run.put()
        assert told(sidecar.records, 0) <= at_rest(run, sidecar).fed
        assert run.shipper.faults == 0
        assert len(sidecar.connections) == 1


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


# --- the end ----------------------------------------------------------------------------------------------------------
def test_stop_sends_the_final_books(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(streams=2)
        wait_until(lambda: sidecar.of(Beat))
        run.put()
        wait_until(lambda: run.released == run.captured)
        run.shipper.stop()
        wait_until(lambda: len(sidecar.of(StreamEnd)) == 2)
        for end in sidecar.of(StreamEnd):
            assert (end.reason, end.final.in_flight, end.final.fed, end.final.imbalance) == ("shutdown", 0, run.fed, 0)
            assert told(sidecar.records, end.stream) == run.fed
        assert isinstance(sidecar.records[-1], StreamEnd)
        assert run.released == run.captured


def test_stop_books_what_was_never_acknowledged_as_shutdown(bench: Bench) -> None:
    with FakeSidecar(bench.path, acks=False) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        run.put()
        wait_until(lambda: run.released == run.captured)
        started = time.monotonic()
        run.shipper.stop()
        assert time.monotonic() - started < 2.5
        wait_until(lambda: sidecar.of(StreamEnd))
        (end,) = sidecar.of(StreamEnd)
        assert end.final.missed["shutdown"] == len(seen_rows(run))
        assert (end.final.imbalance, end.final.in_flight, end.final.encoded) == (0, 0, 0)


def test_stop_does_not_wait_for_a_sidecar_that_does_not_read(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(traffic=BUSY, bound=64 * 1024)
        wait_until(lambda: sidecar.of(Beat))
        sidecar.reading.clear()
        run.put()
        started = time.monotonic()
        run.shipper.stop()
        assert time.monotonic() - started < 2.5
        assert run.books.imbalance == 0


def test_stop_does_not_wait_for_a_device_that_hangs(bench: Bench) -> None:
    run, answer = bench.open(), threading.Event()

    def hangs() -> Sequence[Encoded]:
        answer.wait()
        raise TimeoutError

    run.shipper.put(Note(step=Step(number=1, time_ns=1), read=hangs))
    started = time.monotonic()
    run.shipper.stop(0.5)
    assert time.monotonic() - started < 1
    answer.set()


def test_steps_for_which_there_is_no_time_at_the_end_are_counted(bench: Bench) -> None:
    run = bench.open(beat_s=60)

    def slow() -> Sequence[Encoded]:
        time.sleep(0.3)
        raise TimeoutError

    for number in range(8):
        step, _ = long_step(10, 1, number)
        run.shipper.put(Note(step=step, read=slow))
    run.shipper.stop()
    wait_until(lambda: run.books.fed == 80)
    assert run.books.missed["shutdown"] > 0
    assert run.books.imbalance == 0


def test_after_the_end_notes_are_dropped_and_their_slots_given_back(bench: Bench) -> None:
    run = bench.open()
    run.shipper.stop()
    run.put()
    assert run.released == run.captured > 0
    assert run.shipper.dropped >= run.captured


# --- faults -----------------------------------------------------------------------------------------------------------
def raises(*_: object) -> Sequence[Encoded]:
    raise RuntimeError("the device is gone")


def no_number(encoded: Encoded) -> Encoded:
    return replace(encoded, value=np.full_like(encoded.value, np.nan))


def faulty(fault: str, step: Step, encoded: Encoded) -> Note:
    """A note whose reading goes wrong."""
    few = step.positions[:1] if step.positions is not None else None
    assert few is not None
    return {
        "the device raises": Note(step=step, read=raises),
        "too few flags": Note(step=step, read=lambda: [replace(encoded, excluded=encoded.excluded[:1])]),
        "a stream too few": Note(step=step, read=list),
        "too few positions": Note(step=step, read=lambda: [encoded], positions=lambda: few),
        "not a number": Note(step=step, read=lambda: [no_number(encoded)]),
        "firings out of order": Note(step=step, read=lambda: [replace(encoded, row=encoded.row[::-1])]),
        "columns of two lengths": Note(step=step, read=lambda: [replace(encoded, slot=encoded.slot[:1])]),
    }[fault]


FAULTS = [
    "the device raises",
    "too few flags",
    "a stream too few",
    "too few positions",
    "not a number",
    "firings out of order",
    "columns of two lengths",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_blinds_the_streams_and_is_counted_and_the_next_step_arrives(
    bench: Bench, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        released: list[int] = []
        first, second = long_step(10, 3, 1), long_step(20, 3, 2)
        run.shipper.put(replace(faulty(fault, *first), release=lambda: released.append(1)))
        run.shipper.put(Note(step=second[0], read=lambda: [second[1]], release=lambda: released.append(2)))
        wait_until(lambda: run.books.encoded == 20 and told(sidecar.records, 0) == 30)
        assert run.shipper.faults == 1
        assert released == [1, 2]
        assert (run.books.fed, run.books.missed, run.books.in_flight) == (30, {"blind": 10}, 0)
        wait_until(lambda: sidecar.of(Beat)[-1].streams[0].blind == "shipper_fault")
        assert "the shipper failed" in caplog.text
        sidecar.hang_up()
        wait_until(lambda: len(sidecar.of(StreamOpen)) == 2)
        assert sidecar.of(StreamOpen)[-1].blind == "shipper_fault"


def test_counters_that_cannot_be_read_do_not_stop_the_beats_that_say_so(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        run.shipper._counters = raises  # type: ignore[assignment]  # noqa: SLF001 - a device that goes away meanwhile
        wait_until(lambda: sidecar.of(Beat)[-1].streams[0].blind)
        before = len(sidecar.of(Beat))
        wait_until(lambda: len(sidecar.of(Beat)) > before + 2)
        assert sidecar.of(Beat)[-1].streams[0].sink_calls == 5
        run.shipper.stop()
        wait_until(lambda: sidecar.of(StreamEnd))


def test_blind_is_told_with_the_next_beat(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        run.shipper.blind("self_test")
        run.shipper.blind("later")
        wait_until(lambda: sidecar.of(Beat)[-1].streams[0].blind == "self_test")


# --- the worker's thread ----------------------------------------------------------------------------------------------
def test_put_costs_little_and_never_waits_for_a_sidecar_that_does_not_read(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(bound=64 * 1024)
        wait_until(lambda: sidecar.of(Beat))
        sidecar.reading.clear()
        slowest = []
        for number in range(2000):
            note = Note(step=Step(number=number, time_ns=1))
            started = time.perf_counter()
            run.shipper.put(note)
            slowest.append(time.perf_counter() - started)
        assert sorted(slowest)[1000] < 100e-6


def test_notes_that_nobody_takes_are_bounded_and_dropped_with_their_slots(bench: Bench) -> None:
    run, answer, released = bench.open(), threading.Event(), []

    def hangs() -> Sequence[Encoded]:
        answer.wait()
        raise TimeoutError

    run.shipper.put(Note(step=Step(number=0, time_ns=1), read=hangs))
    for number in range(2 * INBOX_NOTES + 100):
        run.shipper.put(Note(step=Step(number=number, time_ns=1), release=lambda: released.append(1)))
    assert run.shipper.behind
    assert run.shipper.dropped >= 99
    assert len(released) == run.shipper.dropped
    assert run.books.blind == "shipper_behind"
    answer.set()
    wait_until(lambda: len(released) == 2 * INBOX_NOTES + 100)


def test_a_census_is_passed_on(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        census = Census(
            stream=0,
            time_ns=1,
            tokens=4,
            latents=2,
            first=0,
            l0_mean=1.0,
            squared_error=0.0,
            squared_total=1.0,
            total=np.ones(2),
            count=np.ones(2, np.uint64),
        )
        run.shipper.put(Note(step=Step(number=1, time_ns=1), census=[census]))
        wait_until(lambda: sidecar.of(Census))
