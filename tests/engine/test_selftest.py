"""The self-test of a running tap: each fault that it is there for, and what it leaves alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from saewatch.core.records import Beat, Command, Result, StreamEnd
from saewatch.core.selftest import Check, CheckState, SelfTest, read
from saewatch.core.tapconfig import DictionaryUse
from saewatch.core.wire import encode
from saewatch.engine import selftest as module
from saewatch.engine.control import Control
from saewatch.engine.selftest import Look, finite_rows, sink_advanced
from saewatch.engine.tap import Tap
from tests.engine.standin import BUNDLE, WIDTH, Blocks, a_config, a_step, an_engine, hidden, rows_of
from tests.simulate.sidecar import FakeSidecar
from tests.waiting import wait_until

GOOD, FAILED, UNVERIFIED = CheckState.GOOD, CheckState.FAILED, CheckState.UNVERIFIED


class Serving:
    """A tap on a stand-in model, and a sidecar that asks it."""

    def __init__(self, tap: Tap, blocks: Blocks, sidecar: FakeSidecar) -> None:
        self.tap, self.blocks, self.sidecar = tap, blocks, sidecar
        self.steps = self.fed = 0

    def step(self, count: int = 10, *, through: Callable[[torch.Tensor], None] | None = None) -> None:
        """One engine step of a request of its own, which has left the shipper when this returns."""
        self.steps, self.fed = self.steps + 1, self.fed + count
        rows = rows_of(**{f"r{self.steps}": (0, count)})
        (through or self.blocks.run)(hidden(count))
        self.tap.snapshot(lambda: rows)
        self.tap.step(**a_step(rows))
        wait_until(lambda: self.tap.books[0].fed == self.fed)

    def stale(self, _: torch.Tensor) -> None:
        """A forward pass whose graph has no sink."""

    def ask(self, command: int = 1, *, streams: int = 1) -> list[SelfTest]:
        """Every stream's self-test, as the sidecar reads it."""
        before = len(self.sidecar.of(Result))
        self.sidecar.say(encode(Command(command=command, verb="self_test")))
        wait_until(lambda: len(self.sidecar.of(Result)) >= before + streams)
        found = [read(result) for result in self.sidecar.of(Result)[before:]]
        assert len(found) == streams
        return [one for one in found if one is not None]

    def test(self) -> SelfTest:
        """The only stream's."""
        (found,) = self.ask()
        return found

    def check(self, name: str) -> Check:
        """One check of it."""
        return next(check for check in self.test().checks if check.name == name)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    blocks = Blocks()
    tap = Tap.open(a_config(tmp_path), an_engine(), blocks)
    blocks.run(hidden(1))
    tap.prove()
    with FakeSidecar(tmp_path / "s") as sidecar:
        tap.start()
        wait_until(lambda: sidecar.of(Beat))
        yield Serving(tap, blocks, sidecar)
        tap.close()
    assert all(books.imbalance == 0 for books in tap.books)


def states(test: SelfTest) -> dict[str, CheckState]:
    return {check.name: check.state for check in test.checks}


def test_a_tap_that_sees(serving: Serving) -> None:
    for _ in range(3):
        serving.step()
    test = serving.test()
    assert states(test) == {"tap": GOOD, "sink": GOOD, "rows": GOOD, "encoder": GOOD}
    assert (test.stream, test.streams, test.good) == (1, 1, True)
    assert (test.steps_since, test.calls_since) == (3, 3), "the warm-up and the proof are not among them"
    assert test.sink_calls == 5
    assert (test.rows, test.rows_not_finite) == (10, 0)
    assert test.compared > 100
    assert test.mismatched == 0
    assert test.error_max < 1e-5
    assert test.oracle.startswith("sae-lens 6.")


def test_it_is_answered_again_and_again(serving: Serving) -> None:
    serving.step()
    assert serving.test().steps_since == 1
    for _ in range(2):
        serving.step()
    test = serving.test()
    assert (states(test)["sink"], test.steps_since, test.calls_since) == (GOOD, 2, 2), "since the last self-test"


def test_an_idle_engine_is_told_and_has_not_failed(serving: Serving) -> None:
    test = serving.test()
    assert test.good
    assert states(test) == {"tap": GOOD, "sink": UNVERIFIED, "rows": UNVERIFIED, "encoder": GOOD}
    assert "no step since the last look" in test.checks[1].found
    serving.step()
    serving.test()
    test = serving.test()
    assert (test.steps_since, states(test)["sink"], states(test)["rows"]) == (0, UNVERIFIED, GOOD)


def test_a_stalled_counter_fails_from_the_first_step(serving: Serving) -> None:
    serving.step(through=serving.stale)
    test = serving.test()
    assert (test.good, states(test)["sink"]) == (False, FAILED)
    assert (test.steps_since, test.calls_since) == (1, 0)
    assert "compiled graph" in test.checks[1].hint


def test_a_counter_that_stalls_while_it_serves_fails(serving: Serving) -> None:
    serving.step()
    assert serving.test().good
    for _ in range(2):
        serving.step(through=serving.stale)
    test = serving.test()
    assert (states(test)["sink"], test.steps_since, test.calls_since) == (FAILED, 2, 0)


def test_one_step_at_a_time_does_not_hide_a_stalled_counter(serving: Serving) -> None:
    serving.step()
    assert serving.test().good
    serving.step(through=serving.stale)
    assert serving.check("sink").state is UNVERIFIED, "one pass may have been counted before the look"
    serving.step(through=serving.stale)
    assert serving.check("sink").state is FAILED


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_fail(serving: Serving, value: float) -> None:
    serving.step()
    serving.tap.watched[0].sink.buffer[4, 17] = value
    test = serving.test()
    assert (states(test)["rows"], test.rows, test.rows_not_finite) == (FAILED, 10, 1)
    assert test.checks[2].found == "1 of 10 not finite"


def test_rows_that_were_never_written_fail_since_the_proof_poisoned_them(serving: Serving) -> None:
    serving.step(through=lambda x: serving.blocks.run(x[:6]))
    assert serving.test().rows_not_finite == 4


def test_rows_beyond_the_last_step_do_not_count(serving: Serving) -> None:
    serving.step(40)
    serving.step(10)
    serving.tap.watched[0].sink.buffer[10:] = float("nan")
    test = serving.test()
    assert (test.rows, test.rows_not_finite, test.good) == (10, 0, True)


def test_a_damaged_encoder_fails(serving: Serving) -> None:
    serving.step()
    serving.tap.watched[0].encoder._W[3] *= 1.01  # noqa: SLF001 - damage does not come through a door
    test = serving.test()
    assert states(test)["encoder"] is FAILED
    assert test.error_max > 1e-5
    assert "sae-lens" in test.checks[3].expected
    assert test.checks[3].hint


def test_what_a_change_may_have_been_copied_into_is_not_judged(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph reads the first encoder's buffers: what is watched later is there before it is in force."""
    (one,) = serving.tap.watched
    one.inside = one.encoder
    one.encoder._W[3] *= 1.01  # noqa: SLF001 - as a change would, that is on its way
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Control, "changing", True)
        check = serving.check("encoder")
        assert (check.state, check.found) == (UNVERIFIED, "a change on its way")
    assert serving.check("encoder").state is FAILED


def test_what_the_sheet_excludes_is_known_from_the_proof(serving: Serving) -> None:
    serving.tap.watched[0].encoder._max_norm.fill_(0.0)  # noqa: SLF001 - damage does not come through a door
    assert serving.check("encoder").state is FAILED, "or a rule that excludes everything would compare nothing"


def test_without_conformance_rows_the_encoder_is_not_verified(serving: Serving) -> None:
    serving.tap.watched[0].reference = None
    test = serving.test()
    assert (test.good, states(test)["encoder"], test.oracle) == (True, UNVERIFIED, "")
    assert test.checks[3].found == "no conformance rows"


def test_the_bundle_may_be_gone_by_then(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saewatch.engine.conformance.load_tensors", lambda *_: 1 / 0)
    assert serving.check("encoder").state is GOOD


def test_a_disabled_tap_fails_with_its_reason(serving: Serving) -> None:
    serving.step()
    serving.tap.disable("fault")
    test = serving.test()
    assert (test.good, states(test)) == (False, {"tap": FAILED})
    assert test.checks[0].found == "blind: fault"


def test_a_tap_that_was_never_open_fails_with_its_reason(tmp_path: Path) -> None:
    tap = Tap.blind(a_config(tmp_path), an_engine(), "misfit_error")
    with FakeSidecar(tmp_path / "s") as sidecar:
        tap.start()
        wait_until(lambda: sidecar.of(Beat))
        test = Serving(tap, Blocks(), sidecar).test()
        tap.close()
    assert (test.stream, test.checks[0].found) == (0, "blind: misfit_error")


def test_a_check_that_breaks_is_a_failed_one_and_the_others_are_made(serving: Serving) -> None:
    serving.step()
    serving.tap.watched[0].encoder._lim.resize_(0)  # noqa: SLF001 - damage does not come through a door
    serving.tap.watched[0].encoder._used = ()  # noqa: SLF001 - the same
    test = serving.test()
    assert states(test) == {"tap": GOOD, "sink": GOOD, "rows": GOOD, "encoder": FAILED}
    assert test.checks[3].found.startswith("ValueError: ")
    assert serving.tap.books[0].blind == "", "a failing self-test disables nothing"


def test_every_stream_is_tested(tmp_path: Path) -> None:
    use, blocks = DictionaryUse(path=str(BUNDLE)), Blocks()
    tap = Tap.open(a_config(tmp_path, dictionaries=(use, use)), an_engine(), blocks)
    blocks.run(hidden(1))
    tap.prove()
    with FakeSidecar(tmp_path / "s") as sidecar:
        tap.start()
        wait_until(lambda: sidecar.of(Beat))
        serving = Serving(tap, blocks, sidecar)
        serving.step()
        tap.watched[1].encoder._W[3] *= 1.01  # noqa: SLF001 - damage does not come through a door
        found = serving.ask(9, streams=2)
        assert [(one.stream, one.streams, one.good) for one in found] == [(1, 2, True), (2, 2, False)]
        assert {result.command for result in sidecar.of(Result)} == {9}
        tap.close()


def test_nothing_that_serving_uses_is_changed_and_the_books_stay_exact(serving: Serving) -> None:
    serving.step()
    (one,) = serving.tap.watched
    before = {name: value.clone() for name, value in vars(one.encoder).items() if isinstance(value, torch.Tensor)}
    buffer, calls = one.sink.buffer.clone(), int(one.sink.calls)
    for _ in range(20):
        serving.ask()
    after = vars(one.encoder)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(one.sink.buffer.nan_to_num(-1.0), buffer.nan_to_num(-1.0))
    assert int(one.sink.calls) == calls
    serving.step()
    serving.tap.close()
    wait_until(lambda: serving.sidecar.of(StreamEnd))
    (end,) = serving.sidecar.of(StreamEnd)
    assert (end.final.fed, end.final.imbalance, end.final.blind) == (20, 0, "")


def test_an_engine_that_steps_all_the_while_passes_every_time(serving: Serving) -> None:
    """Looks fall before, into and after the passes of another thread: none of them may fail."""
    until = time.monotonic() + 2.0
    number = 0
    while time.monotonic() < until:
        number += 1
        rows = rows_of(**{f"r{number}": (0, 10)})
        serving.blocks.run(hidden(10))
        if number % 3 == 0:
            serving.sidecar.say(encode(Command(command=number, verb="self_test")))
        serving.tap.snapshot(lambda: rows)  # noqa: B023 - called at once
        serving.tap.step(**a_step(rows))
        time.sleep(0.002)
    wait_until(lambda: len(serving.sidecar.of(Result)) == number // 3)
    assert number > 50
    assert [result.message for result in serving.sidecar.of(Result) if not result.good] == []


# --- the arithmetic ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "calls", "done", "state"),
    [
        (Look(5, 0, serving=False), 5, 0, UNVERIFIED),
        (Look(5, 0, serving=False), 6, 1, GOOD),
        (Look(5, 0, serving=False), 5, 1, FAILED),
        (Look(5, 3), 8, 6, GOOD),
        (Look(5, 3), 7, 6, UNVERIFIED),  # one may have been counted by the look
        (Look(5, 3), 6, 6, FAILED),
        (Look(5, 3), 9, 6, GOOD),  # passes that are no steps, or steps that are not done yet
        (Look(5, 3), 5, 3, UNVERIFIED),
        (Look(5, 7), 6, 6, UNVERIFIED),  # more had begun at the look than are done now
        (Look(0, 0, serving=False), 0, 0, FAILED),  # never called
        (Look(5, 0), 2, 9, FAILED),  # a counter that went back
    ],
)
def test_calls_against_steps(before: Look, calls: int, done: int, state: CheckState) -> None:
    found = sink_advanced(before, calls=calls, done=done)
    assert found.check.state is state
    assert found.figures["steps_since"] == max(done - before.begun, 0)
    assert all(value >= 0 for value in found.figures.values())


def test_rows_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 3)
    buffer = torch.zeros(10, WIDTH, dtype=torch.bfloat16)
    buffer[torch.tensor([0, 3, 6, 7]), 1] = float("nan")
    buffer[9] = float("inf")
    assert finite_rows(buffer, 7).figures == {"rows": 7, "rows_not_finite": 3}
    assert finite_rows(buffer, 10).figures["rows_not_finite"] == 5
