"""Faults in a step blind the streams, are counted, and stop nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from saewatch.core.records import Beat, RequestStart, StreamEnd, StreamOpen
from saewatch.engine.batching import Encoded
from saewatch.engine.ledger import NewRequest, Step
from saewatch.engine.staging import Note
from tests.descriptors import no_free_descriptor
from tests.engine.shipping import (
    Bench,
    long_step,
)
from tests.simulate.sidecar import FakeSidecar, told
from tests.waiting import wait_until


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


def test_a_moment_without_a_free_descriptor_blinds_nothing(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
    wait_until(lambda: not run.shipper._outbox.connected)  # noqa: SLF001 - only a log says so

    def tries_again() -> None:
        before = run.shipper._next_connect  # noqa: SLF001 - it moves on when a connection is tried
        wait_until(lambda: run.shipper._next_connect > before)  # noqa: SLF001 - as above

    with no_free_descriptor():
        tries_again()
        tries_again()  # the first try is over when the second one begins
    with FakeSidecar(bench.path) as sidecar:
        wait_until(lambda: sidecar.of(Beat))
        assert (sidecar.of(StreamOpen)[-1].blind, run.shipper.faults) == ("", 0)


def test_blind_is_told_with_the_next_beat(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        run.shipper.blind("self_test")
        run.shipper.blind("later")
        wait_until(lambda: sidecar.of(Beat)[-1].streams[0].blind == "self_test")


def test_a_request_that_no_record_can_hold_keeps_the_others_from_nothing(bench: Bench) -> None:
    with FakeSidecar(bench.path) as sidecar:
        run = bench.open()
        wait_until(lambda: sidecar.of(Beat))
        tame = NewRequest(engine_id="b", prompt_len=4, computed=0)
        wild = replace(tame, engine_id="a", child=2**70)
        run.shipper.put(Note(step=Step(number=1, time_ns=1, new=[wild, tame], computed={"a": 4, "b": 4})))
        wait_until(lambda: [start.engine_id for start in sidecar.of(RequestStart)] == ["b"])
        wait_until(lambda: run.books.fed == 8)
        assert (run.books.imbalance, run.books.blind) == (0, "shipper_fault")
        sidecar.hang_up()
        wait_until(lambda: len(sidecar.of(RequestStart)) == 2)
