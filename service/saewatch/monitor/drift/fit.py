"""From recorded blocks to a baseline, or why there is none.

Each week is then watched with a baseline of the others: how the statistics of the whole move where nothing was fitted
to them is measured there, and where an ordinary feature comes near to an alarm the weeks are not of one kind, and no
baseline is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saewatch.core.errors import ConfigError
from saewatch.monitor.drift import cofiring, latents, overall, slices, spread
from saewatch.monitor.drift.baseline import Baseline, assembled, share
from saewatch.monitor.drift.cofiring import Pairs
from saewatch.monitor.drift.compared import compared
from saewatch.monitor.drift.counts import EXPOSURE_UNIT, F64, I32, MILLION, Counts
from saewatch.monitor.drift.detector import SUSPECT, ordinary_peak
from saewatch.monitor.drift.evidence import Evidence
from saewatch.monitor.drift.history import DAYS_A_WEEK, History
from saewatch.monitor.drift.latents import Latents
from saewatch.monitor.drift.overall import Reading, Usual
from saewatch.monitor.drift.slices import Slices
from saewatch.monitor.drift.spread import F32, Flags

DAYS_MIN = 7
COVERAGE_MOVED = 0.02
"""By how much the encoded share of one part of the blocks may differ from the others'."""
PEAK_FEATURES = 6000
"""Features at which the highest score that chance gives was studied; with more of them it is higher."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A baseline, and what the whole is watched with."""

    baseline: Baseline
    reading: Reading
    usual: Usual
    pairs: Pairs
    latents: Latents  # blocks know of neither: who counted them adds both
    slices: Slices
    peak: float
    """The highest score of an ordinary feature in a part of the blocks, watched with a baseline of the others."""


def fit(
    history: History,
    *,
    centre: F32,
    scale: F32,
    drawn: Sequence[I32] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """A baseline of these blocks, and of pairs where it is given what was ``drawn`` of each.

    `ConfigError` where they are too few, or not of one kind.
    """
    _check(history)
    progress("spread")
    moved = spread.measured(history)
    peaks: list[tuple[float, str]] = []
    values = np.zeros((history.blocks, len(overall.STATISTICS)))
    for held, name in parts(history):
        progress(name)
        rest = assembled(history.of(~held), moved, centre=centre, scale=scale)
        values[held], peak = _watched(history.of(held), rest, overall.reading(history.of(~held), rest))
        peaks.append((peak, name))
    progress("whole")
    baseline = assembled(history, moved, centre=centre, scale=scale)
    highest, where = max(peaks)
    allowed = SUSPECT + max(0.0, float(np.log(history.features / PEAK_FEATURES)))
    if highest > allowed:
        raise ConfigError(
            "baseline",
            found=f"in {where} a feature at a score of {highest:.1f} beside the other days",
            expected=f"at most {allowed:.1f}: days of one kind",
            hint="Something changed in these days; build it from days before or after.",
        )
    reading = overall.reading(history, baseline)
    usual = overall.usual(values, history.day, history)
    progress("pairs")
    pairs = cofiring.fit(_paired(history, drawn), baseline.n.rates)
    return Fitted(
        baseline=baseline,
        reading=reading,
        usual=usual,
        pairs=pairs,
        latents=latents.nothing(),
        slices=slices.nothing(),
        peak=highest,
    )


def parts(history: History) -> Iterator[tuple[Flags, str]]:
    """Whole weeks; where there is but one, every other day."""
    weeks = int(history.day.max() - history.day.min() + 1) // DAYS_A_WEEK
    if weeks > 1:
        week = np.minimum(history.weeks(), weeks - 1)  # days that are left over belong to the last one
        last = int(history.day.max() - history.day.min()) + 1
        for number in range(weeks):
            end = last if number == weeks - 1 else (number + 1) * DAYS_A_WEEK
            yield week == number, f"days {number * DAYS_A_WEEK + 1} to {end}"
        return
    odd = np.searchsorted(history.days, history.day) % 2 == 1
    yield odd, "every second day"
    yield ~odd, "every other day"


def block(history: History, number: int) -> Counts:
    """One block of it."""
    columns = {name: getattr(history, name)[number] for name in ("n", "w", "z", "az")}
    totals: dict[str, Any] = {
        name: int(getattr(history, name)[number]) for name in ("requests", "whole", "seen", "encoded", "firings")
    }
    census, l0 = float(history.unexplained[number]), float(history.l0[number])
    known, sampled = np.isfinite(census), np.isfinite(l0)
    return Counts(
        **columns,
        **totals,
        exposure=np.rint(EXPOSURE_UNIT * history.exposure[number]).astype(np.int64),
        unexplained=round(MILLION * census) if known else 0,
        census=1 if known else 0,
        l0=round(MILLION * l0) if sampled else 0,
        sampled=1 if sampled else 0,
    )


def _watched(history: History, baseline: Baseline, reading: Reading) -> tuple[F64, float]:
    """The statistics of each block ``[T, 6]``, and the highest score of an ordinary feature."""
    evidence, peak = Evidence(baseline), 0.0
    values = np.zeros((history.blocks, len(overall.STATISTICS)))
    for number in range(history.blocks):
        one = compared(baseline, block(history, number))
        values[number] = reading.values(baseline, one)
        peak = max(peak, ordinary_peak(evidence.step(one), baseline.volatile))
    return values, peak


def _paired(history: History, drawn: Sequence[I32]) -> Iterator[cofiring.Block]:
    for number, one in enumerate(drawn):
        n, exposure, day = history.n[number], history.exposure[number], int(history.day[number])
        yield cofiring.Block(n=n, exposure=exposure, drawn=one, day=day)


def _check(history: History) -> None:
    days = len(history.days)
    if days < DAYS_MIN:
        hint = "Until then drift is not watched: the state is no baseline."
        raise ConfigError("baseline", found=f"{days} days", expected=f"at least {DAYS_MIN}", hint=hint)
    odd = np.searchsorted(history.days, history.day) % 2 == 1
    shares = [share(history.encoded[one].sum(), history.seen[one].sum()) for one in (odd, ~odd)]
    if abs(shares[0] - shares[1]) > COVERAGE_MOVED:
        found = f"{shares[0]:.1%} of the tokens encoded on some days, {shares[1]:.1%} on the others"
        raise ConfigError("baseline", found=found, expected=f"within {COVERAGE_MOVED:.0%}")
