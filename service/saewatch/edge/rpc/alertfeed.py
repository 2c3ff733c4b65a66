"""The sink that subscribers of alerts read from: the last changes in a ring, each with its number.

Lives on the event loop alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from saewatch.core import limits
from saewatch.edge.pipeline import Dropped, Item
from saewatch.edge.rpc.bell import Bell
from saewatch.edge.rpc.refusals import invalid
from saewatch.edge.rpc.ring import Cursor, Ring
from saewatch.monitor.alert import Alert, AlertChanged

ALERT_BYTES = 2048
"""One alert, about; each part of its evidence as much again."""
_TOKEN = re.compile(r"a1" + 3 * r"\.([0-9a-f]{1,16})", re.ASCII)


class AlertFeed:
    """Changes of alerts, for subscribers. ``run`` names this run of the sidecar in resume tokens."""

    name = "alerts"

    def __init__(self, *, run: int, bound: int = limits.ALERT_REPLAY_BYTES) -> None:
        self.ring: Ring[Alert | Dropped] = Ring(bound)
        self._run = run
        self.bell = Bell()

    def take(self, items: Iterable[Item]) -> None:
        """Takes what the pipeline has."""
        for item in items:
            if isinstance(item, AlertChanged):
                self.ring.append(item.alert, size=ALERT_BYTES * (1 + len(item.alert.evidence)), tokens=1)
            elif isinstance(item, Dropped):
                self.ring.append(item, size=64, tokens=item.events)
        self.bell.ring()

    def token(self, cursor: Cursor) -> str:
        """The resume token of a place."""
        return f"a1.{self._run:x}.{cursor.event:x}.{cursor.tokens:x}"

    def begin(self, text: str) -> tuple[Cursor, bool]:
        """Where a token leads, and whether it is of this run. Raises `Refusal` for what is no token of ours."""
        if not text:
            return self.ring.head, True
        match = _TOKEN.fullmatch(text)
        run, event, changes = (int(part, 16) for part in match.groups()) if match else (0, 0, 0)
        if event < 1:
            raise invalid("resume_token", found=repr(text[:80]), expected="a token that this service gave")
        if run != self._run:
            return self.ring.tail, False
        if event > self.ring.head.event:
            raise invalid("resume_token", found="a place that is still to come", expected="a token of this service")
        return Cursor(event, changes, 0), True
