"""A dictionary's baseline: how its features fire while nothing has changed, and how far they may move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift import spread, traffic
from saewatch.monitor.drift.counts import F64
from saewatch.monitor.drift.history import DAYS_FULL, DAYS_TWICE, History
from saewatch.monitor.drift.spread import Flags, Spread
from saewatch.monitor.drift.traffic import Axes, Rates

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]

HALF_MAX = 60_000.0
"""The largest number that is kept in 16 bits."""
LIST, TWICE, FULL = "list", "twice", "full"
"""What an alarm of a feature does: it is only listed; it is told from its second day on; it is told."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """What is expected of ``n`` or ``w``, and how far it may stray. ``[F]`` each."""

    rates: Rates
    dispersion: F16
    tolerance: F16
    low: F16  # the level may be this times as large
    high: F16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mark:
    """Of ``z`` or ``az``. ``[F]`` each."""

    mean: F32
    variance: F16  # for each request
    crowded: F16  # the same in blocks with many of them
    tolerance: F16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """Of one dictionary's features, in the order of its catalogue."""

    axes: Axes
    n: Stream
    w: Stream
    z: Mark
    az: Mark
    volatile: Flags
    centre: F16
    scale: F16
    exposure: F64  # [5] of all blocks
    encoded_share: float
    whole_share: float
    days: int
    blocks: int
    requests: int
    version: int = 1

    @property
    def features(self) -> int:
        """How many."""
        return len(self.volatile)

    @property
    def paging(self) -> str:
        """What an alarm does: shorter baselines know too little of what moves by itself."""
        return FULL if self.days >= DAYS_FULL else TWICE if self.days >= DAYS_TWICE else LIST

    @property
    def nbytes(self) -> int:
        """Bytes that grow with the features."""
        arrays = [self.volatile, self.centre, self.scale]
        for stream in (self.n, self.w):
            arrays += [stream.dispersion, stream.tolerance, stream.low, stream.high]
            arrays += [stream.rates.level, stream.rates.beta, stream.rates.loading]
        for mark in (self.z, self.az):
            arrays += [getattr(mark, one.name) for one in fields(Mark)]
        return sum(one.nbytes for one in arrays)

    def prevalence(self) -> F64:
        """``[F]`` share of requests in which a feature fires, over the whole baseline."""
        fired = self.n.rates.level.astype(np.float64) * self.exposure[self.n.rates.beta]
        found: F64 = fired / max(self.requests, 1)
        return found

    def accepted(self, times: Mapping[int, float]) -> Baseline:
        """With new levels of features that somebody accepts: an amendment, with a version of its own."""
        factor = np.ones(self.features, np.float32)
        factor[list(times)] = list(times.values())
        changed: dict[str, Any] = {}
        for name in spread.STREAMS:
            stream: Stream = getattr(self, name)
            rates = replace(stream.rates, level=stream.rates.level * factor)
            changed[name] = replace(stream, rates=rates)
        axes = replace(self.axes, level=self.axes.level * factor[self.axes.feature])
        return replace(self, **changed, axes=axes, version=self.version + 1)


def assembled(history: History, spread_of: Spread, *, centre: F32, scale: F32) -> Baseline:
    """Expectations of these blocks with what was measured out of fold about the spread."""
    fitted = traffic.fit(history)
    means = spread.mark_means(history)
    return Baseline(
        axes=fitted.axes,
        n=_stream(history, fitted.n, spread_of, "n"),
        w=_stream(history, fitted.w, spread_of, "w"),
        z=_mark(means["z"], spread_of, "z"),
        az=_mark(means["az"], spread_of, "az"),
        volatile=spread_of.volatile,
        centre=centre.astype(np.float16),
        scale=scale.astype(np.float16),
        exposure=history.exposure.sum(axis=0),
        encoded_share=share(history.encoded.sum(), history.seen.sum()),
        whole_share=share(history.whole.sum(), history.requests.sum()),
        days=len(history.days),
        blocks=history.blocks,
        requests=int(history.requests.sum()),
    )


def share(part: float, whole: float) -> float:
    """1 of nothing."""
    return float(part) / float(whole) if whole else 1.0


def _stream(history: History, rates: Rates, spread_of: Spread, name: str) -> Stream:
    dispersion = spread_of.dispersion[name]
    low, high = spread.bounds(getattr(history, name).sum(axis=0, dtype=np.int64), dispersion)
    tolerance = spread_of.tolerance[name]
    half = {"dispersion": dispersion, "tolerance": tolerance, "low": low, "high": high}
    return Stream(rates=rates, **{key: np.minimum(one, HALF_MAX).astype(np.float16) for key, one in half.items()})


def _mark(mean: F32, spread_of: Spread, name: str) -> Mark:
    tolerance = np.minimum(spread_of.tolerance[name], HALF_MAX)
    return Mark(
        mean=mean,
        variance=spread_of.variance[name][0].astype(np.float16),
        crowded=spread_of.variance[name][1].astype(np.float16),
        tolerance=tolerance.astype(np.float16),
    )
