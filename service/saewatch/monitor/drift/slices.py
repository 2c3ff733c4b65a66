"""Kinds of requests that are counted apart, to explain alarms and never to raise one: each is a look less.

A slice is of whole requests: their source, how many tokens they have, and in which quarter of the day (UTC) they ended.
The source is a bucket of the tenant's name: names enter no baseline. Requests without a tenant are a source of their
own, 0; the others share seven.

Counted are requests in which a feature fired, for the features that show the traffic's state: at most 4,000, however
many there are. A baseline has 128 slices of them, 2 MB. Live, a quarter of a day has 32 kinds, 0.5 MB, and the last 8
quarters are kept: 4 MB. All of it are sums of integers, so the order of requests and who counted them change nothing.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np

from saewatch.core.errors import RecordError
from saewatch.monitor.drift.counts import BETAS, EXPOSURE_UNIT, F64, I32, I64, Indices, exposure_of
from saewatch.monitor.drift.history import DAY_NS

HOURS = ("00-06", "06-12", "12-18", "18-24")
QUARTER_NS = DAY_NS // len(HOURS)
LONGER = (64, 256, 1024)
"""Tokens at which the next band of lengths begins: each is four times as long."""
LENGTHS = (
    f"under {LONGER[0]} tokens",
    *(f"{low:,} to {high - 1:,} tokens" for low, high in pairwise(LONGER)),
    f"{LONGER[-1]:,} tokens and more",
)
NO_TENANT, SOURCES = 0, 8
KINDS = SOURCES * len(LENGTHS)
"""Of requests of one quarter of the day."""
SLICES = KINDS * len(HOURS)
QUARTERS_KEPT = 8
"""Two days: an alarm is explained for one day, and what spoke for it began before."""
SOURCES_KEPT = 4096
"""Tenants whose bucket is remembered: some 500 kB."""
COUNTED_SHARE = 0.5
"""Of a usual quarter's requests: with fewer, its shares of kinds of requests are not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slices:
    """What a baseline knows of them. A slice's number is that of its hours times `KINDS` and its kind."""

    feature: Indices  # [P] ascending: those that are counted
    n: I32  # [128, P] requests in which each fired
    exposure: I64  # [128, 5]
    low: F64  # [128] share of the requests of these hours, the smallest of a day
    high: F64  # [128] ... and the largest
    usual: F64  # [4] median of the requests in a day's quarter

    @property
    def requests(self) -> I64:
        """``[128]``."""
        return self.exposure[:, 0] // EXPOSURE_UNIT


def nothing() -> Slices:
    """Of a baseline of which only blocks are known."""
    none = np.zeros(SLICES)
    counts = np.zeros((SLICES, 0), np.int32)
    exposure = np.zeros((SLICES, len(BETAS)), np.int64)
    usual = np.zeros(len(HOURS))
    return Slices(feature=np.zeros(0, np.intp), n=counts, exposure=exposure, low=none, high=none, usual=usual)


class Counted:
    """Requests of some kinds: in how many each feature fired, and their exposure."""

    def __init__(self, kinds: int, features: int) -> None:
        self.n: I32 = np.zeros((kinds, features), np.int32)
        self.exposure: I64 = np.zeros((kinds, len(BETAS)), np.int64)

    def add(self, kind: int, feature: Indices, tokens: int) -> None:
        """One more. ``feature``: each once."""
        self.n[kind, feature] += 1
        self.exposure[kind] += exposure_of(tokens)

    @property
    def requests(self) -> I64:
        """``[kinds]``."""
        return self.exposure[:, 0] // EXPOSURE_UNIT


def merged(left: Counted, right: Counted) -> Counted:
    """Both together. `RecordError` where they are of other kinds, or of other features."""
    if left.n.shape != right.n.shape:
        raise RecordError("slices.n", found=right.n.shape, expected=f"{left.n.shape}, as the others")
    both = Counted(*left.n.shape)
    both.n, both.exposure = left.n + right.n, left.exposure + right.exposure
    return both


@lru_cache(maxsize=SOURCES_KEPT)
def source_of(tenant: str) -> int:
    """The bucket of a tenant's name; 0 without one."""
    if not tenant:
        return NO_TENANT
    number = int.from_bytes(hashlib.blake2b(tenant.encode(), digest_size=8).digest(), "little")
    return 1 + number % (SOURCES - 1)


def kind_of(source: int, tokens: int) -> int:
    """Of a request."""
    return source * len(LENGTHS) + bisect_right(LONGER, tokens)


def name_of(kind: int) -> tuple[str, str]:
    """Its tokens and its source, in words."""
    source, length = divmod(kind, len(LENGTHS))
    return LENGTHS[length], f"source {source}" if source else "without a tenant"


# --- of a baseline ----------------------------------------------------------------------------------------------------
class Building:
    """Counts all features of a dictionary: which of them are kept is known in the end."""

    def __init__(self, features: int) -> None:
        self.counted = Counted(SLICES, features)
        self._quarters: dict[int, I64] = defaultdict(lambda: np.zeros(KINDS, np.int64))

    def add(self, feature: Indices, *, tokens: int, source: int, ended_ns: int) -> None:
        """A whole request."""
        quarter, kind = ended_ns // QUARTER_NS, kind_of(source, tokens)
        self.counted.add(quarter % len(HOURS) * KINDS + kind, feature, tokens)
        self._quarters[quarter][kind] += 1

    def by_hours(self) -> Counted:
        """All kinds of a quarter of the day together: ``[4, F]``."""
        found = Counted(len(HOURS), self.counted.n.shape[1])
        for whole, part in ((found.n, self.counted.n), (found.exposure, self.counted.exposure)):
            part.reshape(len(HOURS), KINDS, -1).sum(axis=1, dtype=whole.dtype, out=whole)
        return found

    def slices(self, feature: Indices) -> Slices:
        """Of these features."""
        low, high, usual = np.zeros(SLICES), np.zeros(SLICES), np.zeros(len(HOURS))
        for hours in range(len(HOURS)):
            days = np.array([one for number, one in self._quarters.items() if number % len(HOURS) == hours])
            if not len(days):
                continue
            total, part = days.sum(axis=1), slice(hours * KINDS, (hours + 1) * KINDS)
            usual[hours] = np.median(total)
            shares = (days / total[:, None])[total >= COUNTED_SHARE * usual[hours]]
            low[part], high[part] = shares.min(axis=0), shares.max(axis=0)
        counts = np.ascontiguousarray(self.counted.n[:, feature])
        return Slices(feature=feature, n=counts, exposure=self.counted.exposure, low=low, high=high, usual=usual)


# --- live -------------------------------------------------------------------------------------------------------------
@dataclass(slots=True, eq=False)
class Quarter:
    """Six hours of one day."""

    number: int  # since 1970
    counted: Counted
    requests: int = 0
    closed: list[tuple[int, int]] = field(default_factory=list)
    """Blocks of drift that were closed meanwhile, each with the quarter's requests so far."""

    @property
    def hours(self) -> int:
        """Which quarter of the day."""
        return self.number % len(HOURS)


class Live:
    """The last eight quarters of days. ``feature``: those of `Slices`, of ``features``."""

    def __init__(self, feature: Indices, features: int) -> None:
        self._width = len(feature)
        self._place = np.full(features, -1, np.intp)
        self._place[feature] = np.arange(len(feature))
        self._quarters: dict[int, Quarter] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(one.counted.n.nbytes + one.counted.exposure.nbytes for one in self._quarters.values())

    def add(self, feature: Indices, *, tokens: int, source: int, now_ns: int) -> None:
        """A whole request. ``feature``: each once. One that is older than what is kept changes nothing."""
        quarter = self._quarter(now_ns // QUARTER_NS)
        if quarter is None:
            return
        place = self._place[feature]
        quarter.counted.add(kind_of(source, tokens), place[place >= 0], tokens)
        quarter.requests += 1

    def closed(self, block: int) -> None:
        """A block of drift was closed: requests from now on are of later ones."""
        if self._quarters:
            newest = self._quarters[max(self._quarters)]
            newest.closed.append((block, newest.requests))

    def latest(self) -> list[Quarter]:
        """Those that are kept, the newest first."""
        return [self._quarters[number] for number in sorted(self._quarters, reverse=True)]

    def since(self, block: int) -> tuple[list[Quarter], float]:
        """The quarters that hold a block and what came after it, and the share of their requests that did."""
        found, before, kept = list[Quarter](), 0, self.latest()
        for quarter in kept:
            if quarter is not kept[0] and (not quarter.closed or quarter.closed[-1][0] < block):
                break
            found.append(quarter)
            before += max((requests for number, requests in quarter.closed if number < block), default=0)
        total = sum(one.requests for one in found)
        return found, 1.0 - before / total if total else 0.0

    def _quarter(self, number: int) -> Quarter | None:
        known = self._quarters.get(number)
        if known is not None:
            return known
        newest = max(self._quarters, default=number)
        if number <= newest - QUARTERS_KEPT:
            return None
        self._quarters[number] = Quarter(number, Counted(KINDS, self._width))
        for old in [one for one in self._quarters if one <= max(number, newest) - QUARTERS_KEPT]:
            del self._quarters[old]
        return self._quarters[number]
