"""Self-tests on their way: which engines were asked, who waits, and what has come so far.

One for each connection at most: a call that asks for what is asked already waits for the same answer, so that any
number of calls costs an engine one self-test at a time. The table is guarded by its owner's lock; answers are futures
that a thread completes and a loop may await.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from dataclasses import dataclass, field

from saewatch.core.errors import EngineError, RecordError, UnreachableError
from saewatch.core.records import Command, Result
from saewatch.core.selftest import SelfTest
from saewatch.monitor.tables import StreamIdentity

SELF_TEST = "self_test"


@dataclass(frozen=True, slots=True)
class Examined:
    """A stream and its self-test."""

    stream: StreamIdentity
    test: SelfTest


@dataclass(slots=True, eq=False)
class Asked:
    """A command that an engine was sent."""

    engine: str
    link: int
    command: Command
    answer: Future[tuple[Examined, ...]] = field(default_factory=Future)
    """Raises `UnreachableError` when the engine has gone, `EngineError` when it does not carry the command out."""
    waiting: int = 0
    found: dict[int, Examined] = field(default_factory=dict)  # by stream


class Commands:
    """The commands that wait for an answer."""

    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}  # by link
        self._numbers = itertools.count(1)

    def ask(self, engine: str, link: int) -> tuple[Asked, bool]:
        """What to wait for, and whether it is new: then its command is to be sent."""
        asked = self._asked.get(link)
        new = asked is None
        if asked is None:
            asked = Asked(engine, link, Command(command=next(self._numbers), verb=SELF_TEST))
            asked.answer.set_running_or_notify_cancel()  # a caller that gives up does not take it from the others
            self._asked[link] = asked
        asked.waiting += 1
        return asked, new

    def give_up(self, asked: Asked) -> None:
        """One caller has its answer or waits no more."""
        asked.waiting -= 1
        if not asked.waiting:
            self._close(asked)

    def find(self, link: int, result: Result) -> Asked:
        """The command that ``result`` answers. Raises `RecordError` for none on this connection."""
        asked = self._asked.get(link)
        if asked is None or asked.command.command != result.command:
            raise RecordError("result.command", found=result.command, expected="a command that waits for its result")
        return asked

    def take(self, asked: Asked, examined: Examined) -> None:
        """One of its results; the last one completes it."""
        asked.found[examined.test.stream] = examined
        if len(asked.found) >= examined.test.streams:
            self._close(asked)
            asked.answer.set_result(tuple(asked.found[number] for number in sorted(asked.found)))

    def refuse(self, asked: Asked, why: str) -> None:
        """The engine did not carry it out, or its answer cannot be used."""
        self._close(asked)
        hint = "Update saewatch in the engine's environment, or see its log."
        error = EngineError(f"engine {asked.engine}", found=why[:200] or "a refusal", expected="a self-test", hint=hint)
        asked.answer.set_exception(error)

    def disconnect(self, link: int) -> None:
        """The connection has gone, and with it what it was asked."""
        asked = self._asked.get(link)
        if asked is not None:
            self._close(asked)
            hint = "Its log may say why it left; `saewatch status` says whether it has come again."
            error = UnreachableError(f"engine {asked.engine}", found="no connection", expected="an answer", hint=hint)
            asked.answer.set_exception(error)

    def _close(self, asked: Asked) -> None:
        if self._asked.get(asked.link) is asked:
            del self._asked[asked.link]
