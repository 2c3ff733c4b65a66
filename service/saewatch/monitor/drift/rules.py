"""Features that have died, or fire in most of what comes: rules, not tests.

- *dead*: no firing in 7 whole days in which 20 times the dispersion was to be expected;
- *dense*: in more than 10 % of requests, over about a day, where the baseline has under 5 %.

Rates are watched anyway, with a budget; a rule says in plain words what somebody looks for, and it also finds what is
too rare for a bet. Four bytes a feature: the day on which it fired last, and a moving share in steps of 1/65,535. The
latents of the whole dictionary have the same two rules, on the census's tokens in place of requests (`latents`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift.baseline import Baseline
from saewatch.monitor.drift.counts import F64, Column, Indices
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.latents import Latents
from saewatch.monitor.drift.spread import F32

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expected:
    """What is usual, ``[F]`` each."""

    level: F32  # firings for each unit of exposure
    exposure: npt.NDArray[np.integer]  # which one of a block's exposures
    dispersion: F32
    share: F64  # of requests, or of tokens

    @classmethod
    def of_features(cls, baseline: Baseline) -> Expected:
        """In how many requests they fire."""
        rates, dispersion = baseline.n.rates, baseline.n.dispersion.astype(np.float32)
        return cls(level=rates.level, exposure=rates.beta, dispersion=dispersion, share=baseline.prevalence())

    @classmethod
    def of_latents(cls, latents: Latents) -> Expected:
        """On how many tokens of the census they fire; a block has one exposure, its tokens."""
        share = latents.rate.astype(np.float64)
        exposure = np.zeros(len(share), np.int8)
        return cls(level=latents.rate, exposure=exposure, dispersion=latents.dispersion, share=share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruled:
    """A rule that holds for a feature now."""

    feature: int
    of: str  # dead | dense
    effect: float  # its rate over the one to be expected, with a 95 % interval
    low: float
    high: float
    bound: float  # what the rule allows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Holding:
    """For which features each rule holds."""

    dead: Indices
    dense: Indices

    def each(self) -> tuple[Indices, Indices]:
        """Dead, then dense."""
        return self.dead, self.dense


class Rules:
    """Of features, or of latents, block by block."""

    def __init__(self, usual: Expected) -> None:
        self._usual = usual
        self._sparse = usual.share < SPARSE_SHARE
        self._share = np.rint(SHARE_UNIT * np.minimum(usual.share, 1.0)).astype(np.uint16)
        self._last: Days = np.zeros(0, np.uint16)  # day of the last firing; the first day for what never did
        self._days: dict[int, F64] = {}  # exposures
        self._total = 1

    @property
    def size(self) -> int:
        """How many features."""
        return len(self._share)

    @property
    def nbytes(self) -> int:
        """Bytes that grow with the features."""
        return int(2 * self._share.nbytes)

    def step(self, fired: Column, total: int, exposure: F64, now_ns: int) -> Holding:
        """One block more: in how many of its ``total`` requests each fired, ``[F]``."""
        today = min(now_ns // DAY_NS, DAY_MAX)
        self._days[today] = self._days.get(today, np.zeros(len(exposure))) + exposure
        while len(self._days) > DAYS_KEPT:
            del self._days[min(self._days)]
        if not len(self._last):
            self._last = np.full(len(self._share), today, np.uint16)
        self._last[fired > 0] = today
        self._total = total
        share = np.minimum(fired * (SHARE_UNIT / total), SHARE_UNIT)
        self._share = (self._share + np.rint((share - self._share) / BLOCKS_A_DAY)).astype(np.uint16)
        dense = np.flatnonzero(self._sparse & (self._share > DENSE_SHARE * SHARE_UNIT))
        silent = np.flatnonzero(self._last.astype(np.int64) < today - SILENT_DAYS)
        dead = silent[self._expected(silent) >= SILENT_EXPECTED * self._usual.dispersion[silent]]
        return Holding(dead=dead, dense=dense)

    def dense(self, feature: int) -> Ruled:
        """One that is, with its interval."""
        share = float(self._share[feature]) / SHARE_UNIT
        spread = float(self._usual.dispersion[feature]) * share / (BLOCKS_A_DAY * self._total)
        reach = NORMAL_95 * float(np.sqrt(spread))
        usual = max(float(self._usual.share[feature]), 1.0 / SHARE_UNIT)
        low, high = max(share - reach, 0.0) / usual, min(share + reach, 1.0) / usual
        return Ruled(feature=feature, of=DENSE, effect=share / usual, low=low, high=high, bound=DENSE_SHARE / usual)

    def dead(self, feature: int) -> Ruled:
        """One that is: what it may fire at most, if it does."""
        expected = float(self._expected(np.array([feature]))[0])
        high = NOTHING_95 * float(self._usual.dispersion[feature]) / max(expected, 1e-9)
        return Ruled(feature=feature, of=DEAD, effect=0.0, low=0.0, high=high, bound=0.0)

    def _expected(self, feature: Indices) -> F64:
        """Firings that were to be expected since the day on which they fired last."""
        found, last, usual = np.zeros(len(feature)), self._last[feature], self._usual
        for day, exposure in self._days.items():
            found += np.where(last < day, usual.level[feature] * exposure[usual.exposure[feature]], 0.0)
        return found
