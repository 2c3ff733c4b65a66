"""Stored firings counted by stretches of time and by what they have in common.

What was computed again after a preemption is left out: it was counted when it was reported first. A bucket is final
when the next block begins behind it; a page ends between two buckets, or within the groups of one, which the next page
then counts anew.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F32, Origin
from saewatch.edge.history.block import REASONS, Tokens
from saewatch.edge.history.columns import I64
from saewatch.edge.history.firings import Covered, Pairs, pairs
from saewatch.edge.history.reading import Opened, Reader, Snapshot, Span, cut
from saewatch.edge.history.wanted import NOBODY, Mask

COMPACT = 200_000
"""Requests that fired, told twice or more, before they are told once."""


class Grouping(enum.StrEnum):
    """What firings are counted by."""

    FEATURE = "feature"
    CATEGORY = "category"
    TENANT = "tenant"
    CLASS = "class"
    MODEL = "model"


@dataclass(slots=True, eq=False)
class Sum:
    """One group in one bucket."""

    firings: int = 0
    total: float = 0.0
    largest: float = -np.inf
    seen: int = 0
    missed: I64 = field(default_factory=lambda: np.zeros(REASONS, np.int64))
    _requests: list[I64] = field(default_factory=list)
    _told: int = 0

    @property
    def requests(self) -> int:
        """Requests with a firing."""
        return len(self._compact())

    def add(self, value: F32, requests: I64) -> None:
        """Firings, and the numbers of the requests that have them."""
        self.firings += len(value)
        self.total += float(value.sum(dtype=np.float64))
        self.largest = max(self.largest, float(value.max()))
        self._requests.append(np.unique(requests))
        self._told += len(self._requests[-1])
        if self._told > COMPACT:
            self._requests = [self._compact()]
            self._told = 0

    def _compact(self) -> I64:
        return np.unique(np.concatenate([*self._requests, np.zeros(0, np.int64)]))


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """Where a page begins: behind this group of the bucket with this number; None: in front of all of them."""

    bucket: int
    group: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BucketPage:
    """Buckets by start and group, where the next page begins, and what this one covers."""

    buckets: list[tuple[Span, str, Sum]]
    following: BucketPlace | None
    covered: Covered


class Buckets:
    """Buckets of ``width_ns`` within a span, each counted ``by`` something; width 0: one for all of it."""

    def __init__(self, span: Span, width_ns: int, by: Grouping) -> None:
        self.all = span
        self.by = by
        self._width = width_ns

    def number(self, time_ns: int) -> int:
        """Of the bucket that a time is in."""
        return time_ns // self._width if self._width else 0

    def span(self, number: int) -> Span:
        """A bucket, cut by the whole span."""
        if not self._width:
            return self.all
        return cut(self.all, Span(number * self._width, (number + 1) * self._width))


def page(reader: Reader, snapshot: Snapshot, buckets: Buckets, after: BucketPlace | None, size: int) -> BucketPage:
    """The first ``size`` groups behind ``after``, or fewer where counting took its share, but one bucket at least."""
    left = buckets.all if after is None else replace(buckets.all, low=buckets.span(after.bucket).low)
    counted = _Counted(reader, buckets, left)
    begun = buckets.number(left.low)
    end: int | None = None  # buckets before this one are final; None: all
    for header in reader.wanted_headers(left, snapshot):
        end = buckets.number(max(header.first_ns, left.low))
        if end > begun and (reader.spent or counted.groups(end) > size):
            break
        opened = reader.open(header)
        if opened is not None:
            counted.add(opened)
    else:
        end = None
    return _page(counted, buckets, after, end, size)


def _page(counted: _Counted, buckets: Buckets, after: BucketPlace | None, end: int | None, size: int) -> BucketPage:
    rows = [
        (number, group, one)
        for number in sorted(counted.sums)
        if end is None or number < end
        for group, one in sorted(counted.sums[number].items())
        if after is None or after.group is None or (number, group) > (after.bucket, after.group)
    ]
    following = None
    if len(rows) > size:
        following = BucketPlace(rows[size - 1][0], rows[size - 1][1])
    elif end is not None:
        following = BucketPlace(end, None)
    # A bucket is covered by the page that it ends on.
    low = buckets.all.low if after is None else buckets.span(after.bucket).low
    high = buckets.all.high if following is None else buckets.span(following.bucket).low
    return BucketPage(
        buckets=[(buckets.span(number), group, one) for number, group, one in rows[:size]],
        following=following,
        covered=counted.covered(low, high),
    )


class _Counted:
    """Sums by bucket and group, and the tokens of each bucket."""

    def __init__(self, reader: Reader, buckets: Buckets, left: Span) -> None:
        self.sums: dict[int, dict[str, Sum]] = {}
        self._fed: dict[int, tuple[int, I64]] = {}
        self._reader = reader
        self._buckets = buckets
        self._left = left

    def groups(self, end: int) -> int:
        """Groups in the buckets before that one."""
        return sum(len(groups) for number, groups in self.sums.items() if number < end)

    def covered(self, low: int, high: int) -> Covered:
        """The tokens of the buckets in [low, high)."""
        fed = [one for number, one in self._fed.items() if low <= self._buckets.span(number).low < high]
        missed = np.sum([missed for _, missed in fed], axis=0, initial=0) + np.zeros(REASONS, np.int64)
        return Covered(start_ns=low, end_ns=high, seen=sum(seen for seen, _ in fed), missed=missed)

    def add(self, opened: Opened) -> None:
        """Counts a block."""
        groups = self._groups(opened)
        found = pairs(self._reader, opened, self._left)
        fresh = found.take(found.origin != Origin.RECOMPUTED) if found else None
        header = opened.header
        first = self._buckets.number(max(header.first_ns, self._left.low))
        for number in range(first, self._buckets.number(min(header.last_ns, self._left.high - 1)) + 1):
            span = cut(self._left, self._buckets.span(number))
            tokens = self._reader.tokens(opened, span)
            self._feed(number, tokens)
            if opened.features.any():
                self._tokens(number, groups, tokens)
            if fresh is not None:
                inside = (fresh.time_ns >= span.low) & (fresh.time_ns < span.high)
                self._firings(number, groups, fresh.take(inside))

    def _groups(self, opened: Opened) -> _Groups:
        by = self._buckets.by
        if by in (Grouping.FEATURE, Grouping.CATEGORY):
            features = opened.table.features
            values = [one.id if by == Grouping.FEATURE else one.category for one in features]
            return _grouped(values, chosen=opened.features, by_request=False)
        if by == Grouping.MODEL:
            return _grouped([opened.stream.opening.model_name] * len(opened.wanted), by_request=True)
        requests = [*map(self._reader.request, opened.requests.tolist()), NOBODY]
        values = [one.tenant if by == Grouping.TENANT else one.traffic_class for one in requests]
        return _grouped(values, by_request=True)

    def _feed(self, number: int, tokens: Tokens) -> None:
        seen, missed = self._fed.get(number, (0, np.zeros(REASONS, np.int64)))
        self._fed[number] = seen + int(tokens.seen.sum()), missed + tokens.missed.sum(axis=0)

    def _tokens(self, number: int, groups: _Groups, tokens: Tokens) -> None:
        for index, name in enumerate(groups.names):
            mine = groups.place == index if groups.by_request else slice(None)
            seen, missed = int(tokens.seen[mine].sum()), tokens.missed[mine].sum(axis=0)
            if seen or missed.any():
                one = self._sum(number, name)
                one.seen += seen
                one.missed += missed

    def _firings(self, number: int, groups: _Groups, inside: Pairs) -> None:
        group = groups.place[inside.request if groups.by_request else inside.feature]
        order = np.argsort(group, kind="stable")
        bounds = np.searchsorted(group[order], np.arange(len(groups.names) + 1))
        known = np.append(inside.opened.requests, 0)[inside.request]
        for index, name in enumerate(groups.names):
            mine = order[bounds[index] : bounds[index + 1]]
            if len(mine):
                self._sum(number, name).add(inside.value[mine], known[mine][known[mine] > 0])

    def _sum(self, number: int, name: str) -> Sum:
        return self.sums.setdefault(number, {}).setdefault(name, Sum())


@dataclass(frozen=True, slots=True)
class _Groups:
    """The groups of a block, and which one each request ``[K+1]`` or each feature ``[F]`` belongs to; -1: to none."""

    names: list[str]
    place: npt.NDArray[np.intp]
    by_request: bool


def _grouped(values: Sequence[str], *, by_request: bool, chosen: Mask | None = None) -> _Groups:
    kept = values if chosen is None else [value for value, yes in zip(values, chosen, strict=True) if yes]
    number = {name: index for index, name in enumerate(sorted(set(kept)))}
    return _Groups(list(number), np.array([number.get(value, -1) for value in values], np.intp), by_request)
