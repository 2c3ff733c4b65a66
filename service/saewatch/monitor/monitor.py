"""Binds streams, requests, records and rates: a record and the time go in, events for the sinks come out.

A *link* is a connection; streams, requests and watch sets are known by (engine, epoch) and the engine's numbers, so
that they outlive it. Records that make no sense where they come (a batch of a stream that was not opened, the end of a
request that is not open) raise `RecordError` and change nothing. So does an engine whose name another has taken; when
that one has been gone for long, `AccessError` says that who connects anew is heard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch, WatchSet
from saewatch.core.errors import AccessError, RecordError
from saewatch.core.records import (
    Ack,
    Beat,
    Record,
    RequestEnd,
    RequestLabel,
    RequestStart,
    StreamEnd,
    StreamOpen,
)
from saewatch.core.selftest import SelfTest
from saewatch.monitor import observe
from saewatch.monitor.blindness import HINTS, REPLACED, Blindness
from saewatch.monitor.compared import Comparison
from saewatch.monitor.events import BlindState, EngineCost, Event, RequestEnded, Standing, StreamState, Unreadable
from saewatch.monitor.record import RequestRecord, record_of
from saewatch.monitor.requests import RequestTable
from saewatch.monitor.roster import EngineKey, Request
from saewatch.monitor.streams import StreamRecord, StreamTable
from saewatch.monitor.tables import KnownDictionary, StreamIdentity, WatchTable
from saewatch.monitor.window import Rates, Window

FAULTS = (
    *("duplicate_batches", "labels_given_up", "labels_late", "labels_missing", "refused_tokens", "requests_lost"),
    *("seq_gaps", "unattributed_tokens", "unknown_dictionaries", "unreadable_tokens"),
)
"""What is counted beside the books: each is 0 when all is well."""


@dataclass(slots=True)
class Link:
    """One connection, of an engine or of an API server."""

    engine: EngineKey | None = None
    beats: int = 0
    reconnected: bool = False


@dataclass(slots=True)
class EngineState:
    """What is remembered of one start of an engine."""

    link: int | None
    left_ns: int = 0  # since when it has no link
    stage_seconds: Mapping[str, float] | None = None
    queue_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Status:
    """Everything that GetStatus tells of the monitor."""

    streams: tuple[StreamState, ...]
    blind: tuple[BlindState, ...]
    rates: Rates
    counters: Mapping[str, int]
    open_requests: int
    kept_records: int
    links: int
    queues: tuple[tuple[str, int], ...]  # bytes that wait in each engine

    @property
    def standing(self) -> Standing:
        """The part that subscribers are told of."""
        return Standing(streams=self.streams, blind=self.blind)


class Monitor:
    """One sidecar's view of its engines."""

    def __init__(self, *, dictionaries: Mapping[str, KnownDictionary]) -> None:
        self._links: dict[int, Link] = {}
        self._engines: dict[EngineKey, EngineState] = {}
        self._streams = StreamTable(dictionaries)
        self._requests = RequestTable()
        self._window = Window()
        self._blindness = Blindness()
        self._counters: Counter[str] = Counter()
        self._take: Mapping[type[Any], Callable[[int, Link, Any, int], list[Event]]] = {
            StreamOpen: self._open,
            WatchSet: self._watch,
            RequestStart: self._start,
            RequestEnd: self._end,
            FiringBatch: self._batch,
            Beat: self._beat,
            StreamEnd: self._stream_end,
            RequestLabel: self._label,
            Census: self._census,
        }

    # --- what the source calls ------------------------------------------------------------------------------------
    def connect(self, link: int) -> None:
        """A connection was made."""
        self._links[link] = Link()

    def disconnect(self, link: int, now_ns: int) -> None:
        """It is gone, and everything that came on it was received."""
        gone = self._links.pop(link)
        self._streams.detach(link)
        state = self._engines.get(gone.engine) if gone.engine else None
        if state is not None and state.link == link:
            state.link, state.left_ns = None, now_ns

    def receive(self, link: int, record: Record, now_ns: int) -> list[Event]:
        """Takes one record. Raises `RecordError` where it makes no sense, `AccessError` where another link would do."""
        take = self._take.get(type(record))
        if take is None:
            raise RecordError(type(record).__name__, found="on the way to the sidecar", expected="on the way from it")
        return take(link, self._links[link], record, now_ns)

    def tick(self, now_ns: int) -> list[Event]:
        """Time has passed: labels are overdue, engines are gone, streams are blind."""
        events = self._released(self._requests.overdue(now_ns))
        for engine, state in list(self._engines.items()):
            if state.link is None and now_ns - state.left_ns > limits.LOST_ENGINE_NS:
                del self._engines[engine]
                events += self._lose(self._requests.of_engine(engine), now_ns)
        return [*events, *self._look(now_ns)]

    def due_ns(self, now_ns: int) -> float:
        """After a tick: when time alone changes something next, at the earliest; infinity: never."""
        gone = [state.left_ns + limits.LOST_ENGINE_NS for state in self._engines.values() if state.link is None]
        return min([self._requests.due_ns, self._streams.due_ns(now_ns), *gone])

    def acknowledge(self, link: int, number: int) -> Ack | None:
        """What has been received of the stream that this link carries under that number."""
        engine = self._links[link].engine
        stream = self._streams.find(engine, number) if engine else None
        return Ack(stream=number, epoch=engine[1], seq=stream.seq) if engine and stream else None

    def self_test(self, link: int, test: SelfTest, now_ns: int) -> tuple[StreamIdentity, list[Event]]:
        """The engine on ``link`` has tested a stream: which one, and what changed. Raises `RecordError` for none."""
        stream = self._stream(self._links[link], test.stream, "self_test.stream")
        stream.self_test(test)
        return stream.identity, self._look(now_ns)

    def relabel(self, known: KnownDictionary, now_ns: int) -> list[Event]:
        """``known`` explains its weights from here on, also in streams that are open."""
        self._streams.relabel(known)
        return self._look(now_ns) or [self.standing(now_ns)]

    def replaced(self, link: int, opened: int, arguments: Mapping[str, str]) -> None:
        """The engine on ``link`` has opened a stream in the place of the one that a ``load`` of these named."""
        self._streams.leave(link, opened, arguments)

    # --- what others ask ------------------------------------------------------------------------------------------
    def engines(self) -> dict[str, int]:
        """The engines that are connected, and their links."""
        return {engine[0]: state.link for engine, state in self._engines.items() if state.link is not None}

    def opened(self, link: int) -> list[StreamIdentity]:
        """The streams that are open on a connection, but for those in whose place others are."""
        return [stream.identity for stream in self._streams if stream.link == link and not stream.leaving]

    def standing(self, now_ns: int) -> Standing:
        """The books and what is blind."""
        streams = tuple(stream.state(now_ns) for stream in self._streams)
        return Standing(streams=streams, blind=self._blindness.states)

    def status(self, now_ns: int) -> Status:
        """Everything at once."""
        self._requests.settle()
        standing = self.standing(now_ns)
        return Status(
            streams=standing.streams,
            blind=standing.blind,
            rates=self._window.rates(now_ns),
            counters={**dict.fromkeys(FAULTS, 0), **self._counters, **self._requests.counters},
            open_requests=self._requests.open_count,
            kept_records=self._requests.kept_count,
            links=len(self._links),
            queues=tuple((name, state.queue_bytes) for (name, _), state in self._engines.items()),
        )

    def comparisons(self, now_ns: int) -> list[Comparison]:
        """Shadow dictionaries beside the stable ones."""
        self._requests.settle()
        return self._requests.shadows.comparisons(now_ns)

    def records(self, name: str) -> list[RequestRecord]:
        """The records of the requests of that key, engine's id or client's id, latest first."""
        return [record_of(request) for request in self._requests.named(name)]

    # --- engines and streams --------------------------------------------------------------------------------------
    def _identify(self, number: int, link: Link, engine: EngineKey, now_ns: int) -> list[Event]:
        """A link belongs to an engine from its first stream or beat on."""
        if link.engine == engine:
            self._owned(number, link)
            return []
        if link.engine is not None:
            raise RecordError("engine", found=_named(engine), expected=f"{link.engine[0]}, as before")
        link.engine = engine
        others = {known for known in self._engines if known[0] == engine[0] and known != engine}
        newest = max(others, default=engine)
        if newest > engine:
            raise RecordError(
                "engine", found=_named(engine), expected=f"{_named(newest)} or later", hint=HINTS[REPLACED]
            )
        known = self._engines.get(engine)
        if known is not None:
            link.reconnected = True
            self._requests.doubt(engine)
        self._engines[engine] = EngineState(number, stage_seconds=known.stage_seconds if known else None)
        events: list[Event] = []
        for older in sorted(others.union(self._streams.replaced(engine))):
            events += self._lose(self._requests.of_engine(older), now_ns)
            self._engines.pop(older, None)
        return events

    def _owned(self, number: int, link: Link) -> EngineKey:
        """The engine that speaks on this link.

        Raises `RecordError` for none, and when another link took its place; `AccessError` when that is free again.
        """
        if link.engine is None:
            raise RecordError("engine", found="no stream or beat before it", expected="a connection of an engine")
        if not self._owns(number, link.engine):
            found, expected = f"{_named(link.engine)}, whose place another took", "an engine with a name of its own"
            taken = any(name == link.engine[0] for name, _ in self._engines)
            refused = RecordError if taken else AccessError
            raise refused("engine", found=found, expected=expected, hint=HINTS[REPLACED])
        return link.engine

    def _owns(self, number: int, engine: EngineKey) -> bool:
        state = self._engines.get(engine)
        return state is not None and state.link == number

    def _see(self, now_ns: int) -> bool:
        """Looks for what is blind; True when something changed."""
        connected = [engine for engine, state in self._engines.items() if state.link is not None]
        self._streams.take_places(self._engines, connected)
        links = ((number, link.engine) for number, link in self._links.items())
        replaced = [engine for number, engine in links if engine and not self._owns(number, engine)]
        return self._blindness.look(self._streams, connected, replaced, now_ns)

    def _open(self, number: int, link: Link, record: StreamOpen, now_ns: int) -> list[Event]:
        events = self._identify(number, link, (record.engine, record.epoch), now_ns)
        stream = self._streams.open(number, record, now_ns)
        self._counters["unknown_dictionaries"] += bool(record.weights_digest) and stream.identity.dictionary is None
        return [*events, *self._look(now_ns)]

    def _watch(self, _: int, link: Link, record: WatchSet, __: int) -> list[Event]:
        self._streams.watch(self._stream(link, record.stream, "watch_set.stream"), record)
        return []

    def _beat(self, number: int, link: Link, record: Beat, now_ns: int) -> list[Event]:
        engine = (record.engine, record.epoch)
        events = self._identify(number, link, engine, now_ns)
        link.beats += 1
        if link.reconnected and link.beats == 2:
            unheard = [request for request in self._requests.of_engine(engine) if not request.confirmed]
            events += self._lose(unheard, now_ns)
        streams = self._streams.beat(record, now_ns)
        self._see(now_ns)
        return [*events, *self._cost(record, streams), self.standing(now_ns)]

    def _cost(self, record: Beat, streams: Iterable[StreamRecord]) -> list[Event]:
        """The seconds since the last beat; the first one is where counting begins."""
        state = self._engines[record.engine, record.epoch]
        before, state.stage_seconds = state.stage_seconds, record.stage_seconds
        state.queue_bytes = record.queue_bytes
        opening = next((stream.opening for stream in streams), None)
        if opening is None:
            return []
        spent = (
            {stage: max(seconds - before.get(stage, 0.0), 0.0) for stage, seconds in record.stage_seconds.items()}
            if before is not None
            else {}
        )
        return [
            EngineCost(
                model_name=opening.model_name,
                rank=str(opening.dp_rank),
                stage_seconds=spent,
                queue_bytes=record.queue_bytes,
            )
        ]

    def _stream_end(self, _: int, link: Link, record: StreamEnd, now_ns: int) -> list[Event]:
        self._streams.end(self._stream(link, record.stream, "stream_end.stream"), record)
        if record.reason != "swap":  # the next stream is on its way: without it the engine is blind at the next look
            self._see(now_ns)
        return [self.standing(now_ns)]

    def _stream(self, link: Link, number: int, subject: str) -> StreamRecord:
        stream = self._streams.find(link.engine, number) if link.engine else None
        if stream is None or stream.link is None or self._links.get(stream.link) is not link:
            raise RecordError(subject, found=number, expected="a stream that was opened on this connection")
        return stream

    def _look(self, now_ns: int) -> list[Event]:
        return [self.standing(now_ns)] if self._see(now_ns) else []

    # --- requests -------------------------------------------------------------------------------------------------
    def _start(self, number: int, link: Link, record: RequestStart, now_ns: int) -> list[Event]:
        return self._told_lost(self._requests.start(self._owned(number, link), record, now_ns))

    def _end(self, number: int, link: Link, record: RequestEnd, now_ns: int) -> list[Event]:
        request = self._requests.end(self._owned(number, link), record, now_ns)
        return [] if self._requests.waits(request) else [self._ended(request)]

    def _label(self, _: int, __: Link, record: RequestLabel, ___: int) -> list[Event]:
        return self._released(self._requests.label(record))

    def _lose(self, requests: list[Request], now_ns: int) -> list[Event]:
        for request in requests:
            self._requests.lose(request, now_ns)
        return self._told_lost(requests)

    def _told_lost(self, requests: list[Request]) -> list[Event]:
        return [self._ended(request) for request in requests if not self._requests.waits(request)]

    def _released(self, requests: Iterable[Request]) -> list[Event]:
        """What was held for requests that have an identity now."""
        events: list[Event] = []
        for request in requests:
            for batch, table in self._requests.release(request):
                events.append(observe.identified(observe.of_one(batch, table, request), self._requests))
            if not request.open:
                events.append(self._ended(request))
        return events

    def _ended(self, request: Request) -> RequestEnded:
        """The end of a request, told once and after everything else of it."""
        assert request.identity is not None, "only requests with an identity are told of"
        self._requests.leave(request)
        end = request.end
        return RequestEnded(
            identity=request.identity,
            fed=end.fed if end else 0,
            emitted=end.emitted if end else 0,
            lost=request.lost,
        )

    # --- batches --------------------------------------------------------------------------------------------------
    def _batch(self, _: int, link: Link, batch: FiringBatch, now_ns: int) -> list[Event]:
        stream = self._stream(link, batch.stream, "firing_batch.stream")
        gaps, rows = stream.seq_gaps, stream.rows
        if not stream.accept(batch):
            self._counters["duplicate_batches"] += 1
            return []
        self._counters["seq_gaps"] += stream.seq_gaps - gaps
        try:
            table = self._table(stream, batch)
        except RecordError:
            self._counters["refused_tokens"] += _tokens(batch)
            stream.unread += stream.rows - rows
            raise
        if table is None:
            self._counters["unreadable_tokens"] += _tokens(batch)
            stream.unread += stream.rows - rows
            return [Unreadable(stream=stream.identity, tokens=_tokens(batch))]
        self._window.add(now_ns, tokens=batch.rows, firings=batch.firings, lag_ns=now_ns - batch.time_ns)
        joined = observe.join(batch, table, (stream.opening.engine, stream.opening.epoch), self._requests)
        observe.book(joined, self._requests)
        observed, given_up = observe.observe(joined, self._requests)
        return [*self._released(given_up), *([observed] if observed else [])]

    def _table(self, stream: StreamRecord, batch: FiringBatch) -> WatchTable | None:
        """What explains the batch's slots; None where the dictionary is not known. Refuses what cannot be explained."""
        if stream.identity.dictionary is None:
            return None
        table = stream.tables.get(batch.watch)
        if table is None:
            raise RecordError("firing_batch.watch", found=batch.watch, expected="a watch set that was told before")
        if batch.firings and int(batch.slot.max()) >= table.slots:
            raise RecordError("firing_batch.slot", found=int(batch.slot.max()), expected=f"below {table.slots}")
        return table

    def _census(self, _: int, link: Link, record: Census, __: int) -> list[Event]:
        stream = self._streams.find(link.engine, record.stream) if link.engine else None
        return [*observe.sampled(record, stream.identity)] if stream else []


def _named(engine: EngineKey) -> str:
    return f"{engine[0]} of {engine[1]}"


def _tokens(batch: FiringBatch) -> int:
    return batch.rows + int(batch.missed_tokens.sum())
