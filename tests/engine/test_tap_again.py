"""A tap is paused while its model's weights are away or change, and begins again in new streams: verified, or not."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saewatch.core.batch import Reason, WatchSet
from saewatch.core.errors import SelfTestFailed
from saewatch.core.records import Beat, Result, StreamEnd, StreamOpen
from saewatch.core.selftest import CheckState, read
from saewatch.engine.control import Control
from saewatch.engine.ledger import NewRequest
from saewatch.engine.life import Checkpoint
from saewatch.engine.tap import Tap
from tests.engine.changing import ROWS, Running
from tests.engine.standin import MODEL, Blocks, a_config, a_step, an_engine, hidden, rows_of
from tests.simulate.sidecar import FakeSidecar
from tests.waiting import wait_until


def opened(running: Running, streams: int) -> None:
    wait_until(lambda: len(running.sidecar.of(StreamOpen)) == streams)


def other_weights(folder: Path) -> Checkpoint:
    shutil.copytree(MODEL, folder)
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(data)
    return Checkpoint(str(folder))


def test_streams_are_blind_for_now_and_end_when_it_is_over(running: Running) -> None:
    running.step(50)
    running.tap.pause("sleep")
    wait_until(lambda: running.blind() == "sleep")
    running.step()
    running.again()
    opened(running, 2)
    running.step(50)
    ends = running.closed()
    assert [(ends[number].reason, ends[number].final.blind) for number in (1, 2)] == [
        ("sleep", "sleep"),
        ("shutdown", ""),
    ]
    assert [(ends[number].final.fed, ends[number].final.imbalance) for number in (1, 2)] == [(60, 0), (50, 0)]
    assert ends[1].final.missed == {"excluded": 1, "blind": ROWS}
    assert (ends[2].final.encoded, ends[2].final.missed) == (49, {"excluded": 1})
    told = (WatchSet, StreamOpen, StreamEnd)
    kinds = [type(one) for one in running.sidecar.records if isinstance(one, told)]
    assert kinds == [StreamOpen, WatchSet, StreamOpen, WatchSet, StreamEnd, StreamEnd]
    first, second = running.sidecar.of(StreamOpen)
    assert second == replace(first, stream=2)


def test_weights_that_were_read_anew_are_the_same(running: Running) -> None:
    running.step()
    running.tap.pause("reload")
    running.again("reload", Checkpoint(str(MODEL)))
    opened(running, 2)
    assert running.closed()[1].reason == "reload"


def test_other_weights_are_not_watched_until_the_first_ones_are_there_again(running: Running, tmp_path: Path) -> None:
    running.step()
    running.tap.pause("reload")
    running.again("reload", other_weights(tmp_path / "other"))
    wait_until(lambda: running.blind() == "weights_changed")
    running.step()
    found = running.asked("on")
    assert not found.good
    assert "blind: weights_changed" in found.message
    running.tap.pause("sleep")
    running.again("sleep")
    wait_until(lambda: running.blind() == "weights_changed")  # a sleep heals nothing
    running.step()
    assert sum(batch.fresh_rows for batch in running.batches()) == ROWS - 1
    running.tap.pause("reload")
    running.again("reload", Checkpoint(str(MODEL)))
    opened(running, 2)
    running.step()
    ends = running.closed()
    assert [(end.final.fed, end.final.imbalance) for end in ends.values()] == [(3 * ROWS, 0), (ROWS, 0)]
    assert ends[1].final.missed == {"excluded": 1, "blind": 2 * ROWS}
    assert ends[2].final.encoded == ROWS - 1


def test_a_sink_that_no_pass_calls_is_not_watched(running: Running) -> None:
    running.tap.pause("sleep")
    with pytest.raises(SelfTestFailed, match="found no call"):
        running.tap.again("sleep", since=running.tap.calls, reloaded=None)
    running.step()
    assert running.closed()[1].final.missed == {"blind": ROWS}


def test_an_encoder_that_was_damaged_is_not_watched(running: Running) -> None:
    running.tap.watched[0].encoder._W.neg_()  # noqa: SLF001 - a fault that no public door can make
    running.tap.pause("sleep")
    running.again()
    wait_until(lambda: running.blind() == "self_test_failed")
    running.step()
    assert running.closed()[1].final.missed == {"blind": ROWS}


@pytest.mark.parametrize("late", [False, True])
def test_a_self_test_before_the_next_step_looks_at_no_rows(running: Running, *, late: bool) -> None:
    """Those of the step before it are gone, whether that was reported before or afterwards: the proof poisoned them."""
    facts = running.enqueued()
    emitted = facts.pop("emitted")
    begun = running.tap.begin(**facts)
    if not late:
        running.tap.ship(begun, emitted)
        wait_until(lambda: running.tap.books[0].fed == ROWS)
    running.tap.pause("reload")
    running.again("reload")
    if late:
        running.tap.ship(begun, emitted)
    opened(running, 2)
    found = read(running.asked("self_test"))
    assert found is not None
    assert (found.stream, found.good) == (2, True)
    good, unverified = CheckState.GOOD, CheckState.UNVERIFIED
    assert [check.state for check in found.checks] == [good, unverified, unverified, good]
    running.step()
    wait_until(lambda: running.tap.books[-1].fed == ROWS)
    found = read(running.asked("self_test"))
    assert found is not None
    assert (found.rows, found.rows_not_finite) == (ROWS, 0)
    assert {check.state for check in found.checks} == {good}


def test_requests_that_live_across_it_go_on(running: Running) -> None:
    rows = rows_of(a=(0, ROWS))
    running.blocks.run(hidden(ROWS))
    running.tap.snapshot(lambda: rows)
    running.tap.step(**a_step(rows))
    running.tap.pause("sleep")
    running.again()
    opened(running, 2)
    rows = rows_of(a=(ROWS, 1))
    running.blocks.run(hidden(1))
    running.tap.snapshot(lambda: rows)
    running.tap.step(**{**a_step(rows, new=False), "computed": {"a": ROWS + 1}})
    ends = running.closed()
    assert [(end.final.fed, end.final.imbalance) for end in ends.values()] == [(ROWS, 0), (1, 0)]
    assert [batch.stream for batch in running.batches()] == [1, 2]


def test_the_first_reason_is_not_told_of_a_second_pause(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is paused once more while what it was verified after is being prepared."""
    ready = threading.Event()
    prepared = Control._anew  # noqa: SLF001 - to hold it up
    monkeypatch.setattr(Control, "_anew", lambda one: (ready.wait(10), prepared(one))[1])
    running.tap.pause("reload")
    running.again("reload", Checkpoint(str(MODEL)))
    running.tap.pause("sleep")
    ready.set()
    opened(running, 2)
    running.step()
    wait_until(lambda: running.tap.books[-1].fed == ROWS)
    assert running.blind() == "sleep"
    running.again()
    opened(running, 3)
    running.step()
    ends = running.closed()
    assert [end.final.missed for end in ends.values()] == [{}, {"blind": ROWS}, {"excluded": 1}]


def test_it_waits_for_a_change_that_is_on_its_way(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    prepared = Control._prepared  # noqa: SLF001 - to hold it up
    monkeypatch.setattr(Control, "_prepared", lambda *a: (ready.wait(10), prepared(*a))[1])
    first = running.command("off")
    assert not running.asked("on").good, "one change at a time"
    running.tap.pause("sleep")
    running.again()
    ready.set()
    opened(running, 2)
    assert any(one.command == first and one.good for one in running.sidecar.of(Result))
    wait_until(lambda: running.blind() == "off")  # as it was told before it slept
    assert running.asked("on").good
    running.step()
    assert running.closed()[2].final.encoded == ROWS - 1


def test_a_fault_meanwhile_stays(running: Running) -> None:
    running.tap.pause("sleep")
    running.tap.disable("fault")
    running.again()
    running.step()
    ends = running.closed()
    assert [(end.reason, end.final.blind, end.final.missed) for end in ends.values()] == [
        ("shutdown", "fault", {"blind": ROWS})
    ]


def test_a_tap_whose_sinks_lose_their_buffers_meanwhile_still_counts(running: Running) -> None:
    """vLLM takes every tensor off the model's modules while it reads the weights, and hangs the same ones on again."""
    begun = running.tap.begin(**{name: value for name, value in running.enqueued().items() if name != "emitted"})
    sink = running.tap.watched[0].sink
    running.tap.pause("reload")
    buffer, calls = sink.buffer, sink.calls
    del sink.buffer, sink.calls
    running.tap.ship(begun, {"r1": [7]})
    beats = len(running.sidecar.of(Beat))
    wait_until(lambda: len(running.sidecar.of(Beat)) > beats + 1)
    sink.register_buffer("buffer", buffer, persistent=False)
    sink.register_buffer("calls", calls, persistent=False)
    running.again("reload", Checkpoint(str(MODEL)))
    opened(running, 2)
    ends = running.closed()
    assert (ends[1].final.encoded, ends[1].final.blind) == (ROWS - 1, "reload")
    assert ends[2].final.blind == ""


def test_other_tensors_in_the_place_of_the_sinks_are_found_out(running: Running) -> None:
    """A compiled graph writes into those that it knows."""
    sink = running.tap.watched[0].sink
    running.tap.pause("reload")
    sink.calls = torch.zeros_like(sink.calls)
    with pytest.raises(SelfTestFailed, match="found no call"):
        running.again("reload", Checkpoint(str(MODEL)))


def test_what_fired_before_is_not_replayed(tmp_path: Path) -> None:
    blocks = Blocks()
    tap = Tap.open(a_config(tmp_path, slots=4), an_engine(block=16), blocks)
    blocks.run(hidden(1))
    tap.prove()

    def prompt(name: str, cached: int) -> None:
        rows = rows_of(**{name: (cached, 40 - cached)})
        blocks.run(hidden(40)[cached:])
        tap.snapshot(lambda: rows)
        new = NewRequest(engine_id=name, prompt_len=40, computed=cached, prompt_token_ids=range(40))
        tap.step(**{**a_step(rows), "new": [new], "computed": {name: 40}})

    with FakeSidecar(tmp_path / "s") as sidecar:
        tap.start()
        running = Running(tap, blocks, sidecar)
        wait_until(lambda: bool(sidecar.of(Beat)))
        prompt("first", 0)
        prompt("second", 32)
        wait_until(lambda: len(running.batches()) == 3)  # a pause does not wait for steps that are on their way
        tap.pause("sleep")
        running.again()
        opened(running, 2)
        prompt("third", 32)
        ends = running.closed()
    assert (ends[1].final.reused, ends[1].final.missed.get(Reason.CACHED.label, 0)) == (31, 0)
    assert (ends[2].final.reused, ends[2].final.missed.get(Reason.CACHED.label, 0)) == (0, 32)
    assert [end.final.imbalance for end in ends.values()] == [0, 0]
