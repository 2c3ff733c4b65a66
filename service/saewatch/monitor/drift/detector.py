"""Decides, block by block, what has drifted. One for each baseline; its state is a function of the blocks it was given.

quiet -> suspect (shown, nobody is called) -> drifted -> acknowledged. The threshold is set by a budget of false alarms:
b in 30 days over all F features, b more over the statistics of the whole, b more over the buckets of pairs. With
b / 4,320 = alpha, an alarm needs a score of ln(F / alpha). If the bets were fair this would be a bound under any
dependence; they are not quite, since the baseline is estimated. So it is what the detector is *designed for*, and what
it does has to be measured (docs/drift.md).

A detector that cannot judge says so: held blocks are counted by why, and a feature whose evidence is no number is
blind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.monitor.drift.baseline import LIST, TWICE, Baseline, share
from saewatch.monitor.drift.cofiring import Block, Found, PairEvidence, Pairs
from saewatch.monitor.drift.compared import Compared, compared
from saewatch.monitor.drift.counts import F64, Counts, Indices
from saewatch.monitor.drift.evidence import BETS, DOWN, UP, Bet, Evidence
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.latents import LatentCounts, Latents
from saewatch.monitor.drift.overall import STATISTICS, OverallEvidence, Reading, Usual
from saewatch.monitor.drift.pairs import BUCKETS
from saewatch.monitor.drift.rules import DEAD, DENSE, Expected, Ruled, Rules
from saewatch.monitor.drift.spread import F32

BLOCKS_A_MONTH = 4320
BUDGET = 0.33
SUSPECT = 13.0
COVERAGE_MOVED = 0.10
REALARM_NS = 7 * DAY_NS
TRAFFIC_NS = DAY_NS
"""How long an alarm of the traffic's state stands: features that alarm meanwhile are part of it."""
FEW, COVERAGE, NOTHING = "few_requests", "coverage", "nothing_encoded"
"""Why a block is held: nothing is concluded from it."""
NORMAL_95 = 1.96
RULES = (DEAD, DENSE)
LATENTS_NAMED = 10
"""Of an alarm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """An alarm: a feature, a statistic of the whole, a pair or latents are no longer as in the baseline."""

    kind: str  # feature | overall | pair | latents
    subject: int  # of the features, of STATISTICS, of the buckets, or of RULES
    of: str  # n | w | z | az, dead | dense, the statistic's name, or pairs
    direction: str
    score: float
    began_block: int
    opened_ns: int
    changed_ns: int
    told: bool  # False: listed only, for the baseline is short, or an alarm of the traffic explains it
    times: int = 1
    effect: float = float("nan")  # ratio of a rate; shift of a mark, in scales
    low: float = float("nan")
    high: float = float("nan")
    tolerance: float = float("nan")
    volatile: bool = False
    acknowledged: bool = False
    pairs: tuple[tuple[int, int], ...] = ()  # of features, those that most of a bucket's votes are for
    latents: tuple[int, ...] = ()  # some of them; their number is the effect


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stepped:
    """What a block came to."""

    held: str  # why it says nothing; empty: it was judged
    moved: tuple[Moved, ...] = ()
    score: F32 = field(default_factory=lambda: np.zeros(0, np.float32))  # [F], before alarms spent it
    overall: F64 = field(default_factory=lambda: np.zeros(0))  # [7]
    suspect: npt.NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))


class Detector:
    """Of one baseline. ``budget``: false alarms in 30 days that it is designed for."""

    def __init__(
        self,
        baseline: Baseline,
        *,
        reading: Reading | None = None,
        usual: Usual | None = None,
        pairs: Pairs | None = None,
        latents: Latents | None = None,
        budget: float = BUDGET,
    ) -> None:
        self.baseline = baseline
        self.evidence = Evidence(baseline)
        self.counters: Counter[str] = Counter()
        self._reading = reading
        self._overall = OverallEvidence(usual) if usual is not None else None
        self._rules = Rules(Expected.of_features(baseline))
        self._latents = Rules(Expected.of_latents(latents)) if latents is not None and latents.known else None
        self.latents: dict[str, Indices] = {one: np.zeros(0, np.intp) for one in RULES} if self._latents else {}
        """For which latents a rule holds."""
        self._pairs = PairEvidence(pairs, baseline.n.rates) if pairs is not None and pairs.known else None
        self._scores = np.zeros(baseline.features, np.float32)
        self._open: dict[tuple[str, int], Moved] = {}
        alpha = budget / BLOCKS_A_MONTH
        self.threshold = float(np.log(baseline.features / alpha))
        self.overall_threshold = float(np.log(len(STATISTICS) / alpha))
        self.pairs_threshold = float(np.log(BUCKETS / alpha))

    @property
    def nbytes(self) -> int:
        """Bytes that grow with the features, its baseline among them."""
        latents = self._latents.nbytes if self._latents else 0
        return self.baseline.nbytes + self.evidence.nbytes + self._rules.nbytes + latents

    @property
    def blind(self) -> npt.NDArray[np.intp]:
        """Features that cannot be judged."""
        return np.flatnonzero(~np.isfinite(self._scores))

    @property
    def scores(self) -> F32:
        """``[F]`` as they stand."""
        return self._scores

    def open(self) -> list[Moved]:
        """Alarms that are not older than a week."""
        return list(self._open.values())

    def step(self, counts: Counts, now_ns: int, census: LatentCounts | None = None) -> Stepped:
        """One closed block, and what was sampled since the last one that was judged."""
        self._open = {key: one for key, one in self._open.items() if now_ns - one.changed_ns < REALARM_NS}
        why = self._held(counts)
        if why:
            self.counters[f"held_{why}"] += 1
            return Stepped(held=why)
        self.counters["judged"] += 1
        block = compared(self.baseline, counts)
        overall = self._step_overall(block)
        whole = [self._whole(number, overall, now_ns) for number in np.flatnonzero(overall >= self.overall_threshold)]
        score = self.evidence.step(block)
        with np.errstate(invalid="ignore"):
            drifted, likely = score >= self.threshold, (score >= SUSPECT) & ~self.baseline.volatile
        features = [self._feature(int(number), score, now_ns) for number in np.flatnonzero(drifted)]
        self._scores = score.copy()
        if features:
            self.evidence.restart(np.flatnonzero(drifted))
            self._scores[drifted] = 0.0
        return Stepped(
            held="",
            moved=(
                *whole,
                *features,
                *self._step_rules(counts, score, now_ns),
                *self._step_pairs(counts, now_ns),
                *self._step_latents(census, now_ns),
            ),
            score=score,
            overall=overall,
            suspect=np.flatnonzero(likely & ~drifted),
        )

    def acknowledge(self, kind: str, subject: int) -> Moved | None:
        """Somebody knows of an alarm; None where there is none."""
        known = self._open.get((kind, subject))
        if known is None:
            return None
        self._open[kind, subject] = replace(known, acknowledged=True)
        return self._open[kind, subject]

    def _held(self, counts: Counts) -> str:
        if counts.requests < limits.DRIFT_BLOCK_REQUESTS_MIN:
            return FEW
        if not counts.encoded:
            return NOTHING
        encoded = share(counts.encoded, counts.seen) - self.baseline.encoded_share
        whole = share(counts.whole, counts.requests) - self.baseline.whole_share
        return COVERAGE if max(abs(encoded), abs(whole)) > COVERAGE_MOVED else ""

    def _step_overall(self, block: Compared) -> F64:
        if self._reading is None or self._overall is None:
            return np.full(len(STATISTICS), np.nan)
        return self._overall.step(self._reading.values(self.baseline, block))

    def _step_rules(self, counts: Counts, score: F32, now_ns: int) -> list[Moved]:
        """A feature that is known to have moved is not told again by a rule, nor day after day by the same one."""
        holding = self._rules.step(counts.n, counts.requests, counts.exposures, now_ns)
        new = [[one for one in every.tolist() if ("feature", one) not in self._open] for every in holding.each()]
        found = [self._rules.dead(one) for one in new[0]] + [self._rules.dense(one) for one in new[1]]
        return [self._ruled(one, score, now_ns) for one in found]

    def _step_latents(self, census: LatentCounts | None, now_ns: int) -> list[Moved]:
        """All for which a rule holds, where it holds for some that it did not hold for before."""
        if self._latents is None or census is None or not census.tokens:
            return []
        count, tokens = census.close()
        if len(count) != self._latents.size:
            self.counters["census_of_other_latents"] += 1
            return []
        holding = self._latents.step(count, tokens, np.array([float(tokens)]), now_ns)
        before, self.latents = self.latents, dict(zip(RULES, holding.each(), strict=True))
        new = {name: np.setdiff1d(every, before[name], assume_unique=True) for name, every in self.latents.items()}
        return [self._of_latents(name, some, now_ns) for name, some in new.items() if len(some)]

    def _of_latents(self, name: str, new: Indices, now_ns: int) -> Moved:
        return self._opened(
            Moved(
                kind="latents",
                subject=RULES.index(name),
                of=name,
                direction=UP if name == DENSE else DOWN,
                score=float("nan"),
                began_block=self.evidence.block,
                opened_ns=now_ns,
                changed_ns=now_ns,
                told=self._tells("latents", RULES.index(name), now_ns),
                effect=float(len(self.latents[name])),
                latents=tuple(new[:LATENTS_NAMED].tolist()),
            )
        )

    def _ruled(self, one: Ruled, score: F32, now_ns: int) -> Moved:
        return self._opened(
            Moved(
                kind="feature",
                subject=one.feature,
                of=one.of,
                direction=UP if one.of == DENSE else DOWN,
                score=float(score[one.feature]),
                began_block=self.evidence.block,
                opened_ns=now_ns,
                changed_ns=now_ns,
                told=self._tells("feature", one.feature, now_ns),
                effect=one.effect,
                low=one.low,
                high=one.high,
                tolerance=one.bound,
                volatile=bool(self.baseline.volatile[one.feature]),
            )
        )

    def _step_pairs(self, counts: Counts, now_ns: int) -> list[Moved]:
        if self._pairs is None:
            return []
        block = Block(n=counts.n, exposure=counts.exposures, drawn=counts.drawn)
        return [self._pair(one, now_ns) for one in self._pairs.step(block, self.pairs_threshold)]

    def _pair(self, found: Found, now_ns: int) -> Moved:
        return self._opened(
            Moved(
                kind="pair",
                subject=found.bucket,
                of="pairs",
                direction=UP,
                score=found.score,
                began_block=found.began_block,
                opened_ns=now_ns,
                changed_ns=now_ns,
                told=self._tells("pair", found.bucket, now_ns),
                effect=found.ratio,
                low=found.low,
                high=found.high,
                tolerance=found.tolerance,
                pairs=found.pairs,
            )
        )

    def _whole(self, number: int, overall: F64, now_ns: int) -> Moved:
        assert self._overall is not None
        up, down = self._overall.won[number].sum(axis=1)
        self._overall.won[number] = 0.0
        return self._opened(
            Moved(
                kind="overall",
                subject=int(number),
                of=STATISTICS[number],
                direction=UP if up >= down else DOWN,
                score=float(overall[number]),
                began_block=self.evidence.block,
                opened_ns=now_ns,
                changed_ns=now_ns,
                told=self._tells("overall", int(number), now_ns),
            )
        )

    def _feature(self, number: int, score: F32, now_ns: int) -> Moved:
        bet = BETS[int(self.evidence.won[:, number].argmax())]
        effect, low, high = self._effect(bet, number)
        return self._opened(
            Moved(
                kind="feature",
                subject=number,
                of=bet.of,
                direction=bet.direction,
                score=float(score[number]),
                began_block=int(self.evidence.since[number]) + 1,
                opened_ns=now_ns,
                changed_ns=now_ns,
                told=self._tells("feature", number, now_ns),
                effect=effect,
                low=low,
                high=high,
                tolerance=float(getattr(self.baseline, bet.of).tolerance[number]),
                volatile=bool(self.baseline.volatile[number]),
            )
        )

    def _opened(self, moved: Moved) -> Moved:
        """A new alarm, or an open one again: it is told once."""
        key = (moved.kind, moved.subject)
        before = self._open.get(key)
        if before is not None:
            told = moved.told and not before.told
            again = replace(moved, opened_ns=before.opened_ns, times=before.times + 1, told=told)
            self._open[key] = replace(again, told=before.told or told, acknowledged=before.acknowledged)
            self.counters["alarms_again"] += 1
            return again
        self._open[key] = moved
        self.counters[f"alarms_{moved.kind}"] += 1
        return moved

    def _tells(self, kind: str, number: int, now_ns: int) -> bool:
        traffic = self._open.get(("overall", STATISTICS.index("traffic"))) if kind != "overall" else None
        if traffic is not None and now_ns - traffic.changed_ns < TRAFFIC_NS:
            return False
        before = self._open.get((kind, number))
        if self.baseline.paging == TWICE:
            return before is not None and before.opened_ns // DAY_NS != now_ns // DAY_NS
        return self.baseline.paging != LIST

    def _effect(self, bet: Bet, number: int) -> tuple[float, float, float]:
        """Since it began: counts over what was expected, or the mean shift of a mark, with a 95 % interval.

        Blocks' own dispersion is in the interval, the baseline's error is not.
        """
        sums = {name: float(total[number]) for name, total in self.evidence.sums.items()}
        if bet.of in {"n", "w"}:
            stream = getattr(self.baseline, bet.of)
            count, expected = sums[bet.of] + 0.5, sums[f"expected_{bet.of}"] + 0.5
            reach = NORMAL_95 * float(np.sqrt(float(stream.dispersion[number]) / count))
            ratio = count / expected
            return ratio, ratio * float(np.exp(-reach)), ratio * float(np.exp(reach))
        fired = max(sums["n"], 1.0)
        shift = sums[bet.of] / fired
        reach = NORMAL_95 * float(np.sqrt(float(getattr(self.baseline, bet.of).crowded[number]) / fired))
        return shift, shift - reach, shift + reach
