"""The tap: sinks on a model's hook points, an encoder behind each, and the shipper. Knows torch, but no engine.

After each forward pass the engine's adapter calls `snapshot`, which enqueues on the device: take the buffer's rows,
encode them, put the firings into a free staging slot. Nothing waits: without a free slot the step's tokens are counted
as *no_slot*. `begin` then makes of it and of the scheduler's facts one object, and `ship` hands that to the shipper's
thread when the step's sampled tokens are known: at once, or after further steps have begun, and then on whichever
thread the engine fetches them. Steps are shipped in the order in which they began. Of what one of them has, nothing is
shared with another.

On a GPU the rows are copied into the slot on the forward's stream and encoded on a side stream, so that the next
forward pass may overwrite the buffer. On the CPU a step of many rows is encoded before `snapshot` returns, and one of
few by the shipper (docs/decisions/0014). Where rows are multiplied inside the model's graph (`inside`), `enter` is
called before each pass.

A tap that cannot see is *blind*: it still counts what it does not see. While the model's weights are away or change
(`life`) it is so for now: `pause`, and `again` when a forward pass has shown that its sinks are called.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from saewatch.core import limits
from saewatch.core.batch import I32, Census, Reason
from saewatch.core.errors import ConfigError
from saewatch.core.hookpoint import HookPoint
from saewatch.core.records import Result, StreamBeat
from saewatch.core.tapconfig import TapConfig
from saewatch.core.wire import encode
from saewatch.engine.beside import own_stream
from saewatch.engine.books import Stream
from saewatch.engine.control import Control, State, Turn, Watching
from saewatch.engine.encode import check_precision
from saewatch.engine.inside import Graphed, InsideSlot
from saewatch.engine.ledger import Step
from saewatch.engine.life import Checkpoint
from saewatch.engine.outbox import Outbox
from saewatch.engine.pool import pool_of
from saewatch.engine.reuse import Reuse
from saewatch.engine.selftest import Passes, TapTest
from saewatch.engine.shipper import Shipper
from saewatch.engine.sink import Place, hang
from saewatch.engine.staging import Note, Rows, Side, Slot
from saewatch.engine.watched import Engine, Watched, blind_stream, open_watched, sinks_of

logger = logging.getLogger("vllm.saewatch")  # below vLLM's own logger, so that its handlers and levels apply


@dataclass(slots=True)
class _Captured:
    """What `snapshot` leaves for `begin`."""

    rows: Rows
    slot: Slot | InsideSlot
    number: int  # of the forward pass


@dataclass(slots=True, eq=False)
class Begun:
    """A step whose forward pass was enqueued, and whose tokens are not known yet: what it captured, and its facts."""

    facts: dict[str, Any]  # of its `Step`
    captured: _Captured | None
    census: Sequence[Census]
    watching: int  # number of the `Watching` that it was taken under
    emitted: Mapping[str, Sequence[int]] | None = None
    known: bool = False


class Tap:
    """One engine's tap. Made by `open` or `blind`."""

    def __init__(
        self,
        config: TapConfig,
        engine: Engine,
        streams: Sequence[Stream],
        watched: Sequence[Watched],
        graphed: Graphed | None = None,
    ) -> None:
        self.config = config
        self._watching = Watching(0, tuple(watched))
        self._taken = 0  # steps that were given what they watch
        self._of_step: Watching | None = None  # that of the step whose pass was enqueued last
        device = watched[0].sink.buffer.device if watched else torch.device("cpu")
        side = Side(device)
        self._graphed = graphed
        # All live as long as the tap: the device may still write to one that a fault keeps from coming back.
        self._all_slots = tuple(self._new_slot(watched, side) for _ in range(config.slots if watched else 0))
        self._slots = deque(self._all_slots)
        self._captured: _Captured | None = None
        self._begun: deque[Begun] = deque()  # in their order; `_order` is held by whoever takes one out
        self._order = threading.Lock()
        self._reason = Reason.BLIND
        self._disabled = self._failed = False
        self._paused = False
        self._pauses = 0
        self._calls = [one.sink.calls for one in watched]  # vLLM takes them off the model while it reads weights anew
        self._steps = 0
        self._passes = Passes()
        state = State(watched=tuple(watched), streams=tuple(streams))
        self._control = Control(
            config,
            engine,
            state,
            install=self._install,
            answer=self._answer,
            stay=self._stay,
            stream=own_stream(device),
        )
        self._test = TapTest(lambda: self._control.state, self._passes, lambda: self._control.changing)
        self._seconds = {"snapshot": 0.0, "encode": 0.0, "host": 0.0}
        self._shipper = Shipper(
            outbox=Outbox(path=config.socket, bound=config.queue_bytes),
            streams=streams,
            counters=lambda: self.calls or [0] * len(streams),
            stages=lambda: dict(self._seconds),
            commands={"self_test": self._test, **dict.fromkeys(Control.VERBS, self._control)},
            taken=lambda: self._taken,
            stream=own_stream(device),
        )

    @classmethod
    def open(cls, config: TapConfig, engine: Engine, place: Callable[[HookPoint], Place]) -> Tap:
        """A tap whose sinks hang on the model; call it after the weights and before the first forward.

        Raises `DictionaryError`, `HookPointError` or `ConfigError` for what does not fit, and `RecordError` for what
        could never be told to a sidecar.
        """
        check_precision()
        if config.placement == "graph" and engine.ranks.parallel:
            hint = "Ranks that do not report would run another graph; that was never tried."
            raise ConfigError("saewatch.placement", found="graph with several ranks", expected="side", hint=hint)
        watched = open_watched(config, engine, place)
        share = config.reuse_bytes // len(watched)
        streams = [
            Stream(
                opening=one.opening,
                watch=one.watch_sets(),
                reuse=Reuse(block=engine.block, bound=share) if engine.block and share else None,
                pool=pool_of(one.bundle.dictionary.pooled),
            )
            for one in watched
        ]
        for stream in streams:
            encode(stream.opening)
            for part in stream.watch:
                encode(part)
        tap = cls(config, engine, streams, watched, Graphed(watched) if config.placement == "graph" else None)
        hang(sinks_of(watched))
        return tap

    @classmethod
    def blind(cls, config: TapConfig, engine: Engine, reason: str) -> Tap:
        """A tap that sees nothing and counts what it does not see."""
        return cls(config, engine, [blind_stream(engine, reason)], [])

    @property
    def watched(self) -> Sequence[Watched]:
        """What steps are encoded for from here on; none: the tap sees nothing."""
        return self._watching.watched

    @property
    def fired(self) -> bool:
        """Whether every sink has seen a forward pass."""
        return all(calls > 0 for calls in self.calls)

    @property
    def calls(self) -> Sequence[int]:
        """Of each stream's sink, as the device has counted them."""
        return [int(calls) for calls in self._calls]

    @torch.inference_mode()
    def prove(self) -> None:
        """Raises `SelfTestFailed` unless each sink fired and writes what it is given, and its encoder is right."""
        if self._graphed is not None:
            self._graphed.prove()
        for one in self.watched:
            one.prove()

    def start(self) -> None:
        """Starts to report."""
        self._test.begin()
        self._shipper.start()

    def disable(self, reason: str) -> None:
        """The tap sees nothing from here on. Counting goes on."""
        self._slots.clear()
        with self._order:
            self._disabled = True
            self._watching = Watching(self._watching.number, ())
        self._captured = None
        self._shipper.blind(reason)

    def fail(self, error: Exception) -> None:
        """Something of ours broke after the start: the engine serves on, and the tap sees nothing from here on."""
        if not self._failed:
            logger.error("saewatch: the tap failed and is off; this engine serves on, BLIND", exc_info=error)
        self._failed = True
        self.disable("fault")

    def pause(self, reason: str) -> None:
        """The tap sees nothing for now: its model's weights go away, or change. Counting goes on."""
        with self._order:
            self._pauses += 1
            self._paused = True
            self._watching = Watching(self._watching.number, ())
            self._shipper.pause(self._pauses, reason)

    @torch.inference_mode()
    def again(self, ending: str, *, since: Sequence[int], reloaded: Checkpoint | None) -> None:
        """What paused it is over, and a forward pass has been enqueued: it sees in new streams, the old ones end.

        Called on the engine's thread. What takes longer is done beside it, and the tap may stay blind after all.
        ``since``: `calls` before that pass; ``reloaded``: where weights were read from. Raises `SelfTestFailed`.
        """
        state = self._control.state
        self._passes.poisoned = self._passes.begun
        for one, calls in zip(state.watched, since, strict=True):
            one.prove_sink(since=calls)
        if not self._disabled and state.watched:
            self._control.again(self._pauses, ending, reloaded)

    @torch.inference_mode()
    def enter(self) -> None:
        """A forward pass is about to be enqueued. Where its graph multiplies, it gets what is watched from here on."""
        if self._graphed is not None:
            self._of_step = self._enter()
            self._graphed.hold(self._of_step.watched)

    @torch.inference_mode()
    def snapshot(self, rows: Callable[[], Rows]) -> None:
        """Takes the rows of the forward pass that was enqueued last. Nothing here waits for the device."""
        watching = self._of_step = self._of_step or self._enter()
        if self._disabled or not watching.watched:  # disabled since `enter`: it is blind, and lacks no slot
            return
        self._passes.begun += 1
        started = time.perf_counter()
        slot = self._take_slot()
        if slot is None:
            self._reason = Reason.NO_SLOT
            return
        view = rows()
        slot.take(view, watching.watched)
        staged = time.perf_counter()
        slot.encode()
        self._captured = _Captured(view, slot, self._passes.begun)
        self._seconds["snapshot"] += staged - started
        self._seconds["encode"] += time.perf_counter() - staged

    def begin(self, **facts: Any) -> Begun:
        """One step with what `snapshot` took of it; ``facts`` are the scheduler's, as in `ledger.Step`."""
        started = time.perf_counter()
        self._steps += 1
        captured, self._captured = self._captured, None
        watching, self._of_step = self._of_step or self._enter(), None
        facts |= {"number": self._steps, "reason": self._reason}
        census: Sequence[Census] = ()
        if captured is not None:
            facts |= {"order": captured.rows.order, "starts": captured.rows.starts}
            census = self._census(watching, captured.slot, facts["time_ns"])
        begun = Begun(facts, captured, census, watching.number)
        self._begun.append(begun)
        if len(self._begun) > limits.STEPS_BEGUN:
            self._give_up(self._begun[0])
        self._seconds["host"] += time.perf_counter() - started
        return begun

    def ship(self, begun: Begun, emitted: Mapping[str, Sequence[int]] | None) -> None:
        """``begun`` emitted these tokens, by request; None where they are sampled on another stage of a pipeline.

        Called on any thread. Whatever began before it and is not known yet is waited for, by the step and not here.
        """
        with self._order:  # held for the microseconds that some steps take to change from one deque to another
            begun.emitted, begun.known = emitted, True
            while self._begun and self._begun[0].known:
                self._shipper.put(self._note(self._begun.popleft()))

    def step(self, *, emitted: Mapping[str, Sequence[int]] | None, **facts: Any) -> None:
        """A step whose tokens are known already, or that has none."""
        self.ship(self.begin(**facts), emitted)

    @property
    def books(self) -> tuple[StreamBeat, ...]:
        """Each stream's books; exact once the tap is closed."""
        return self._shipper.books

    def close(self) -> None:
        """Sends the last books and stops."""
        self._shipper.stop()

    def _enter(self) -> Watching:
        """What the next step watches.

        Counted first and read then: whoever has put another one there, and finds as many steps done with as were
        counted, knows that none has the one before.
        """
        self._taken += 1
        self._reason = Reason.BLIND
        return self._watching

    def _install(self, watching: Watching, turn: Turn) -> None:
        """From here on steps are taken under ``watching``. None is shipped before the shipper has the turn."""
        with self._order:
            self._paused = self._paused and turn.resumes != self._pauses
            blind = self._disabled or self._paused
            self._watching = Watching(watching.number, () if blind else watching.watched)
            self._shipper.turn(replace(turn, turned=lambda: self._turned(watching.watched, turn.turned)))

    def _turned(self, watched: Sequence[Watched], turned: Callable[[], None]) -> None:
        """On the shipper's thread: no step of what was watched before is on its way."""
        turned()
        for slot in self._all_slots:
            slot.keep(watched)

    def _stay(self, pause: int, reason: str) -> None:
        """That pause goes on, and why; nothing where there was another since."""
        with self._order:
            if pause == self._pauses:
                self._shipper.pause(pause, reason)

    def _answer(self, result: Result) -> None:
        self._shipper.answer(result)

    def _give_up(self, lost: Begun) -> None:
        """The engine never fetched a step's tokens: those that wait behind it are not to wait for ever."""
        logger.error("saewatch: a step's tokens never came; the streams are blind from here on")
        self.disable("step_lost")
        self.ship(lost, {})

    def _census(self, watching: Watching, slot: Slot | InsideSlot, now_ns: int) -> Sequence[Census]:
        """What is due; the step that it comes with is not lost where it fails."""
        try:
            with slot.beside():
                return [part for one in watching.watched for part in one.census(now_ns)]
        except Exception as error:  # whatever the device says: nothing more is seen, and all is counted
            self.fail(error)
            return ()

    def _note(self, begun: Begun) -> Note:
        step, captured = Step(emitted=begun.emitted, **begun.facts), begun.captured
        if captured is None:
            return Note(step=step, watching=begun.watching)
        slot = captured.slot
        return Note(
            step=step,
            watching=begun.watching,
            read=slot.read,
            positions=lambda: self._positions(captured),
            release=lambda: self._slots.append(slot),
            census=begun.census,
        )

    def _positions(self, captured: _Captured) -> I32:
        """On the shipper's thread: they are there, so the pass is done."""
        found = captured.slot.positions()
        self._passes.done, self._passes.rows = captured.number, int(captured.rows.starts[-1])
        return found

    def _new_slot(self, watched: Sequence[Watched], side: Side) -> Slot | InsideSlot:
        return Slot(watched, side) if self._graphed is None else InsideSlot(self._graphed, watched, side)

    def _take_slot(self) -> Slot | InsideSlot | None:
        try:
            return self._slots.popleft()
        except IndexError:
            return None
