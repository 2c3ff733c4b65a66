"""The last events, shared by all subscribers; each has a cursor. Memory is one ring, however many they are.

A cursor that the ring's tail has overtaken gets a gap of exact size: every entry knows how many tokens and firings came
before it, and a cursor how many it has seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from saewatch.core import limits

_NOWHERE: Mapping[str, Any] = {}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next event of a subscriber, and what all events before it held: in all, and in each engine's account."""

    event: int
    tokens: int
    firings: int
    places: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


BEGINNING = Cursor(1, 0, 0)
"""The first event of all."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One event."""

    at: Cursor
    item: T
    size: int
    after: Cursor


@dataclass(frozen=True, slots=True)
class Missing:
    """Events that were overtaken: ``first`` to ``last``."""

    first: int
    last: int
    tokens: int
    firings: int


class Ring(Generic[T]):
    """Events numbered from 1, ``bound`` bytes of them."""

    def __init__(self, bound: int = limits.REPLAY_BYTES) -> None:
        self._bound = bound
        self._entries: deque[Entry[T]] = deque()
        self._bytes = 0
        self.head = BEGINNING
        """Where the next event will be."""

    @property
    def tail(self) -> Cursor:
        """The oldest event that is kept."""
        return self._entries[0].at if self._entries else self.head

    @property
    def bytes(self) -> int:
        """Bytes of what is kept."""
        return self._bytes

    def append(
        self, item: T, *, size: int, tokens: int = 0, firings: int = 0, places: Mapping[str, Any] = _NOWHERE
    ) -> None:
        """A new event; the oldest ones go. ``places`` is where the streams are behind it."""
        after = Cursor(self.head.event + 1, self.head.tokens + tokens, self.head.firings + firings, places)
        self._entries.append(Entry(self.head, item, size, after))
        self.head = after
        self._bytes += size
        while self._bytes > self._bound and len(self._entries) > 1:
            self._bytes -= self._entries.popleft().size

    def missing(self, cursor: Cursor) -> Missing | None:
        """What ``cursor`` can no longer get; it goes on at the tail."""
        tail = self.tail
        if cursor.event >= tail.event:
            return None
        return Missing(cursor.event, tail.event - 1, tail.tokens - cursor.tokens, tail.firings - cursor.firings)

    def next(self, cursor: Cursor) -> Entry[T] | None:
        """The event at ``cursor``, which must not be overtaken; None when it is still to come."""
        index = cursor.event - self.tail.event
        assert index >= 0, "an overtaken cursor goes on at the tail"
        return self._entries[index] if index < len(self._entries) else None
