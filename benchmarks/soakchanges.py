"""What a soak changes while its engine serves: another dictionary and the first one again, other features, off and on.

A command goes out each `EVERY` requests, unless the one before waits for its answer. Each of them fits: what the engine
refuses is a fault.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks.tiny import FEW
from saewatch.core.records import Command, Result

EVERY = 25
"""Requests between two commands: all kinds of them in the quick form, and 400 in the whole one."""


class Changes:
    """Swaps between two bundles, each a folder and its weights digest, of which the first is in force at the start."""

    def __init__(self, bundles: Sequence[tuple[str, str]], *, every: int = EVERY) -> None:
        self.made = Counter[str]()  # by verb
        self.refused: list[str] = []
        self.off = False
        self._every = every
        self._ended = 0
        self._waiting: Command | None = None
        self._commands = _commands(*bundles)

    def request_ended(self) -> Command | None:
        """Another one; the command that is to be sent now."""
        self._ended += 1
        if self._waiting or self._ended % self._every:
            return None
        self._waiting = next(self._commands)
        return self._waiting

    def answered(self, result: Result) -> None:
        """The engine says that it is in force, or why not."""
        asked, self._waiting = self._waiting, None
        if asked is None or asked.command != result.command:
            self.refused.append(f"an answer to command {result.command}, which nobody waits for")
        elif not result.good:
            self.refused.append(f"{asked.verb}: {result.message}")
        else:
            self.made[asked.verb] += 1
            self.off = self.off if asked.verb not in ("off", "on") else asked.verb == "off"


def _commands(first: tuple[str, str], second: tuple[str, str]) -> Iterator[Command]:
    """Over and over: the second dictionary, some of its features, all; the first dictionary; off, on."""
    (path, weights), (other_path, other) = first, second
    cycle: Sequence[tuple[str, dict[str, str]]] = (
        ("load", {"replace": weights, "path": other_path, "weights": other}),
        ("watch", {"weights": other, "watch": json.dumps([FEW])}),
        ("watch", {"weights": other, "watch": ""}),
        ("load", {"replace": other, "path": path, "weights": weights}),
        ("off", {}),
        ("on", {}),
    )
    for number, (verb, arguments) in enumerate(itertools.cycle(cycle), start=1):
        yield Command(command=number, verb=verb, arguments=arguments)
