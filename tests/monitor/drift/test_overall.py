from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saewatch.monitor.drift.compared import compared
from saewatch.monitor.drift.fit import Fitted
from saewatch.monitor.drift.overall import STATISTICS, OverallEvidence, Usual, reading, usual
from tests.monitor.drift.conftest import Traffic


def test_as_usual_nothing_is_said_and_a_shift_of_everything_is_seen(traffic: Traffic, fitted: Fitted) -> None:
    quiet, moved = OverallEvidence(fitted.usual), OverallEvidence(fitted.usual)
    for counts in traffic.blocks(5):
        score = quiet.step(fitted.reading.values(fitted.baseline, compared(fitted.baseline, counts)))
        higher = replace(counts, z=counts.z + (0.1 * 1024 * counts.n).astype(np.int64))
        shifted = moved.step(fitted.reading.values(fitted.baseline, compared(fitted.baseline, higher)))
    assert np.nanmax(score) < 11.3
    assert STATISTICS[int(np.nanargmax(shifted))] == "shift"
    assert np.nanmax(shifted) > 30


def test_without_a_census_unexplained_variance_is_not_judged(traffic: Traffic, fitted: Fitted) -> None:
    counts = replace(traffic.blocks(5)[0], unexplained=0, census=0)
    values = fitted.reading.values(fitted.baseline, compared(fitted.baseline, counts))
    assert np.isnan(values[STATISTICS.index("unexplained")])
    score = OverallEvidence(fitted.usual).step(values)
    assert np.isnan(score).tolist() == [name in {"unexplained", "census_l0"} for name in STATISTICS]


def test_what_a_baseline_has_not_is_never_alarmed() -> None:
    nan = np.full(len(STATISTICS), np.nan)
    one = OverallEvidence(Usual(mean=nan, within=nan, tolerance=nan))
    assert np.isnan(one.step(np.zeros(len(STATISTICS)))).all()
    assert (one.won == 1.0).all()


def test_both_directions_count() -> None:
    usual = Usual(
        mean=np.zeros(len(STATISTICS)), within=np.ones(len(STATISTICS)), tolerance=np.full(len(STATISTICS), 0.5)
    )
    for sign in (1.0, -1.0):
        one = OverallEvidence(usual)
        for _ in range(20):
            score = one.step(np.full(len(STATISTICS), sign * 2.0))
        assert score.min() > 8
    one = OverallEvidence(usual)
    for _ in range(500):
        score = one.step(np.full(len(STATISTICS), 0.4))
    assert score.max() < 4, "inside the tolerance nothing adds up"


def test_the_state_of_a_full_baseline_has_no_floor(fitted: Fitted) -> None:
    assert fitted.baseline.days == 28
    assert fitted.usual.tolerance[STATISTICS.index("traffic")] < 0.4 * fitted.usual.mean[STATISTICS.index("traffic")]


def test_of_a_census_that_some_blocks_lack_the_others_are_used_and_one_that_most_lack_is_none(
    traffic: Traffic, fitted: Fitted
) -> None:
    history, values = traffic.history(5), np.zeros((7 * 12, len(STATISTICS)))
    values[:, 1] = np.arange(84) % 2
    values[3, 1] = np.nan
    values[20:, 2] = np.nan
    found = usual(values, history.day, history)
    assert np.isnan(found.mean).tolist() == [number == 2 for number in range(len(STATISTICS))]
    assert found.mean[1] == pytest.approx(0.5, abs=0.01)
    assert found.within[1] == pytest.approx(0.5, abs=0.01)
    assert found.tolerance[1] == pytest.approx(1.5 * 0.125, abs=0.01), (
        "of a week: three weeks' worth of a quarter for each two"
    )
    some, none = np.full(84, 20.0), np.full(84, np.nan)
    some[-1] = np.nan
    read = [reading(replace(history, l0=one), fitted.baseline).census_l0 for one in (some, none)]
    assert read[0][0] == pytest.approx(20.0)
    assert np.isnan(read[1]).all()
