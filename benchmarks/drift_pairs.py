"""New co-firings: simulated weeks as what the reducer would draw of their requests, and new pairs put into them.

A pair's features fire high, so that they are among a request's strongest, in every request of some sessions: a share
of all requests. Drawn features of a week are 16 numbers a request; they are kept with the counts, 40 MB a week.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift_trial import told
from benchmarks.drift_weeks import Weeks
from benchmarks.drift_world import NOTHING, Fired, World, week
from saewatch.monitor.drift import cofiring
from saewatch.monitor.drift.cofiring import Block, PairEvidence
from saewatch.monitor.drift.counts import EXPOSURE_UNIT, F64, I32, Indices
from saewatch.monitor.drift.detector import BLOCKS_A_MONTH, BUDGET
from saewatch.monitor.drift.pairs import BUCKETS, bucket_of, drawn, strongest
from saewatch.monitor.drift.traffic import Rates

SHARES = (0.01, 0.02, 0.05)
PAIRS_OF_SHARE = 10
RATE = (5e-4, 2e-3)
"""Firings a token of features that are put together: they fire in 4 to 14 % of requests by themselves."""
HIGH = 6.0
"""Their mark in these requests, in scales: among the strongest."""
NEW_WEEKS = 2
VERSION = 2


def planted(of: World) -> Mapping[float, Indices]:
    """For each share its pairs ``[P, 2]``, of ordinary features, none twice."""
    chance = np.random.default_rng(of.features + 1)
    able = np.flatnonzero((of.rate > RATE[0]) & (of.rate < RATE[1]) & ~of.volatile)
    count = len(SHARES) * min(PAIRS_OF_SHARE, len(able) // (2 * len(SHARES)))
    picked = np.sort(chance.permutation(able)[: 2 * count].reshape(len(SHARES), -1, 2), axis=2)
    return dict(zip(SHARES, picked, strict=True))


class Drawing:
    """Takes a week's blocks, and draws from their requests; with ``pairs``, new ones are put into some sessions."""

    def __init__(self, of: World, seed: int, pairs: Mapping[float, Indices]) -> None:
        self._of, self._pairs = of, pairs
        self._chance = np.random.default_rng((seed, 1))
        self._keys = np.random.default_rng((seed, 2))
        self.rows: list[I32] = []
        self.n: list[I32] = []

    def __call__(self, _: int, fired: Fired) -> None:
        """One block."""
        parts = [(fired.feature, fired.request, fired.mark)]
        for share, pairs in self._pairs.items():
            for pair in pairs:
                chosen = self._chance.random(int(fired.session[-1]) + 1) < share
                where = np.flatnonzero(chosen[fired.session])
                parts.append((np.repeat(pair, len(where)), np.tile(where, 2), np.full(2 * len(where), HIGH)))
        keys = self._keys.integers(0, 2**63, fired.requests)
        feature, request, mark = single(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        edges = np.searchsorted(request, np.arange(fired.requests + 1)).tolist()
        strong = [strongest(feature[a:b], mark[a:b]) for a, b in itertools.pairwise(edges)]
        self.rows.append(drawn(strong, keys.tolist()))
        self.n.append(np.bincount(feature, minlength=self._of.features).astype(np.int32))


def single(feature: Indices, request: Indices, mark: F64) -> tuple[Indices, Indices, F64]:
    """By request and feature; of a feature that is in a request twice the higher mark counts."""
    order = _order(feature)
    order = order[_order(request[order])]
    feature, request = feature[order], request[order]
    once = np.flatnonzero(np.append(True, (feature[1:] != feature[:-1]) | (request[1:] != request[:-1])))
    return feature[once], request[once], np.maximum.reduceat(mark[order], once)


def _order(keys: Indices) -> Indices:
    """A stable one. In the smallest type that holds the keys: numpy orders 8 and 16 bits by radix, in linear time."""
    return np.argsort(keys.astype(np.min_scalar_type(keys.max())), kind="stable")


class Drawn:
    """Weeks of drawn features, made when they are asked for first."""

    def __init__(self, weeks: Weeks, folder: Path) -> None:
        size = weeks.size
        self.name = f"drawn-{size.name}-{VERSION}-{size.features}x{size.blocks_a_day}"
        self._weeks, self._folder = weeks, folder / self.name

    def has(self, seed: int, *, new: bool = False) -> bool:
        """Whether they are there."""
        return self._place(seed, new=new).exists()

    def get(self, seed: int, *, new: bool = False) -> tuple[I32, Sequence[I32]]:
        """Counts ``[T, F]`` of a week without a change, or of that week with the ``new`` pairs, and what was drawn."""
        if not self.has(seed, new=new):
            self.make(seed, new=new)
        with np.load(self._place(seed, new=new)) as kept:
            return kept["n"], np.split(kept["rows"], np.cumsum(kept["blocks"])[:-1])

    def make(self, seed: int, *, new: bool = False) -> None:
        """Simulates a week for them; the week itself is kept too, where no pairs were put into it."""
        of, place = self._weeks.world, self._place(seed, new=new)
        one = Drawing(of, seed, planted(of) if new else {})
        made = week(of, seed, change=NOTHING, blocks_a_day=self._weeks.size.blocks_a_day, each=one)
        if not new:
            self._weeks.keep(seed, made)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.stem}.{os.getpid()}.npz")
        np.savez(partial, rows=np.concatenate(one.rows), n=np.array(one.n), blocks=[len(each) for each in one.rows])
        partial.rename(place)

    def _place(self, seed: int, *, new: bool) -> Path:
        return self._folder / f"{seed}{'-new' if new else ''}.npz"


@dataclass(slots=True, kw_only=True)
class Told:
    """What is said of pairs in some weeks in a row."""

    blocks: int = 0
    buckets: set[tuple[int, int]] = field(default_factory=set)  # week and bucket
    first: dict[tuple[int, int], int] = field(default_factory=dict)  # a pair, and the requests before it was named
    peak: float = 0.0


def paired(weeks: Weeks, drawn: Drawn, seeds: Sequence[int], *, new: bool = False) -> Iterator[tuple[int, int, Block]]:
    """Blocks with their week and how many requests they are."""
    a_day = weeks.size.blocks_a_day
    for at, seed in enumerate(seeds):
        exposure, requests = weeks.get(seed).exposure / EXPOSURE_UNIT, weeks.get(seed).requests
        n, rows = drawn.get(seed, new=new)
        told(f"pairs: week {seed}{' with new ones' if new else ''}")
        for number, row in enumerate(rows):
            day = 7 * at + number // a_day
            yield seed, int(requests[number]), Block(n=n[number], exposure=exposure[number], drawn=row, day=day)


def watched(blocks: Iterable[tuple[int, int, Block]], one: PairEvidence, threshold: float) -> Told:
    """Gives blocks to what looks for pairs."""
    found, requests = Told(), 0
    for seed, more, block in blocks:
        found.blocks += 1
        requests += more
        for alarm in one.step(block, threshold):
            found.buckets.add((seed, alarm.bucket))
            for pair in alarm.pairs:
                found.first.setdefault(pair, requests)
        found.peak = max(found.peak, float(np.log(one.won.mean(axis=0).max())))
    return found


def measured(weeks: Weeks, cache: Path, rates: Rates) -> dict[str, Any]:
    """False buckets in the null weeks, and how soon new pairs are named. ``rates``: of what features do alone."""
    size, drawn, planned = weeks.size, Drawn(weeks, cache), planted(weeks.world)
    fitted = cofiring.fit((block for _, _, block in paired(weeks, drawn, size.baseline)), rates)
    threshold = float(np.log(BUCKETS * BLOCKS_A_MONTH / BUDGET))
    null = watched(paired(weeks, drawn, size.null), PairEvidence(fitted, rates), threshold)
    moved = watched(paired(weeks, drawn, size.null[:NEW_WEEKS], new=True), PairEvidence(fitted, rates), threshold)
    own = {int(bucket_of(*np.array([pair], np.int32).T)[0]) for pairs in planned.values() for pair in pairs}
    return {
        "pair_windows": null.blocks,
        "pair_false_buckets": len(null.buckets),
        "pair_peak": null.peak,
        "pair_dispersion_mean": float(fitted.dispersion.mean(dtype=np.float64)),
        "pair_others_alarmed": len({bucket for _, bucket in moved.buckets} - own),
        "table": [_delay(share, pairs.tolist(), moved.first) for share, pairs in planned.items()],
    }


def _delay(share: float, pairs: Sequence[Sequence[int]], first: Mapping[tuple[int, int], int]) -> dict[str, float]:
    delays = np.array([first.get((one, other), np.inf) for one, other in pairs])
    median = float(np.median(delays))
    found = float(np.isfinite(delays).mean())
    return {"share": share, "found": found, "median_requests": median if np.isfinite(median) else -1.0}
