"""Like beside like: does a feature that alarms fire as it did among requests of the same kind, or more often there too?

The requests in which it fired since its alarm's evidence began are divided by two expectations. The *raw* one takes the
baseline's rate at these hours; the one *within slices* takes the rate of each slice, so it is what would have come of
the same kinds of requests, had nothing but their numbers changed. That is indirect standardisation, observed over
expected (Keiding 1987, The method of expected number of deaths, 1786-1886-1986). Hours are held fixed in both: what a
day has not had yet is no change of the mix.

Counts are of quarters of a day, so they hold requests of before the evidence began, which water both ratios down. By
how much is known: what came before is taken to be as usual, and the ratios are those of what came since.

A wrong "it is only the mix" is worse than none. It is said of a feature only where the ratio within is tolerated and
the raw one is not; the raw one is all of what the alarm came to at least; and the interval of the one within excludes
that. And it is said at all only where there are kinds of requests that have grown or shrunk, and more than half of what
alarms could be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from saewatch.monitor.alert import SliceMoved
from saewatch.monitor.drift.baseline import Baseline
from saewatch.monitor.drift.counts import EXPOSURE_UNIT, F64, I64
from saewatch.monitor.drift.detector import NORMAL_95, Moved
from saewatch.monitor.drift.evidence import UP
from saewatch.monitor.drift.slices import COUNTED_SHARE, HOURS, KINDS, SLICES, Live, Quarter, Slices, name_of
from saewatch.monitor.drift.spread import Flags

FIRED_MIN, SLICES_MIN = 20, 3
"""Requests in which a feature fired, in so many slices: less is no comparison."""
REQUESTS_MIN = 100
"""Of a slice in the baseline, without which it says nothing of rates."""
COVERED = 0.9
"""Of the requests, and of those in which the feature fired: the rest may be of kinds that the baseline hardly knows."""
SINCE_MIN = 1.0 / 3.0
"""Of what was to be expected: with less since the evidence began, ratios say more of what came before."""
ALARMS_MAX = 256
"""Alarms that are compared, those with the highest scores: 50 us each."""
SHARE_MIN = 0.02
"""By how much a share of requests has to be outside of what it was."""
SHOWN = 5
VANISHES, PERSISTS, UNDECIDED = "vanishes", "persists", ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How often a feature fired over how often it was to be expected."""

    feature: int
    raw: float
    within: float  # slices, with a 95 % interval
    low: float
    high: float
    requests: int  # in which it fired
    verdict: str = UNDECIDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """What slices say of alarms."""

    alarms: int = 0  # features that alarm; `ALARMS_MAX` where they are more
    ratios: tuple[Ratio, ...] = ()  # of those that could be compared
    slices: tuple[SliceMoved, ...] = ()  # what moved most first

    @property
    def vanishes(self) -> bool:
        """Whether the mix has moved, and explains each feature that could be compared: more than half of them all."""
        compared = 2 * len(self.ratios) > self.alarms
        return compared and bool(self.slices) and all(one.verdict == VANISHES for one in self.ratios)

    @property
    def persisting(self) -> int:
        """Features that alarm within slices too."""
        return sum(one.verdict == PERSISTS for one in self.ratios)


NOTHING = Matched()


def matched(alarms: Sequence[Moved], baseline: Baseline, known: Slices, live: Live) -> Matched:
    """Of the alarms that stand."""
    features = [one for one in alarms if one.kind == "feature"]
    highest = sorted((one for one in features if one.of in {"n", "w"}), key=lambda one: -one.score)[:ALARMS_MAX]
    ratios = [_ratio(one, baseline, known, live) for one in highest]
    return Matched(
        alarms=min(len(features), ALARMS_MAX),
        ratios=tuple(one for one in ratios if one is not None),
        slices=moved_slices(known, live),
    )


# --- features ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """A feature's slices, ``[128]`` each: requests in which it fired, and exposure."""

    fired: I64
    exposure: F64
    live_fired: I64
    live_exposure: F64

    @property
    def rate(self) -> F64:
        """Of each slice."""
        found: F64 = self.fired / np.maximum(self.exposure, 1e-9)
        return found

    def at(self, level: float) -> _Rows:
        """With the baseline's exposure such that its rate over all slices is ``level``."""
        expected = max(level * float(self.exposure.sum()), 1e-9)
        return replace(self, exposure=self.exposure * ((self.fired.sum() + 0.5) / expected))


def _ratio(alarm: Moved, baseline: Baseline, known: Slices, live: Live) -> Ratio | None:
    """None where there is too little to compare."""
    column = int(np.searchsorted(known.feature, alarm.subject))
    if column == len(known.feature) or known.feature[column] != alarm.subject:
        return None
    quarters, part = live.since(alarm.began_block)
    rates = baseline.n.rates
    rows = _rows(known, column, int(rates.beta[alarm.subject]), quarters)
    rows = rows.at(float(rates.level[alarm.subject]))  # it may have been accepted anew since
    usable = known.requests >= REQUESTS_MIN
    expected = np.where(usable, rows.rate * rows.live_exposure, 0.0)
    enough = usable & (rows.fired >= FIRED_MIN) & (np.maximum(rows.live_fired, expected) >= FIRED_MIN)
    if not _covered(rows, usable) or enough.sum() < SLICES_MIN:
        return None
    fired, within = max(float(rows.live_fired[usable].sum()), 0.5), max(float(expected.sum()), 0.5)
    hours = max(_by_hours(rows, usable), 0.5)
    since = 1.0 - (1.0 - part) * hours / within  # of what slices let expect: those of before were as usual
    if min(since, part) < SINCE_MIN:
        return None
    error = float((expected**2 / np.maximum(rows.fired, 0.5)).sum()) / within**2  # of the baseline's rates
    spread = float(baseline.n.dispersion[alarm.subject]) * (1.0 / fired + error)
    reach = float(np.exp(NORMAL_95 * np.sqrt(spread)))
    found = Ratio(
        feature=alarm.subject,
        raw=_since(fired / hours, part),
        within=_since(fired / within, since),
        low=_since(fired / within / reach, since),
        high=_since(fired / within * reach, since),
        requests=int(fired),
    )
    return replace(found, verdict=_judged(found, alarm, 1.0 + float(baseline.n.tolerance[alarm.subject])))


def _since(ratio: float, part: float) -> float:
    """Of the ``part`` that came since, where it was 1 before."""
    return max(1.0 + (ratio - 1.0) / part, 1e-3)


def _rows(known: Slices, column: int, beta: int, quarters: Sequence[Quarter]) -> _Rows:
    fired, exposure = np.zeros(SLICES, np.int64), np.zeros(SLICES)
    for one in quarters:
        part = slice(one.hours * KINDS, (one.hours + 1) * KINDS)
        fired[part] += one.counted.n[:, column]
        exposure[part] += one.counted.exposure[:, beta] / EXPOSURE_UNIT
    was = known.exposure[:, beta] / EXPOSURE_UNIT
    return _Rows(fired=known.n[:, column].astype(np.int64), exposure=was, live_fired=fired, live_exposure=exposure)


def _covered(rows: _Rows, usable: Flags) -> bool:
    """Whether most of what came is of kinds that the baseline knows."""
    both = (rows.live_exposure, rows.live_fired)
    return all(one[usable].sum() >= COVERED * one.sum() for one in both) and bool(rows.live_exposure.any())


def _by_hours(rows: _Rows, usable: Flags) -> float:
    """What all requests of the same hours would have let expect."""
    shape = (len(HOURS), KINDS)
    fired, exposure = (one.reshape(shape).sum(axis=1) for one in (rows.fired, rows.exposure))
    lived = np.where(usable, rows.live_exposure, 0.0).reshape(shape).sum(axis=1)
    return float((fired / np.maximum(exposure, 1e-9) * lived).sum())


def _judged(found: Ratio, alarm: Moved, tolerance: float) -> str:
    """Down is as up, of what each is one over."""
    raw, within, low, high, least = found.raw, found.within, found.low, found.high, alarm.low
    if alarm.direction != UP:
        raw, within, low, high, least = (1.0 / max(one, 1e-3) for one in (raw, within, high, low, alarm.high))
    if low > tolerance:
        return PERSISTS
    alone = raw > tolerance and raw >= least > high
    return VANISHES if alone and 1.0 / tolerance <= within <= tolerance else UNDECIDED


# --- kinds of requests ------------------------------------------------------------------------------------------------
def moved_slices(known: Slices, live: Live) -> tuple[SliceMoved, ...]:
    """Kinds that are further from a usual day's share than those days are from each other, what moved most first.

    Each quarter is compared with the same quarter of the baseline's days; the latest of each is taken that has half of
    a usual one's requests. The fewer it has the larger is the noise of its shares.
    """
    latest = dict[int, Quarter]()
    for one in live.latest()[: len(HOURS) + 1]:
        if one.requests >= max(COUNTED_SHARE * known.usual[one.hours], 1.0) and known.usual[one.hours]:
            latest.setdefault(one.hours, one)
    moved = dict[tuple[int, bool], list[Quarter]]()
    for hours, one in sorted(latest.items()):
        part = slice(hours * KINDS, (hours + 1) * KINDS)
        share, low, high = one.counted.requests / one.requests, known.low[part], known.high[part]
        noise = np.sqrt(max(known.usual[hours] / one.requests, 1.0))
        reach = np.maximum(SHARE_MIN, (high - low) * noise)
        for kind in np.flatnonzero((share > high + reach) | (share < low - reach)).tolist():
            moved.setdefault((kind, bool(share[kind] > high[kind])), []).append(one)
    found = [_moved(kind, quarters, known) for (kind, _), quarters in moved.items()]
    return tuple(sorted(found, key=lambda one: -abs(one.share - one.before))[:SHOWN])


def _moved(kind: int, quarters: Sequence[Quarter], known: Slices) -> SliceMoved:
    """Of one kind, in the quarters in which it moved."""
    hours = [one.hours for one in quarters]
    requests = sum(one.requests for one in quarters)
    rows = [each * KINDS + kind for each in hours]
    was = known.requests.reshape(len(HOURS), KINDS)
    length, source = name_of(kind)
    when = "at all hours" if len(hours) == len(HOURS) else f"{', '.join(HOURS[each] for each in hours)} h UTC"
    return SliceMoved(
        slice=f"{length}, {when}, {source}",
        share=sum(int(one.counted.requests[kind]) for one in quarters) / requests,
        requests=requests,
        before=float(was[hours, kind].sum() / max(was[hours].sum(), 1)),
        low=float(known.low[rows].min()),
        high=float(known.high[rows].max()),
    )
