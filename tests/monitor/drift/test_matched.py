from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from saewatch.monitor.drift.baseline import Baseline
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.matched import PERSISTS, SHARE_MIN, SHOWN, UNDECIDED, VANISHES, Matched, matched
from saewatch.monitor.drift.slices import QUARTER_NS, Building, Live, Slices, nothing
from tests.monitor.drift import mixes
from tests.monitor.drift.mixes import FEATURES, START_DAY, alarm

RATES = {1: 0.1, 2: 0.2, 3: 0.6}
"""In how many requests of each source a feature fires."""
USUAL, MOVED = {1: 300, 2: 300, 3: 100}, {1: 300, 2: 300, 3: 900}
"""Requests of each source in a quarter of a day."""
HOURS = 4
"""Blocks in a quarter of a day."""


def fires(count: int, rate: float) -> list[bool]:
    """In so many of them, as evenly as it goes."""
    return [int(number * rate) < int((number + 1) * rate) for number in range(count)]


def built(mix: Mapping[int, int] = USUAL, rates: Mapping[int, float] = RATES) -> tuple[Baseline, Slices]:
    """A week on which nothing is chance: feature 0 fires by ``rates``, the others never."""
    one, n = Building(FEATURES), 0
    for number in range(28):
        for source, count in mix.items():
            for fired in fires(count, rates[source]):
                now_ns = START_DAY * DAY_NS + (number - 28) * QUARTER_NS
                one.add(np.arange(int(fired)), tokens=100, source=source, ended_ns=now_ns)
                n += fired
    found = one.slices(np.arange(FEATURES))
    return mixes.usual(np.full(FEATURES, n / found.requests.sum())), found


def live(
    slices: Slices,
    mix: Mapping[int, int],
    rates: Mapping[int, float] = RATES,
    *,
    blocks: int = 4,
    before: int = 0,
    block_ns: int = QUARTER_NS,
) -> Live:
    """``before`` blocks as usual, and then some of ``mix`` and ``rates``."""
    found = Live(slices.feature, FEATURES)
    for number in range(before + blocks):
        now = number >= before
        for source, count in (mix if now else USUAL).items():
            for fired in fires(count, (rates if now else RATES)[source]):
                at = START_DAY * DAY_NS + number * block_ns
                found.add(np.arange(int(fired)), tokens=100, source=source, now_ns=at)
        found.closed(number)
    return found


def times(rates: Mapping[int, float], by: float) -> dict[int, float]:
    return {source: min(by * rate, 0.99) for source, rate in rates.items()}


def verdict(found: Matched) -> str:
    [ratio] = found.ratios
    return ratio.verdict


def test_another_mix_of_the_same_requests_vanishes_and_what_has_grown_is_named() -> None:
    baseline, slices = built()
    found = matched([alarm(0, 1.9, 0)], baseline, slices, live(slices, MOVED))
    [ratio] = found.ratios
    assert (ratio.feature, ratio.verdict) == (0, VANISHES)
    assert ratio.raw == pytest.approx((30 + 60 + 540) / 1500 / (150 / 700), rel=0.01)
    assert ratio.within == pytest.approx(1.0, abs=0.01)
    assert ratio.low < ratio.within < ratio.high < ratio.raw
    assert ratio.requests == 4 * (30 + 60 + 540)
    assert found.vanishes
    grown, *shrunk = found.slices
    assert grown.slice == "64 to 255 tokens, at all hours, source 3"
    assert (grown.share, grown.requests) == (0.6, 6000)
    assert (grown.before, grown.low, grown.high) == pytest.approx((1 / 7, 1 / 7, 1 / 7))
    assert [one.share < one.low for one in shrunk] == [True, True]


def test_a_feature_that_fires_less_vanishes_as_well() -> None:
    baseline, slices = built()
    found = matched([alarm(0, 0.7, 0)], baseline, slices, live(slices, {1: 900, 2: 300, 3: 20}))
    [ratio] = found.ratios
    assert ratio.raw < 0.8
    assert (ratio.verdict, found.vanishes) == (VANISHES, True)


@pytest.mark.parametrize("by", [1.5, 0.5])
@pytest.mark.parametrize("mix", [USUAL, MOVED], ids=["usual", "moved"])
def test_other_content_persists_in_whatever_mix(by: float, mix: Mapping[int, int]) -> None:
    baseline, slices = built()
    found = matched([alarm(0, by, 0)], baseline, slices, live(slices, mix, times(RATES, by)))
    assert verdict(found) == PERSISTS
    assert (found.vanishes, found.persisting) == (False, 1)
    assert bool(found.slices) == (mix is MOVED)


def test_nothing_is_said_of_an_alarm_of_which_nothing_is_to_be_seen() -> None:
    baseline, slices = built()
    assert verdict(matched([alarm(0, 1.3, 0)], baseline, slices, live(slices, USUAL))) == UNDECIDED


def test_a_mix_that_explains_only_a_part_of_the_alarm_explains_nothing() -> None:
    baseline, slices = built()
    traffic = live(slices, MOVED)
    assert verdict(matched([alarm(0, 1.9, 0)], baseline, slices, traffic)) == VANISHES
    assert verdict(matched([alarm(0, 5.0, 0)], baseline, slices, traffic)) == UNDECIDED
    often = replace(alarm(0, 5.0, 0), of="w")  # more firings in a request, too
    assert verdict(matched([often], baseline, slices, traffic)) == UNDECIDED


def test_an_alarm_of_little_within_the_tolerance_is_nothing_that_could_vanish() -> None:
    baseline, slices = built()
    traffic = live(slices, {1: 300, 2: 300, 3: 150}, blocks=8)
    [ratio] = matched([alarm(0, 1.1, 0, count=1e9)], baseline, slices, traffic).ratios
    assert ratio.high < 1.1 < ratio.raw < 1.15
    assert ratio.verdict == UNDECIDED


def test_what_fires_less_within_slices_while_they_grow_is_not_the_mix_alone() -> None:
    baseline, slices = built()
    found = matched([alarm(0, 1.3, 0)], baseline, slices, live(slices, MOVED, times(RATES, 0.7)))
    assert found.ratios[0].within == pytest.approx(0.7, abs=0.01)
    assert verdict(found) == UNDECIDED


def test_the_fewer_requests_there_are_the_less_is_said() -> None:
    baseline, slices = built()
    for by, said in ((1.4, PERSISTS), (1.0, VANISHES)):
        loud = live(slices, MOVED, times(RATES, by), blocks=4)
        assert verdict(matched([alarm(0, 2.2 * by, 0)], baseline, slices, loud)) == said
        unsure = replace(baseline, n=replace(baseline.n, dispersion=np.full(FEATURES, 300.0, np.float16)))
        assert verdict(matched([alarm(0, 2.2 * by, 0)], unsure, slices, loud)) == UNDECIDED


def test_what_came_before_makes_the_interval_wider() -> None:
    baseline, slices = built()
    traffic = live(slices, MOVED, before=2, blocks=2, block_ns=QUARTER_NS // HOURS)
    whole, since = (matched([alarm(0, 1.9, began)], baseline, slices, traffic).ratios[0] for began in (0, 2))
    share = 2 * 630 / (2 * 630 + 2 * 150)
    assert since.high - 1.0 == pytest.approx((whole.high - 1.0) / share, rel=0.05)
    assert 1.0 - since.low == pytest.approx((1.0 - whole.low) / share, rel=0.05)


@pytest.mark.parametrize(("before", "blocks"), [(1, 3), (2, 2), (2, 4)])
@pytest.mark.parametrize("mix", [MOVED, {1: 900, 2: 300, 3: 20}], ids=["more", "less"])
@pytest.mark.parametrize("by", [1.0, 1.3, 0.75])
def test_what_came_before_waters_nothing_down(before: int, blocks: int, mix: Mapping[int, int], by: float) -> None:
    baseline, slices = built()
    rates = times(RATES, by)
    traffic = live(slices, mix, rates, before=before, blocks=blocks, block_ns=QUARTER_NS // HOURS)
    effect = sum(mix[one] * rates[one] for one in mix) / sum(mix.values()) / (150 / 700)
    [ratio] = matched([alarm(0, effect, before, count=1e4)], baseline, slices, traffic).ratios
    assert ratio.within == pytest.approx(by, abs=0.03)
    assert ratio.raw == pytest.approx(effect, rel=0.04)
    assert (ratio.verdict == VANISHES) == (by == 1.0)


def test_where_most_came_before_nothing_is_compared() -> None:
    baseline, slices = built()
    cases = (
        (2, USUAL, True),
        (3, USUAL, False),
        (1, {1: 600, 2: 60, 3: 50}, True),
        (1, {1: 600, 2: 40, 3: 2}, False),  # half of the requests, and less than a third of what is to be expected
    )
    for before, mix, compared in cases:
        traffic = live(slices, mix, before=before, blocks=1, block_ns=QUARTER_NS // HOURS)
        assert bool(matched([alarm(0, 0.7, before)], baseline, slices, traffic).ratios) == compared


def test_too_little_is_no_comparison() -> None:
    baseline, slices = built()
    for mix in ({1: 3, 2: 3, 3: 9}, {3: 900}):  # few requests; one slice
        assert not matched([alarm(0, 1.9, 0)], baseline, slices, live(slices, mix, blocks=1)).ratios
    assert not matched([alarm(0, 1.9, 0)], baseline, nothing(), Live(np.zeros(0, np.intp), FEATURES)).ratios
    thin, few = built({1: 3, 2: 3, 3: 3}, dict.fromkeys(RATES, 0.7))
    assert not matched([alarm(0, 1.9, 0)], thin, few, live(few, MOVED)).ratios


def test_kinds_that_the_baseline_does_not_know_are_no_comparison() -> None:
    baseline, slices = built()
    known = matched([alarm(0, 1.9, 0)], baseline, slices, live(slices, {**USUAL, 5: 50}, {**RATES, 5: 0.2}))
    other = matched([alarm(0, 1.9, 0)], baseline, slices, live(slices, {**USUAL, 5: 300}, {**RATES, 5: 0.2}))
    assert (len(known.ratios), len(other.ratios)) == (1, 0)
    assert "source 5" in other.slices[0].slice, "that they came is told"
    assert other.slices[0].before == 0.0


def test_only_rates_are_compared_and_only_of_features_that_are_counted() -> None:
    baseline, slices = built()
    traffic = live(slices, MOVED)
    assert not matched([replace(alarm(0, 1.9, 0), of="z")], baseline, slices, traffic).ratios
    kept = replace(slices, feature=slices.feature[1:], n=slices.n[:, 1:])
    assert not matched([alarm(0, 1.9, 0)], baseline, kept, live(kept, MOVED)).ratios


def test_a_level_that_was_accepted_is_what_is_expected() -> None:
    baseline, slices = built()
    twice = mixes.usual(2.0 * baseline.n.rates.level)
    found = matched([alarm(0, 1.0, 0)], twice, slices, live(slices, USUAL, times(RATES, 1.6)))
    assert found.ratios[0].within == pytest.approx(0.8, abs=0.02)


def test_shares_within_the_baselines_days_or_near_them_have_not_moved() -> None:
    _, slices = built()
    noisy = replace(slices, low=slices.low * 0.9, high=slices.high * 1.2)
    near = {1: 300, 2: 300, 3: 115}  # 16.1 %, was 14.3 % on each day: a share's step of less than SHARE_MIN
    assert SHARE_MIN > 115 / 715 - 100 / 700
    assert not matched([], built()[0], slices, live(slices, near)).slices
    assert not matched([], built()[0], noisy, live(noisy, {1: 300, 2: 300, 3: 150})).slices, "20 %, was 13 to 17 %"
    further = {1: 300, 2: 300, 3: 140}
    assert matched([], built()[0], slices, live(slices, further)).slices
    assert not matched([], built()[0], noisy, live(noisy, further)).slices


def test_hours_that_have_hardly_begun_are_not_looked_at() -> None:
    baseline, slices = built()
    few = {source: count // 4 for source, count in MOVED.items() if source != 3} | {3: 100}
    assert not matched([], baseline, slices, live(slices, few)).slices


def test_shares_of_fewer_requests_may_be_further_off() -> None:
    baseline, slices = built()
    noisy = replace(slices, low=slices.low * 0.9, high=slices.high * 1.2)  # 12.9 to 17.1 %
    for part, moved in ((1.0, True), (0.6, False)):
        mix = {source: int(part * count) for source, count in {1: 300, 2: 300, 3: 170}.items()}  # 22 %
        assert bool(matched([], baseline, noisy, live(noisy, mix)).slices) == moved


def test_at_most_five_kinds_are_named_those_that_moved_most_first() -> None:
    even = dict.fromkeys(range(1, 8), 100)
    _, slices = built(even, dict.fromkeys(even, 0.2))
    mix = {source: 10 * source**2 for source in range(1, 8)}
    found = matched([], built()[0], slices, live(slices, mix, dict.fromkeys(mix, 0.2))).slices
    assert len(found) == SHOWN
    moved = [abs(one.share - one.before) for one in found]
    assert moved == sorted(moved, reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_no_wrong_verdict_in_simulated_days(seed: int) -> None:
    trials_without_a_wrong_one(seed, times=3)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3, 33))
def test_no_wrong_verdict_in_many_simulated_days(seed: int) -> None:
    trials_without_a_wrong_one(seed, times=5)


def trials_without_a_wrong_one(seed: int, *, times: int) -> None:
    chance = np.random.default_rng(seed)
    of = mixes.world(chance)
    baseline, slices = mixes.known(of, chance)
    for scenario in mixes.SCENARIOS * times:
        one = mixes.trial(of, baseline, slices, chance, scenario)
        said = {ratio.feature: ratio.verdict for ratio in one.found.ratios}
        assert not [feature for feature, word in said.items() if word == VANISHES and feature in one.changed], scenario
        assert not [feature for feature, word in said.items() if word == PERSISTS and feature not in one.changed]
        if scenario in {"null", "content"}:
            assert not one.found.vanishes
