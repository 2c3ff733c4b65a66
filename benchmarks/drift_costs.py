"""What drift costs, and what holds exactly: times and bytes at 100,000 features, sums in any order, means of bets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift.baseline import Baseline, Mark, Stream
from saewatch.monitor.drift.counts import COLUMNS, I64, TOTALS, Counts, Indices, merged
from saewatch.monitor.drift.detector import Detector
from saewatch.monitor.drift.evidence import BETS, DOWN, UP, count_bet
from saewatch.monitor.drift.reducer import Reducer, summed
from saewatch.monitor.drift.slices import SOURCES, Live
from saewatch.monitor.drift.traffic import AXES, Axes, Rates

F64 = npt.NDArray[np.float64]
EXACT_MEANS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
EXACT_DISPERSIONS = (1.0, 1.2, 2.0, 4.0, 8.0, 20.0, 50.0)
INSIDE = (1.0, 0.9, 0.5, 0.1)


def invented(features: int, seed: int = 7) -> Baseline:
    """A baseline of numbers that are possible, to be timed with."""
    chance = np.random.default_rng(seed)
    often = min(4000, features)
    level = (10.0 ** chance.uniform(-4.0, -0.5, features)).astype(np.float32)
    beta = np.zeros(features, np.uint8)

    def half(low: float, high: float) -> npt.NDArray[np.float16]:
        return chance.uniform(low, high, features).astype(np.float16)

    def stream() -> Stream:
        loading = chance.integers(-40, 41, (features, AXES)).astype(np.int8)
        rates = Rates(level=level, beta=beta, loading=loading, unit=np.full(AXES, 1e-3, np.float32))
        return Stream(
            rates=rates,
            dispersion=half(1.0, 5.0),
            tolerance=half(0.15, 0.3),
            low=half(0.8, 0.95),
            high=half(1.05, 1.2),
        )

    def mark(mean: float) -> Mark:
        means = np.full(features, mean, np.float32)
        return Mark(mean=means, variance=half(1.0, 3.0), crowded=half(3.0, 9.0), tolerance=half(0.05, 0.2))

    direction = chance.normal(0.0, 0.01, (often, AXES)).astype(np.float32)
    return Baseline(
        axes=Axes(feature=np.arange(often), level=level[:often], beta=beta[:often], direction=direction),
        n=stream(),
        w=stream(),
        z=mark(0.0),
        az=mark(0.8),
        volatile=np.zeros(features, np.bool_),
        centre=half(0.0, 1.0),
        scale=half(0.5, 1.0),
        exposure=np.full(5, 1e6),
        encoded_share=1.0,
        whole_share=1.0,
        days=28,
        blocks=4032,
        requests=1_000_000,
    )


def block(baseline: Baseline, seed: int) -> Counts:
    """One in which nothing has changed."""
    chance = np.random.default_rng(seed)
    requests = 250
    n = chance.poisson(baseline.n.rates.level * requests).astype(np.int32)
    return Counts(
        n=n,
        w=n,
        z=np.zeros_like(n),
        az=(820 * n).astype(np.int32),
        exposure=np.full(5, 1000 * requests, np.int64),
        requests=requests,
        whole=requests,
        seen=65_000,
        encoded=65_000,
        firings=int(n.sum()),
    )


def state_bytes(features: int) -> float:
    """A feature: reducer, baseline and evidence."""
    one = Detector(invented(features))
    counts = block(one.baseline, 0)
    reducer = sum(getattr(counts, name).nbytes for name in COLUMNS)
    return float(one.nbytes + reducer) / features


def step_ms(features: int, times: int = 9) -> float:
    """Median processor time of a block."""
    one = Detector(invented(features))
    blocks = [block(one.baseline, seed) for seed in range(3)]
    return 1e3 * _median(lambda number: one.step(blocks[number % 3], 10**18), times)


def reduce_us(features: int, tokens: int, times: int = 2000) -> tuple[float, float]:
    """Processor time of a request of one firing a token: from its record, and, for 1,000 tokens, from its firings."""
    chance = np.random.default_rng(3)
    keys = [chance.integers(0, features, tokens) for _ in range(8)]
    values = np.abs(chance.normal(1.0, 0.5, tokens)).astype(np.float32)
    records = [summed(key, values) for key in keys]
    one = Reducer(np.zeros(features), np.ones(features))
    slices = Live(invented(features).axes.feature, features)

    def add(found: tuple[Indices, I64, F64], number: int) -> None:
        one.add(*found, seen=tokens, encoded=tokens, key=number)
        slices.add(found[0], tokens=tokens, source=number % SOURCES, now_ns=number * 10**9)

    def whole(number: int) -> None:
        add(summed(keys[number % 8], values), number)

    def record(number: int) -> None:
        add(records[number % 8], number)

    return 1e6 * _mean(record, times), 1e6 * _mean(whole, times) * 1000 / tokens


def _median(work: Callable[[int], object], times: int) -> float:
    took = []
    for number in range(times):
        began = time.process_time()
        work(number)
        took.append(time.process_time() - began)
    return float(np.median(took))


def _mean(work: Callable[[int], object], times: int) -> float:
    began = time.process_time()
    for number in range(times):
        work(number)
    return (time.process_time() - began) / times


def silences(features: int) -> dict[str, bool]:
    """Blocks and states from which nothing can be concluded, and whether the detector says so."""
    baseline = invented(features)
    usual = block(baseline, 0)
    cases = {
        "few requests": (replace(usual, requests=49), "held_few_requests"),
        "nothing encoded": (replace(usual, encoded=0), "held_nothing_encoded"),
        "coverage fell": (replace(usual, encoded=usual.encoded // 2), "held_coverage"),
        "half-seen requests": (replace(usual, whole=usual.whole // 2), "held_coverage"),
    }
    found = {}
    for name, (counts, counted) in cases.items():
        one = Detector(baseline)
        held = one.step(counts, 10**18).held
        found[name] = bool(held) and one.counters[counted] == 1 and not one.counters["judged"]
    one = Detector(baseline)
    one.evidence.won[:, 3] = np.nan
    one.step(usual, 10**18)
    return {**found, "no number": one.blind.tolist() == [3]}


# --- exactly ----------------------------------------------------------------------------------------------------------
def merges(trials: int, features: int = 40) -> int:
    """Random partitions over 1 to 64 replicas, added in any order, some told twice: how many are not the whole."""
    chance = np.random.default_rng(11)
    baseline, wrong = invented(features), 0
    for _ in range(trials):
        whole = Reducer(baseline.centre, baseline.scale)
        parts = [Reducer(baseline.centre, baseline.scale) for _ in range(int(chance.integers(1, 65)))]
        for number in range(80):
            feature = np.flatnonzero(chance.random(features) < 0.2)
            count = chance.integers(1, 40, len(feature))
            mean, tokens = chance.normal(0.5, 0.6, len(feature)), int(chance.integers(8, 400))
            for one in (whole, parts[int(chance.integers(len(parts)))]):
                one.add(feature, count, mean, seen=tokens, encoded=tokens, key=number)
        told = dict(enumerate(part.close() for part in parts))
        told.update({key: told[key] for key in chance.integers(0, len(parts), 3).tolist()})  # a retry overwrites
        wrong += not _equal(baseline, whole.close(), [told[key] for key in chance.permutation(len(told)).tolist()])
    return wrong


def _equal(baseline: Baseline, whole: Counts, parts: Sequence[Counts]) -> bool:
    together = parts[0]
    for one in parts[1:]:
        together = merged(together, one)
    same = all((getattr(whole, name) == getattr(together, name)).all() for name in (*COLUMNS, "exposure"))
    same = same and all(getattr(whole, name) == getattr(together, name) for name in TOTALS)
    detectors = [Detector(baseline), Detector(baseline)]
    for detector, counts in zip(detectors, (whole, together), strict=True):
        detector.step(counts, 10**18)
    return bool(same and (detectors[0].evidence.won == detectors[1].evidence.won).all())


def exact() -> Iterator[dict[str, float]]:
    """The mean of each bet on a rate, over every count there can be: at the edge of what is tolerated and inside."""
    for edge in EXACT_MEANS:
        for dispersion in EXACT_DISPERSIONS:
            highest = max(
                _mean_paid(edge * (inside if bet.direction == UP else 1.0 / inside), edge, dispersion, number)
                for number, bet in enumerate(BETS)
                if bet.of == "n" and bet.direction in {UP, DOWN}
                for inside in INSIDE
            )
            yield {"edge": edge, "dispersion": dispersion, "mean": highest}


def _mean_paid(mean: float, edge: float, dispersion: float, number: int) -> float:
    top = int(mean + 80.0 * math.sqrt(dispersion * mean) + 80.0 * dispersion) + 10
    count = np.arange(top + 1, dtype=np.float64)
    one = np.full_like(count, edge)
    pays = count_bet(BETS[number], count, one, np.full_like(count, dispersion))
    return float((probability(count, mean, dispersion) * pays).sum())


def probability(count: F64, mean: float, dispersion: float) -> F64:
    """Of a Poisson count, or a negative binomial one of that variance over mean."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(count[1:]))])
    if dispersion <= 1.0:
        return np.asarray(np.exp(count * np.log(mean) - mean - log_factorial))
    size = mean / (dispersion - 1.0)
    rising = np.concatenate([[0.0], np.cumsum(np.log(size + count[:-1]))])
    return np.asarray(np.exp(rising - log_factorial - size * np.log(dispersion) + count * np.log1p(-1.0 / dispersion)))
