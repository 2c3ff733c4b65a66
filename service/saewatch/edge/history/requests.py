"""A page of stored requests with what fired in each, by the time when they were first seen.

Nothing is kept for this but the blocks: a request's are those of the time in which it ran, and requests of one page ran
at about one time. So the figures keep to any filter, and there is no second truth to keep in step with the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import Origin
from saewatch.edge.history.block import REASONS
from saewatch.edge.history.columns import I64
from saewatch.edge.history.firings import ROW_BYTES, Pairs, pairs
from saewatch.edge.history.reading import Opened, Reader, Snapshot, Span, merged
from saewatch.edge.history.wanted import StoredRequest

CHUNK = 64
"""Requests that are looked at together."""


@dataclass(frozen=True, slots=True)
class RequestPlace:
    """Where a page begins: behind this request."""

    first_ns: int
    id: int


@dataclass(slots=True, eq=False)
class Summary:
    """What is stored of one request."""

    request: StoredRequest
    attested: set[frozenset[str]] = field(default_factory=set)
    """Adapters, of each stream that saw or missed it."""
    seen: int = 0
    missed: I64 = field(default_factory=lambda: np.zeros(REASONS, np.int64))
    firings: int = 0
    features: dict[str, tuple[int, float]] = field(default_factory=dict)
    """To the count and the largest value."""
    fired: bool = False
    """Whether there is a chosen firing at all, computed again or not."""

    @property
    def nbytes(self) -> int:
        """As a message, about."""
        request = self.request
        texts = [request.engine_id, request.key, request.client_id, request.tenant, request.conversation]
        listed = min(len(self.features), limits.QUERY_FEATURES)
        return 2 * ROW_BYTES + sum(len(text.encode()) for text in texts) + 64 * listed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestPage:
    """Requests in order, and where the next page begins."""

    requests: list[Summary]
    following: RequestPlace | None


def page(reader: Reader, snapshot: Snapshot, span: Span, after: RequestPlace | None, size: int) -> RequestPage:
    """The first ``size`` requests behind ``after``, or fewer where looking took its share."""
    found: list[Summary] = []
    nbytes = 0
    for chunk in _chunks(reader, snapshot, span, after):
        for one in _summaries(reader, snapshot, span, chunk):
            if len(found) == size or nbytes > limits.QUERY_BYTES:
                return RequestPage(requests=found, following=after)
            after = RequestPlace(one.request.first_ns, one.request.id)
            if _chosen(reader, one):
                found.append(one)
                nbytes += one.nbytes
        if reader.spent and len(chunk) == CHUNK:
            return RequestPage(requests=found, following=after)
    return RequestPage(requests=found, following=None)


def _chosen(reader: Reader, one: Summary) -> bool:
    if reader.wanted.chooses_firings:
        return one.fired
    return not reader.wanted.chooses_streams or one.fired or bool(one.seen or one.missed.any())


def _chunks(
    reader: Reader, snapshot: Snapshot, span: Span, after: RequestPlace | None
) -> Iterator[Sequence[StoredRequest]]:
    """The requests that ran in the span, in order."""
    order, ahead = ("", ">") if span.sign > 0 else (" DESC", "<")
    condition = f"AND id <= ? AND first_ns >= ? AND (first_ns, id) {ahead} (?, ?) ORDER BY first_ns{order}, id{order}"
    earliest = span.start_ns - reader.fact("longest_ns")
    place = after or RequestPlace(-span.sign * limits.COUNT_MAX, 0)
    while True:
        chunk = reader.running(span, condition, snapshot.last_request, earliest, place.first_ns, place.id, limit=CHUNK)
        if chunk:
            yield chunk
        if len(chunk) < CHUNK:
            return
        place = RequestPlace(chunk[-1].first_ns, chunk[-1].id)


def _summaries(reader: Reader, snapshot: Snapshot, span: Span, chunk: Sequence[StoredRequest]) -> list[Summary]:
    found = {one.id: Summary(one) for one in chunk}
    whole = Span.of(span.start_ns, span.end_ns)
    for part in merged(whole, [(one.first_ns, one.last_ns + 1) for one in chunk]):
        for header in reader.headers(part, snapshot):
            opened = reader.open(header)
            if opened is not None and np.isin(opened.requests, list(found)).any():
                _add(reader, opened, whole, found)
    return list(found.values())


def _add(reader: Reader, opened: Opened, span: Span, found: dict[int, Summary]) -> None:
    tokens = reader.tokens(opened, span)
    for index, number in enumerate(opened.requests.tolist()):
        if number in found:
            found[number].attested.add(opened.stream.adapters)
            found[number].seen += int(tokens.seen[index])
            found[number].missed += tokens.missed[index]
    fired = pairs(reader, opened, span)
    if fired is None:
        return
    numbers = np.append(opened.requests, 0)[fired.request]
    mine = np.isin(numbers, list(found))
    for number in np.unique(numbers[mine]).tolist():
        found[number].fired = True
    _add_firings(fired.take(mine & (fired.origin != Origin.RECOMPUTED)), found)


def _add_firings(fired: Pairs, found: dict[int, Summary]) -> None:
    features, requests = fired.opened.table.features, fired.opened.requests
    key = fired.request * len(features) + fired.feature
    order = np.lexsort((-fired.value, key))
    unique, start, count = np.unique(key[order], return_index=True, return_counts=True)
    largest = fired.value[order][start]
    for one, times, value in zip(unique.tolist(), count.tolist(), largest.tolist(), strict=True):
        summary = found[int(requests[one // len(features)])]
        name = features[one % len(features)].id
        before, most = summary.features.get(name, (0, -np.inf))
        summary.features[name] = before + times, max(most, value)
        summary.firings += times
