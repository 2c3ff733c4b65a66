"""Changes of a running tap, as a sidecar commands them: off and on, another watch set, another dictionary.

A change is prepared on a thread of its own beside serving: a dictionary may be large, and the shipper must go on. What
is prepared is new: encoder, watched rows, and the proof against the answers of the dictionary's own library. What is in
use stays as it is until no step uses it, so no step is encoded half by one and half by the other, and no compiled graph
is touched: the graph holds the sinks, and they stay. For the time of a change both are in memory. What does not fit is
refused in the words of its error, and nothing has changed.

When a model's weights were away or read anew (`life`), every stream is changed for one that knows nothing of before.
The dictionaries were made for weights: those that were read are compared with the ones of the start, by the digest of
their files, and where that is not known by where they come from.

A step has one `Watching` from its forward pass to its batch. Whoever changes it gives the tap the new one and then a
`Turn` to the shipper, which turns when it meets the first step of the new one, or when no step is on its way. So no
batch is mixed, and each token counts in one state.

One change at a time. `Control` is called on the shipper's thread, and so are `Turn.turned` and ``answer``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from saewatch.core.batch import WatchSet
from saewatch.core.errors import EngineError, MisfitError, SaewatchError, code_of
from saewatch.core.records import Command, Result
from saewatch.core.tapconfig import TapConfig
from saewatch.core.wire import encode
from saewatch.engine.beside import OwnStream, beside
from saewatch.engine.books import OFF, Stream
from saewatch.engine.life import CHANGED, Checkpoint, check_weights
from saewatch.engine.pool import pool_of
from saewatch.engine.watched import Engine, Watched, anew, another, rewatched

logger = logging.getLogger("vllm.saewatch")


@dataclass(frozen=True, slots=True)
class Watching:
    """What steps are encoded for from here on."""

    number: int
    watched: Sequence[Watched]
    """None: the tap sees nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the shipper does when the steps of another `Watching` begin."""

    number: int
    streams: Sequence[Stream]
    """That a step is booked to from here on. One that was and is no more ends, one that was not opens."""
    watch: Mapping[int, Sequence[WatchSet]] = field(default_factory=dict)
    """Another watch set, by stream."""
    off: bool = False
    ending: str = "swap"
    """Why streams end that are no more."""
    resumes: int = 0
    """Number of the pause that is over with it."""
    answer: Result | None = None
    turned: Callable[[], None]


Install = Callable[[Watching, Turn], None]
MESSAGE_CHARACTERS = 2000
"""Of a refusal: a record's text has room for it, however its characters are encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a tap watches, stream by stream, whether it is switched on or not."""

    watched: tuple[Watched, ...]
    streams: tuple[Stream, ...]
    off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """Another state, and what is to be told of it."""

    state: State
    watch: Mapping[int, Sequence[WatchSet]] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)


class Control:
    """Carries out ``off``, ``on``, ``watch`` and ``load``.

    ``install`` gives the tap a `Watching` and the shipper its turn, in this order; ``answer`` sends a result; ``stay``
    gives a pause that goes on another reason. ``stream``: where a GPU prepares them.
    """

    VERBS = ("off", "on", "watch", "load")

    def __init__(
        self,
        config: TapConfig,
        engine: Engine,
        state: State,
        *,
        install: Install,
        answer: Callable[[Result], None],
        stay: Callable[[int, str], None],
        stream: OwnStream,
    ) -> None:
        self.state = state
        self._config = config
        self._engine = engine
        self._install = install
        self._answer = answer
        self._stay = stay
        self._stream = stream
        self._number = 0
        self._opened = max((one.opening.stream for one in state.streams), default=0)
        self._pending = ""  # the verb of the change that is on its way
        self._free = threading.Lock()  # held by that change
        self._reloaded: Checkpoint | None = None  # where weights came from that were not compared yet

    @property
    def changing(self) -> bool:
        """Whether a change is on its way. On the shipper's thread no turn comes meanwhile."""
        return bool(self._pending)

    def __call__(self, command: Command) -> Sequence[Result]:
        """Begins with it: the result comes when it is in force. At once when it is refused."""
        if not self._free.acquire(blocking=False):
            error = EngineError("engine", found=f"{self._pending} on its way", expected="one change at a time")
            return [_refused(command, error)]
        self._pending = command.verb
        thread = beside(self._carry_out, command, name="control", stream=self._stream)
        try:
            thread.start()
        except RuntimeError:  # the process may have no more threads: the command broke, and another one may come
            self._done()
            raise
        return []

    def again(self, pause: int, ending: str, reloaded: Checkpoint | None) -> None:
        """The sinks see, and the weights are there: all streams are changed for new ones, and ``pause`` is over.

        Called on the engine's thread. ``reloaded``: where the weights were read from; None: they were only put away.
        """
        self._reloaded = reloaded or self._reloaded
        beside(self._begin, pause, ending, name="control", stream=self._stream).start()

    @torch.inference_mode()
    def _begin(self, pause: int, ending: str) -> None:
        self._free.acquire()  # after a change that is on its way
        self._pending = ending
        try:
            change = self._made(self._anew)
        except Exception as error:  # whatever it is: what was not verified is not reported
            logger.critical("saewatch: BLIND, not verified after a %s: %s", ending, error, exc_info=_broke(error))
            self._done()
            self._stay(pause, _reason(error))
            return
        self._put(change, f"new streams after a {ending}", ending=ending, resumes=pause)

    @torch.inference_mode()
    def _carry_out(self, command: Command) -> None:
        try:
            self._check_alive()
            change = self._made(lambda: self._prepared(command))
        except Exception as error:  # a whole command: whatever it meets, nothing has changed
            if _broke(error):
                logger.warning("saewatch: the command %s broke", command.verb, exc_info=error)
            self._done()
            self._answer(_refused(command, error))
            return
        arguments = json.dumps(dict(command.arguments)) if command.arguments else "all"
        answer = Result(command=command.command, good=True, details=change.details)
        self._put(change, f"{command.verb}, as the sidecar commanded: {arguments}", answer=answer)

    def _made(self, prepare: Callable[[], _Change]) -> _Change:
        """A change whose tensors are there: those who use them wait for another stream than the one that made them."""
        change = prepare()
        if self._stream is not None:
            self._stream.synchronize()
        return change

    def _put(self, change: _Change, what: str, **turn: Any) -> None:
        """Steps are taken under it from here on."""
        self._number += 1
        self._install(
            Watching(self._number, () if change.state.off else change.state.watched),
            Turn(
                number=self._number,
                streams=change.state.streams,
                watch=change.watch,
                off=change.state.off,
                turned=lambda: self._turned(change.state, what),
                **turn,
            ),
        )

    def _turned(self, state: State, what: str) -> None:
        self.state = state
        self._done()
        logger.warning("saewatch: %s", what)

    def _done(self) -> None:
        self._pending = ""
        self._free.release()

    def _check_alive(self) -> None:
        """EngineError where the tap is blind for a reason that no command heals."""
        blind = [one.books.blind for one in self.state.streams if one.books.blind not in ("", OFF)]
        if blind or not self.state.watched:
            found = f"a tap that is blind: {blind[0] if blind else 'it watches nothing'}"
            raise EngineError("engine", found=found, expected="one that sees", hint="See the engine's log.")

    def _anew(self) -> _Change:
        """The same dictionaries in new streams. MisfitError when the model's weights are others than at the start."""
        reloaded = self._reloaded
        if reloaded is not None:
            check_weights(reloaded, start=self._engine.checkpoint, digest=self._engine.facts.weights)
        watched = tuple(anew(one, stream=number) for number, one in enumerate(self.state.watched, self._opened + 1))
        streams = tuple(
            Stream(
                opening=one.opening,
                watch=_told(one),
                reuse=before.fresh_reuse(),
                pool=pool_of(one.bundle.dictionary.pooled),
            )
            for one, before in zip(watched, self.state.streams, strict=True)
        )
        for stream in streams:
            encode(stream.opening)
        self._opened += len(streams)
        if self._reloaded is reloaded:  # not those of another reload meanwhile
            self._reloaded = None
        return _Change(state=replace(self.state, watched=watched, streams=streams))

    def _prepared(self, command: Command) -> _Change:
        if command.verb in ("off", "on"):
            return _Change(state=replace(self.state, off=command.verb == "off"))
        index = self._index(command)
        return self._rewatched(index, command) if command.verb == "watch" else self._loaded(index, command)

    def _index(self, command: Command) -> int:
        """Which stream it is about. EngineError for none."""
        asked = command.arguments.get("replace" if command.verb == "load" else "weights", "")
        point, role = (command.arguments.get(name, "") for name in ("hook_point", "role"))
        for index, stream in enumerate(self.state.streams):
            here = point in ("", stream.opening.hook_point) and role in ("", stream.opening.role)
            if stream.opening.weights_digest == asked and here:
                return index
        there = ", ".join(f"{one.opening.weights_digest} on {one.opening.hook_point}" for one in self.state.streams)
        raise EngineError(
            "stream", found=" ".join(filter(None, (asked or "nothing", point, role))), expected=f"one of {there}"
        )

    def _rewatched(self, index: int, command: Command) -> _Change:
        before, stream = self.state.watched[index], self.state.streams[index]
        features = command.arguments.get("watch", "")
        use = replace(before.use, watch=tuple(json.loads(features)) if features else self._config_watch(before))
        one = rewatched(before, use, self._config, others=self._others(index))
        return self._change(index, one, stream, {stream.opening.stream: _told(one)})

    def _loaded(self, index: int, command: Command) -> _Change:
        before = self.state.watched[index]
        path, digest = command.arguments.get("path", ""), command.arguments.get("weights", "")
        use = replace(before.use, path=path, watch=())
        one = another(before, use, self._config, self._engine, stream=self._opened + 1, others=self._others(index))
        found = one.opening.weights_digest
        if digest and digest != found:
            raise MisfitError(f"dictionary in {Path(path).name}", found=found, expected=digest)
        reuse = self.state.streams[index].fresh_reuse()
        stream = Stream(opening=one.opening, watch=_told(one), reuse=reuse, pool=pool_of(one.bundle.dictionary.pooled))
        encode(stream.opening)
        self._opened += 1
        return self._change(index, one, stream, {}, opened=str(one.opening.stream))

    def _config_watch(self, one: Watched) -> tuple[str, ...]:
        """What the configuration said at start; of a dictionary that was loaded since then, everything."""
        return next((use.watch for use in self._config.dictionaries if use.path == one.use.path), ())

    def _others(self, index: int) -> int:
        """Device bytes of the other streams."""
        return sum(one.footprint.total for number, one in enumerate(self.state.watched) if number != index)

    def _change(
        self, index: int, one: Watched, stream: Stream, watch: Mapping[int, Sequence[WatchSet]], **details: str
    ) -> _Change:
        watched, streams = list(self.state.watched), list(self.state.streams)
        watched[index], streams[index] = one, stream
        digest = one.encoder.watch_list.digest
        told = {"weights": one.opening.weights_digest, "watch": digest, "slots": str(one.encoder.slots), **details}
        state = replace(self.state, watched=tuple(watched), streams=tuple(streams))
        return _Change(state=state, watch=watch, details=told)


def _told(one: Watched) -> Sequence[WatchSet]:
    """Its watch set in frames. RecordError for one that could never be told."""
    parts = one.watch_sets()
    for part in parts:
        encode(part)
    return parts


def _broke(error: Exception) -> Exception | None:
    """What the log shows with its traceback: what is none of our words."""
    return None if isinstance(error, SaewatchError) else error


def _reason(error: Exception) -> str:
    """Why what was paused stays so, in a word."""
    if isinstance(error, MisfitError):
        return CHANGED
    return code_of(error)


def _refused(command: Command, error: Exception) -> Result:
    broke = f"{command.verb}: broke with {type(error).__name__}, see the engine's log"
    told = str(error) if isinstance(error, SaewatchError) else broke
    return Result(command=command.command, good=False, message=told[:MESSAGE_CHARACTERS])
