from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.drift_world import Change, Week
from saewatch.core.errors import ConfigError
from saewatch.monitor.drift.counts import Counts
from saewatch.monitor.drift.fit import Fitted, block, fit, parts
from saewatch.monitor.drift.history import History
from tests.monitor.drift.conftest import BLOCKS_A_DAY, FEATURES, SIZE, Traffic

ONES, ZEROS = np.ones(FEATURES, np.float32), np.zeros(FEATURES, np.float32)


def test_the_same_blocks_give_the_same_baseline(traffic: Traffic, fitted: Fitted) -> None:
    of = traffic.world
    again = fit(traffic.history(*SIZE.baseline), centre=of.centre.astype(np.float32), scale=of.scale.astype(np.float32))
    assert again.peak == fitted.peak
    assert (again.baseline.n.rates.loading == fitted.baseline.n.rates.loading).all()
    assert fitted.peak < 13


def test_under_seven_days_there_is_no_baseline(traffic: Traffic) -> None:
    week = traffic.history(5)
    with pytest.raises(ConfigError, match="6 days"):
        fit(week.of(week.day < 6), centre=ZEROS, scale=ONES)


def test_one_week_is_a_baseline_that_only_lists(traffic: Traffic) -> None:
    found = fit(traffic.history(5), centre=ZEROS, scale=ONES)
    assert (found.baseline.days, found.baseline.paging) == (7, "list")
    assert [name for _, name in parts(traffic.history(5))] == ["every second day", "every other day"]


def last_week_of(history: History, other: Week) -> History:
    """A history whose last week is another one."""
    columns = {name: getattr(history, name).copy() for name in ("n", "w", "z", "az")}
    for name, column in columns.items():
        column[-7 * BLOCKS_A_DAY :] = getattr(other, name)
    return replace(history, **columns)


def test_a_change_in_the_middle_is_refused_with_its_days(traffic: Traffic) -> None:
    rate = np.ones(FEATURES)
    rate[np.argsort(-traffic.world.rate)[5:15]] = 5.0
    mixed = last_week_of(traffic.history(*SIZE.baseline), traffic.changed(9, Change(rate=rate)))
    with pytest.raises(ConfigError, match="days 22 to 28"):
        fit(mixed, centre=ZEROS, scale=ONES)


def strayed(traffic: Traffic, features: Sequence[int]) -> Fitted:
    """A baseline of two weeks, in the second of which these, of those that fire most, fire at twice the value."""
    shift = np.zeros(FEATURES)
    shift[np.argsort(-traffic.world.rate)[list(features)]] = 0.7
    history = traffic.history(*SIZE.baseline[:2])
    return fit(last_week_of(history, traffic.changed(9, Change(shift=shift))), centre=ZEROS, scale=ONES)


def test_of_a_short_baseline_a_feature_may_have_strayed_and_is_volatile_then(traffic: Traffic) -> None:
    usual, found = strayed(traffic, []), strayed(traffic, [8])
    (number,) = found.strayed
    assert number == np.argsort(-traffic.world.rate)[8]
    assert found.baseline.volatile[number]
    assert found.baseline.z.tolerance[number] > 2 * usual.baseline.z.tolerance[number]
    assert (len(usual.strayed), found.baseline.paging) == (0, "twice")
    assert found.peak < 13


def test_of_a_short_baseline_too_many_that_strayed_are_a_change(traffic: Traffic) -> None:
    with pytest.raises(ConfigError, match=r"days 8 to 14 .* 3 features came so near .*but for 1 features"):
        strayed(traffic, [3, 8, 60])


def test_coverage_that_differs_between_days_is_refused(traffic: Traffic) -> None:
    history = traffic.history(*SIZE.baseline)
    some = np.where(history.day % 2 == 0, history.seen, np.rint(1.1 * history.seen).astype(np.int64))
    with pytest.raises(ConfigError, match="encoded"):
        fit(replace(history, seen=some), centre=ZEROS, scale=ONES)


def test_a_block_of_a_history_is_the_one_that_was_counted(traffic: Traffic) -> None:
    history, counted = traffic.history(5), traffic.blocks(5)
    for number in (0, 40):
        one: Counts = block(history, number)
        assert (one.n == counted[number].n).all()
        assert one.exposure.tolist() == counted[number].exposure.tolist()
        assert (one.requests, one.firings) == (counted[number].requests, counted[number].firings)
        assert one.unexplained / one.census == pytest.approx(
            counted[number].unexplained / counted[number].census, rel=1e-5
        )


def test_days_that_are_left_over_belong_to_the_last_week(traffic: Traffic) -> None:
    history = traffic.history(*SIZE.baseline)
    names = [name for _, name in parts(history.of(history.day < 16))]
    assert names == ["days 1 to 7", "days 8 to 16"]
