from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from saewatch.monitor.drift import cofiring
from saewatch.monitor.drift.cofiring import Block, Found, PairEvidence, Pairs
from saewatch.monitor.drift.pairs import BUCKETS, bucket_of, drawn
from saewatch.monitor.drift.traffic import Rates

FEATURES, REQUESTS, A_DAY = 40, 120, 6
CHANCE = np.linspace(0.05, 0.3, FEATURES)
RATES = Rates(
    level=CHANCE.astype(np.float32),
    beta=np.zeros(FEATURES, np.uint8),
    loading=np.zeros((FEATURES, 0), np.int8),
    unit=np.zeros(0, np.float32),
)
NEW = (3, 30)
THRESHOLD = float(np.log(BUCKETS * 4320 / 0.33))


def blocks(seed: int, count: int, *, new: float = 0.0, more: float = 1.0, bound: bool = False) -> Iterator[Block]:
    """``new``: share of requests in which the new pair fires; ``bound``: it keeps its features' own rates."""
    chance = np.random.default_rng(seed)
    rate = np.where(np.arange(FEATURES) % 3 == 0, np.minimum(more * CHANCE, 0.9), CHANCE)
    for number in range(count):
        fires = chance.random((REQUESTS, FEATURES)) < rate
        together = chance.random(REQUESTS) < new
        fires[np.flatnonzero(together)[:, None], list(NEW)] = True
        if bound:
            alone = ~together & (chance.random(REQUESTS) < 0.9)
            fires[np.flatnonzero(alone)[:, None], list(NEW)] = False
        rows = drawn([np.flatnonzero(one) for one in fires], chance.integers(0, 2**62, REQUESTS).tolist())
        exposure = np.full(5, float(REQUESTS))
        yield Block(n=fires.sum(axis=0), exposure=exposure, drawn=rows, day=number // A_DAY)


@lru_cache(maxsize=1)
def usual() -> Pairs:
    return cofiring.fit(blocks(1, 28 * A_DAY), RATES)


def run(given: Iterator[Block], pairs: Pairs | None = None) -> list[Found]:
    one = PairEvidence(pairs or usual(), RATES)
    return [found for block in given for found in one.step(block, THRESHOLD)]


def test_levels_are_shares_of_all_votes() -> None:
    level = usual().level
    assert (level - level.min()).sum() == pytest.approx(1.0, rel=0.05), "but for the half vote of each bucket"
    often, seldom = (bucket_of(np.array([a], np.int32), np.array([b], np.int32))[0] for a, b in ((38, 39), (0, 1)))
    assert level[often] > 10 * level[seldom]
    assert usual().dispersion.min() >= 1.0


def test_as_usual_nothing_is_new() -> None:
    assert run(blocks(2, 28 * A_DAY)) == []


def test_a_new_pair_is_found_by_name_with_its_size() -> None:
    first = run(blocks(3, 7 * A_DAY, new=0.2))[0]
    assert first.pairs == (NEW,)
    assert first.bucket == bucket_of(*np.array([NEW], np.int32).T)[0]
    assert first.low < first.ratio < first.high
    assert first.low > 2.0


def test_features_that_bind_themselves_are_found_though_neither_fires_more_often() -> None:
    found = run(blocks(3, 7 * A_DAY, new=0.15, bound=True))
    assert {one.pairs[0] for one in found} == {NEW}


def test_features_that_fire_more_often_are_no_new_pairs() -> None:
    assert run(blocks(4, 14 * A_DAY, more=3.0)) == []


def test_without_the_weights_they_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cofiring, "weights", lambda fired, _: np.ones(len(fired)))
    pairs = cofiring.fit(blocks(1, 28 * A_DAY), RATES)
    assert len(run(blocks(4, 14 * A_DAY, more=3.0), pairs)) > 20


def test_an_alarm_spends_the_evidence_and_comes_again() -> None:
    found = run(blocks(3, 14 * A_DAY, new=0.25))
    assert len(found) > 1
    assert len({one.bucket for one in found}) == 1
    assert found[1].began_block > found[0].began_block


def test_names_are_kept_of_a_bounded_number_of_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cofiring, "WARM_BUCKETS", 3)
    monkeypatch.setattr(cofiring, "WARM", -10.0)
    one = PairEvidence(usual(), RATES)
    for block in blocks(3, 20):
        one.step(block, THRESHOLD)
    assert len(one._warm) == 3  # noqa: SLF001 - it is the bound
    assert one.nbytes == 8 * BUCKETS


def test_of_many_pairs_of_a_bucket_the_frequent_one_is_kept() -> None:
    pairs = Counter[cofiring.Pair]()
    for number in range(100):
        cofiring._count(pairs, (0, 1))  # noqa: SLF001 - a bucket of so many pairs is rare
        cofiring._count(pairs, (1, 2 + number % 50))  # noqa: SLF001 - the same
    assert len(pairs) <= cofiring.WARM_PAIRS
    assert pairs.most_common(1)[0][0] == (0, 1)


def test_a_block_without_pairs_says_nothing() -> None:
    one = PairEvidence(usual(), RATES)
    before = one.won.copy()
    block = next(blocks(3, 1))
    assert one.step(replace(block, drawn=block.drawn[:0]), THRESHOLD) == []
    assert (one.won == before).all()


def test_of_no_blocks_nothing_is_known() -> None:
    assert not cofiring.fit([], RATES).known
