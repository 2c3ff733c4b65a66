"""What the shipper does with too much, too long, too late: cuts, floods, its end, and notes that nobody takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from saewatch.core import limits
from saewatch.core.batch import FiringBatch
from saewatch.core.records import (
    Beat,
    Command,
    Result,
    StreamEnd,
    StreamOpen,
)
from saewatch.core.wire import encode
from saewatch.engine.batching import Encoded
from saewatch.engine.books import STREAMS_ENDING, Stream
from saewatch.engine.control import Turn
from saewatch.engine.ledger import Step
from saewatch.engine.shipper import INBOX_NOTES
from saewatch.engine.staging import Note
from tests.engine.shipping import (
    BUSY,
    Bench,
    at_rest,
    check_connections,
    long_step,
    opening,
    seen_rows,
    watch_set,
)
from tests.simulate.sidecar import FakeSidecar, told
from tests.waiting import wait_until


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


def test_commands_are_carried_out_beside_the_steps(bench: Bench) -> None:
    """Several results, and one that breaks: neither costs a token, and no stream is blind."""

    def twice(command: Command) -> list[Result]:
        return [Result(command=command.command, good=True, message=part) for part in "ab"]

    def breaks(_: Command) -> list[Result]:
        raise RuntimeError("the device is gone")

    with FakeSidecar(bench.path) as sidecar:
        run = bench.open(commands={"self_test": twice, "off": breaks})
        wait_until(lambda: sidecar.of(Beat))
        for number, verb in enumerate(("self_test", "off", "on"), start=1):
            sidecar.say(encode(Command(command=number, verb=verb)))
            run.put(20)
        wait_until(lambda: len(sidecar.of(Result)) == 4)
        said = [(one.command, one.good, one.message) for one in sidecar.of(Result)]
        assert said[:2] == [(1, True, "a"), (1, True, "b")]
        assert said[2][:2] == (2, False)
        assert said[3] == (3, False, "on: not carried out yet")
        run.put()
        assert at_rest(run, sidecar).blind == ""
        assert check_connections(run, sidecar).keys() == seen_rows(run)
        assert run.shipper.faults == 0


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
    for number in range(INBOX_NOTES + 100):
        run.shipper.put(Note(step=Step(number=number, time_ns=1), release=lambda: released.append(1)))
    assert run.shipper.dropped >= 99
    assert len(released) == run.shipper.dropped
    assert run.books.blind == "shipper_behind"
    answer.set()
    wait_until(lambda: len(released) == INBOX_NOTES + 100)


def test_streams_that_end_without_a_sidecar_are_bounded(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """An engine that is reloaded again and again: those of the last times are told, with a beat that holds them all."""
    run, last = bench.open(), STREAMS_ENDING + 9
    for number in range(1, last + 1):
        streams = [Stream(opening=opening(number), watch=[watch_set(number)])]
        run.shipper.turn(Turn(number=number, streams=streams, ending="reload", turned=lambda: None))
    wait_until(lambda: run.shipper.books[-1].stream == last and len(run.shipper.books) == STREAMS_ENDING + 1)
    with FakeSidecar(bench.path) as sidecar:
        wait_until(lambda: len(sidecar.of(StreamEnd)) == STREAMS_ENDING)
        opened = [one.stream for one in sidecar.of(StreamOpen)]
        assert opened == list(range(last - STREAMS_ENDING, last + 1))
        assert [one.stream for one in sidecar.of(Beat)[0].streams] == opened
        assert [(one.stream, one.reason) for one in sidecar.of(StreamEnd)] == [(one, "reload") for one in opened[:-1]]
    assert "the books of stream 0 were never told in full" in caplog.text
    assert caplog.text.count("never told") == 9
