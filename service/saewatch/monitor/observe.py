"""From a received batch to what the sinks get: whose spans they are, their requests' tallies, what is held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saewatch.core.batch import I32, U32, FiringBatch, Origin, Reason
from saewatch.core.records import Role
from saewatch.monitor import spans
from saewatch.monitor.events import UNKNOWN, Observed
from saewatch.monitor.firsts import Firsts
from saewatch.monitor.requests import EngineKey, Request, RequestTable
from saewatch.monitor.tables import WatchTable
from saewatch.monitor.tally import Tally, raw

_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Attributed:
    """The requests of a batch by ascending number, and which one each span and missed entry belongs to."""

    number: U32  # [D]
    requests: list[Request | None]  # [D] None: not known
    span: I32  # [R] index into them
    missed: I32  # [M] the same


def attribute(batch: FiringBatch, engine: EngineKey, requests: RequestTable) -> Attributed:
    """Looks the requests of ``batch`` up, each once."""
    both = np.concatenate([batch.request, batch.missed_request])
    number, inverse = np.unique(both, return_inverse=True)
    index: I32 = inverse.astype(np.int32)
    found = [requests.find(engine, one) for one in number.tolist()]
    return Attributed(number, found, index[: len(batch.request)], index[len(batch.request) :])


def book(batch: FiringBatch, table: WatchTable, owners: Attributed, table_of: RequestTable) -> None:
    """Adds a batch to its requests' tallies. A loop over spans and missed entries, none over rows or firings."""
    tallies = [one.tally(table, table_of.budget) if one else None for one in owners.requests]
    span = spans.span_of_firings(batch)
    firing, feature = table.fired(batch.slot, batch.value)
    span_fired = span[firing]
    row = batch.row[firing].astype(np.int32)
    position = batch.position[span_fired] + (row - batch.span_start[span_fired])
    firings = raw(feature, position, batch.value[firing])
    bounds = np.searchsorted(span_fired, np.arange(len(batch.request) + 1)).tolist()
    tokens_of, origins = np.diff(batch.span_start).tolist(), batch.origin.tolist()
    for index, (owner, first) in enumerate(zip(owners.span.tolist(), batch.position.tolist(), strict=True)):
        tally = tallies[owner]
        if tally is None:
            recomputed = origins[index] == Origin.RECOMPUTED
            table_of.counters["unattributed_tokens"] += 0 if recomputed else tokens_of[index]
            continue
        tally.span(first, tokens_of[index], origins[index])
        start, stop = bounds[index], bounds[index + 1]
        if stop > start:
            tally.add(firings[start:stop], origins[index])
    _book_missed(batch, owners, tallies, table_of)


def _book_missed(
    batch: FiringBatch, owners: Attributed, tallies: Sequence[Tally | None], table_of: RequestTable
) -> None:
    columns = (owners.missed.tolist(), batch.missed_reason.tolist(), batch.missed_tokens.tolist())
    for owner, reason, tokens in zip(*columns, strict=True):
        tally = tallies[owner]
        if tally is None:
            table_of.counters["unattributed_tokens"] += tokens
        else:
            tally.miss(Reason(reason), tokens)


def observe(
    batch: FiringBatch, table: WatchTable, owners: Attributed, table_of: RequestTable
) -> tuple[Observed | None, list[Request]]:
    """The part of ``batch`` whose requests have an identity, and the requests that must go out early for want of room.

    The parts of requests that wait for their label are held.
    """
    waiting = [index for index, one in enumerate(owners.requests) if one is not None and one.identity is None]
    if not waiting:
        return identified(batch, table, owners, table_of.firsts), []
    given_up: list[Request] = []
    for index in waiting:
        request = owners.requests[index]
        assert request is not None, "only known requests wait"
        part = spans.take(batch, owners.span == index, owners.missed == index)
        given_up += table_of.hold(request, part, table, spans.nbytes(part))
    span_left, missed_left = ~np.isin(owners.span, waiting), ~np.isin(owners.missed, waiting)
    if not span_left.any() and not missed_left.any():
        return None, given_up
    rest = spans.take(batch, span_left, missed_left)
    left = Attributed(owners.number, owners.requests, owners.span[span_left], owners.missed[missed_left])
    return identified(rest, table, left, table_of.firsts), given_up


def of_one(batch: FiringBatch, request: Request) -> Attributed:
    """All of ``batch`` belongs to ``request``."""
    nothing_but = np.array([request.start.request], dtype=np.uint32)
    zeros = np.zeros(len(batch.request) + len(batch.missed_request), dtype=np.int32)
    return Attributed(nothing_but, [request], zeros[: len(batch.request)], zeros[len(batch.request) :])


def identified(batch: FiringBatch, table: WatchTable, owners: Attributed, firsts: Firsts) -> Observed:
    """``batch`` with its requests' identities; those that are not known, or have none, are `UNKNOWN`."""
    known = [one is not None and one.identity is not None for one in owners.requests]
    number = np.where(known, np.cumsum(known) - 1, UNKNOWN).astype(np.int32)
    requests = [one for one in owners.requests if one is not None and one.identity is not None]
    span_request = number[owners.span]
    return Observed(
        batch=batch,
        table=table,
        requests=tuple(one.identity for one in requests if one.identity is not None),
        span_request=span_request,
        missed_request=number[owners.missed],
        newly_fired=_newly_fired(batch, table, requests, span_request, firsts),
    )


def _newly_fired(
    batch: FiringBatch, table: WatchTable, requests: Sequence[Request], span_request: I32, firsts: Firsts
) -> I32:
    """Features that fire for the first time in a request that counts, once for each such request."""
    counted_requests = np.array([*(one.identity and one.identity.counted for one in requests), False], dtype=np.bool_)
    if table.stream.opening.role != Role.STABLE or not counted_requests.any() or not len(batch.row):
        return _NONE
    firing, feature = table.fired(batch.slot, batch.value)
    request = span_request[spans.span_of_firings(batch)][firing]
    counted = counted_requests[request]
    places = np.array([*(one.place for one in requests), 0], dtype=np.int64)
    return firsts.new(table, places[request[counted]], feature[counted])
