"""What one table's features did in one request, prompt and answer apart.

Per feature and part: firings, largest value, sum of log-values, first and peak position. A position that is computed
again after a preemption replaces what it gave before, which sums cannot undo. So the firings of an open request are
kept apart, 12 bytes each, until it ends, until it has `limits.RECORD_FIRINGS` of them, or until all open requests
together have `limits.RECORD_FIRINGS_BYTES`. Then they are summed up, and positions below that point keep what they gave
first; the tokens for which that happened are counted. A preempted request of 4,000 tokens at 5 firings each is below
the bound.

The log-value is log(1 + v), and -log(1 - v) below zero, where probes may fire.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.core.batch import F32, F64, I32, Origin, Reason

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """Sums by key, ascending: ``2 * feature``, plus one for the answer."""

    key: I64  # [K]
    count: I64  # [K]
    largest: F32  # [K]
    log_sum: F64  # [K]
    first: I32  # [K] position
    peak: I32  # [K] position of the largest value; the first of equal ones

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return 36 * len(self.key)


def _no_sums() -> Sums:
    return sums_of(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def sums_of(key: I64, position: I32, value: F32) -> Sums:
    """Single firings as sums, which `merged` then adds up."""
    return merged(
        Sums(
            key=key,
            count=np.ones(len(key), np.int64),
            largest=value,
            log_sum=np.copysign(np.log1p(np.abs(value, dtype=np.float64)), value),
            first=position,
            peak=position,
        )
    )


def merged(parts: Sums) -> Sums:
    """One entry for each key."""
    order = np.lexsort((parts.peak, -parts.largest, parts.key))
    key = parts.key[order]
    start = np.flatnonzero(np.concatenate([np.ones(min(len(key), 1), bool), key[1:] != key[:-1]]))
    if not len(start):
        return parts
    return Sums(
        key=key[start],
        count=np.add.reduceat(parts.count[order], start),
        largest=parts.largest[order][start],
        log_sum=np.add.reduceat(parts.log_sum[order], start),
        first=np.minimum.reduceat(parts.first[order], start),
        peak=parts.peak[order][start],
    )


def together(left: Sums, right: Sums) -> Sums:
    """The sums of both."""
    columns = {name: np.concatenate([getattr(left, name), getattr(right, name)]) for name in Sums.__dataclass_fields__}
    return merged(Sums(**columns))


@dataclass(slots=True)
class Budget:
    """Firings kept apart over all open requests."""

    bytes: int = 0


@dataclass(slots=True)
class Tally:
    """One request's firings under one table. Coverage is counted in tokens; recomputed ones are not counted again."""

    prompt_len: int
    budget: Budget
    prompt_tokens: int = 0
    answer_tokens: int = 0
    missed: dict[Reason, int] = field(default_factory=dict)
    recomputed_tokens: int = 0
    kept_first_tokens: int = 0
    _sums: Sums = field(default_factory=_no_sums)
    _settled_below: int = 0  # positions whose firings are in the sums
    _count: int = 0
    _feature: I32 = field(default_factory=lambda: np.zeros(8, np.int32))
    _position: I32 = field(default_factory=lambda: np.zeros(8, np.int32))
    _value: F32 = field(default_factory=lambda: np.zeros(8, np.float32))

    def __post_init__(self) -> None:
        self.budget.bytes += self._raw_bytes

    @property
    def _raw_bytes(self) -> int:
        return 12 * len(self._feature)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self._raw_bytes + self._sums.nbytes

    def span(self, position: int, tokens: int, origin: int) -> None:
        """A span was seen: ``tokens`` rows from ``position`` on. Comes before its firings."""
        if origin == Origin.RECOMPUTED:
            self._forget(position, position + tokens)
            return
        in_prompt = min(max(self.prompt_len - position, 0), tokens)
        self.prompt_tokens += in_prompt
        self.answer_tokens += tokens - in_prompt

    def miss(self, reason: Reason, tokens: int) -> None:
        """Tokens that were fed and not seen."""
        self.missed[reason] = self.missed.get(reason, 0) + tokens

    def add(self, feature: I32, position: I32, value: F32, origin: int) -> None:
        """Firings of one span, ``[K]`` each."""
        if origin == Origin.RECOMPUTED and self._settled_below:
            kept = position >= self._settled_below
            feature, position, value = feature[kept], position[kept], value[kept]
        end = self._count + len(feature)
        self._reserve(end)
        self._feature[self._count : end] = feature
        self._position[self._count : end] = position
        self._value[self._count : end] = value
        self._count = end
        if end > limits.RECORD_FIRINGS or self.budget.bytes > limits.RECORD_FIRINGS_BYTES:
            self.settle()

    def sums(self) -> Sums:
        """What it all came to so far."""
        key = 2 * self._feature[: self._count].astype(np.int64) + (self._position[: self._count] >= self.prompt_len)
        return together(self._sums, sums_of(key, self._position[: self._count], self._value[: self._count]))

    def settle(self) -> None:
        """Sums up what was kept apart."""
        if self._count:
            self._settled_below = max(self._settled_below, int(self._position[: self._count].max()) + 1)
        self._sums = self.sums()
        self._count = 0
        self._resize(0)

    def _forget(self, start: int, stop: int) -> None:
        """Drops the firings of positions that are computed again."""
        self.recomputed_tokens += stop - start
        self.kept_first_tokens += max(min(stop, self._settled_below) - start, 0)
        position = self._position[: self._count]
        kept = np.flatnonzero((position < start) | (position >= stop))
        for column in (self._feature, self._position, self._value):
            column[: len(kept)] = column[kept]
        self._count = len(kept)

    def _reserve(self, size: int) -> None:
        if size > len(self._feature):
            self._resize(max(size, 2 * len(self._feature)))

    def _resize(self, size: int) -> None:
        self.budget.bytes -= self._raw_bytes
        self._feature, self._position, self._value = (
            np.concatenate([column[: self._count], np.zeros(size - self._count, column.dtype)])
            for column in (self._feature, self._position, self._value)
        )
        self.budget.bytes += self._raw_bytes


def frozen(tally: Tally) -> Tally:
    """A copy whose firings are summed up, to be read while the original goes on."""
    return replace(
        tally,
        budget=Budget(),
        missed=dict(tally.missed),
        _sums=tally.sums(),
        _count=0,
        _feature=np.zeros(0, np.int32),
        _position=np.zeros(0, np.int32),
        _value=np.zeros(0, np.float32),
    )
