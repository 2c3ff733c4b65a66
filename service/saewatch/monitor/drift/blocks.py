"""Requests into blocks of time. A block is at least 10 minutes and 50 requests, at most 6 hours.

The rule looks at the clock and at how many requests there were, never at what fired.
"""

from __future__ import annotations

import numpy as np

from saewatch.core import limits
from saewatch.monitor.drift.counts import F64, I64, Counts, Floats, Indices
from saewatch.monitor.drift.reducer import Reducer
from saewatch.monitor.events import Sampled


class Blocks:
    """The block that is open. Baselines and detectors count with it alike."""

    def __init__(self, centre: Floats, scale: Floats) -> None:
        self._reducer = Reducer(centre.astype(np.float64), scale.astype(np.float64))
        self._began_ns = -1

    @property
    def requests(self) -> int:
        """In the open block."""
        return self._reducer.requests

    def add(self, feature: Indices, count: I64, mean: F64, *, tokens: int, key: int, now_ns: int) -> None:
        """A whole request of ``tokens`` encoded ones; ``key``: of `pairs.key_of`."""
        self._begin(now_ns)
        self._reducer.add(feature, count, mean, seen=tokens, encoded=tokens, key=key)

    def partial(self, now_ns: int) -> None:
        """A request of which not everything was seen."""
        self._begin(now_ns)
        self._reducer.partial()

    def census(self, one: Sampled) -> None:
        """A part of one: what is of its tokens stands in each, and counts with the first. It begins no block."""
        if not one.first:
            self._reducer.census(l0=one.l0, unexplained=one.unexplained, tokens=one.tokens)

    def due(self, now_ns: int) -> bool:
        """Whether it is to be closed."""
        if self._began_ns < 0:
            return False
        age = now_ns - self._began_ns
        enough = age >= limits.DRIFT_BLOCK_NS and self.requests >= limits.DRIFT_BLOCK_REQUESTS_MIN
        return enough or age >= limits.DRIFT_BLOCK_NS_MAX or self.requests >= limits.DRIFT_BLOCK_REQUESTS

    def close(self) -> Counts:
        """What it came to; the next one begins with the next request."""
        self._began_ns = -1
        return self._reducer.close()

    def _begin(self, now_ns: int) -> None:
        if self._began_ns < 0:
            self._began_ns = now_ns
