"""Blocks of a time in which nothing changed, as columns: what a baseline is fitted to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.monitor.drift.counts import F64, I64, MILLION, Counts

HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
DAYS_A_WEEK = 7
DAYS_TWICE, DAYS_FULL = 14, 28
"""Of a baseline whose alarms are told when they come again, and at once."""
Table = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """``[T, F]`` counts and ``[T]`` totals, in the order of time."""

    n: Table
    w: Table
    z: Table
    az: Table
    exposure: F64  # [T, 5]
    requests: I64
    whole: I64
    seen: I64
    encoded: I64
    firings: I64
    unexplained: F64  # NaN where no census was taken
    l0: F64  # of the whole dictionary; NaN as well
    day: I64  # since 1970

    @property
    def blocks(self) -> int:
        """T."""
        return len(self.requests)

    @property
    def features(self) -> int:
        """F."""
        return int(self.n.shape[1])

    @property
    def days(self) -> I64:
        """Those that have blocks, ascending."""
        found: I64 = np.unique(self.day)
        return found

    def weeks(self) -> I64:
        """``[T]`` the week of each block, counted from the first day."""
        found: I64 = (self.day - self.day.min()) // DAYS_A_WEEK
        return found

    def of(self, chosen: npt.NDArray[np.bool_]) -> History:
        """Some of the blocks."""
        return History(**{one.name: getattr(self, one.name)[chosen] for one in fields(History)})


def history(blocks: Iterable[tuple[int, Counts]]) -> History:
    """Blocks with the time at which they ended. `ConfigError` for more than are held, or of different dictionaries."""
    times, held = [], list[Counts]()
    for ended_ns, counts in blocks:
        times.append(ended_ns)
        held.append(counts)
        _check(held)
    columns = {name: np.array([getattr(one, name) for one in held]) for name in ("n", "w", "z", "az")}
    names = ("requests", "whole", "seen", "encoded", "firings")
    totals = {name: np.array([getattr(one, name) for one in held], np.int64) for name in names}
    return History(
        **columns,
        **totals,
        exposure=np.array([one.exposures for one in held]),
        unexplained=np.array([unexplained(one) for one in held]),
        l0=np.array([census_l0(one) for one in held]),
        day=np.array(times, np.int64) // DAY_NS,
    )


def unexplained(counts: Counts) -> float:
    """The mean over a block's census; NaN without one."""
    return counts.unexplained / (MILLION * counts.census) if counts.census else float("nan")


def census_l0(counts: Counts) -> float:
    """The same of the latents that fire on a token."""
    return counts.l0 / (MILLION * counts.sampled) if counts.sampled else float("nan")


def _check(held: list[Counts]) -> None:
    if held[-1].features != held[0].features:
        found = f"blocks of {held[0].features} and of {held[-1].features} features"
        raise ConfigError("baseline", found=found, expected="one dictionary's")
    if len(held) * held[0].features > limits.BASELINE_CELLS:
        found = f"{len(held)} blocks of {held[0].features} features"
        raise ConfigError("baseline", found=found, expected=f"at most {limits.BASELINE_CELLS} counts")
