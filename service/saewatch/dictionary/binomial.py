"""Shares of requests and what is known of them: exact binomial tails, and Clopper-Pearson intervals.

Clopper and Pearson (1934): the interval of a share of ``hits`` in ``n`` is where neither tail of the binomial is
smaller than half of what the interval may miss. It holds the truth at least as often as it says, whatever n and the
share. A tail is the sum of its terms, which are made from their logarithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from saewatch.core.batch import F64

_HALVINGS = 100  # of [0, 1]: to the last bit of a float64, whatever the share


@dataclass(frozen=True, slots=True)
class Share:
    """``hits`` of ``n`` requests."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share that was seen; NaN of nothing."""
        return self.hits / self.n if self.n else math.nan

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Clopper-Pearson's interval; from 0 to 1 of nothing."""
        tail = (1.0 - confidence) / 2.0
        low = 0.0 if self.hits == 0 else _share_where(self.hits - 1, self.n, 1.0 - tail)
        high = 1.0 if self.hits == self.n else _share_where(self.hits, self.n, tail)
        return low, high


def at_most(hits: int, n: int, share: float) -> F64:
    """Chances that at most 0, 1, … ``hits`` of ``n`` are hit, each hit with the chance ``share``, ``[hits + 1]``."""
    return _Tail(hits, n).chances(share)


class _Tail:
    """The terms up to ``hits`` of a binomial over ``n``; what does not depend on the share is computed once."""

    def __init__(self, hits: int, n: int) -> None:
        self._i = np.arange(hits + 1)
        steps = np.log((n - self._i[:-1]) / (self._i[:-1] + 1.0))
        self._ways = np.concatenate([[0.0], np.cumsum(steps)])  # log of n over i
        self._n = n

    def chances(self, share: float) -> F64:
        """Cumulative, ``[hits + 1]``."""
        if share in {0.0, 1.0}:
            return (self._i >= share * self._n).astype(np.float64)
        terms = self._ways + self._i * math.log(share) + (self._n - self._i) * math.log1p(-share)
        largest = terms.max()
        return np.asarray(np.minimum(np.exp(largest) * np.cumsum(np.exp(terms - largest)), 1.0))


def _share_where(hits: int, n: int, chance: float) -> float:
    """The share at which at most ``hits`` of ``n`` has this chance, which falls as the share grows."""
    tail, low, high = _Tail(hits, n), 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if tail.chances(middle)[-1] > chance:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0
