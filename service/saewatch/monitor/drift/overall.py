"""What a block says as a whole: seven statistics, watched as features are, with a budget of their own.

A change of every value together hides from each feature, whose marks are taken relative to the block's common shift; so
the shift itself is watched. The state says that traffic is of another kind. L0, that of what is watched and that of the
whole dictionary in the census, and unexplained variance are taken given the state. How much they move by themselves was
measured on weeks that nothing was fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift import bets
from saewatch.monitor.drift.baseline import Baseline
from saewatch.monitor.drift.compared import Compared
from saewatch.monitor.drift.counts import F64, I64
from saewatch.monitor.drift.history import DAYS_FULL, DAYS_TWICE, History, census_l0, unexplained
from saewatch.monitor.drift.traffic import F32, PART

STATISTICS = ("shift", "traffic", "l0", "unexplained", "mass", "divergence", "census_l0")
RELATIVE_FLOOR = 0.01
"""Of L0 and unexplained variance: a smaller move is not worth a call."""
SHIFT_FLOOR = 0.003
TRAFFIC_FLOOR = 0.25
"""Of the state's usual distance, for each fortnight that a baseline lacks of four weeks. In two simulated weeks days'
means hardly differ: ten others raised 30 alarms without a floor, and none with it. Twice as high, half of the surges of
a topic go unseen by three weeks."""
STAKES = (0.3, 1.5)
BETWEEN_TIMES = 3.0
TERM_MAX = 30.0
KNOWN_MIN = 0.9
"""Of a baseline's blocks that have to have a census: a block may end between two."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """How statistics are read from a block, fitted to the blocks that the expectation was fitted to."""

    centre: F64  # [K] of the state
    inverse: F64  # [K, K]
    l0: F64  # [1 + K] by regression on the state
    unexplained: F64
    census_l0: F64

    def values(self, baseline: Baseline, block: Compared) -> F64:
        """``[7]``; NaN for what was not measured."""
        state = block.state.astype(np.float64)
        given = np.concatenate([[1.0], state])
        off = state - self.centre
        counts = block.counts
        found: F64 = np.array(
            [
                block.shift["z"],
                off @ self.inverse @ off / max(len(off), 1),
                _l0(counts.firings, counts.encoded) - given @ self.l0,
                unexplained(counts) - given @ self.unexplained,
                _mass(baseline, block),
                _divergence(block),
                census_l0(counts) - given @ self.census_l0,
            ]
        )
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Usual:
    """How each statistic moves by itself, ``[7]``; NaN for one that a baseline has not."""

    mean: F64
    within: F64  # sd in a day
    tolerance: F64


@dataclass(slots=True, eq=False)
class OverallEvidence:
    """What speaks against each statistic being as usual."""

    usual: Usual
    won: F64 = field(default_factory=lambda: np.zeros((len(STATISTICS), 2, len(STAKES))))

    def step(self, values: F64) -> F64:
        """One block more. Gives the scores ``[7]``; NaN for what cannot be judged."""
        usual = self.usual
        off = values - usual.mean
        for way, sign in enumerate((1.0, -1.0)):
            z = np.minimum((sign * off - usual.tolerance) / usual.within, bets.Z_MAX)
            for number, stake in enumerate(STAKES):
                pays = np.where(np.isfinite(z), bets.paid(z, stake), 1.0)
                self.won[:, way, number] = bets.kept(self.won[:, way, number], pays)
        score = np.log(np.maximum(self.won.mean(axis=(1, 2)), 1e-30))
        found: F64 = np.where(np.isfinite(off) & np.isfinite(usual.within), score, np.nan)
        return found


def reading(history: History, baseline: Baseline) -> Reading:
    """Of the blocks that ``baseline`` was fitted to."""
    parts = range(0, history.blocks, PART)
    states = np.concatenate(
        [baseline.axes.state(history.n[at : at + PART], history.exposure[at : at + PART]) for at in parts]
    ).astype(np.float64)
    given = np.column_stack([np.ones(len(states)), states])
    centre = states.mean(axis=0)
    spread = np.cov(states.T).reshape(len(centre), len(centre)) if len(centre) else np.zeros((0, 0))
    return Reading(
        centre=centre,
        inverse=np.linalg.pinv(spread),
        l0=_regressed(given, history.firings / np.maximum(history.encoded, 1)),
        unexplained=_regressed(given, history.unexplained),
        census_l0=_regressed(given, history.l0),
    )


def usual(values: F64, day: I64, history: History) -> Usual:
    """Of statistics ``[T, 7]`` of blocks that nothing was fitted to."""
    mean, within, between = np.array([_moves(one, day) for one in values.T]).T
    l0 = float(np.mean(history.firings / np.maximum(history.encoded, 1)))
    floors = dict.fromkeys(STATISTICS, 0.0)
    floors |= {"shift": SHIFT_FLOOR, "l0": RELATIVE_FLOOR * l0}
    lacking = max(DAYS_FULL - len(history.days), 0) / DAYS_TWICE
    floors["traffic"] = TRAFFIC_FLOOR * lacking * float(mean[STATISTICS.index("traffic")])
    floors |= {
        "unexplained": RELATIVE_FLOOR * _mean(history.unexplained),
        "census_l0": RELATIVE_FLOOR * _mean(history.l0),
    }
    tolerance: F64 = np.maximum(BETWEEN_TIMES * between, list(floors.values()))
    return Usual(mean=mean, within=np.maximum(within, 1e-9), tolerance=tolerance)


def _moves(values: F64, day: I64) -> tuple[float, float, float]:
    """Mean, and the standard deviations in a day and of days' means; NaN where too few blocks have a value."""
    known = _known(values)
    if not known.any():
        return float("nan"), float("nan"), float("nan")
    values, day = values[known], day[known]
    days, number = np.unique(day, return_inverse=True)
    means = np.bincount(number, values) / np.bincount(number)
    within = float(np.sqrt(np.mean((values - means[number]) ** 2)))
    between = float(np.sqrt(max(means.var() - within**2 * len(days) / len(values), 0.0)))
    return float(values.mean()), within, between


def _mean(values: F64) -> float:
    known = _known(values)
    return float(values[known].mean()) if known.any() else float("nan")


def _known(values: F64) -> npt.NDArray[np.bool_]:
    """Blocks that have a value; none of them, where more are without one than chance leaves."""
    known: npt.NDArray[np.bool_] = np.isfinite(values)
    return known if float(known.mean()) >= KNOWN_MIN else np.zeros_like(known)


def _l0(firings: int, encoded: int) -> float:
    return firings / encoded if encoded else float("nan")


def _regressed(given: F64, values: F64) -> F64:
    """Coefficients; NaN where values are missing."""
    known = _known(values)
    if not known.any():
        return np.full(given.shape[1], np.nan)
    return np.asarray(np.linalg.lstsq(given[known], values[known], rcond=None)[0], np.float64)


def _mass(baseline: Baseline, block: Compared) -> float:
    """How much counts are off together, each cut where one feature would be all of it."""
    often = block.expected_n >= 1.0
    if not often.any():
        return 0.0
    expected, spread = block.expected_n[often], baseline.n.dispersion[often].astype(np.float32)
    off = np.square(block.n[often] - expected) / (spread * expected)
    return float(np.minimum(off, TERM_MAX).mean(dtype=np.float64))


def _divergence(block: Compared) -> float:
    """Jensen-Shannon distance of all counts from what was expected, times the root of how many there are."""
    total = float(block.n.sum(dtype=np.float64))
    if not total:
        return 0.0
    found = block.n / np.float32(total)
    wanted = block.expected_n / block.expected_n.sum(dtype=np.float64).astype(np.float32)
    middle = 0.5 * (found + wanted)
    divergence = 0.5 * _relative(found, middle) + 0.5 * _relative(wanted, middle)
    return float(np.sqrt(max(divergence, 0.0) * total))


def _relative(part: F32, middle: F32) -> float:
    some = part > 0
    return float((part[some] * np.log(part[some] / middle[some])).sum(dtype=np.float64))
