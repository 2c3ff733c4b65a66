"""From the ingest thread to the sinks: the monitor behind a lock, and a bounded queue in front of each sink.

The thread never waits for a sink. What a full queue does not take is dropped, newest first, and counted in events,
tokens and firings; the sink gets the count in the place of what it missed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from saewatch.core import limits
from saewatch.core.records import Ack, Record
from saewatch.monitor import spans
from saewatch.monitor.events import Event, Observed
from saewatch.monitor.monitor import Monitor, Status
from saewatch.monitor.record import RequestRecord
from saewatch.monitor.tables import KnownDictionary


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a sink did not get."""

    events: int
    tokens: int
    firings: int


Item = Event | Dropped


@dataclass(frozen=True, slots=True)
class QueueState:
    """How a sink's queue stands."""

    name: str
    bytes: int
    dropped: int


class SinkQueue:
    """Events that wait for one sink. ``wake`` is called, from the ingest thread, when the first one arrives."""

    def __init__(self, name: str, wake: Callable[[], None], bound: int = limits.SINK_QUEUE_BATCHES) -> None:
        self.name = name
        self._wake = wake
        self._bound = bound
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._missed = [0, 0, 0]
        self._dropped = 0

    def put(self, events: Sequence[Event]) -> None:
        """Called by the ingest thread; never waits."""
        with self._lock:
            first = not self._items and not self._missed[0]
            for event in events:
                if len(self._items) < self._bound:
                    self._keep(event)
                else:
                    self._drop(event)
        if first:
            self._wake()

    def take(self) -> list[Item]:
        """Everything that waits, and at its end what was dropped."""
        with self._lock:
            items = list(self._items)
            if self._missed[0]:
                items.append(Dropped(*self._missed))
            self._items.clear()
            self._missed = [0, 0, 0]
            self._bytes = 0
        return items

    def state(self) -> QueueState:
        """How it stands."""
        with self._lock:
            return QueueState(self.name, self._bytes, self._dropped)

    def _keep(self, event: Event) -> None:
        self._items.append(event)
        if isinstance(event, Observed):
            self._bytes += spans.nbytes(event.batch)

    def _drop(self, event: Event) -> None:
        self._dropped += 1
        self._missed[0] += 1
        if isinstance(event, Observed):
            self._missed[1] += event.batch.rows + int(event.batch.missed_tokens.sum())
            self._missed[2] += event.batch.firings


class Clock:
    """Nanoseconds since 1970 at the start, and from there on without the steps of the wall clock."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def __call__(self) -> int:
        """Now."""
        return time.monotonic_ns() + self._offset


class Pipeline:
    """The consumer of the source, and what services ask for the state of things."""

    def __init__(
        self,
        *,
        dictionaries: Mapping[str, KnownDictionary],
        queues: Sequence[SinkQueue] = (),
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._monitor = Monitor(dictionaries=dictionaries)
        self._queues = tuple(queues)
        self._clock = clock or Clock()
        self._lock = threading.Lock()

    # --- from the source ------------------------------------------------------------------------------------------
    def connect(self, link: int) -> None:
        """A connection was made."""
        with self._lock:
            self._monitor.connect(link)

    def receive(self, link: int, record: Record) -> None:
        """Observes a record and hands on what it came to. Raises `RecordError` when it makes no sense."""
        with self._lock:
            events = self._monitor.receive(link, record, self._clock())
        self._hand_on(events)

    def acknowledge(self, link: int, stream: int) -> Ack | None:
        """What has been received of a stream."""
        with self._lock:
            return self._monitor.acknowledge(link, stream)

    def disconnect(self, link: int) -> None:
        """A connection is gone."""
        with self._lock:
            self._monitor.disconnect(link, self._clock())

    def tick(self) -> None:
        """Time has passed."""
        with self._lock:
            events = self._monitor.tick(self._clock())
        self._hand_on(events)

    def _hand_on(self, events: list[Event]) -> None:
        if events:
            for queue in self._queues:
                queue.put(events)

    # --- for the services -----------------------------------------------------------------------------------------
    def status(self) -> Status:
        """The state of things."""
        with self._lock:
            return self._monitor.status(self._clock())

    def records(self, name: str) -> list[RequestRecord]:
        """The records of the requests of that name."""
        with self._lock:
            return self._monitor.records(name)

    def queues(self) -> list[QueueState]:
        """The sinks' queues."""
        return [queue.state() for queue in self._queues]
