"""The self-test of a running tap: does it still see, now, without a restart?

It runs on the shipper's thread, beside an engine that serves, and changes nothing that serving uses: the sink's counter
and buffer and the encoder's weights are read, and what is encoded goes into a slab of its own. On a GPU that thread has
a stream of its own (`beside`), and the test waits for that one only. Whatever goes wrong in it becomes a failed check;
it disables nothing.

**Counting passes.** The engine's thread counts a forward pass (*begun*) after it was enqueued, the shipper's thread
(*done*) when the device has finished it, and the device counts calls of the sink. So between two looks the calls must
advance by at least the passes that begun after the first and were done before the second. One pass may be enqueued and
not yet counted when a look is taken: an advance that is short by one proves nothing, and then the earlier look stays
the one that is compared with. A stalled counter (a stale compiled graph, a removed hook) is short by every step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saewatch.core.records import Command, Result
from saewatch.core.selftest import Check, CheckState, SelfTest
from saewatch.engine.books import OFF
from saewatch.engine.conformance import Reference, compared, disagreement
from saewatch.engine.control import State
from saewatch.engine.encoder import Encoder
from saewatch.engine.sink import Sink
from saewatch.engine.watched import Watched

logger = logging.getLogger("vllm.saewatch")

ROWS = 256
"""Rows of a buffer that are looked at together: 9 MiB for the widest model, where an engine has left little."""
STALE = "The engine runs a compiled graph without the sink, or the hook is gone. Restart it, without the compile cache."


@dataclass(slots=True)
class Passes:
    """Forward passes of the engine's steps."""

    begun: int = 0
    """Enqueued; owned by the engine's thread."""
    done: int = 0
    """Number of the last one that the device has finished; owned by the shipper's thread, like `rows`."""
    rows: int = 0
    """Rows of that one."""
    poisoned: int = 0
    """Begun before the sinks' buffers were poisoned last; owned by the engine's thread."""

    @property
    def written(self) -> int:
        """Rows of a buffer that a pass has written since it was poisoned."""
        return self.rows if self.done > self.poisoned else 0


@dataclass(frozen=True, slots=True)
class Look:
    """A stream's counters as they were."""

    calls: int
    begun: int
    serving: bool = True  # a pass may be enqueued that is not in `begun`


@dataclass(frozen=True, slots=True)
class Found:
    """What one check came to, and the figures behind it."""

    check: Check
    figures: Mapping[str, Any]


class TapTest:
    """The self-test of one tap's streams."""

    def __init__(self, state: Callable[[], State], passes: Passes, changing: Callable[[], bool]) -> None:
        self._state = state
        self._passes = passes
        self._changing = changing
        self._looks: dict[int, Look] = {}

    def begin(self) -> None:
        """The tap begins to report: from here on each step's pass counts."""
        for stream, one in zip(self._state().streams, self._state().watched, strict=False):
            if not stream.books.blind:
                self._looks[stream.opening.stream] = Look(int(one.sink.calls), self._passes.begun, serving=False)

    @torch.inference_mode()
    def __call__(self, command: Command) -> list[Result]:
        """Carries out ``self_test``: one result for each stream."""
        state = self._state()
        return [self._test(state, index).result(command.command) for index in range(len(state.streams))]

    def _test(self, state: State, index: int) -> SelfTest:
        stream = state.streams[index]
        if stream.books.blind:
            off = stream.books.blind == OFF
            hint = "Switch it on: `saewatch tap on`." if off else "Its log has the reason; a restart may heal it."
            found = [_failed("tap", found=f"blind: {stream.books.blind}", expected="a stream that sees", hint=hint)]
        else:
            number, one = stream.opening.stream, state.watched[index]
            found = [
                Found(Check(name="tap", state=CheckState.GOOD), {}),
                self._guarded("sink", lambda: self._sink(number, one.sink)),
                self._guarded("rows", lambda: finite_rows(one.sink.buffer, self._passes.written)),
                self._guarded("encoder", lambda: self._encoder(one)),
            ]
        figures = {name: value for item in found for name, value in item.figures.items()}
        return SelfTest(
            stream=stream.opening.stream,
            streams=len(state.streams),
            checks=tuple(item.check for item in found),
            **figures,
        )

    @staticmethod
    def _guarded(name: str, check: Callable[[], Found]) -> Found:
        try:
            return check()
        except Exception as error:  # a whole check: it must not raise into the thread that ships
            logger.warning("saewatch: the self-test's check of the %s broke", name, exc_info=error)
            told = f"{type(error).__name__}: {error}"
            return _failed(name, found=told, expected="a check that runs to its end", hint="The engine's log has more.")

    def _sink(self, number: int, sink: Sink) -> Found:
        done = self._passes.done  # before the counter: what is done was counted
        calls = int(sink.calls)
        now = Look(calls, self._passes.begun)  # after it: a pass that was counted has begun
        before = self._looks.setdefault(number, now)
        found = sink_advanced(before, calls=calls, done=done)
        if found.check.state is not CheckState.UNVERIFIED:
            self._looks[number] = now
        return found

    def _encoder(self, one: Watched) -> Found:
        if one.inside is one.encoder and self._changing():
            hint = "Test again when it is in force."
            return _unverified("encoder", found="a change on its way", expected="one that stays as it is", hint=hint)
        return encoder_agrees(one.encoder, one.reference)


def sink_advanced(before: Look, *, calls: int, done: int) -> Found:
    """Whether the device counted a call of the sink for each of the passes ``before.begun`` to ``done``."""
    steps, since = max(done - before.begun, 0), calls - before.calls
    figures = {"sink_calls": max(calls, 0), "calls_since": max(since, 0), "steps_since": steps}
    expected = f"one for each of {steps} steps since the last look" if steps else "one for each forward pass"
    if calls <= 0:
        return _failed("sink", found="no call", expected=expected, hint=STALE, **figures)
    if not steps:
        hint = "The engine is idle: send it a request and test again."
        return _unverified("sink", found="no step since the last look", expected=expected, hint=hint, **figures)
    if since >= steps:
        return Found(Check(name="sink", state=CheckState.GOOD), figures)
    found = f"{since} calls"
    if before.serving and since == steps - 1:
        hint = "The last look may have counted one before it was a step: test again after some more."
        return _unverified("sink", found=found, expected=expected, hint=hint, **figures)
    return _failed("sink", found=found, expected=expected, hint=STALE, **figures)


def finite_rows(buffer: Tensor, rows: int) -> Found:
    """Whether the first ``rows`` of ``buffer [n, width]`` are finite; what no pass wrote since the proof is NaN."""
    expected = "the rows of a step, each finite"
    if not rows:
        hint = "The engine is idle: send it a request and test again."
        return _unverified("rows", found="no step since the tap began", expected=expected, hint=hint)
    bad = sum(int((~torch.isfinite(part.abs().amax(dim=1))).sum()) for part in buffer[:rows].split(ROWS))
    figures = {"rows": rows, "rows_not_finite": bad}
    if bad:
        hint = "The model gives NaN or infinity here, or the sink did not write these rows. Restart the engine."
        return _failed("rows", found=f"{bad} of {rows} not finite", expected=expected, hint=hint, **figures)
    return Found(Check(name="rows", state=CheckState.GOOD), figures)


def encoder_agrees(encoder: Encoder, reference: Reference | None) -> Found:
    """Whether ``encoder`` gives on the stored rows what the dictionary's own library gave."""
    expected = "stored rows and the answers of the dictionary's own library"
    if reference is None:
        hint = "Import the dictionary with its library installed: then they are stored with it."
        return _unverified("encoder", found="no conformance rows", expected=expected, hint=hint)
    verdict = compared(encoder, reference)
    figures: Mapping[str, Any] = {
        "compared": verdict.compared,
        "mismatched": verdict.mismatched,
        "error_max": verdict.error_max,
        "oracle": verdict.oracle,
    }
    if not verdict.good:
        error = disagreement(verdict, reference)
        return _failed("encoder", found=str(error.found), expected=str(error.expected), hint=error.hint, **figures)
    if not verdict.compared:
        found = "no stored row on which a watched latent or direction fires"
        return _unverified("encoder", found=found, expected=expected, hint="Watch more of them.", **figures)
    return Found(Check(name="encoder", state=CheckState.GOOD), figures)


def _failed(name: str, *, found: str, expected: str, hint: str, **figures: Any) -> Found:
    return Found(Check(name=name, state=CheckState.FAILED, found=found, expected=expected, hint=hint), figures)


def _unverified(name: str, *, found: str, expected: str, hint: str, **figures: Any) -> Found:
    return Found(Check(name=name, state=CheckState.UNVERIFIED, found=found, expected=expected, hint=hint), figures)
