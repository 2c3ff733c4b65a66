from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.drift_costs import block, invented
from saewatch.monitor.drift.baseline import Baseline
from saewatch.monitor.drift.counts import Counts
from saewatch.monitor.drift.detector import Detector
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.rules import Expected, Ruled, Rules

BLOCK_NS = DAY_NS // 144
DEAD, DENSE = 4, 9


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return invented(300)


def of(baseline: Baseline, prevalence: float) -> int:
    return int(np.argmin(np.abs(baseline.prevalence() - prevalence)))


def with_share(counts: Counts, feature: int, share: float) -> Counts:
    n = counts.n.copy()
    n[feature] = round(share * counts.requests)
    return replace(counts, n=n)


def watching(baseline: Baseline) -> Rules:
    return Rules(Expected.of_features(baseline))


def said(rules: Rules, counts: Counts, now_ns: int) -> list[Ruled]:
    """What holds, of each feature."""
    holding = rules.step(counts.n, counts.requests, counts.exposures, now_ns)
    return [*map(rules.dead, holding.dead.tolist()), *map(rules.dense, holding.dense.tolist())]


def run(baseline: Baseline, feature: int, share: float, days: float) -> list[list[Ruled]]:
    """What the rules say of a feature, block by block."""
    rules, told = watching(baseline), []
    for number in range(round(144 * days)):
        counts = with_share(block(baseline, number), feature, share)
        found = said(rules, counts, DAY_NS + number * BLOCK_NS)
        told.append([one for one in found if one.feature == feature])
    return told


def test_as_usual_no_rule_holds(baseline: Baseline) -> None:
    rules, found = watching(baseline), list[Ruled]()
    for number in range(144 * 2):
        found += said(rules, block(baseline, number), number * BLOCK_NS)
    assert found == []


def test_a_feature_is_dead_after_seven_whole_days(baseline: Baseline) -> None:
    told = run(baseline, of(baseline, 0.01), 0.0, 9.0)
    assert not any(told[: 8 * 144])
    (first,) = told[8 * 144]
    assert (first.of, first.effect, first.low) == ("dead", 0.0, 0.0)
    assert 0.0 < first.high < 0.2
    assert told[-1], "it says so as long as it holds"


def test_what_fires_so_seldom_that_silence_is_nothing_is_not_dead(baseline: Baseline) -> None:
    rare = replace(
        baseline,
        n=replace(baseline.n, rates=replace(baseline.n.rates, level=np.full(300, 1e-5, np.float32))),
    )
    assert not any(run(rare, 3, 0.0, 9.0))


def test_one_firing_a_week_keeps_it_alive(baseline: Baseline) -> None:
    feature, rules = of(baseline, 0.01), watching(baseline)
    for number in range(144 * 12):
        share = 0.01 if number == 144 * 5 else 0.0
        counts = with_share(block(baseline, number), feature, share)
        found = said(rules, counts, number * BLOCK_NS)
        assert feature not in {one.feature for one in found}


def test_a_feature_is_dense_within_a_day_or_two(baseline: Baseline) -> None:
    told = run(baseline, of(baseline, 0.03), 0.2, 2.0)
    first = next(number for number, found in enumerate(told) if found)
    assert 36 < first < 144
    assert told[first][0].of == "dense"
    assert told[first][0].low < told[first][0].effect < told[first][0].high


@pytest.mark.parametrize(("usual", "now"), [(0.03, 0.08), (0.2, 0.5)])
def test_a_rise_to_under_a_tenth_or_from_above_a_twentieth_is_no_rule_s(
    baseline: Baseline, usual: float, now: float
) -> None:
    assert not any(run(baseline, of(baseline, usual), now, 3.0))


def test_it_is_told_once_and_not_beside_the_alarm_of_a_rate(baseline: Baseline) -> None:
    one, feature = Detector(baseline), of(baseline, 0.03)
    moved = []
    for number in range(144 * 2):
        counts = with_share(block(baseline, number), feature, 0.2)
        moved += [each for each in one.step(counts, number * BLOCK_NS).moved if each.subject == feature]
    assert moved[0].of in {"n", "w"}, "a rate is quicker"
    assert "dense" not in {each.of for each in moved}
    slow = Detector(baseline, budget=1e-30)
    moved = []
    for number in range(144 * 2):
        counts = with_share(block(baseline, number), feature, 0.2)
        moved += [each for each in slow.step(counts, number * BLOCK_NS).moved if each.of == "dense"]
    assert [(each.subject, each.told) for each in moved] == [(feature, True)]
    assert slow.counters["alarms_feature"] == 1


def test_its_state_is_four_bytes_a_feature(baseline: Baseline) -> None:
    assert watching(baseline).nbytes == 4 * 300
