from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.drift_costs import block, invented
from benchmarks.drift_trial import blocks
from benchmarks.drift_world import Change
from saewatch.monitor.drift import cofiring
from saewatch.monitor.drift.baseline import Baseline
from saewatch.monitor.drift.cofiring import Block, Found, PairEvidence
from saewatch.monitor.drift.counts import DRAWN, Counts
from saewatch.monitor.drift.detector import COVERAGE, FEW, NOTHING, Detector, Moved
from saewatch.monitor.drift.fit import Fitted
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.overall import STATISTICS
from tests.monitor.drift.conftest import BLOCKS_A_DAY, FEATURES, SIZE, Traffic

ONE, FIVE, ROW = np.ones(FEATURES, np.int32), np.ones(5), np.array([[1, 2, *[-1] * (DRAWN - 2)]], np.int32)
BLOCK_NS = DAY_NS // BLOCKS_A_DAY


def of(fitted: Fitted) -> Detector:
    return Detector(fitted.baseline, reading=fitted.reading, usual=fitted.usual)


def louder(counts: Counts, feature: int, times: int) -> Counts:
    n = counts.n.copy()
    n[feature] = times * n[feature] + times
    return replace(counts, n=n)


def run(one: Detector, all_of: list[Counts], start_ns: int = 0) -> list[Moved]:
    moved = list[Moved]()
    for number, counts in enumerate(all_of):
        moved += one.step(counts, start_ns + number * BLOCK_NS).moved
    return moved


def test_weeks_without_change_alarm_nobody(traffic: Traffic, fitted: Fitted) -> None:
    one = of(fitted)
    moved = run(one, [counts for seed in SIZE.null for counts in traffic.blocks(seed)])
    assert moved == []
    assert one.counters["judged"] + one.counters["held_few_requests"] == 2 * 7 * BLOCKS_A_DAY
    assert one.counters["judged"] > 160
    assert not len(one.blind)


def test_drift_is_found_with_its_direction_and_size(traffic: Traffic, fitted: Fitted) -> None:
    rate = np.ones(FEATURES)
    prevalence = fitted.baseline.prevalence()
    more, none = (int(np.argmin(np.abs(prevalence - share))) for share in (0.06, 0.10))
    rate[more], rate[none] = 4.0, 0.0
    shape = np.where(rate == 0, 1e-9, rate)
    moved = run(of(fitted), list(blocks(traffic.changed(5, Change(rate=rate, shape=shape)))))
    first = {one.subject: one for one in reversed(moved) if one.kind == "feature"}
    assert set(first) == {more, none}
    assert (first[more].direction, first[none].direction) == ("up", "down")
    assert first[none].high < 0.5
    assert 2.0 < first[more].effect < 8.0
    assert first[more].low < first[more].effect < first[more].high
    assert all(one.told for one in first.values())


def test_an_alarm_again_within_a_week_is_the_same_alarm(traffic: Traffic, fitted: Fitted) -> None:
    one = of(fitted)
    feature = int(np.argmax(fitted.baseline.prevalence()))
    moved = run(one, [louder(counts, feature, 6) for counts in traffic.blocks(5)])
    again = [each for each in moved if each.subject == feature and each.kind == "feature"]
    assert len(again) > 2
    assert [each.told for each in again] == [True] + [False] * (len(again) - 1)
    assert {each.opened_ns for each in again} == {again[0].opened_ns}
    assert one.counters["alarms_feature"] == len({each.subject for each in moved if each.kind == "feature"})
    assert one.acknowledge("feature", feature)
    assert next(each for each in one.open() if each.subject == feature).acknowledged
    assert one.acknowledge("feature", feature + 10**6) is None
    one.step(traffic.blocks(5)[0], 30 * DAY_NS)
    assert one.open() == [], "a week later it would be a new one"


def test_short_baselines_do_not_page_at_once(traffic: Traffic, fitted: Fitted) -> None:
    feature = int(np.argmax(fitted.baseline.prevalence()))
    loud = [louder(counts, feature, 6) for counts in traffic.blocks(5)]
    for days, told in ((10, 0), (20, 1)):
        one = Detector(replace(fitted.baseline, days=days))
        moved = [each for each in run(one, loud) if each.subject == feature]
        assert sum(each.told for each in moved) == told
        if told:
            first = next(each for each in moved if each.told)
            assert first.times > 1, "not on its first day"
            assert first.changed_ns // DAY_NS > first.opened_ns // DAY_NS


def test_nor_does_the_whole(traffic: Traffic, fitted: Fitted) -> None:
    many = [replace(counts, firings=2 * counts.firings) for counts in traffic.blocks(5)]
    for days, told in ((10, 0), (20, 1), (28, 1)):
        one = Detector(replace(fitted.baseline, days=days), reading=fitted.reading, usual=fitted.usual)
        moved = [each for each in run(one, many) if each.kind == "overall" and each.of == "l0"]
        assert len(moved) > 1
        assert sum(each.told for each in moved) == told
        assert moved[0].told == (days == 28)


def test_blocks_that_say_nothing_are_held_and_counted(traffic: Traffic, fitted: Fitted) -> None:
    one, counts = of(fitted), traffic.blocks(5)[0]
    cases = {
        FEW: replace(counts, requests=49),
        NOTHING: replace(counts, encoded=0),
        COVERAGE: replace(counts, seen=2 * counts.seen),
    }
    for why, each in cases.items():
        assert one.step(each, 0).held == why
        assert one.counters[f"held_{why}"] == 1
    assert one.counters["judged"] == 0
    assert one.evidence.block == 0, "they are no evidence of anything"


def test_half_seen_requests_are_as_bad_as_half_the_tokens(traffic: Traffic, fitted: Fitted) -> None:
    counts = traffic.blocks(5)[0]
    assert of(fitted).step(replace(counts, whole=counts.whole // 2), 0).held == COVERAGE


def test_a_feature_without_numbers_is_blind_and_nothing_else(fitted: Fitted, traffic: Traffic) -> None:
    one = of(fitted)
    one.evidence.won[3, 7] = np.nan
    step = one.step(traffic.blocks(5)[0], 0)
    assert one.blind.tolist() == [7]
    assert step.moved == ()


def test_a_level_that_was_accepted_is_no_alarm_any_more(traffic: Traffic, fitted: Fitted) -> None:
    feature = int(np.argsort(-fitted.baseline.prevalence())[3])
    twice = [replace(one, n=one.n * (1 + (np.arange(FEATURES) == feature))) for one in traffic.blocks(5)]
    twice = [replace(one, w=one.w * (1 + (np.arange(FEATURES) == feature))) for one in twice]
    before, after = (
        {one.subject for one in run(Detector(baseline), twice) if one.of in {"n", "w"}}
        for baseline in (fitted.baseline, fitted.baseline.accepted({feature: 2.0}))
    )
    assert feature in before
    assert feature not in after


def test_the_budget_is_a_dial() -> None:
    thresholds = [Detector(invented(2048), budget=budget).threshold for budget in (0.1, 0.33, 1.0, 3.0)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[1] == pytest.approx(17.1, abs=0.05)


def test_its_state_is_bounded() -> None:
    baseline = invented(3000)
    one = Detector(baseline)
    before = one.nbytes
    for seed in range(20):
        one.step(block(baseline, seed), seed)
    assert one.nbytes == before
    assert (one.nbytes + block(baseline, 0).nbytes) / 3000 < 192


def test_a_traffic_alarm_takes_the_features_with_it(traffic: Traffic, fitted: Fitted) -> None:
    far = replace(
        fitted.usual, mean=fitted.usual.mean - 50.0 * (np.arange(len(STATISTICS)) == STATISTICS.index("traffic"))
    )
    one = Detector(fitted.baseline, reading=fitted.reading, usual=far)
    feature = int(np.argmax(fitted.baseline.prevalence()))
    moved = run(one, [louder(counts, feature, 6) for counts in traffic.blocks(5)])
    assert moved[0].of == "traffic"
    assert moved[0].told
    assert [each for each in moved if each.kind == "feature"]
    assert not any(each.told for each in moved if each.kind == "feature")


def test_new_pairs_are_told_as_features_are(traffic: Traffic, fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Found(bucket=5, score=30.0, pairs=((1, 2),), began_block=1, ratio=9.0, low=6.0, high=12.0, tolerance=1.0)
    monkeypatch.setattr(PairEvidence, "step", lambda *_: [pair])
    blocks_of, pairs = (
        traffic.blocks(5),
        cofiring.fit([Block(n=ONE, exposure=FIVE, drawn=ROW)], fitted.baseline.n.rates),
    )
    full = run(Detector(fitted.baseline, pairs=pairs), blocks_of[:2])
    assert [(one.kind, one.subject, one.told, one.pairs) for one in full] == [
        ("pair", 5, True, ((1, 2),)),
        ("pair", 5, False, ((1, 2),)),
    ]
    short = run(Detector(replace(fitted.baseline, days=8), pairs=pairs), blocks_of[:1])
    assert [one.told for one in short] == [False], "listed"


def test_another_dictionarys_counts_are_a_bug(fitted: Fitted, traffic: Traffic) -> None:
    other: Baseline = invented(20)
    with pytest.raises(AssertionError):
        Detector(other).step(traffic.blocks(5)[0], 0)
