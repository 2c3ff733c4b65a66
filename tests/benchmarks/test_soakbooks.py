"""The books of a soak: what a sound engine tells is no fault, and each lie is one."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.soakbooks import SoakBooks
from benchmarks.soakchanges import Changes
from benchmarks.soakload import Answer
from saewatch.core.batch import FiringBatch, Origin, Reason, WatchSet
from saewatch.core.records import (
    Beat,
    Command,
    Record,
    RequestEnd,
    RequestStart,
    Result,
    StreamBeat,
    StreamEnd,
    StreamOpen,
)
from saewatch.core.wire import decode, encode
from tests.waiting import wait_until

ANSWERS = {"0": Answer(4, [7, 8, 9], left=False), "1": Answer(2, [7], left=True)}
FINAL = StreamBeat(stream=1, seq=2, fed=8, encoded=6, reused=1, missed={"cached": 1})
SLOTS = 3


def batch(
    seq: int,
    spans: Sequence[tuple[int, int, int, Origin]],
    missed: Sequence[tuple[int, int]] = (),
    *,
    stream: int = 1,
    slot: int = 0,
) -> FiringBatch:
    """A batch of (request, position, rows, origin) and of cached tokens by request; one firing, of ``slot``."""
    return FiringBatch(
        stream=stream,
        watch=1,
        seq=seq,
        step=seq,
        time_ns=0,
        request=np.array([one[0] for one in spans], np.uint32),
        span_start=np.cumsum([0, *(one[2] for one in spans)]).astype(np.int32),
        position=np.array([one[1] for one in spans], np.int32),
        origin=np.array([one[3] for one in spans], np.uint8),
        missed_request=np.array([one[0] for one in missed], np.uint32),
        missed_reason=np.full(len(missed), Reason.CACHED, np.uint8),
        missed_tokens=np.array([one[1] for one in missed], np.int32),
        row=np.zeros(1, np.uint32),
        slot=np.full(1, slot, np.uint16),
        value=np.ones(1, np.float32),
    )


def opened(stream: int) -> tuple[Record, ...]:
    """A stream opens, and its slots are told."""
    watch = WatchSet(
        stream=stream,
        watch=1,
        digest="sha256:0",
        first=0,
        total=SLOTS,
        row=np.arange(SLOTS, dtype=np.uint32),
        floor=np.zeros(SLOTS, np.float32),
        kind=np.zeros(SLOTS, np.uint8),
    )
    return StreamOpen(stream=stream, engine="e", epoch=1), watch


FIRST = batch(1, [(1, 2, 2, Origin.COMPUTED), (1, 1, 1, Origin.REUSED), (2, 0, 2, Origin.COMPUTED)], [(1, 1)])
SECOND = batch(2, [(1, 3, 1, Origin.RECOMPUTED), (1, 4, 2, Origin.COMPUTED)])
SOUND: tuple[Any, ...] = (
    RequestStart(request=1, engine_id="0-aaaa", prompt_len=4),
    RequestStart(request=2, engine_id="1-bbbb", prompt_len=2),
    FIRST,
    Beat(engine="e", epoch=1, time_ns=1, streams=(replace(FINAL, fed=6, encoded=0, in_flight=4),)),
    SECOND,
    RequestEnd(request=1, fed=6, emitted=3),
    RequestEnd(request=2, fed=2, emitted=1),
    StreamEnd(stream=1, reason="shutdown", final=FINAL),
)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[SoakBooks]:
    made = SoakBooks(tmp_path / "socket")
    yield made
    made.stop()


def heard(books: SoakBooks, records: Sequence[Record]) -> list[str]:
    """The faults after an engine has told these of a stream that it opened."""
    for record in (*opened(1), *records):
        books.receive(0, record)
    return list(books.faults(ANSWERS))


def test_a_sound_engine_has_no_faults(books: SoakBooks) -> None:
    assert heard(books, SOUND) == []
    assert books.sums() == {"fed": 8, "encoded": 6, "reused": 1, "missed_cached": 1, "recomputed": 1}
    assert books.beats == 1


def test_what_makes_no_sense_is_a_fault_and_the_rest_is_heard(books: SoakBooks, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as engine:
        engine.connect(str(tmp_path / "socket"))
        for frame in (*map(encode, [*opened(1), *SOUND[:-1]]), b"nonsense", encode(SOUND[-1])):
            engine.send(frame)
        wait_until(lambda: books.ended)
    (fault,) = books.faults(ANSWERS)
    assert fault.startswith("the sidecar refused")


def without(index: int) -> list[Record]:
    return [*SOUND[:index], *SOUND[index + 1 :]]


def instead(index: int, record: Record) -> list[Record]:
    return [*SOUND[:index], record, *SOUND[index + 1 :]]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        pytest.param(
            instead(3, replace(SOUND[3], streams=(replace(FINAL, fed=9),))), "beat 1, stream 1: 9 fed", id="beat"
        ),
        pytest.param(
            instead(7, replace(SOUND[7], final=replace(FINAL, fed=9))), "the last books, stream 1: 9", id="last books"
        ),
        pytest.param(without(4), "request 0: 6 fed, and 4 told of", id="a batch is lost"),
        pytest.param(instead(5, replace(SOUND[5], fed=5)), "request 0: 5 fed, and 6 told of", id="an end"),
        pytest.param(instead(0, replace(SOUND[0], engine_id="1-cc")), "its client knows of 6", id="another's rows"),
        pytest.param(
            instead(4, batch(2, [(1, 3, 2, Origin.COMPUTED)])), "request 0: position 3 came as new again", id="twice"
        ),
        pytest.param(without(7), "stream 1 never ended", id="no end"),
        pytest.param(instead(7, replace(SOUND[7], final=replace(FINAL, blind="fault"))), "blind", id="blind"),
        pytest.param(
            instead(7, replace(SOUND[7], final=replace(FINAL, encoded=5, reused=2))), "rows", id="reused for encoded"
        ),
        pytest.param(
            instead(7, replace(SOUND[7], final=replace(FINAL, fed=9, encoded=7))), "rows", id="more than came"
        ),
        pytest.param(
            instead(4, batch(2, [(1, 4, 2, Origin.COMPUTED)], slot=SLOTS)), "slot 3 of watch set 1", id="no such slot"
        ),
    ],
)
def test_a_lie_is_a_fault(books: SoakBooks, records: Sequence[Record], says: str) -> None:
    assert says in "\n".join(heard(books, records))


def test_a_client_that_left_may_not_know_of_the_last_tokens(books: SoakBooks) -> None:
    more = instead(6, RequestEnd(request=2, fed=3, emitted=2))
    more[4] = batch(2, [(1, 4, 2, Origin.COMPUTED), (2, 2, 1, Origin.COMPUTED)])
    more[7] = replace(SOUND[7], final=replace(FINAL, fed=9, encoded=7))
    assert heard(books, more) == ["request 1: 3 fed, and its client knows of 2"]
    assert list(books.faults(ANSWERS, surplus=1)) == []


def swapped(second: StreamBeat) -> list[Record]:
    """The engine swaps its dictionary before the second batch; the books of the second stream."""
    ended = replace(FINAL, seq=1, fed=6, encoded=4)
    return [
        *SOUND[:3],
        StreamEnd(stream=1, reason="swap", final=ended),
        *opened(2),
        batch(1, [(1, 4, 2, Origin.COMPUTED)], stream=2),
        *SOUND[5:7],
        StreamEnd(stream=2, reason="shutdown", final=second),
    ]


def test_a_request_may_cross_a_swap_and_each_stream_has_its_own_books(books: SoakBooks) -> None:
    assert heard(books, swapped(StreamBeat(stream=2, seq=1, fed=2, encoded=2))) == []
    assert books.sums() == {"fed": 8, "encoded": 6, "reused": 1, "missed_cached": 1, "recomputed": 0}


def test_rows_of_one_stream_do_not_make_up_for_those_of_another(books: SoakBooks) -> None:
    records = swapped(StreamBeat(stream=2, seq=1, fed=3, encoded=3))
    records[3] = StreamEnd(stream=1, reason="swap", final=replace(FINAL, seq=1, fed=5, encoded=3))
    faults = heard(books, records)
    assert [fault.partition(":")[0] for fault in faults] == ["stream 1", "stream 2"]


def test_what_is_off_at_the_end_is_blind_because_it_was_commanded(tmp_path: Path) -> None:
    changes = Changes([("/a", "sha256:a"), ("/b", "sha256:b")], every=1)
    changes.made["off"], changes.off = 1, True
    books = SoakBooks(tmp_path / "other", changes)
    try:
        assert heard(books, instead(7, replace(SOUND[7], final=replace(FINAL, blind="off")))) == []
    finally:
        books.stop()


def test_a_command_goes_out_when_requests_have_ended_and_its_result_is_taken(tmp_path: Path) -> None:
    changes = Changes([("/a", "sha256:a"), ("/b", "sha256:b")], every=2)
    books = SoakBooks(tmp_path / "other", changes)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as engine:
            engine.settimeout(10)
            engine.connect(str(tmp_path / "other"))
            for record in (*opened(1), *SOUND[:7]):
                engine.send(encode(record))
            asked = next(record for _ in range(9) if isinstance(record := decode(engine.recv(2**17)), Command))
            assert (asked.verb, asked.arguments["path"]) == ("load", "/b")
            engine.send(encode(Result(command=asked.command, good=True)))
            wait_until(lambda: changes.made["load"])
    finally:
        books.stop()
