"""`FiringService`: the stream of firings, and the record of a request.

A subscriber has a cursor into the feed's ring. It gets every event in order; one whose cursor was overtaken is told how
much it missed and goes on at the ring's tail. gRPC takes 4 to 6 MB before it holds a writer up, so a reader that stops
falls behind by that much first and by the ring after it; memory is the ring's, not the reader's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping

import grpc

from saewatch.core import limits
from saewatch.core.errors import SaewatchError
from saewatch.edge.access import Principal
from saewatch.edge.pb import firing_pb2
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.rpc import messages, wire
from saewatch.edge.rpc.bounded import bounded
from saewatch.edge.rpc.calls import Streaming, Unary
from saewatch.edge.rpc.feed import COVERAGE, DRAIN, GAP, HEARTBEAT, TABLE, Feed, Readers
from saewatch.edge.rpc.filters import Filter
from saewatch.edge.rpc.gather import Gathered
from saewatch.edge.rpc.places import Owed
from saewatch.edge.rpc.refusals import Refusal, invalid, missing
from saewatch.edge.rpc.resume import read_token, token
from saewatch.edge.rpc.ring import BEGINNING, Cursor, Missing
from saewatch.monitor.tables import KnownDictionary

HEARTBEAT_S = 1.0
LOST_S = limits.LOST_ENGINE_NS // 10**9
RESUME_TOKEN = 15
ANSWER_BYTES = 3 * limits.MIB
"""Of GetRequestRecord: clients take 4 MiB unless told otherwise."""
_CLASS_NAMES = {number: name for name, number in messages.TRAFFIC_CLASSES.items()}


class FiringService:
    """Serves the feed and the pipeline's records. ``run`` names this run of the sidecar in resume tokens, ``history``
    has the methods that `HistoryQueries` answers.
    """

    SERVICE = "saewatch.v1.FiringService"

    def __init__(
        self,
        *,
        feed: Feed,
        pipeline: Pipeline,
        dictionaries: Mapping[str, KnownDictionary],
        run: int,
        subscribers: int = limits.SUBSCRIBERS,
        history: Mapping[str, Unary | Streaming] | None = None,
    ) -> None:
        self._feed = feed
        self._pipeline = pipeline
        self._dictionaries = dictionaries
        self._run = run
        self._subscribers_max = subscribers
        self._history = history or {}
        self._draining = ""
        self.subscribers = 0
        self._nobody = asyncio.Event()
        self._nobody.set()

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """Its methods by name."""
        return {
            "WatchFirings": Streaming(firing_pb2.WatchFiringsRequest, self.watch),
            "GetRequestRecord": Unary(firing_pb2.GetRequestRecordRequest, self.get_request_record),
            **self._history,
        }

    def drain(self, reason: str) -> None:
        """Ends every stream with a Drain message."""
        self._feed.flush()
        self._draining = reason
        self._feed.bell.ring()

    async def left(self, timeout_s: float) -> None:
        """Waits until every subscriber has left, or for ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._nobody.wait()

    async def get_request_record(
        self, request: firing_pb2.GetRequestRecordRequest, principal: Principal
    ) -> firing_pb2.GetRequestRecordResponse:
        """The records of a name, latest first, as many as one answer takes."""
        if not request.request_id:
            raise invalid("request_id", found="nothing", expected="a key, an engine's id or a client's id")
        answer = firing_pb2.GetRequestRecordResponse()
        found = await asyncio.to_thread(self._pipeline.records, request.request_id)
        size = 0
        for record in found:
            if principal.tenants is None or (record.label and record.label.tenant in principal.tenants):
                message = messages.record(record)
                size += message.ByteSize()
                if size > ANSWER_BYTES:
                    break
                answer.records.append(message)
        if not answer.records:
            hint = "It may not have been scheduled yet, or be older than what is kept."
            raise missing("request_id", found=request.request_id[:128], expected="a request that was seen", hint=hint)
        return answer

    async def watch(self, request: firing_pb2.WatchFiringsRequest, principal: Principal) -> AsyncGenerator[bytes, None]:
        """Every event from now, or from a resume token, on."""
        wanted = self._filter(request.filter, principal)
        cursor, gap, owed = self._begin(request.resume_token)
        if self.subscribers >= self._subscribers_max:
            error = SaewatchError(
                "subscribers",
                found=f"{self.subscribers} subscribers",
                expected=f"at most {self._subscribers_max}",
                hint="Try again later, or share one subscription.",
            )
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, error, reason="SUBSCRIBERS", retry_s=5.0)
        self.subscribers += 1
        self._nobody.clear()
        readers = self._feed.enter(wanted)
        try:
            yield self._heartbeat(cursor, owed)
            standing = messages.coverage((await asyncio.to_thread(self._pipeline.status)).standing)
            yield self._response(wire.delimited(COVERAGE, standing.SerializeToString()), cursor, owed)
            if gap is not None:
                yield self._response(wire.delimited(GAP, gap.SerializeToString()), cursor, owed)
            async for message in self._events(cursor, readers, owed):
                yield message
        finally:
            self._feed.leave(readers)
            self.subscribers -= 1
            if not self.subscribers:
                self._nobody.set()

    async def _events(self, cursor: Cursor, readers: Readers, owed: Owed) -> AsyncGenerator[bytes, None]:
        ring, told = self._feed.ring, set[int]()
        spoke = time.monotonic()
        while True:
            for gap in owed.settle(self._feed.account, cursor.places, time.time()) if owed.until_s else ():
                yield self._response(wire.delimited(GAP, gap.SerializeToString()), cursor, owed)
            overtaken = ring.missing(cursor)
            if overtaken is not None:
                cursor = ring.tail
                yield self._response(wire.delimited(GAP, _gap(overtaken)), cursor, owed)
                continue  # the ring went on while that was written
            entry = ring.next(cursor)
            if entry is None:
                if self._draining:
                    message = firing_pb2.Drain(reason=self._draining).SerializeToString()
                    yield self._response(wire.delimited(DRAIN, message), cursor, owed)
                    return
                if time.monotonic() - spoke >= HEARTBEAT_S:
                    yield self._heartbeat(cursor, owed)
                    spoke = time.monotonic()
                await self._feed.bell.wait(HEARTBEAT_S)
                continue
            cursor = entry.after
            data = self._feed.encoded(entry, readers)
            if data is None:
                await asyncio.sleep(0)  # a reader far behind, with a filter that takes nothing, must not stop the loop
                continue
            if isinstance(entry.item, Gathered) and entry.item.table.number not in told:
                told.add(entry.item.table.number)
                yield self._response(wire.delimited(TABLE, messages.feature_table(entry.item.table)), entry.at, owed)
            yield self._response(data, cursor, owed)
            spoke = time.monotonic()

    def _response(self, event: bytes, cursor: Cursor, owed: Owed) -> bytes:
        return event + wire.delimited(RESUME_TOKEN, token(self._run, cursor, owed).encode())

    def _heartbeat(self, cursor: Cursor, owed: Owed) -> bytes:
        message = firing_pb2.Heartbeat(
            head_event=self._feed.ring.head.event - 1, server_time=messages.timestamp(time.time_ns())
        )
        return self._response(wire.delimited(HEARTBEAT, message.SerializeToString()), cursor, owed)

    # --- arguments ------------------------------------------------------------------------------------------------
    def _begin(self, text: str) -> tuple[Cursor, firing_pb2.Gap | None, Owed]:
        """Where to begin, what a token's place can no longer give, and the streams of an earlier run."""
        if not text:
            return self._feed.ring.head, None, Owed()
        ring, resumed = self._feed.ring, read_token(text)
        cursor, owed = resumed.cursor, resumed.owed
        if resumed.run != self._run:
            owed = Owed({**cursor.places, **owed.places}, until_s=int(time.time()) + LOST_S)
            cursor = BEGINNING
        elif cursor.event > ring.head.event:
            raise invalid("resume_token", found="a place that is still to come", expected="a token of this service")
        overtaken = ring.missing(cursor)
        if overtaken is None:
            return cursor, None, owed
        gap = firing_pb2.Gap.FromString(_gap(overtaken))
        gap.reason = firing_pb2.GAP_REASON_EXPIRED
        return ring.tail, gap, owed

    def _filter(self, asked: firing_pb2.FiringFilter, principal: Principal) -> Filter:
        bounded(asked, ("feature_ids", "categories", "tenants", "request_ids"), ("traffic_classes",))
        features = [one for known in self._dictionaries.values() for one in known.catalogue.features]
        hint = "Ask DictionaryService.ListFeatures."
        _known("filter.feature_ids", asked.feature_ids, {one.id for one in features}, hint)
        _known("filter.categories", asked.categories, {one.category for one in features}, hint)
        _known("filter.traffic_classes", asked.traffic_classes, set(_CLASS_NAMES), "")
        if math.isnan(asked.min_value):
            raise invalid("filter.min_value", found="NaN", expected="a number")
        return Filter(
            feature_ids=frozenset(asked.feature_ids),
            categories=frozenset(asked.categories),
            min_value=asked.min_value if asked.HasField("min_value") else None,
            tenants=frozenset(asked.tenants),
            request_ids=frozenset(asked.request_ids),
            traffic_classes=frozenset(_CLASS_NAMES[one] for one in asked.traffic_classes),
            allowed_tenants=principal.tenants,
        )


def _known(field: str, asked: Iterable[object], known: Collection[object], hint: str) -> None:
    for index, one in enumerate(asked):
        if one not in known:
            expected = ", ".join(sorted(map(str, known))[:8]) + (" …" if len(known) > 8 else "")
            raise invalid(f"{field}[{index}]", found=repr(one)[:128], expected=f"one of {expected}", hint=hint)


def _gap(overtaken: Missing) -> bytes:
    return firing_pb2.Gap(
        reason=firing_pb2.GAP_REASON_SLOW_CONSUMER,
        first_event=overtaken.first,
        last_event=overtaken.last,
        tokens=overtaken.tokens,
        firings=overtaken.firings,
    ).SerializeToString()
