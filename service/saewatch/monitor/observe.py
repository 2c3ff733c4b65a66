"""From a received batch to what the sinks get: whose spans they are, their requests' tallies, what is held back.

No loop over spans, rows or firings, nor over requests: a step of a busy engine has some hundred of them. What is known
of a row is written out for every row first and picked by the firings' rows then, since a row has some ten firings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from saewatch.core.batch import I32, Census, FiringBatch, Origin
from saewatch.core.records import Role, TrafficClass
from saewatch.monitor import spans
from saewatch.monitor.events import CLASSES, UNKNOWN, Fired, Observed, Sampled
from saewatch.monitor.journal import Entry
from saewatch.monitor.requests import RequestTable
from saewatch.monitor.roster import I64, EngineKey, Request
from saewatch.monitor.tables import StreamIdentity, WatchTable

_NONE: Final = np.zeros(0, np.int32)
_RECOMPUTED: Final = int(Origin.RECOMPUTED)
COUNTED: Final = np.array([one in {TrafficClass.LIVE, TrafficClass.UNLABELLED} for one in CLASSES])
"""By class, whether a request counts in the metrics of features: all do that are not known to be ours. An unlabelled
one does, or a client would leave the metrics by its choice of endpoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """A batch with its table and its requests: their places in the roster, `UNKNOWN` for those that are not open."""

    batch: FiringBatch
    table: WatchTable
    span: I64  # [R]
    missed: I64  # [M]
    fired: Fired
    firing_place: I64  # [K]


def join(batch: FiringBatch, table: WatchTable, engine: EngineKey, requests: RequestTable) -> Joined:
    """Looks the requests and the features of ``batch`` up."""
    roster = requests.roster
    return _joined(batch, table, roster.find(engine, batch.request), roster.find(engine, batch.missed_request))


def of_one(batch: FiringBatch, table: WatchTable, request: Request) -> Joined:
    """All of ``batch`` belongs to ``request``."""
    place = np.full(len(batch.request) + len(batch.missed_request), request.place, np.int64)
    return _joined(batch, table, place[: len(batch.request)], place[len(batch.request) :])


def sampled(record: Census, stream: StreamIdentity) -> list[Sampled]:
    """A part of a census; one of no tokens says nothing."""
    if not record.tokens:
        return []
    known = record.squared_error > 0.0 and record.squared_total > 0.0
    unexplained = record.squared_error / record.squared_total if known else float("nan")
    return [
        Sampled(
            stream=stream,
            tokens=record.tokens,
            l0=record.l0_mean,
            unexplained=unexplained,
            latents=record.latents,
            first=record.first,
            count=record.count,
        )
    ]


def _joined(batch: FiringBatch, table: WatchTable, span: I64, missed: I64) -> Joined:
    fired = _fired(batch, table)
    return Joined(batch, table, span, missed, fired, np.repeat(span, batch.lengths)[fired.row])


def _fired(batch: FiringBatch, table: WatchTable) -> Fired:
    row = batch.row.astype(np.intp)
    if table.direct:
        return Fired(firing=slice(None), feature=table.pair_feature[batch.slot], row=row)
    firing, feature = table.fired(batch.slot, batch.value)
    return Fired(firing=firing, feature=feature, row=row[firing])


def book(joined: Joined, requests: RequestTable) -> None:
    """Adds a batch to its requests' tallies."""
    batch, fired = joined.batch, joined.fired
    known, known_missed = joined.span != UNKNOWN, joined.missed != UNKNOWN
    again = batch.origin == _RECOMPUTED
    fresh = np.where(again, 0, batch.lengths)
    unknown = fresh[~known].sum() + batch.missed_tokens[~known_missed].sum()
    requests.counters["unattributed_tokens"] += int(unknown)
    _, position_of_row = batch.row_positions()
    position = position_of_row[fired.row]
    taken: I64 | slice = slice(None)
    if again.any():
        taken = np.flatnonzero(position >= _forget(joined, np.flatnonzero(known & again), requests)[fired.row])
    prompt = np.clip(requests.roster.prompt_len[joined.span] - batch.position, 0, fresh)
    requests.book(
        joined.table,
        Entry(
            span_place=joined.span,
            prompt_tokens=prompt,
            answer_tokens=fresh - prompt,
            missed_place=joined.missed,
            missed_reason=batch.missed_reason,
            missed_tokens=batch.missed_tokens,
            firing_place=joined.firing_place[taken],
            feature=fired.feature[taken],
            position=position[taken],
            value=batch.value[fired.firing][taken],
        ),
    )


def _forget(joined: Joined, again: I64, requests: RequestTable) -> I32:
    """Spans ``again`` are recomputed: for each row of the batch the position from which on its firings are taken."""
    requests.settle()
    batch = joined.batch
    taken_from = np.zeros(len(batch.request), np.int32)
    for index in again.tolist():  # preemptions are rare
        request, start = requests.roster.at(int(joined.span[index])), int(batch.position[index])
        taken_from[index] = request.forget(joined.table, requests.budget, start, start + int(batch.lengths[index]))
    return np.repeat(taken_from, batch.lengths)


def observe(joined: Joined, requests: RequestTable) -> tuple[Observed | None, list[Request]]:
    """The part of a batch whose requests have an identity, and the requests that must go out early for want of room.

    The parts of requests that wait for their label are held.
    """
    waits, batch, table = requests.roster.waits, joined.batch, joined.table
    span_waits, missed_waits = waits[joined.span], waits[joined.missed]
    if not span_waits.any() and not missed_waits.any():
        return identified(joined, requests), []
    given_up: list[Request] = []
    for place in np.union1d(joined.span[span_waits], joined.missed[missed_waits]).tolist():
        part = spans.take(batch, joined.span == place, joined.missed == place)
        given_up += requests.hold(requests.roster.at(place), part, table, part.nbytes)
    if span_waits.all() and missed_waits.all():
        return None, given_up
    rest = spans.take(batch, ~span_waits, ~missed_waits)
    return identified(_joined(rest, table, joined.span[~span_waits], joined.missed[~missed_waits]), requests), given_up


def identified(joined: Joined, requests: RequestTable) -> Observed:
    """A batch with its requests' identities; those that are not known are `UNKNOWN`."""
    roster = requests.roster
    named = np.zeros(len(roster.waits), np.bool_)
    named[joined.span] = named[joined.missed] = True
    named[UNKNOWN] = False
    places = np.flatnonzero(named)
    index = np.cumsum(named, dtype=np.int32) - np.int32(1)  # by place
    index[UNKNOWN] = UNKNOWN
    return Observed(
        batch=joined.batch,
        table=joined.table,
        fired=joined.fired,
        requests=roster.identities(places),
        traffic_class=roster.traffic_class[np.append(places, UNKNOWN)],
        span_request=index[joined.span],
        missed_request=index[joined.missed],
        newly_fired=_newly_fired(joined, requests),
    )


def _newly_fired(joined: Joined, requests: RequestTable) -> I32:
    """Features that fire for the first time in a request that counts, once for each such request."""
    place, feature = joined.firing_place, joined.fired.feature
    if joined.table.stream.opening.role != Role.STABLE or not len(place):
        return _NONE
    counts = COUNTED[requests.roster.traffic_class]  # by place
    counts[UNKNOWN] = False
    counted: I64 | slice = slice(None)
    if not counts[joined.span].all():
        counted = np.flatnonzero(counts[place])
    return requests.firsts.new(joined.table, place[counted], feature[counted])
