"""Simulated weeks put before a detector: baselines of them, and what it says of others."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.drift_weeks import Size, Weeks
from benchmarks.drift_world import F32, Week
from saewatch.monitor.drift.counts import EXPOSURE_UNIT, Counts
from saewatch.monitor.drift.detector import Detector
from saewatch.monitor.drift.fit import Fitted, fit
from saewatch.monitor.drift.history import DAY_NS, History

START_NS = 400 * DAY_NS


class Made(Protocol):
    """Weeks of one size."""

    size: Size

    def get(self, seed: int) -> Week:
        """One week."""


def history(weeks: Made, seeds: Sequence[int]) -> History:
    """Some weeks, one after the other."""
    all_of = [weeks.get(seed) for seed in seeds]
    together = {name: np.concatenate([getattr(one, name) for one in all_of]) for name in ("n", "w", "z", "az")}
    totals = {
        name: np.concatenate([getattr(one, name) for one in all_of]) for name in ("requests", "encoded", "firings")
    }
    return History(
        **together,
        **totals,
        whole=totals["requests"],
        seen=totals["encoded"],
        exposure=np.concatenate([one.exposure for one in all_of]) / EXPOSURE_UNIT,
        unexplained=np.concatenate([one.unexplained for one in all_of]),
        l0=np.full(len(totals["requests"]), np.nan),  # what is simulated has no other features than those watched
        day=np.arange(len(totals["requests"])) // weeks.size.blocks_a_day,
    )


def fitted(weeks: Weeks, seeds: Sequence[int]) -> Fitted:
    """A baseline of some weeks."""
    of = weeks.world
    centre, scale = of.centre.astype(np.float32), of.scale.astype(np.float32)
    return fit(history(weeks, seeds), centre=centre, scale=scale, progress=told)


def detector(of: Fitted, budget: float) -> Detector:
    """A fresh one."""
    return Detector(of.baseline, reading=of.reading, usual=of.usual, pairs=of.pairs, budget=budget)


def blocks(week: Week) -> Iterator[Counts]:
    """As the sidecar would have closed them."""
    for number in range(len(week.requests)):
        encoded, requests = int(week.encoded[number]), int(week.requests[number])
        yield Counts(
            n=np.asarray(week.n[number]),
            w=np.asarray(week.w[number]),
            z=np.asarray(week.z[number]),
            az=np.asarray(week.az[number]),
            exposure=np.asarray(week.exposure[number]),
            requests=requests,
            whole=requests,
            seen=encoded,
            encoded=encoded,
            firings=int(week.firings[number]),
            unexplained=round(1e6 * float(week.unexplained[number]) * encoded),
            census=encoded,
        )


@dataclass(slots=True, kw_only=True)
class Seen:
    """What a detector said of some weeks in a row. Requests count from the first block."""

    blocks: int
    requests: int
    features: list[tuple[int, int, int, str, float]]  # week, block of the week, feature, bet, score
    overall: list[tuple[int, int, str]]  # week, block, statistic
    suspects: list[tuple[int, int, int]]
    told: set[tuple[int, int]]  # week and feature that somebody was called for
    told_overall: int  # calls for statistics of the whole
    peak_ordinary: float
    peak_volatile: float
    first: dict[int, int]  # feature to the requests before its first alarm
    first_suspect: dict[int, int]
    highest: F32  # [weeks, F] scores


def watched(weeks: Weeks, seeds: Sequence[int], one: Detector) -> Seen:
    """Gives the weeks to a detector."""
    start_ns = START_NS + one.evidence.block * DAY_NS // weeks.size.blocks_a_day
    found = Seen(
        blocks=0,
        requests=0,
        features=[],
        overall=[],
        suspects=[],
        told=set(),
        told_overall=0,
        peak_ordinary=0.0,
        peak_volatile=0.0,
        first={},
        first_suspect={},
        highest=np.zeros((len(seeds), weeks.size.features), np.float32),
    )
    volatile = weeks.world.volatile  # as it is, not as it was recognised
    for seed, highest in zip(seeds, found.highest, strict=True):
        for number, counts in enumerate(blocks(weeks.get(seed))):
            found.blocks += 1
            found.requests += counts.requests
            step = one.step(counts, start_ns + found.blocks * DAY_NS // weeks.size.blocks_a_day)
            if step.held:
                continue
            np.maximum(highest, step.score, out=highest)
            found.peak_ordinary = max(found.peak_ordinary, float(step.score[~volatile].max()))
            found.peak_volatile = max(found.peak_volatile, float(step.score[volatile].max(initial=0.0)))
            for moved in step.moved:
                if moved.kind == "overall":
                    found.overall.append((seed, number, moved.of))
                    found.told_overall += moved.told
                else:
                    found.told |= {(seed, moved.subject)} if moved.told else set()
                    bet = f"{moved.of} {moved.direction}"
                    found.features.append((seed, number, moved.subject, bet, moved.score))
                    found.first.setdefault(moved.subject, found.requests)
                    found.first_suspect.setdefault(moved.subject, found.requests)
            for feature in step.suspect.tolist():
                if feature not in found.first_suspect:
                    found.suspects.append((seed, number, feature))
                    found.first_suspect[feature] = found.requests
        said = f"{len(found.features)} alarms, {len(found.overall)} of the whole, {len(found.suspects)} suspects"
        told(f"week {seed}: {said}")
    return found


def told(text: str) -> None:
    """Progress."""
    print(f"drift: {text}", file=sys.stderr, flush=True)
