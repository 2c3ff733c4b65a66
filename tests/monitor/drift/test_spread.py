from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from saewatch.monitor.drift import spread
from saewatch.monitor.drift.fit import Fitted
from saewatch.monitor.drift.spread import bounds, common_shift, crowded, measured
from tests.monitor.drift.conftest import SIZE, Traffic


def test_bounds_are_the_quantiles_of_gamma_distributions() -> None:
    total, dispersion = np.array([5.0, 30.0, 400.0, 1e5]), np.array([1.0, 1.0, 4.0, 2.0])
    shape = (total + 0.5) / dispersion
    low, high = bounds(total, dispersion)
    assert low == pytest.approx(stats.gamma.ppf(1e-4, shape) / shape, rel=0.15, abs=0.03)
    assert high == pytest.approx(stats.gamma.ppf(1 - 1e-4, shape) / shape, rel=0.02)
    assert (bounds(np.zeros(1), np.ones(1))[0] >= 0).all(), "what never fired has a level, too"


def test_volatile_features_are_recognised_more_often_than_others(traffic: Traffic, fitted: Fitted) -> None:
    often = traffic.world.rate > 1e-4
    marked, truly = fitted.baseline.volatile, traffic.world.volatile
    assert marked[often & truly].mean() > 2 * marked[often & ~truly].mean()


def test_a_feature_that_moves_by_the_day_gets_a_larger_tolerance(traffic: Traffic) -> None:
    history = traffic.history(*SIZE.baseline)
    feature = int(np.argmax(np.where(traffic.world.volatile, 0, history.n.sum(axis=0))))
    calm = measured(history)
    day = np.searchsorted(history.days, history.day)
    moved = np.random.default_rng(0).choice([0.5, 1.6], len(history.days))[day]
    columns = {name: getattr(history, name).copy() for name in ("n", "w", "z", "az")}
    for column in columns.values():
        column[:, feature] = np.rint(column[:, feature] * moved)
    restless = measured(type(history)(**{**{one: getattr(history, one) for one in history.__slots__}, **columns}))
    assert restless.volatile[feature]
    assert not calm.volatile[feature]
    assert restless.tolerance["n"][feature] > 2 * calm.tolerance["n"][feature]
    assert restless.tolerance["n"][feature] > 1.0, "five times a spread of half"


def test_no_tolerance_is_below_its_floor_and_none_is_no_number(fitted: Fitted) -> None:
    for name, floor in (("n", spread.COUNT_FLOOR), ("w", spread.COUNT_FLOOR), ("z", spread.MARK_FLOOR)):
        tolerance = getattr(fitted.baseline, name).tolerance.astype(np.float64)
        assert np.isfinite(tolerance).all()
        assert tolerance.min() >= floor - 1e-3
    assert fitted.baseline.n.dispersion.min() >= 1


def test_a_week_tolerates_more_than_two(traffic: Traffic) -> None:
    floors = []
    for seeds in (SIZE.baseline[:1], SIZE.baseline[:2]):
        found = measured(traffic.history(*seeds))
        floors.append([float(found.tolerance[name].min()) for name in ("n", "w")])
    assert floors == [[spread.SHORT_FLOOR] * 2, [spread.COUNT_FLOOR] * 2]


def test_an_excess_below_zero_gives_the_floor() -> None:
    below, error = np.array([-0.5, -0.1]), np.array([0.1, 0.1])
    group = np.zeros(2, np.intp)
    for volatile in (np.zeros(2, np.bool_), np.ones(2, np.bool_)):
        assert spread.tolerances(below, error, volatile, group, 0.15).tolist() == [0.15, 0.15]


def test_one_request_is_never_a_crowd() -> None:
    fired = np.array([1.0, 2.0, 9.0, 9.0], np.float32)
    assert crowded(fired, np.array([1e-6, 1e-6, 4.0, 5.0], np.float32)).tolist() == [False, True, True, False]


def test_a_shift_of_everything_is_common() -> None:
    fired, mean = np.array([10.0, 30.0, 5.0], np.float32), np.array([0.0, 1.0, 7.0], np.float32)
    mark = fired * (mean + np.float32(0.25))
    assert common_shift(fired, mark, mean, np.array([0, 1])) == pytest.approx(0.25)
