"""A client that adds up what it is told, over every restart of its sidecar and of the engines behind it."""

from __future__ import annotations

import threading
from collections import Counter

from saewatch.client import Client, Event, Firings, Gap, Heartbeat, Watch


class Subscriber:
    """A client in a thread of its own, for as long as it is wanted. ``before``: whom it goes on for."""

    def __init__(self, address: str, before: Subscriber | None = None) -> None:
        self._before = before
        self._client = Client(address)
        token = before.watch.resume_token if before else ""
        self.watch: Watch = self._client.watch(resume_token=token, heartbeats=True)
        self.told: list[Event] = []
        """All but heartbeats and firings."""
        self.rows: Counter[tuple[str, int]] = Counter()
        """By the engine's name and epoch."""
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def leave(self) -> None:
        self.watch.close()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        for event in self.watch:
            self.ready.set()
            if isinstance(event, Firings):
                self.rows[event.table.stream.engine, event.table.stream.epoch] += event.tokens
            elif not isinstance(event, Heartbeat):
                self.told.append(event)

    @property
    def gaps(self) -> list[Gap]:
        return [event for event in self.told if isinstance(event, Gap)]

    @property
    def seen(self) -> int:
        return self.watch.totals.tokens - self.watch.totals.recomputed

    @property
    def accounted(self) -> int:
        totals = self.watch.totals
        told = self.seen + sum(totals.missed.values()) + totals.gap_tokens - totals.repeated_tokens
        return told + (self._before.accounted if self._before else 0)

    @property
    def firings(self) -> int:
        totals = self.watch.totals
        return totals.firings + totals.gap_firings + (self._before.firings if self._before else 0)
