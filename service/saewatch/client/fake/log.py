"""The events of a fake sidecar: the last ones are kept, each with a place that a resume token names.

Places count tokens and firings from the very first run on, so that what a token's place can no longer give has an exact
size, after a restart too.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from dataclasses import dataclass

from saewatch.client.fake.rows import Rows
from saewatch.edge.pb import firing_pb2

Item = Rows | firing_pb2.WatchFiringsResponse
"""A batch that is still to be filtered, or another event as it is sent."""
_TOKEN = re.compile(r"fake-(\d{1,9})-(\d{1,18})-(\d{1,18})-(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subscriber is: the next event of a run, and what all events before it held."""

    run: int
    event: int
    tokens: int
    firings: int

    @property
    def token(self) -> str:
        """The resume token."""
        return f"fake-{self.run}-{self.event}-{self.tokens}-{self.firings}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event."""

    at: Place
    item: Item
    after: Place


class Log:
    """The last ``window`` events of the run. Methods may be called from any thread."""

    def __init__(self, window: int) -> None:
        self.changed = threading.Condition()
        """Notified of every event."""
        self._entries: deque[Entry] = deque(maxlen=window)
        self._head = Place(1, 1, 0, 0)

    @property
    def head(self) -> Place:
        """Where the next event will be."""
        return self._head

    @property
    def tail(self) -> Place:
        """The oldest event that is kept."""
        with self.changed:
            return self._entries[0].at if self._entries else self._head

    def entries(self) -> list[Entry]:
        """What is kept."""
        with self.changed:
            return list(self._entries)

    def append(self, item: Item, *, tokens: int = 0, firings: int = 0) -> None:
        """A new event."""
        with self.changed:
            at = self._head
            self._head = Place(at.run, at.event + 1, at.tokens + tokens, at.firings + firings)
            self._entries.append(Entry(at, item, self._head))
            self.changed.notify_all()

    def next_run(self) -> None:
        """A new run, without any event."""
        with self.changed:
            self._entries.clear()
            self._head = Place(self._head.run + 1, 1, self._head.tokens, self._head.firings)

    def next(self, place: Place) -> Entry | None:
        """The event at ``place``, or the oldest one after it; None when there is none yet."""
        with self.changed:
            index = place.event - self.tail.event
            return self._entries[max(index, 0)] if index < len(self._entries) else None


def read_token(text: str) -> Place | None:
    """The place of a token; None for what is no token of ours."""
    match = _TOKEN.fullmatch(text)
    return Place(*map(int, match.groups())) if match else None
