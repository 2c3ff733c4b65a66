"""By how much features moved: one of them as it is told, and many as they are tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saewatch.core.batch import F64
from saewatch.monitor.drift.rules import DENSE, SPARSE_SHARE

RATIO_MIN = 1e-9
"""Of nothing left no logarithm can be taken."""


@dataclass(frozen=True, slots=True)
class Effect:
    """By how much a feature moved, with a 95 % interval: a ratio; for marks a shift in scales, for `dense` a share."""

    feature: int
    of: str  # panel | panel_firings | n | w | z | az | dead | dense
    value: float
    low: float
    high: float

    @property
    def least(self) -> float:
        """How far it moved at least: the end of its interval that is nearest to nothing."""
        if self.of == DENSE:  # a share, where the baseline had less than so much
            return float(np.log(max(self.low, SPARSE_SHARE) / SPARSE_SHARE))
        ends = np.array([self.low, self.high])
        return float(nearest(*(ends if self.of in {"z", "az"} else np.log(np.maximum(ends, RATIO_MIN)))))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ratios:
    """Ratios of some features, ``[K]`` each, with 95 % intervals; and the chance of one so far off by itself."""

    effect: F64
    low: F64
    high: F64
    chance: F64

    @property
    def least(self) -> F64:
        """How far each moved at least, in natural logarithms."""
        low, high = np.log(np.maximum([self.low, self.high], RATIO_MIN))
        return nearest(low, high)


def nearest(low: F64, high: F64) -> F64:
    """The end of an interval that is nearest to 0, without its sign; 0 where it is inside."""
    return np.where((low <= 0.0) & (high >= 0.0), 0.0, np.minimum(np.abs(low), np.abs(high)))
