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
from saewatch.core.batch import F32, F64, I32, Reason

I64 = npt.NDArray[np.int64]
Raw = npt.NDArray[np.int32]


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
    if not len(parts.key):
        return parts
    order = np.argsort(parts.key.astype(np.min_scalar_type(parts.key.max())), kind="stable")  # small keys are fast
    key, value = parts.key[order], parts.largest[order]
    start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    largest = np.maximum.reduceat(value, start)
    is_largest = value == np.repeat(largest, np.diff(start, append=len(key)))
    return Sums(
        key=key[start],
        count=np.add.reduceat(parts.count[order], start),
        largest=largest,
        log_sum=np.add.reduceat(parts.log_sum[order], start),
        first=np.minimum.reduceat(parts.first[order], start),
        peak=np.minimum.reduceat(np.where(is_largest, parts.peak[order], limits.POSITION_MAX), start),
    )


def together(left: Sums, right: Sums) -> Sums:
    """The sums of both."""
    columns = {name: np.concatenate([getattr(left, name), getattr(right, name)]) for name in Sums.__dataclass_fields__}
    return merged(Sums(**columns))


_NO_SUMS = sums_of(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(slots=True)
class Budget:
    """Firings kept apart over all open requests."""

    bytes: int = 0


def raw(feature: I32, position: I32, value: F32) -> Raw:
    """Firings as `Tally.add` takes them, ``[K, 3]``: feature, position, and the bits of the value."""
    return np.stack([feature, position, value.astype(np.float32, copy=False).view(np.int32)], axis=1)


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
    _sums: Sums = _NO_SUMS
    _settled_below: int = 0  # positions whose firings are in the sums
    _count: int = 0
    _apart: Raw = field(default_factory=lambda: np.empty((8, 3), np.int32))  # _count of them are in use

    def __post_init__(self) -> None:
        self.budget.bytes += self._apart.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self._apart.nbytes + self._sums.nbytes

    def saw(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Tokens that were seen for the first time."""
        self.prompt_tokens += prompt_tokens
        self.answer_tokens += answer_tokens

    def miss(self, reason: Reason, tokens: int) -> None:
        """Tokens that were fed and not seen."""
        self.missed[reason] = self.missed.get(reason, 0) + tokens

    def add(self, firings: Raw) -> None:
        """Firings, each once; none of those that `forget` said to leave out."""
        end = self._count + len(firings)
        if end > len(self._apart):
            self._resize(max(end, 2 * len(self._apart)))
        self._apart[self._count : end] = firings
        self._count = end
        if end > limits.RECORD_FIRINGS or self.budget.bytes > limits.RECORD_FIRINGS_BYTES:
            self.settle()

    def forget(self, start: int, stop: int) -> int:
        """Positions are computed again: drops what they gave. Firings of those below the result keep what they gave."""
        self.recomputed_tokens += stop - start
        self.kept_first_tokens += max(min(stop, self._settled_below) - start, 0)
        return self.drop(start, stop)

    def drop(self, start: int, stop: int) -> int:
        """The same for positions that are computed again under another table."""
        position = self._apart[: self._count, 1]
        kept = self._apart[: self._count][(position < start) | (position >= stop)]
        self._count = len(kept)
        self._apart[: self._count] = kept
        return self._settled_below

    def sums(self) -> Sums:
        """What it all came to so far."""
        if not self._count:
            return self._sums
        feature, position, bits = self._apart[: self._count].T
        key = 2 * feature.astype(np.int64) + (position >= self.prompt_len)
        fresh = sums_of(key, position, bits.view(np.float32))
        return together(self._sums, fresh) if len(self._sums.key) else fresh

    def settle(self) -> None:
        """Sums up what was kept apart."""
        if self._count:
            self._settled_below = max(self._settled_below, int(self._apart[: self._count, 1].max()) + 1)
        self._sums = self.sums()
        self._count = 0
        self._resize(0)

    def _resize(self, size: int) -> None:
        grown = np.empty((size, 3), np.int32)
        grown[: self._count] = self._apart[: self._count]
        self.budget.bytes += grown.nbytes - self._apart.nbytes
        self._apart = grown


def frozen(tally: Tally) -> Tally:
    """A copy whose firings are summed up, to be read while the original goes on."""
    nothing = np.empty((0, 3), np.int32)
    return replace(tally, budget=Budget(), missed=dict(tally.missed), _sums=tally.sums(), _count=0, _apart=nothing)
