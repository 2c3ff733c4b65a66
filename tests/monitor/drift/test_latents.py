"""What a census lets expect of each latent: its share of tokens, and how much more than chance its counts vary."""

from __future__ import annotations

import numpy as np
import pytest

from saewatch.monitor import observe
from saewatch.monitor.drift.counts import I64
from saewatch.monitor.drift.latents import PERIODS_MIN, LatentCounts, Latents, LatentSums
from saewatch.monitor.drift.rules import Expected, Rules
from saewatch.monitor.events import Sampled
from tests import deployed

DAY_NS = deployed.DAY_NS
TOKENS, PERIODS = 500, 2000
RATES = np.array([0.0, 0.001, 0.02, 0.3])
BURST = 10
"""Firings that come together of the bursting ones."""


def part(first: int) -> Sampled:
    return observe.sampled(deployed.census(1, 20.0, first=first), deployed.STREAM)[0]


def drawn(chance: np.random.Generator) -> I64:
    """Each alone, then the same in bursts."""
    alone: I64 = chance.binomial(TOKENS, RATES)
    bursts: I64 = chance.binomial(TOKENS, RATES / BURST)
    return np.concatenate([alone, BURST * bursts])


@pytest.fixture(scope="module")
def usual() -> Latents:
    sums, chance = LatentSums(), np.random.default_rng(1)
    for _ in range(PERIODS):
        sums.add(drawn(chance), TOKENS)
    return sums.latents()


def test_parts_of_a_census_are_put_together_and_its_tokens_count_once() -> None:
    one = LatentCounts()
    for first in (15, 0, 0, 15):
        one.add(part(first))
    assert one.tokens == 200
    count, tokens = one.close()
    assert (count.tolist(), tokens) == ((2 * np.resize(deployed.FIRES, deployed.LATENTS)).tolist(), 200)
    count, tokens = one.close()
    assert (count.sum(), tokens) == (0, 0)


def test_rates_and_how_much_more_than_chance_counts_vary(usual: Latents) -> None:
    assert usual.rate == pytest.approx([*RATES, *RATES], rel=0.15)
    assert usual.dispersion[:4] == pytest.approx([1, 1, 1, 1], abs=0.2)
    assert usual.dispersion[5:7] == pytest.approx([BURST, BURST], rel=0.2)


def test_a_few_periods_are_no_baseline() -> None:
    sums = LatentSums()
    for number in range(PERIODS_MIN):
        assert not sums.latents().known
        sums.add(np.array([number]), TOKENS)
        sums.add(np.array([0]), 0)
    assert sums.latents().known


def test_as_usual_no_rule_holds_and_one_that_never_fired_is_not_missed(usual: Latents) -> None:
    rules, chance = Rules(Expected.of_latents(usual)), np.random.default_rng(2)
    for block in range(20 * 24):
        holding = rules.step(drawn(chance), TOKENS, np.array([float(TOKENS)]), block * DAY_NS // 24)
        assert not len(holding.dead)
        assert not len(holding.dense)


def test_bursts_have_to_be_missed_for_longer(usual: Latents) -> None:
    rules, expected = Rules(Expected.of_latents(usual)), 0.0
    told = dict[int, float]()
    for block in range(40 * 24):
        if block:
            expected += 0.001 * 50
        count = np.zeros(8, np.int64)
        for latent in rules.step(count, 50, np.array([50.0]), block * DAY_NS // 24).dead.tolist():
            told.setdefault(latent, expected)
    assert told[1] == pytest.approx(20.0, rel=0.3), "twenty were to be expected"
    assert 5 not in told, "of one that comes in bursts ten times as many"
    assert {2, 3, 6, 7} <= set(told)
    assert {0, 4}.isdisjoint(told), "they never did"
