"""What happens in a second: tokens, firings and lag, in buckets of one second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SECONDS = 60
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Means over the seconds that were asked for."""

    tokens_per_second: float
    firings_per_second: float
    lag_seconds: float


class Window:
    """The last minute."""

    def __init__(self) -> None:
        self._second = np.full(SECONDS, -1, dtype=np.int64)
        self._sums = np.zeros((SECONDS, 4))  # tokens, firings, lag in seconds, batches

    def add(self, now_ns: int, *, tokens: int, firings: int, lag_ns: int) -> None:
        """A batch was observed."""
        second = now_ns // _NS
        place = second % SECONDS
        if self._second[place] != second:
            self._second[place] = second
            self._sums[place] = 0.0
        self._sums[place] += (tokens, firings, max(lag_ns, 0) / _NS, 1.0)

    def rates(self, now_ns: int, seconds: int = 10) -> Rates:
        """Over the last whole ``seconds``; the present one is not over yet."""
        now = now_ns // _NS
        chosen = (self._second >= now - seconds) & (self._second < now)
        tokens, firings, lag, batches = self._sums[chosen].sum(axis=0).tolist()
        return Rates(tokens / seconds, firings / seconds, lag / batches if batches else 0.0)
