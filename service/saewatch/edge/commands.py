"""Commands on their way: what engines were asked, who waits, and what has come so far.

One for each connection at most: a call that asks for what is asked already waits for the same answer, so that any
number of calls costs an engine one self-test at a time; what differs is refused meanwhile. The table is guarded by its
owner's lock; answers are futures that a thread completes and a loop may await.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from saewatch.core.checks import count_of
from saewatch.core.errors import EngineError, RecordError, UnreachableError, parts
from saewatch.core.records import Command, Result
from saewatch.core.selftest import SelfTest
from saewatch.monitor.tables import StreamIdentity

SELF_TEST, ON, OFF, WATCH, LOAD = "self_test", "on", "off", "watch", "load"
EXPECTED: Mapping[str, str] = {
    SELF_TEST: "a self-test",
    ON: "a tap that is on",
    OFF: "a tap that is off",
    WATCH: "another watch set",
    LOAD: "another dictionary",
}
"""What an engine is to answer with, by verb."""
_TEXT = 200
"""Of what an engine says, in letters: it goes into a trailer."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A stream and its self-test."""

    stream: StreamIdentity
    test: SelfTest


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an engine answered: its self-tests, or what is in force by its own account."""

    examined: tuple[Examined, ...] = ()
    weights: str = ""  # digest
    watch: str = ""  # digest
    slots: int = 0
    opened: StreamIdentity | None = None  # the stream with another dictionary; None: not heard of


@dataclass(slots=True, eq=False)
class Asked:
    """A command that an engine was sent."""

    engine: str
    link: int
    command: Command
    answer: Future[Answer] = field(default_factory=Future)
    """Raises `UnreachableError` when the engine has gone, `EngineError` when it does not carry the command out."""
    waiting: int = 0
    found: dict[int, Examined] = field(default_factory=dict)  # by stream


class Commands:
    """The commands that wait for an answer."""

    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}  # by link
        self._numbers = itertools.count(secrets.randbelow(2**32))  # one before us began elsewhere

    def ask(self, engine: str, link: int, verb: str, arguments: Mapping[str, str]) -> tuple[Asked, bool]:
        """What to wait for, and whether it is new: then its command is to be sent.

        Raises `EngineError` while the engine carries out something else.
        """
        asked = self._asked.get(link)
        new = asked is None
        if asked is None:
            command = Command(command=next(self._numbers), verb=verb, arguments=arguments)
            asked = Asked(engine, link, command)
            asked.answer.set_running_or_notify_cancel()  # a caller that gives up does not take it from the others
            self._asked[link] = asked
        elif (asked.command.verb, asked.command.arguments) != (verb, arguments):
            found = f"busy with {asked.command.verb!r}, which somebody asked for before"
            raise EngineError(f"engine {engine}", found=found, expected=EXPECTED[verb], hint="Try again in a moment.")
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
        """One of a self-test's results; the last one completes it."""
        asked.found[examined.test.stream] = examined
        if len(asked.found) >= examined.test.streams:
            self._complete(asked, Answer(examined=tuple(asked.found[number] for number in sorted(asked.found))))

    def settle(self, asked: Asked, details: Mapping[str, str], opened: StreamIdentity | None) -> None:
        """What was asked for is in force. Raises `RecordError` for details that say something else than they should."""
        slots = count_of("result.slots", details.get("slots", "0"))
        weights, watch = (details.get(name, "")[:_TEXT] for name in ("weights", "watch"))
        self._complete(asked, Answer(weights=weights, watch=watch, slots=slots, opened=opened))

    def refuse(self, asked: Asked, why: str) -> None:
        """The engine did not carry it out, or its answer cannot be used."""
        self._close(asked)
        asked.answer.set_exception(_refusal(asked, why))

    def disconnect(self, link: int) -> None:
        """The connection has gone, and with it what it was asked."""
        asked = self._asked.get(link)
        if asked is not None:
            self._close(asked)
            hint = "Its log may say why it left; `saewatch status` says whether it has come again."
            error = UnreachableError(f"engine {asked.engine}", found="no connection", expected="an answer", hint=hint)
            asked.answer.set_exception(error)

    def _complete(self, asked: Asked, answer: Answer) -> None:
        self._close(asked)
        asked.answer.set_result(answer)

    def _close(self, asked: Asked) -> None:
        if self._asked.get(asked.link) is asked:
            del self._asked[asked.link]


def _refusal(asked: Asked, why: str) -> EngineError:
    """In the engine's own words where they are those of an error of ours."""
    said = parts(why)
    if said is not None:
        subject, found, expected, hint = (said[name][:_TEXT] for name in ("subject", "found", "expected", "hint"))
        return EngineError(f"engine {asked.engine}: {subject}", found=found, expected=expected, hint=hint)
    hint = "Update saewatch in the engine's environment, or see its log."
    found, expected = why[:_TEXT] or "a refusal", EXPECTED[asked.command.verb]
    return EngineError(f"engine {asked.engine}", found=found, expected=expected, hint=hint)
