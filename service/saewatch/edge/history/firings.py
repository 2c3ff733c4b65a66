"""A page of stored firings, in order of (time, block, place within the block), or the other way round."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.edge.history.block import REASONS, Block
from saewatch.edge.history.columns import I64
from saewatch.edge.history.reading import Opened, Reader, Snapshot, Span
from saewatch.edge.history.wanted import NOBODY, StoredRequest
from saewatch.edge.history.watched import StoredStream
from saewatch.monitor.tables import WatchTable

ROW_BYTES = 256
"""What a row's fixed fields take as a message, about."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a page begins: behind this row, in the numbers of its `Span`."""

    time: int
    block: int
    pair: int

    @classmethod
    def before(cls, time: int) -> Place:
        """In front of everything at this time."""
        return cls(time, -limits.COUNT_MAX, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One feature that fired at one position."""

    time_ns: int
    feature: int
    slot: int
    value: float
    position: int
    origin: int
    table: WatchTable
    stream: StoredStream
    request: StoredRequest

    @property
    def nbytes(self) -> int:
        """As a message, about."""
        request, feature = self.request, self.table.features[self.feature]
        texts = (request.engine_id, request.key, request.client_id, request.tenant, request.conversation, feature.label)
        return ROW_BYTES + sum(len(text.encode()) for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Covered:
    """What the chosen requests and streams fed within a time."""

    start_ns: int
    end_ns: int
    seen: int
    missed: I64  # [REASONS]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FiringPage:
    """Rows, where the next page begins, and what this one covers."""

    rows: list[Row]
    following: Place | None
    covered: Covered


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Firings of one block with the feature that each serves, ``[P]``; ``pair`` numbers them before any filter."""

    opened: Opened
    pair: npt.NDArray[np.intp]
    feature: npt.NDArray[np.int32]
    time_ns: I64
    value: npt.NDArray[np.float32]
    position: I64
    origin: I64
    slot: npt.NDArray[np.uint16]
    request: I64  # index into the block's requests

    def take(self, index: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Pairs:
        """Some of them."""
        names = ("pair", "feature", "time_ns", "value", "position", "origin", "slot", "request")
        return replace(self, **{name: getattr(self, name)[index] for name in names})


def pairs(reader: Reader, opened: Opened, span: Span) -> Pairs | None:
    """What a block has for a query within the span; None when that is nothing."""
    block = reader.block(opened) if opened.has_firings else None
    if block is None:
        return None
    found = _pairs(opened, block)
    kept = opened.features[found.feature] & opened.wanted[found.request] & reader.wanted.values(found.value)
    return found.take(kept & (found.time_ns >= span.start_ns) & (found.time_ns < span.end_ns))


def _pairs(opened: Opened, block: Block) -> Pairs:
    firing, feature = opened.table.fired(block.slot, block.value)
    span = block.span_of_firings()[firing]
    return Pairs(
        opened=opened,
        pair=np.arange(len(firing)),
        feature=feature,
        time_ns=block.time_ns[span],
        value=block.value[firing],
        position=block.position_of(firing, span),
        origin=block.origin[span],
        slot=block.slot[firing],
        request=block.request[span],
    )


def page(reader: Reader, snapshot: Snapshot, span: Span, after: Place, size: int) -> FiringPage:
    """The first ``size`` rows of the span behind ``after``, or fewer where looking for them took its share."""
    left = replace(span, low=after.time)
    visited: list[Opened] = []
    found: list[tuple[Place, Pairs, int]] = []
    horizon = span.high  # everything before it is final
    for header in reader.wanted_headers(left, snapshot):
        horizon = header.begin(span.sign)
        if sum(place.time < horizon for place, _, _ in found) > size or (reader.spent and horizon > left.low):
            break
        opened = reader.open(header)
        if opened is not None:
            visited.append(opened)
            found += _first(pairs(reader, opened, left), span.sign, after, size + 1)
            found = sorted(found, key=_place)[: size + 1]
    else:
        horizon = span.high
    final = [one for one in found if one[0].time < horizon]
    rows, following = _rows(reader, final, size)
    if following is None and horizon < span.high:
        following = Place.before(horizon)
    end = span.high if following is None else following.time
    return FiringPage(rows=rows, following=following, covered=covered(reader, visited, replace(left, high=end)))


def covered(reader: Reader, visited: list[Opened], span: Span) -> Covered:
    """What these blocks have in the span."""
    seen, missed = 0, np.zeros(REASONS, np.int64)
    for opened in visited:
        tokens = reader.tokens(opened, span)
        seen += int(tokens.seen.sum())
        missed += tokens.missed.sum(axis=0)
    return Covered(start_ns=span.start_ns, end_ns=span.end_ns, seen=seen, missed=missed)


def _first(found: Pairs | None, sign: int, after: Place, count: int) -> list[tuple[Place, Pairs, int]]:
    """The first rows of a block behind ``after``, in order."""
    if found is None:
        return []
    block = sign * found.opened.header.id
    time, pair = sign * found.time_ns, sign * found.pair
    tie = (pair > after.pair) if block == after.block else np.full(len(pair), block > after.block)
    index = np.flatnonzero((time > after.time) | ((time == after.time) & tie))
    order = index[np.lexsort((pair[index], time[index]))][:count]
    some = found.take(order)
    places = zip(time[order].tolist(), pair[order].tolist(), strict=True)
    return [(Place(at, block, number), some, index) for index, (at, number) in enumerate(places)]


def _place(found: tuple[Place, Pairs, int]) -> Place:
    return found[0]


def _rows(reader: Reader, found: list[tuple[Place, Pairs, int]], size: int) -> tuple[list[Row], Place | None]:
    """As many as a page takes, and the place of the last one if there are more."""
    rows: list[Row] = []
    last, nbytes = None, 0
    for place, some, index in found:
        row = _row(reader, some, index)
        nbytes += row.nbytes
        if len(rows) == size or (rows and nbytes > limits.QUERY_BYTES):
            return rows, last
        rows.append(row)
        last = place
    return rows, None


def _row(reader: Reader, some: Pairs, index: int) -> Row:
    opened, request = some.opened, int(some.request[index])
    known = request < len(opened.requests)
    return Row(
        time_ns=int(some.time_ns[index]),
        feature=int(some.feature[index]),
        slot=int(some.slot[index]),
        value=float(some.value[index]),
        position=int(some.position[index]),
        origin=int(some.origin[index]),
        table=opened.table,
        stream=opened.stream,
        request=reader.request(int(opened.requests[request])) if known else NOBODY,
    )
