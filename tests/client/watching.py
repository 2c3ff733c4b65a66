"""Watches in a thread, and what they hand out."""

from __future__ import annotations

import threading
import time
from random import Random
from typing import TypeVar

from saewatch.client import Coverage, Event, Firings, Heartbeat, Watch
from tests.waiting import wait_until

T = TypeVar("T")
WAIT_S = 20.0
"""For what takes a moment on an idle machine."""


class Eager(Random):
    """Waits as little as there is."""

    def uniform(self, a: float, b: float) -> float:
        return b / 20


class Reader:
    """Reads a watch in a thread of its own until it ends; what it raised is kept."""

    def __init__(self, watch: Watch, *, pause_s: float = 0.0) -> None:
        self.watch = watch
        self.events: list[Event] = []
        self.error: Exception | None = None
        self._pause_s = pause_s
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self.watch:
                self.events.append(event)
                time.sleep(self._pause_s)
        except Exception as error:  # whatever ends the watch is what the test looks at
            self.error = error

    def of(self, kind: type[T]) -> list[T]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def kinds(self) -> list[str]:
        """What came, but for signs of life."""
        return [type(event).__name__ for event in list(self.events) if not isinstance(event, Heartbeat | Coverage)]

    @property
    def positions(self) -> list[int]:
        """Every row that was seen, by its position: of one request, in order."""
        return [
            position + offset
            for event in self.of(Firings)
            for position, tokens in zip(event.span_position.tolist(), event.span_tokens.tolist(), strict=True)
            for offset in range(tokens)
        ]

    def wait(self, kind: type[Event], count: int = 1) -> None:
        """Until there are so many of a kind."""
        wait_until(
            lambda: len(self.of(kind)) >= count or self.error is not None,
            lambda: f"{count} {kind.__name__}: {self.kinds}",
        )

    def end(self) -> None:
        """Closes the watch, and waits for the thread."""
        self.watch.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "a watch that was closed goes on"
