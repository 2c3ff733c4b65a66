"""Features that have died, or fire in most of what comes: rules, not tests.

- *dead*: no firing in 7 whole days in which 20 times the dispersion was to be expected;
- *dense*: in more than 10 % of requests, over about a day, where the baseline has under 5 %.

Rates are watched anyway, with a budget; a rule says in plain words what somebody looks for, and it also finds what is
too rare for a bet. Four bytes a feature: the day on which it fired last, and a moving share in steps of 1/65,535.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift.baseline import Baseline
from saewatch.monitor.drift.compared import Compared
from saewatch.monitor.drift.counts import F64, Indices
from saewatch.monitor.drift.history import DAY_NS

SILENT_DAYS = 7
SILENT_EXPECTED = 20.0
DEAD, DENSE = "dead", "dense"
DENSE_SHARE, SPARSE_SHARE = 0.10, 0.05
BLOCKS_A_DAY = 144
DAYS_KEPT = 60
SHARE_UNIT = 65_535
DAY_MAX = 65_535
"""Days since 1970 that 16 bits hold: until 2149."""
NORMAL_95, NOTHING_95 = 1.96, 3.69
"""Of the normal distribution; and the largest mean at which nothing is counted once in 40 times (Poisson)."""
Days = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruled:
    """A rule that holds for a feature now."""

    feature: int
    of: str  # dead | dense
    effect: float  # its rate over the one to be expected, with a 95 % interval
    low: float
    high: float
    bound: float  # what the rule allows


class Rules:
    """Of a baseline's features, block by block."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        usual = baseline.prevalence()
        self._sparse = usual < SPARSE_SHARE
        self._share = np.rint(SHARE_UNIT * np.minimum(usual, 1.0)).astype(np.uint16)
        self._last: Days | None = None  # day of the last firing; the first day for what never did
        self._days: dict[int, F64] = {}  # [5] exposure

    @property
    def nbytes(self) -> int:
        """Bytes that grow with the features."""
        return int(2 * self._share.nbytes)

    def step(self, block: Compared, now_ns: int) -> list[Ruled]:
        """One block more. Gives every feature that a rule holds for."""
        today = min(now_ns // DAY_NS, DAY_MAX)
        self._expose(today, block.counts.exposures)
        if self._last is None:
            self._last = np.full(self._baseline.features, today, np.uint16)
        self._last[block.counts.n > 0] = today
        share = np.minimum(block.counts.n * (SHARE_UNIT / block.counts.requests), SHARE_UNIT)
        self._share = (self._share + np.rint((share - self._share) / BLOCKS_A_DAY)).astype(np.uint16)
        dense = np.flatnonzero(self._sparse & (self._share > DENSE_SHARE * SHARE_UNIT))
        requests = BLOCKS_A_DAY * block.counts.requests
        return [*self._dead(today, self._last), *(self._dense(one, requests) for one in dense.tolist())]

    def _dense(self, feature: int, requests: int) -> Ruled:
        share = float(self._share[feature]) / SHARE_UNIT
        reach = NORMAL_95 * float(np.sqrt(float(self._baseline.n.dispersion[feature]) * share / requests))
        usual = max(float(self._baseline.prevalence()[feature]), 1.0 / SHARE_UNIT)
        low, high = max(share - reach, 0.0) / usual, min(share + reach, 1.0) / usual
        return Ruled(feature=feature, of=DENSE, effect=share / usual, low=low, high=high, bound=DENSE_SHARE / usual)

    def _expected(self, feature: Indices, last: Days) -> F64:
        """Requests in which they were to fire since the day on which they did last."""
        rates, found = self._baseline.n.rates, np.zeros(len(feature))
        for day, exposure in self._days.items():
            found += np.where(last[feature] < day, rates.level[feature] * exposure[rates.beta[feature]], 0.0)
        return found

    def _dead(self, today: int, last: Days) -> list[Ruled]:
        silent = np.flatnonzero(last.astype(np.int64) < today - SILENT_DAYS)
        dispersion = self._baseline.n.dispersion[silent].astype(np.float64)
        expected = self._expected(silent, last)
        enough = np.flatnonzero(expected >= SILENT_EXPECTED * dispersion)
        high = NOTHING_95 * dispersion / np.maximum(expected, 1e-9)
        return [
            Ruled(feature=int(silent[one]), of=DEAD, effect=0.0, low=0.0, high=float(high[one]), bound=0.0)
            for one in enough
        ]

    def _expose(self, today: int, exposure: F64) -> None:
        self._days[today] = self._days.get(today, np.zeros(len(exposure))) + exposure
        while len(self._days) > DAYS_KEPT:
            del self._days[min(self._days)]
