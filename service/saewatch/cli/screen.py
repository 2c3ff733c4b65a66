"""How `saewatch watch` looks: a line for each token on which something fires, and a last one that says how it goes.

Names that clients chose reach the terminal, so what is not printable is not printed.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TextIO

from saewatch.cli.terminal import printable
from saewatch.client.events import (
    Blind,
    Coverage,
    Disconnected,
    Event,
    Gap,
    Heartbeat,
    Reconnected,
    RequestEnded,
    Totals,
)
from saewatch.client.firings import Firing, Firings, clock
from saewatch.client.plain import plain
from saewatch.core.label import shown

RATE_S = 5.0
"""Over which tokens a second are taken."""
RED, GREEN, YELLOW, BOLD_RED, DIM, PLAIN = "31", "32", "33", "1;31", "2", ""
SEVERITIES = {"medium": YELLOW, "high": RED, "critical": BOLD_RED}
CLEAR = "\r\x1b[K"


class Screen:
    """For people.

    Args:
        out: where to.
        live: whether it is a terminal that takes a line at the bottom.
        colour: whether it takes colours.
    """

    def __init__(self, out: TextIO, *, live: bool, colour: bool) -> None:
        self._out = out
        self._live = live
        self._colour = colour
        self._explained: set[str] = set()
        self._recent: deque[tuple[float, int]] = deque()
        self._coverage: Coverage | None = None
        self._blind: tuple[Blind, ...] = ()
        self._gaps = 0
        self._down = False

    def show(self, event: Event) -> None:
        """One event."""
        for text, colour in self._lines(event):
            self._print(text, colour)
        if self._live:
            self._out.write(f"{CLEAR}{self._status(time.monotonic())[: shutil.get_terminal_size().columns - 1]}")
        self._out.flush()

    def standing(self, blind: Sequence[Blind]) -> None:
        """What is blind from now on; what has changed becomes a line."""
        named = {(one.scope, one.reason, one.subject) for one in self._blind}
        self._blind = tuple(blind)
        for one in self._blind:
            if (one.scope, one.reason, one.subject) not in named:
                self._print(f"{one} Until then no firings do not mean that nothing fired.", BOLD_RED)
        if named and not self._blind:
            self._print("nothing is blind any more", GREEN)

    def end(self, totals: Totals, resume_token: str) -> None:
        """The last words."""
        if self._live:
            self._out.write(CLEAR)
        self._print(f"{totals}", PLAIN)
        if resume_token:
            self._print(f"go on with --resume-token {resume_token}", DIM)

    def _lines(self, event: Event) -> Iterator[tuple[str, str]]:
        if isinstance(event, Firings):
            self._recent.append((time.monotonic(), event.tokens))
            yield from self._firings(event)
        elif isinstance(event, Coverage):
            self._coverage = event
            self.standing(event.blind)
        elif isinstance(event, Gap):
            self._gaps += 1
            yield str(event), YELLOW
        elif isinstance(event, RequestEnded):
            yield f"{clock(time.time_ns())} {event}", DIM
        elif isinstance(event, Disconnected | Reconnected):
            self._down = isinstance(event, Disconnected)
            yield str(event), RED if self._down else GREEN

    def _firings(self, event: Firings) -> Iterator[tuple[str, str]]:
        for _, group in itertools.groupby(event, lambda one: (one.request, one.position)):
            fired = list(group)
            for one in fired:
                if one.feature and one.feature not in self._explained:
                    self._explained.add(one.feature)
                    label = shown(one.label, one.label_review)
                    yield f"         {one.feature}: {label} ({one.category}, {one.severity})", DIM
            yield _token(fired), max((SEVERITIES.get(one.severity, PLAIN) for one in fired), key=_RANK.index)

    def _status(self, now_s: float) -> str:
        while self._recent and self._recent[0][0] < now_s - RATE_S:
            self._recent.popleft()
        rate = sum(tokens for _, tokens in self._recent) / RATE_S
        coverage = f"coverage {self._coverage.overall:.4f}" if self._coverage else "coverage not told yet"
        blind = f" · BLIND: {', '.join(one.reason for one in self._blind)}" if self._blind else ""
        down = " · DISCONNECTED" if self._down else ""
        return printable(f"{rate:.0f} tokens/s · {coverage} · {self._gaps} gaps{blind}{down}")

    def _print(self, text: str, colour: str) -> None:
        clean = printable(text)
        painted = f"\x1b[{colour}m{clean}\x1b[0m" if self._colour and colour else clean
        self._out.write(f"{CLEAR if self._live else ''}{painted}\n")


class JsonLines:
    """For programs: each event is an object, and the totals are the last one."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, event: Event) -> None:
        """One event; heartbeats are left out."""
        if not isinstance(event, Heartbeat):
            print(json.dumps(plain(event)), file=self._out, flush=True)

    def end(self, totals: Totals, resume_token: str) -> None:
        """The last object."""
        print(
            json.dumps({"event": "totals", **asdict(totals), "resume_token": resume_token}), file=self._out, flush=True
        )


_RANK = (PLAIN, YELLOW, RED, BOLD_RED)


def _token(fired: Sequence[Firing]) -> str:
    """What fired on one token."""
    first = fired[0]
    where = "" if first.prompt is None else "prompt " if first.prompt else "answer "
    features = "  ".join(f"{one.feature or one.unit} {one.value:.2f}" for one in fired)
    return f"{clock(first.time_ns)} {first.request or 'unknown request'} {where}{first.position}: {features}"
