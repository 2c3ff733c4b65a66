"""The requests that engines work on, joined with what API servers know of them, and what is kept of ended ones.

An engine's id holds the key that the middleware gave; a request without one is unlabelled at once. One with a key waits
for its label, at most `limits.LABEL_WAIT_NS`: its part of each batch is held meanwhile, in order, and then goes out
under whatever identity the request has got. The identity never changes after that, so that no series counts a request
twice; a label that comes too late still goes into the record.

Engines repeat their open requests after a reconnect. What they do not name by their second beat has ended unheard.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import islice
from math import inf

from saewatch.core import limits
from saewatch.core.batch import FiringBatch
from saewatch.core.errors import RecordError
from saewatch.core.records import RequestEnd, RequestLabel, RequestStart, TrafficClass, key_of
from saewatch.monitor.compared import Shadows
from saewatch.monitor.firsts import Firsts
from saewatch.monitor.identity import Identity
from saewatch.monitor.journal import Entry, Journal
from saewatch.monitor.roster import EngineKey, Request, Roster
from saewatch.monitor.tables import WatchTable
from saewatch.monitor.tally import Budget


class RequestTable:
    """Requests by the engine's number while they are open, and by name for as long as they are kept."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.roster = Roster()
        self.budget = Budget()
        self.firsts = Firsts()
        self.shadows = Shadows()
        self._journal = Journal()
        self.held_bytes = 0
        self._open: OrderedDict[tuple[EngineKey, int], Request] = OrderedDict()
        self._ended: OrderedDict[Request, int] = OrderedDict()  # to the bytes of its tallies
        self._ended_bytes = 0
        self._names: dict[str, dict[Request, None]] = {}
        self._labels: OrderedDict[str, RequestLabel] = OrderedDict()
        self._waiting: OrderedDict[Request, None] = OrderedDict()  # for a label, oldest first
        self._closed: list[Request] = []  # whose tallies are still to take their part of the journal
        self._leaving: list[Request] = []  # of those, the ones of which nothing more is to be told

    @property
    def open_count(self) -> int:
        """Requests in engines."""
        return len(self._open)

    @property
    def kept_count(self) -> int:
        """Records of ended requests, as of the last `settle`."""
        return len(self._ended)

    @property
    def due_ns(self) -> float:
        """When a request has waited for its label for long enough; infinity: none waits."""
        return min((one.opened_ns + limits.LABEL_WAIT_NS for one in islice(self._waiting, 1)), default=inf)

    # --- from the engine ------------------------------------------------------------------------------------------
    def start(self, engine: EngineKey, record: RequestStart, now_ns: int) -> list[Request]:
        """A request begins, or is named again. Gives the requests that had to be given up for it."""
        place = (engine, record.request)
        known = self._open.get(place)
        if known is not None and known.start.engine_id == record.engine_id:
            known.confirmed = True
            return []
        given_up = [known] if known is not None else []
        if len(self._open) >= limits.OPEN_REQUESTS and known is None:
            given_up.append(next(iter(self._open.values())))
        for request in given_up:
            self.lose(request, now_ns)
        request = Request(engine, record, key_of(record.engine_id), now_ns)
        self._open[place] = request
        self.roster.enter(request)
        request.label = self._labels.get(request.key)
        self._index(request)
        if request.label is not None or not request.key:
            self.roster.identify(request, _identity(request))
        else:
            self._waiting[request] = None
        return given_up

    def end(self, engine: EngineKey, record: RequestEnd, now_ns: int) -> Request:
        """A request has ended. Raises `RecordError` when it is not open."""
        request = self._open.get((engine, record.request))
        if request is None:
            raise RecordError("request_end.request", found=record.request, expected="an open request's number")
        request.end = record
        self._close(request, now_ns)
        return request

    def lose(self, request: Request, now_ns: int) -> None:
        """A request ended without the engine telling."""
        request.lost = True
        self.counters["requests_lost"] += 1
        self._close(request, now_ns)

    def leave(self, request: Request) -> None:
        """Everything of an ended request was told."""
        self._leaving.append(request)
        if len(self._leaving) >= limits.REQUESTS_LEAVING:
            self.settle()

    def doubt(self, engine: EngineKey) -> None:
        """The engine reconnected: it will name what is still open."""
        for request in self.of_engine(engine):
            request.confirmed = False

    def of_engine(self, engine: EngineKey) -> list[Request]:
        """Its open requests."""
        return [request for (owner, _), request in self._open.items() if owner == engine]

    # --- from the API server --------------------------------------------------------------------------------------
    def label(self, record: RequestLabel) -> list[Request]:
        """A label came. Gives the requests that waited for it and now have an identity."""
        self._labels[record.key] = record
        self._labels.move_to_end(record.key)
        while len(self._labels) > limits.LABELS_KEPT:
            self._labels.popitem(last=False)
        resolved = []
        for request in list(self._names.get(record.key, {})):
            if request.key != record.key:
                continue  # a client may call its request by any name, also by another one's key
            late = request.label is None and request.identity is not None
            self.counters["labels_late"] += late
            request.label = record
            self._index(request)
            if request.identity is None:
                resolved.append(self._resolve(request))
        return resolved

    def waits(self, request: Request) -> bool:
        """Whether its label is still to come."""
        return request.identity is None

    def hold(self, request: Request, batch: FiringBatch, table: WatchTable, size: int) -> list[Request]:
        """Keeps a request's part of a batch. Gives the requests that are unlabelled from now on, for want of room."""
        request.held.append((batch, table))
        request.held_bytes += size
        self.held_bytes += size
        given_up = []
        while self.held_bytes > limits.HELD_BYTES and self._waiting:
            given_up.append(self._resolve(next(iter(self._waiting))))
            self._unbook(given_up[-1])
            self.counters["labels_given_up"] += 1
        return given_up

    def release(self, request: Request) -> list[tuple[FiringBatch, WatchTable]]:
        """What was held for it, in order."""
        held, request.held = request.held, []
        self._unbook(request)
        return held

    def overdue(self, now_ns: int) -> list[Request]:
        """Requests whose label did not come in time; they are unlabelled from now on."""
        resolved = []
        while self._waiting and now_ns - next(iter(self._waiting)).opened_ns >= limits.LABEL_WAIT_NS:
            resolved.append(self._resolve(next(iter(self._waiting))))
            self.counters["labels_missing"] += 1
        return resolved

    # --- tallies --------------------------------------------------------------------------------------------------
    def book(self, table: WatchTable, entry: Entry) -> None:
        """What a batch came to."""
        self._journal.add(table, entry)
        if self._journal.bytes >= limits.JOURNAL_BYTES:
            self.settle()

    def settle(self) -> None:
        """Gives the tallies what was booked, and lets go whoever has ended."""
        for table, place, share in self._journal.empty():
            tally = self.roster.at(place).tally(table, self.budget)
            tally.saw(share.prompt_tokens, share.answer_tokens)
            for reason, tokens in share.missed:
                tally.miss(reason, tokens)
            tally.add(share.firings)
        for request in self._closed:
            self._keep(request)
        for request in self._leaving:
            self.shadows.add(request)
            self.firsts.clear(request.place)
            self.roster.leave(request)
        self._closed, self._leaving = [], []

    # --- records --------------------------------------------------------------------------------------------------
    def named(self, name: str) -> list[Request]:
        """Requests of that key, engine's id or client's id, latest first."""
        self.settle()
        return list(self._names.get(name, {}))[: -limits.RECORDS_FOUND - 1 : -1]

    def _unbook(self, request: Request) -> None:
        self.held_bytes -= request.held_bytes
        request.held_bytes = 0

    def _resolve(self, request: Request) -> Request:
        del self._waiting[request]
        self.roster.identify(request, _identity(request))
        return request

    def _index(self, request: Request) -> None:
        for name in request.names():
            self._names.setdefault(name, {})[request] = None

    def _close(self, request: Request, now_ns: int) -> None:
        del self._open[request.engine, request.start.request]
        self.roster.close(request)
        request.ended_ns = now_ns
        self._closed.append(request)

    def _keep(self, request: Request) -> None:
        for tally in request.tallies.values():
            tally.settle()
        size = sum(tally.nbytes for tally in request.tallies.values())
        self._ended[request] = size
        self._ended_bytes += size
        while len(self._ended) > limits.RECORDS_KEPT or self._ended_bytes > limits.RECORD_BYTES:
            self._drop()

    def _drop(self) -> None:
        oldest, size = self._ended.popitem(last=False)
        self._ended_bytes -= size
        for name in oldest.names():
            others = self._names.get(name, {})
            others.pop(oldest, None)
            if not others:
                self._names.pop(name, None)


def _identity(request: Request) -> Identity:
    label = request.label or RequestLabel(key=request.key, traffic_class=TrafficClass.UNLABELLED)
    return Identity(
        engine=request.engine[0],
        engine_id=request.start.engine_id,
        key=request.key,
        client_id=label.client_id,
        tenant=label.tenant,
        traffic_class=label.traffic_class,
        conversation=label.conversation,
        trace_id=label.trace_id,
        child=request.start.child,
        prompt_len=request.start.prompt_len,
        cached=request.start.cached,
        adapter=request.start.adapter,
    )
