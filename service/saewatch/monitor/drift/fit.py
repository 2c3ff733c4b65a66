"""From recorded blocks to a baseline, or why there is none.

Each week is then watched with a baseline of the others: how the statistics of the whole move where nothing was fitted
to them is measured there, and where an ordinary feature comes near to an alarm the weeks are not of one kind, and no
baseline is made of them. Weeks that are too few to show of each feature that it moves by itself have some exceptions:
those that strayed are taken as volatile.
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
from saewatch.monitor.drift.counts import EXPOSURE_UNIT, F64, I32, I64, MILLION, Counts
from saewatch.monitor.drift.detector import SUSPECT
from saewatch.monitor.drift.evidence import Evidence
from saewatch.monitor.drift.history import DAYS_A_WEEK, DAYS_FULL, History
from saewatch.monitor.drift.latents import Latents
from saewatch.monitor.drift.overall import Reading, Usual
from saewatch.monitor.drift.slices import Slices
from saewatch.monitor.drift.spread import F32, Flags

DAYS_MIN = 7
COVERAGE_MOVED = 0.02
"""By how much the encoded share of one part of the blocks may differ from the others'."""
PEAK_FEATURES = 6000
"""Features at which the highest score that chance gives was studied; with more of them it is higher."""
STRAYED_SHARE = 0.002
"""Of the features of a short baseline that may have strayed, one at least: in two simulated weeks 5 of 6,000 did."""


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
    strayed: I64
    """Features of a short baseline that are volatile for their score there alone."""


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
    names: list[str] = []
    peaks: list[F32] = []
    values = np.zeros((history.blocks, len(overall.STATISTICS)))
    for held, name in parts(history):
        progress(name)
        rest = assembled(history.of(~held), moved, centre=centre, scale=scale)
        values[held], peak = _watched(history.of(held), rest, overall.reading(history.of(~held), rest))
        names.append(name)
        peaks.append(np.where(moved.volatile, 0.0, peak))
    strayed = _strayed(np.array(peaks), names, short=len(history.days) < DAYS_FULL)
    progress("whole")
    if strayed.any():
        moved = spread.measured(history, strayed)
    baseline = assembled(history, moved, centre=centre, scale=scale)
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
        peak=float(np.where(strayed, 0.0, peaks).max(initial=0.0)),
        strayed=np.flatnonzero(strayed).astype(np.int64),
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


def _strayed(peaks: F32, names: Sequence[str], *, short: bool) -> Flags:
    """Features that came near to an alarm in a part of the blocks, ``peaks [parts, F]``: `ConfigError` for too many."""
    features = peaks.shape[1]
    allowed = SUSPECT + max(0.0, float(np.log(features / PEAK_FEATURES)))
    over = np.asarray((peaks > allowed).any(axis=0))
    count, most = int(over.sum()), max(1, int(STRAYED_SHARE * features)) if short else 0
    if count > most:
        raise ConfigError(
            "baseline",
            found=f"in {names[int(peaks.max(axis=1).argmax())]} a feature at a score of {peaks.max():.1f} beside the"
            f" other days; {count} features came so near to an alarm",
            expected=f"at most {allowed:.1f}" + (f", but for {most} features" if most else "") + ": days of one kind",
            hint="Something changed in these days; build it from days before or after.",
        )
    return over


def _watched(history: History, baseline: Baseline, reading: Reading) -> tuple[F64, F32]:
    """The statistics of each block ``[T, 7]``, and the highest score of each feature ``[F]``."""
    evidence, peak = Evidence(baseline), np.zeros(history.features, np.float32)
    values = np.zeros((history.blocks, len(overall.STATISTICS)))
    for number in range(history.blocks):
        one = compared(baseline, block(history, number))
        values[number] = reading.values(baseline, one)
        peak = np.fmax(peak, evidence.step(one))
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
