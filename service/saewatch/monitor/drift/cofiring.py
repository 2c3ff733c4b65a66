"""New co-firings: pairs of features that fire together more often than in the baseline, beyond what each does alone.

Per bucket of pairs (`pairs`) a level, votes for it over all votes, and two bets as on a feature's rate, that it is
three or ten times as much; 8 bytes of state. Only more is looked for. A pair that was never together has the smallest
level that is told from nothing: one in a thousand requests.

A bucket holds several pairs. Which of them it is about is counted only of buckets that have some evidence: a bounded
number of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift import bets, spread, traffic
from saewatch.monitor.drift.counts import F64, I32, Column
from saewatch.monitor.drift.pairs import BUCKETS, counted, weights
from saewatch.monitor.drift.traffic import Rates

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
Pair = tuple[int, int]

RATIOS = (3.0, 10.0)
PART = 8192
"""Buckets that are worked on at a time, so that they stay in the processor's cache."""
TOLERANCE_MIN = 0.5
"""Half as often again is tolerated: pairs follow the mix of traffic."""
LEVEL_MIN = 2e-6
"""Of all votes: a pair that is in one of 1,000 requests, and drawn in 0.24 of them, has so many of their 120."""
HALF_MAX = 60_000.0
NORMAL_95 = 1.96
WARM, WARM_BUCKETS, WARM_PAIRS = 8.0, 512, 8
"""The score from which on a bucket's pairs are counted, for how many buckets, and how many pairs of each."""
NAMED_SHARE = 0.2
"""Of a bucket's votes that a pair has to have, to be named."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """What is expected of buckets, ``[B]`` each; ``[0]`` where a baseline knows of no pairs."""

    level: F32  # of all votes
    dispersion: F16
    tolerance: F16
    high: F16  # the level may be this times as large

    @property
    def known(self) -> bool:
        """Whether there is anything to compare with."""
        return len(self.level) > 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """What pairs are counted of, of one block."""

    n: Column
    exposure: F64
    drawn: I32
    day: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A bucket that has more votes than is tolerated, and the pairs that they are for."""

    bucket: int
    score: float
    pairs: tuple[Pair, ...]
    began_block: int
    ratio: float  # of votes to what was expected, with a 95 % interval
    low: float
    high: float
    tolerance: float


@dataclass(slots=True)
class _Warm:
    """Of one bucket since it has some evidence."""

    since: int
    votes: float = 0.0
    exposure: float = 0.0
    pairs: Counter[Pair] = field(default_factory=Counter)


def nothing() -> Pairs:
    """Of no pairs."""
    half = np.zeros(0, np.float16)
    return Pairs(level=np.zeros(0, np.float32), dispersion=half, tolerance=half, high=half)


def fit(blocks: Iterable[Block], rates: Rates) -> Pairs:
    """Of blocks in the order of time. Sums only: memory does not grow with them."""
    sums = _Sums()
    for block in blocks:
        sums.add(block, rates)
    return sums.pairs() if sums.exposure else nothing()


class _Sums:
    """Over blocks, and over days; ``[B]`` each."""

    def __init__(self) -> None:
        self.exposure = 0.0
        self._votes, self._squares, self._cross = (np.zeros(BUCKETS) for _ in range(3))
        self._day_squares, self._day_cross, self._today = (np.zeros(BUCKETS) for _ in range(3))
        self._day, self._today_exposure, self._exposure_squares, self._days_squares = -1, 0.0, 0.0, 0.0

    def add(self, block: Block, rates: Rates) -> None:
        """One block more."""
        if block.day != self._day:
            self._end_day()
            self._day = block.day
        count, exposure, _ = _tallied(block, rates)
        self._votes += count
        self._squares += count * count
        self._cross += exposure * count
        self.exposure += exposure
        self._exposure_squares += exposure**2
        self._today += count
        self._today_exposure += exposure

    def pairs(self) -> Pairs:
        """Levels, and how far they move from block to block and from day to day."""
        self._end_day()
        level = (self._votes + 0.5) / self.exposure
        mean = np.maximum(level * self.exposure, 1e-9)
        group = traffic.groups(self._votes)
        squares = self._squares - 2.0 * level * self._cross + level**2 * self._exposure_squares
        dispersion = np.maximum(spread.borrowed(squares, mean, group), 1.0)
        weight = np.maximum(level**2 * self._days_squares, 1e-12)
        strayed = self._day_squares - 2.0 * level * self._day_cross + weight
        error = np.sqrt(2.0) * dispersion * mean / weight
        excess = (strayed - dispersion * mean) / weight
        nobody = np.zeros(BUCKETS, np.bool_)
        tolerance = spread.tolerances(excess, error, nobody, group, TOLERANCE_MIN)
        _, high = spread.bounds(self._votes, dispersion)
        half = {"dispersion": dispersion, "tolerance": tolerance, "high": high}
        kept = {name: np.minimum(one, HALF_MAX).astype(np.float16) for name, one in half.items()}
        return Pairs(level=level.astype(np.float32), **kept)

    def _end_day(self) -> None:
        self._day_squares += self._today**2
        self._day_cross += self._today_exposure * self._today
        self._days_squares += self._today_exposure**2
        self._today[:] = 0.0
        self._today_exposure = 0.0


def _tallied(block: Block, rates: Rates) -> tuple[F64, float, tuple[I32, I32, npt.NDArray[np.intp], F64]]:
    """``[B]`` votes, how many there were before any was worth less, and the votes."""
    found, worth = counted(block.drawn, weights(block.n, rates.level * block.exposure[rates.beta]))
    count = np.bincount(found.bucket, worth, BUCKETS).astype(np.float64, copy=False)
    return count, float(len(worth)), (found.first, found.second, found.bucket, worth)


class PairEvidence:
    """What speaks for new pairs."""

    def __init__(self, pairs: Pairs, rates: Rates) -> None:
        self._pairs, self._rates = pairs, rates
        slack = (1.0 + pairs.tolerance.astype(np.float32)) * pairs.high
        self._edge = np.maximum(pairs.level * slack, np.float32(LEVEL_MIN))
        self._dispersion = pairs.dispersion.astype(np.float32)
        self.won = np.zeros((len(RATIOS), len(pairs.level)), np.float32)
        self.block = 0
        self._warm: dict[int, _Warm] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return self.won.nbytes

    def step(self, block: Block, threshold: float) -> list[Found]:
        """One block more: the buckets whose score reaches ``threshold``. Their evidence is spent."""
        self.block += 1
        count, exposure, told = _tallied(block, self._rates)
        if not exposure:
            return []
        found = count.astype(np.float32)
        for start in range(0, len(found), PART):
            self._bet(found, exposure, slice(start, start + PART))
        score = np.log(np.maximum(self.won.mean(axis=0), np.float32(1e-30)))
        self._remember(score, exposure, told)
        return [self._found(int(bucket), score) for bucket in np.flatnonzero(score >= threshold)]

    def _bet(self, count: F32, exposure: float, part: slice) -> None:
        edge, dispersion = self._edge[part] * np.float32(exposure), self._dispersion[part]
        z = bets.surplus(count[part], edge, dispersion)
        for won, ratio in zip(self.won, RATIOS, strict=True):
            won[part] = bets.kept(won[part], bets.paid(z, bets.stake(ratio, edge, dispersion)))

    def _remember(self, score: F32, exposure: float, told: tuple[I32, I32, npt.NDArray[np.intp], F64]) -> None:
        """Counts the pairs of buckets with evidence, the highest of them where they are many."""
        warm = np.flatnonzero(score >= WARM)
        if len(warm) > WARM_BUCKETS:
            warm = warm[np.argsort(-score[warm], kind="stable")[:WARM_BUCKETS]]
        self._warm = {int(one): self._warm.get(int(one)) or _Warm(self.block) for one in warm}
        for one in self._warm.values():
            one.exposure += exposure
        first, second, bucket, worth = told
        for at in np.flatnonzero(np.isin(bucket, warm)).tolist():
            one = self._warm[int(bucket[at])]
            one.votes += float(worth[at])
            _count(one.pairs, (int(first[at]), int(second[at])))

    def _found(self, bucket: int, score: F32) -> Found:
        self.won[:, bucket] = 0.0
        one = self._warm.pop(bucket, _Warm(self.block))
        total = max(sum(one.pairs.values()), 1)
        named = tuple(pair for pair, votes in one.pairs.most_common() if votes >= NAMED_SHARE * total)
        ratio = (one.votes + 0.5) / (float(self._pairs.level[bucket]) * one.exposure + 0.5)
        reach = float(np.exp(NORMAL_95 * np.sqrt(self._dispersion[bucket] / (one.votes + 0.5))))
        return Found(
            bucket=bucket,
            score=float(score[bucket]),
            pairs=named,
            began_block=one.since,
            ratio=ratio,
            low=ratio / reach,
            high=ratio * reach,
            tolerance=float(self._pairs.tolerance[bucket]),
        )


def _count(pairs: Counter[Pair], pair: Pair) -> None:
    """Of the most frequent ones, a bounded number (Misra and Gries, 1982)."""
    if pair in pairs or len(pairs) < WARM_PAIRS:
        pairs[pair] += 1
        return
    for other in list(pairs):
        pairs[other] -= 1
        if not pairs[other]:
            del pairs[other]
