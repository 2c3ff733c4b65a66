"""`FiringService.QueryFirings` and `ListRequests`: pages of what the history has stored.

Each page is read in a thread of its own, `limits.QUERIES` at a time; it stops where it has done its share, and when the
caller leaves.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from saewatch.core import limits
from saewatch.core.errors import SaewatchError
from saewatch.edge.access import Principal
from saewatch.edge.history import buckets, firings, requests
from saewatch.edge.history.buckets import BucketPlace, Buckets
from saewatch.edge.history.firings import Place
from saewatch.edge.history.reading import Reader, Snapshot, Span
from saewatch.edge.history.requests import RequestPlace
from saewatch.edge.history.wanted import Wanted
from saewatch.edge.pb import history_pb2
from saewatch.edge.rpc import stored
from saewatch.edge.rpc.calls import Streaming, Unary
from saewatch.edge.rpc.pagetoken import PageToken, page_token, query_digest, read_page_token
from saewatch.edge.rpc.refusals import Refusal, invalid

PAGE_SIZE = 50
T = TypeVar("T")
Firings = history_pb2.QueryFiringsRequest
Answer = history_pb2.QueryFiringsResponse


class HistoryQueries:
    """Answers from the history at ``path``; None: there is none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._slots = asyncio.Semaphore(limits.QUERIES)

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """The methods of FiringService that are answered here."""
        return {
            "QueryFirings": Unary(Firings, self.query_firings),
            "ListRequests": Unary(history_pb2.ListRequestsRequest, self.list_requests),
        }

    async def query_firings(self, request: Firings, principal: Principal) -> Answer:
        """A page of firings, or of buckets."""
        wanted, size = stored.wanted(request.filter, principal), _size(request.page_size)
        stored.times(request.filter)
        if request.HasField("aggregate"):
            width = _width(request.aggregate)
            _without("read_mask", given=request.HasField("read_mask"))
            _without("descending", given=request.descending)
            return await self._ask(wanted, lambda reader: _buckets(reader, request, principal, width, size))
        stored.check_mask(request.read_mask, history_pb2.StoredFiring)
        return await self._ask(wanted, lambda reader: _firings(reader, request, principal, size))

    async def list_requests(
        self, request: history_pb2.ListRequestsRequest, principal: Principal
    ) -> history_pb2.ListRequestsResponse:
        """A page of requests."""
        wanted, size = stored.wanted(request.filter, principal), _size(request.page_size)
        stored.times(request.filter)
        stored.check_mask(request.read_mask, history_pb2.RequestSummary)
        return await self._ask(wanted, lambda reader: _requests(reader, request, principal, size))

    async def _ask(self, wanted: Wanted, work: Callable[[Reader], T]) -> T:
        if self._path is None:
            error = SaewatchError("history", found="none", expected="one that is kept", hint="Configure history.path.")
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, error, reason="NO_HISTORY")
        path, stop = self._path, threading.Event()

        def read() -> T:
            with Reader(path, wanted=wanted, stop=stop) as reader:
                return work(reader)

        try:
            async with self._slots:
                return await asyncio.to_thread(read)
        except sqlite3.Error as error:
            told = SaewatchError("history", found=str(error), expected="a file that can be read")
            raise Refusal(grpc.StatusCode.UNAVAILABLE, told, reason="HISTORY", retry_s=1.0) from error
        finally:
            stop.set()  # a caller that has left waits for nothing


def _firings(reader: Reader, request: Firings, principal: Principal, size: int) -> Answer:
    query = query_digest(request, principal, reader.fact("store"))
    token = _token(reader, request, query, (int, int, int))
    snapshot = token.snapshot
    span = Span.of(snapshot.start_ns, snapshot.end_ns, descending=request.descending)
    after = Place(*token.place) if token.place else Place.before(span.low)
    page = firings.page(reader, snapshot, span, after, size)
    place = page.following
    return Answer(
        firings=[stored.masked(stored.firing(row), request.read_mask) for row in page.rows],
        next_page_token=_following(query, snapshot, (place.time, place.block, place.pair) if place else None),
        coverage=stored.coverage(page.covered),
        losses=stored.losses(reader, snapshot),
    )


def _buckets(reader: Reader, request: Firings, principal: Principal, width: int, size: int) -> Answer:
    query = query_digest(request, principal, reader.fact("store"))
    token = _token(reader, request, query, (int, str))
    snapshot = token.snapshot
    by = stored.GROUPINGS[request.aggregate.by]
    asked = Buckets(Span.of(snapshot.start_ns, snapshot.end_ns), width, by)
    page = buckets.page(reader, snapshot, asked, BucketPlace(*token.place) if token.place else None, size)
    place = page.following
    return Answer(
        buckets=[stored.bucket(span, group, one) for span, group, one in page.buckets],
        next_page_token=_following(query, snapshot, (place.bucket, place.group) if place else None),
        coverage=stored.coverage(page.covered),
        losses=stored.losses(reader, snapshot),
    )


def _requests(
    reader: Reader, request: history_pb2.ListRequestsRequest, principal: Principal, size: int
) -> history_pb2.ListRequestsResponse:
    query = query_digest(request, principal, reader.fact("store"))
    token = _token(reader, request, query, (int, int))
    snapshot = token.snapshot
    span = Span.of(snapshot.start_ns, snapshot.end_ns, descending=request.descending)
    page = requests.page(reader, snapshot, span, RequestPlace(*token.place) if token.place else None, size)
    place = page.following
    return history_pb2.ListRequestsResponse(
        requests=[stored.masked(stored.summary(one), request.read_mask) for one in page.requests],
        next_page_token=_following(query, snapshot, (place.first_ns, place.id) if place else None),
        losses=stored.losses(reader, snapshot),
    )


def _token(
    reader: Reader, request: Firings | history_pb2.ListRequestsRequest, query: str, shape: tuple[type, ...]
) -> PageToken:
    """Where to begin: as of now without a token."""
    if request.page_token:
        return read_page_token(request.page_token, query, shape=shape)
    return PageToken(reader.snapshot(*stored.times(request.filter)), ())


def _following(query: str, snapshot: Snapshot, place: tuple[object, ...] | None) -> str:
    return page_token(query, PageToken(snapshot, place)) if place else ""


def _size(asked: int) -> int:
    if asked < 0:
        raise invalid("page_size", found=asked, expected="0 or more")
    return min(asked or PAGE_SIZE, limits.PAGE_ITEMS)


def _width(asked: history_pb2.Aggregate) -> int:
    if asked.by not in stored.GROUPINGS:
        raise invalid("aggregate.by", found=asked.by, expected=", ".join(stored.GROUPINGS.values()))
    if not asked.HasField("bucket"):
        return 0
    bucket: Duration = asked.bucket
    width = bucket.seconds * 10**9 + bucket.nanos
    if not limits.BUCKET_NS_MIN <= width <= limits.BUCKET_NS_MAX:
        raise invalid("aggregate.bucket", found=f"{width / 1e9:g} s", expected="100 ms to 366 days")
    return width


def _without(name: str, *, given: bool) -> None:
    if given:
        raise invalid(name, found="set beside aggregate", expected="firings, or buckets: not both")
