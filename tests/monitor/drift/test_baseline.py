from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saewatch.monitor.drift.baseline import FULL, LIST, TWICE, share
from saewatch.monitor.drift.fit import Fitted
from tests.monitor.drift.conftest import FEATURES, SIZE, Traffic


def test_it_knows_how_often_features_fire(traffic: Traffic, fitted: Fitted) -> None:
    history = traffic.history(*SIZE.baseline)
    found = history.n.sum(axis=0) / history.requests.sum()
    often = found > 0.001
    assert fitted.baseline.prevalence()[often] == pytest.approx(found[often], rel=0.02)
    assert (fitted.baseline.features, fitted.baseline.days) == (FEATURES, 28)


def test_what_an_alarm_does_depends_on_the_days(fitted: Fitted) -> None:
    days = {7: LIST, 13: LIST, 14: TWICE, 27: TWICE, 28: FULL}
    assert {number: replace(fitted.baseline, days=number).paging for number in days} == days


def test_a_level_that_is_accepted_is_an_amendment(fitted: Fitted) -> None:
    before = fitted.baseline
    after = before.accepted({3: 2.0})
    assert (before.version, after.version) == (1, 2)
    assert after.n.rates.level[3] == pytest.approx(2 * before.n.rates.level[3])
    assert (np.delete(after.w.rates.level, 3) == np.delete(before.w.rates.level, 3)).all()
    often = int(before.axes.feature[0])
    axes = before.accepted({often: 3.0}).axes
    assert axes.level[0] == pytest.approx(3 * before.axes.level[0]), "or the traffic's state would move with it"
    assert (axes.level[1:] == before.axes.level[1:]).all()


def test_a_feature_takes_83_bytes(fitted: Fitted) -> None:
    axes = fitted.baseline.n.rates.loading.shape[1]
    assert fitted.baseline.nbytes / FEATURES == 83 - 2 * (16 - axes)


def test_of_nothing_everything_was_seen() -> None:
    assert (share(0, 0), share(1, 4)) == (1.0, 0.25)
