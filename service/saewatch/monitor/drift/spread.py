"""How far features move from block to block and from day to day while nothing has changed, out of fold.

Everything is measured on days that the expectation was not fitted to: axes fitted to the same days would explain away
what the tolerance has to cover. Folds are whole days, every other one.

- *dispersion*: variance over mean of a block's counts, with slow movement taken out (each day is scaled to its count);
- *tolerance*: how far a day's mean strays. It is the smallest change that can be seen;
- *volatile* features stray by themselves; they get a tolerance of their own, and are never suspects;
- *bounds*: how wrong the level itself may be, for want of counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift import traffic
from saewatch.monitor.drift.counts import F64, MARK_UNIT, Indices
from saewatch.monitor.drift.history import DAYS_TWICE, History

F32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

STREAMS = ("n", "w")
MARKS = ("z", "az")
COUNT_FLOOR, MARK_FLOOR = 0.15, 0.05
"""The smallest tolerances: of a rate, and of a mark in scales."""
SHORT_FLOOR = 0.25
"""Of a rate where there are fewer than 14 days: a week hardly shows which features stray by themselves. With the usual
floor one simulated week as a baseline raised twice as many false alarms."""
ORDINARY_TIMES, VOLATILE_TIMES = 3.0, 5.0
BORROWED = 50.0
"""Counts' worth of its group's dispersion that a feature borrows."""
VOLATILE_ERRORS, VOLATILE_EXCESS = 2.5, 0.00625
NORMAL_1E4 = 3.719
"""Of the normal distribution at 1 - 1e-4."""
VARIANCE_MIN = 0.01
CROWDED = 2.0
"""Times what was to be expected: a block with so many requests of a feature has them from few sessions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spread:
    """``[F]`` each, by stream or mark."""

    dispersion: dict[str, F64]
    variance: dict[str, F64]  # [2, F] of a mark, for each request: in calm blocks, in crowded ones
    tolerance: dict[str, F64]
    volatile: Flags


@dataclass(slots=True)
class _Days:
    """Sums over days of one stream or mark, ``[F]``."""

    squares: F64
    weight: F64  # what the squares are divided by
    strayed: list[F64] = field(default_factory=list)  # a day's count less what was expected, squared
    total: list[F64] = field(default_factory=list)  # what was expected of the day
    noise: list[F64] = field(default_factory=list)  # 1 + how much the day weighs in the expectation's own error


class _Marks:
    """Sums over the days of one mark, ``[2, F]``: of calm blocks, and of those in which a feature fired too often."""

    def __init__(self, features: int) -> None:
        self._squares, self._count = np.zeros((2, features)), np.zeros((2, features))
        self._days: list[tuple[F64, F64, F64]] = []

    def add(self, fired: F32, off: F32, trained: F64, many: Flags) -> None:
        """One day, ``[t, F]``; ``off`` is by how much sums are off."""
        count = np.zeros_like(self._count)
        for number, weight in enumerate(((~many).astype(np.float32), many.astype(np.float32))):
            self._squares[number] += (np.square(off) * weight).sum(axis=0, dtype=np.float64)
            count[number] = (fired * weight).sum(axis=0, dtype=np.float64)
        self._count += count
        self._days.append((off.sum(axis=0, dtype=np.float64) ** 2, count, 1.0 + count.sum(axis=0) / trained))

    def variance(self, group: Indices) -> F64:
        """``[2, F]`` for each request."""
        pairs = zip(self._squares, self._count, strict=True)
        return np.maximum([borrowed(squares, count, group) for squares, count in pairs], VARIANCE_MIN)

    def overall(self, variance: F64) -> F64:
        """``[F]`` over calm and crowded blocks together."""
        count = self._count + np.array([[1e-6], [0.0]])
        found: F64 = (variance * count).sum(axis=0) / count.sum(axis=0)
        return found

    def days(self, variance: F64) -> _Days:
        """As those of a stream, with a day's whole noise."""
        total = [count.sum(axis=0) for _, count, _ in self._days]
        noise = [
            (variance * count).sum(axis=0) / np.maximum(whole, 1e-9) * own
            for whole, (_, count, own) in zip(total, self._days, strict=True)
        ]
        zero = np.zeros(0)
        return _Days(zero, zero, strayed=[off for off, _, _ in self._days], total=total, noise=noise)


def measured(history: History, strayed: Flags | None = None) -> Spread:
    """The spread of these blocks. ``strayed`` ``[F]``: features that are known to move by themselves."""
    zero = np.zeros(history.features)
    sums = {name: _Days(zero.copy(), zero.copy()) for name in STREAMS}
    marks = {name: _Marks(history.features) for name in MARKS}
    odd = np.searchsorted(history.days, history.day) % 2 == 1
    for held in (odd, ~odd):
        _fold(history.of(~held), history.of(held), sums, marks)
    group = traffic.groups(history.n.sum(axis=0, dtype=np.int64))
    dispersion = {name: np.maximum(borrowed(sums[name].squares, sums[name].weight, group), 1.0) for name in STREAMS}
    excess = {name: _excess(one, dispersion[name]) for name, one in sums.items()}
    variance = {name: one.variance(group) for name, one in marks.items()}
    excess |= {name: _excess(one.days(variance[name]), np.ones(history.features)) for name, one in marks.items()}
    volatile = np.zeros(history.features, np.bool_) if strayed is None else strayed.copy()
    for name in STREAMS:
        value, error = excess[name]
        volatile |= value > VOLATILE_ERRORS * error + VOLATILE_EXCESS
    floor = COUNT_FLOOR if len(history.days) >= DAYS_TWICE else SHORT_FLOOR
    floors = {**dict.fromkeys(STREAMS, floor), **dict.fromkeys(MARKS, MARK_FLOOR)}
    tolerance = {name: tolerances(*excess[name], volatile, group, floors[name]) for name in excess}
    fired = history.n.sum(axis=0, dtype=np.int64) + 0.5
    for name, mark in marks.items():
        tolerance[name] += NORMAL_1E4 * np.sqrt(mark.overall(variance[name]) / fired)
    assert all(np.isfinite(one).all() for one in (*dispersion.values(), *variance.values(), *tolerance.values()))
    return Spread(dispersion=dispersion, variance=variance, tolerance=tolerance, volatile=volatile)


def bounds(total: F64, dispersion: F64) -> tuple[F64, F64]:
    """The level that would give so few, or so many, counts once in 10,000 times, as a ratio to the estimate.

    Gamma quantiles at the effective number of counts, by Wilson and Hilferty's cube (1931).
    """
    effective = (total + 0.5) / dispersion
    middle, reach = 1.0 - 1.0 / (9.0 * effective), NORMAL_1E4 / (3.0 * np.sqrt(effective))
    return np.maximum(middle - reach, 0.0) ** 3, (middle + reach) ** 3


def mark_means(history: History) -> dict[str, F32]:
    """``[F]`` of each mark; what never fired has the mean of all."""
    fired = history.n.sum(axis=0, dtype=np.int64)
    found = {}
    for name in MARKS:
        total = getattr(history, name).sum(axis=0, dtype=np.int64) / MARK_UNIT
        overall = total.sum() / max(int(fired.sum()), 1)
        found[name] = ((total + overall) / (fired + 1.0)).astype(np.float32)
    return found


def common_shift(fired: F32, mark: F32, mean: F32, feature: Indices) -> F32:
    """``[...]`` by how much a block's frequent features are higher than they should be, together."""
    count = fired[..., feature]
    off = (mark[..., feature] - count * mean[feature]).sum(axis=-1, dtype=np.float64)
    found: F32 = (off / np.maximum(count.sum(axis=-1, dtype=np.float64), 1.0)).astype(np.float32)
    return found


def crowded(fired: F32, expected: F32) -> Flags:
    """Whether a block has many more requests of a feature than were to be expected; a single one is never many."""
    found: Flags = fired > np.maximum(np.float32(CROWDED) * expected, np.float32(1.0))
    return found


def _fold(train: History, held: History, sums: dict[str, _Days], marks: dict[str, _Marks]) -> None:
    expected = traffic.fit(train)
    means = mark_means(train)
    trained = {name: getattr(train, name).sum(axis=0, dtype=np.int64) + 0.5 for name in STREAMS}
    for day in held.days:
        one = held.of(held.day == day)
        states = expected.axes.state(one.n, one.exposure)
        means_of = dict[str, F32]()
        for name in STREAMS:
            rates = expected.n if name == "n" else expected.w
            mean = np.concatenate([part for _, part in rates.all_expected(one.exposure, states)])
            means_of[name] = mean
            _count_day(getattr(one, name).astype(np.float32), mean, trained[name], sums[name])
        fired = one.n.astype(np.float32)
        for name in MARKS:
            mark = getattr(one, name).astype(np.float32) / np.float32(MARK_UNIT)
            shift = common_shift(fired, mark, means[name], expected.axes.feature)
            off = mark - fired * (means[name] + shift[:, None])
            marks[name].add(fired, off, trained["n"], crowded(fired, means_of["n"]))


def _count_day(count: F32, mean: F32, trained: F64, into: _Days) -> None:
    counted, expected = count.sum(axis=0, dtype=np.float64), mean.sum(axis=0, dtype=np.float64)
    mean = mean * ((counted + 2.0) / (expected + 2.0)).astype(np.float32)
    into.squares += np.square(count - mean).sum(axis=0, dtype=np.float64)
    into.weight += mean.sum(axis=0, dtype=np.float64)
    into.strayed.append((counted - expected) ** 2)
    into.total.append(expected)
    into.noise.append(1.0 + expected / trained)


def borrowed(squares: F64, weight: F64, group: Indices) -> F64:
    """Squares over weight, of which each feature takes some from its group."""
    pooled = (np.bincount(group, squares) / np.maximum(np.bincount(group, weight), 1e-9))[group]
    found: F64 = (squares + BORROWED * pooled) / (weight + BORROWED)
    return found


def _excess(one: _Days, dispersion: F64) -> tuple[F64, F64]:
    """Variance of a day's mean beyond what blocks explain, relative, and its standard error."""
    total = np.array(one.total)
    noise = dispersion * total * np.array(one.noise)
    weight = np.maximum((total**2).sum(axis=0), 1e-9)
    return (np.array(one.strayed) - noise).sum(axis=0) / weight, np.sqrt(2.0 * (noise**2).sum(axis=0)) / weight


def tolerances(excess: F64, error: F64, volatile: Flags, group: Indices, floor: float) -> F64:
    """``[F]`` from the pooled excess of ordinary features of like rates; of volatile ones from their own."""
    trust = 1.0 / np.maximum(error, 1e-9) ** 2
    ordinary = np.where(volatile, 0.0, trust)
    pooled = np.bincount(group, ordinary * excess) / np.maximum(np.bincount(group, ordinary), 1e-30)
    found = np.maximum(floor, ORDINARY_TIMES * np.sqrt(np.maximum(pooled, 0.0)))[group]
    if volatile.any():
        mean = max(float(np.average(excess[volatile], weights=trust[volatile])), 0.0)
        own = VOLATILE_TIMES * np.sqrt(np.maximum(excess[volatile], mean))
        found[volatile] = np.maximum(floor, own)
    tolerance: F64 = found
    return tolerance
