"""From a received batch to what the sinks get: whose spans they are, their requests' tallies, what is held back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saewatch.core.batch import I32, U32, FiringBatch, Origin, Reason
from saewatch.core.records import Role, TrafficClass
from saewatch.monitor import spans
from saewatch.monitor.events import UNKNOWN, Identity, Observed
from saewatch.monitor.firsts import Firsts
from saewatch.monitor.requests import EngineKey, Request, RequestTable
from saewatch.monitor.tables import WatchTable

_NONE = np.zeros(0, np.int32)


def book(batch: FiringBatch, table: WatchTable, engine: EngineKey, requests: RequestTable) -> None:
    """Adds a batch to its requests' tallies. A loop over spans and missed entries, none over rows or firings."""
    span = spans.span_of_firings(batch)
    position = batch.position[span] + (batch.row.astype(np.int32) - batch.span_start[span])
    firing, feature = table.fired(batch.slot, batch.value)
    bounds = np.searchsorted(span[firing], np.arange(len(batch.request) + 1)).tolist()
    position, value = position[firing], batch.value[firing]
    columns = zip(
        batch.request.tolist(),
        batch.position.tolist(),
        np.diff(batch.span_start).tolist(),
        batch.origin.tolist(),
        strict=True,
    )
    for index, (number, first, tokens, origin) in enumerate(columns):
        request = requests.find(engine, number)
        if request is None:
            requests.counters["unattributed_tokens"] += tokens if origin != Origin.RECOMPUTED else 0
            continue
        tally = request.tally(table, requests.budget)
        tally.span(first, tokens, origin)
        here = slice(bounds[index], bounds[index + 1])
        if here.stop > here.start:
            tally.add(feature[here], position[here], value[here], origin)
    _book_missed(batch, table, engine, requests)


def _book_missed(batch: FiringBatch, table: WatchTable, engine: EngineKey, requests: RequestTable) -> None:
    columns = (batch.missed_request.tolist(), batch.missed_reason.tolist(), batch.missed_tokens.tolist())
    for number, reason, tokens in zip(*columns, strict=True):
        request = requests.find(engine, number)
        if request is None:
            requests.counters["unattributed_tokens"] += tokens
        else:
            request.tally(table, requests.budget).miss(Reason(reason), tokens)


def observe(
    batch: FiringBatch, table: WatchTable, engine: EngineKey, requests: RequestTable
) -> tuple[Observed | None, list[Request]]:
    """The part of ``batch`` whose requests have an identity, and the requests that must go out early for want of room.

    The parts of requests that wait for their label are held.
    """
    numbers = np.unique(np.concatenate([batch.request, batch.missed_request]))
    found = [requests.find(engine, number) for number in numbers.tolist()]
    waiting = [(number, one) for number, one in zip(numbers.tolist(), found, strict=True) if one and not one.identity]
    given_up: list[Request] = []
    for number, request in waiting:
        part = spans.take(batch, batch.request == number, batch.missed_request == number)
        given_up += requests.hold(request, part, table, spans.nbytes(part))
    if waiting:
        out = np.array([number for number, _ in waiting], dtype=np.uint32)
        batch = spans.take(batch, ~np.isin(batch.request, out), ~np.isin(batch.missed_request, out))
        if not len(batch.request) and not len(batch.missed_request):
            return None, given_up
    by_number = {number: one for number, one in zip(numbers.tolist(), found, strict=True) if one and one.identity}
    return identified(batch, table, by_number, requests.firsts), given_up


def identified(batch: FiringBatch, table: WatchTable, requests: dict[int, Request], firsts: Firsts) -> Observed:
    """``batch`` with its requests' identities."""
    number = np.array(sorted(requests), dtype=np.uint32)
    ordered = [requests[one] for one in number.tolist()]
    identities = tuple(request.identity for request in ordered if request.identity)
    span_request = _index(batch.request, number)
    return Observed(
        batch=batch,
        table=table,
        requests=identities,
        span_request=span_request,
        missed_request=_index(batch.missed_request, number),
        newly_fired=_newly_fired(batch, table, ordered, span_request, firsts),
    )


def _index(column: U32, number: U32) -> I32:
    if not len(number):
        return np.full(len(column), UNKNOWN, dtype=np.int32)
    place = np.minimum(np.searchsorted(number, column), len(number) - 1)
    return np.where(number[place] == column, place, UNKNOWN).astype(np.int32)


def live(identity: Identity | None) -> bool:
    """Whether a request counts in the metrics of features."""
    return identity is not None and identity.traffic_class == TrafficClass.LIVE


def _newly_fired(
    batch: FiringBatch, table: WatchTable, requests: Sequence[Request], span_request: I32, firsts: Firsts
) -> I32:
    """Features that fire for the first time in a live request, once for each such request."""
    alive = np.array([*(live(one.identity) for one in requests), False], dtype=np.bool_)
    if table.stream.opening.role != Role.STABLE or not alive.any() or not len(batch.row):
        return _NONE
    firing, feature = table.fired(batch.slot, batch.value)
    request = span_request[spans.span_of_firings(batch)][firing]
    counted = alive[request]
    places = np.array([*(one.place for one in requests), 0], dtype=np.int64)
    return firsts.new(table, places[request[counted]], feature[counted])
