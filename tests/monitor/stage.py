"""A monitor with a clock that the test turns, and the records of an engine in short words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saewatch.core.records import Beat, Record, RequestEnd, RequestLabel, RequestStart, StreamBeat
from saewatch.monitor.events import Event, Observed, RequestEnded, Standing
from saewatch.monitor.monitor import Monitor
from saewatch.monitor.tables import KnownDictionary
from tests import fakes

SECOND = 1_000_000_000
ENGINE, API = 1, 2
"""Links."""


class Stage:
    """One monitor with an engine on link 1 and an API server on link 2."""

    def __init__(self, known: KnownDictionary | None = None, *others: KnownDictionary) -> None:
        self.known = known or fakes.dictionary()
        self.monitor = Monitor(dictionaries={one.weights_digest: one for one in (self.known, *others)})
        self.now = 1_000 * SECOND
        self.seq = 0
        self.events: list[Event] = []
        for link in (ENGINE, API):
            self.monitor.connect(link)

    def ready(self) -> Stage:
        """A stream that is watched, and a beat."""
        self.put(fakes.stream_open(self.known), fakes.watch_set(self.known))
        self.beat()
        return self

    def put(self, *records: Record, link: int = ENGINE) -> list[Event]:
        """Receives records; gives and keeps the events."""
        found = [event for record in records for event in self.monitor.receive(link, record, self.now)]
        self.events += found
        return found

    def tick(self, seconds: float = 0.0) -> list[Event]:
        """Lets time pass."""
        self.now += int(seconds * SECOND)
        found = self.monitor.tick(self.now)
        self.events += found
        return found

    def start(self, request: int, *, name: str = "", prompt_len: int = 4, link: int = ENGINE) -> list[Event]:
        """A request begins."""
        engine_id = name or fakes.engine_id(request)
        return self.put(RequestStart(request=request, engine_id=engine_id, prompt_len=prompt_len), link=link)

    def label(self, request: int, **fields: Any) -> list[Event]:
        """A label comes."""
        known = {"client_id": f"client-{request}", "tenant": "acme"}
        return self.put(RequestLabel(key=fakes.key(request), **{**known, **fields}), link=API)

    def batch(
        self, spans: Sequence[fakes.Span], firings: Sequence[fakes.Firing] = (), *, link: int = ENGINE, **fields: Any
    ) -> list[Event]:
        """A batch comes, with the next seq."""
        self.seq = fields.pop("seq", self.seq + 1)
        return self.put(fakes.batch(spans, firings, seq=self.seq, time_ns=self.now, **fields), link=link)

    def end(self, request: int, *, fed: int = 4, emitted: int = 1) -> list[Event]:
        """A request ends."""
        return self.put(RequestEnd(request=request, fed=fed, emitted=emitted))

    def beat(self, *books: StreamBeat, link: int = ENGINE, **fields: Any) -> list[Event]:
        """A beat comes."""
        known = {"engine": "engine-0", "epoch": 1000, "time_ns": self.now}
        streams = books or (StreamBeat(stream=1, seq=self.seq),)
        return self.put(Beat(**{**known, **fields}, streams=streams), link=link)

    def faults(self) -> dict[str, int]:
        """Counters that are not zero."""
        return {name: count for name, count in self.monitor.status(self.now).counters.items() if count}


def observed(events: Sequence[Event]) -> list[Observed]:
    """The batches among events."""
    return [event for event in events if isinstance(event, Observed)]


def ended(events: Sequence[Event]) -> list[RequestEnded]:
    """The ends among events."""
    return [event for event in events if isinstance(event, RequestEnded)]


def standing(events: Sequence[Event]) -> list[Standing]:
    """The standings among events."""
    return [event for event in events if isinstance(event, Standing)]


def firings_of(event: Observed) -> set[tuple[str, int, int, float]]:
    """Engine id, position, slot and value of each firing; an unknown request is empty."""
    batch = event.batch
    request, position = batch.row_positions()
    by_number = {
        int(number): event.requests[index].engine_id if index >= 0 else ""
        for number, index in zip(batch.request, event.span_request, strict=True)
    }
    return {
        (by_number[int(request[row])], int(position[row]), int(slot), float(value))
        for row, slot, value in zip(batch.row, batch.slot, batch.value, strict=True)
    }
