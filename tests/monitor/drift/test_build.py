from __future__ import annotations

import collections

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.monitor.drift.build import Builder, Told
from tests import deployed


def told(number: int = 0, *, value: float = 1.0) -> Told:
    mean = np.array([value])
    return Told(
        feature=np.array([0]), count=np.array([1]), mean=mean, tokens=10, key=number, ended_ns=number * 3600 * 10**9
    )


def test_it_knows_the_deployments_rates() -> None:
    made = deployed.baseline().fitted.baseline
    assert made.prevalence() == pytest.approx(deployed.CHANCES, rel=0.05)
    assert (made.days, made.blocks) == (28, 28 * deployed.GROUPS_A_DAY)
    assert made.centre == pytest.approx(np.full(12, np.log1p(np.exp(0.5))), abs=0.1)
    assert made.whole_share == 1.0


def test_hours_of_the_day_are_kept_apart() -> None:
    builder = Builder(2)
    for hour in (1, 2, 13, 25):
        builder.add(told(hour))
    found = builder.slices.by_hours()
    assert found.n[:, 0].tolist() == [3, 0, 1, 0]
    assert found.exposure[2, -1] == 10_000


def test_slices_are_of_the_features_that_show_the_traffics_state() -> None:
    made = deployed.baseline().fitted
    assert made.slices.feature.tolist() == made.baseline.axes.feature.tolist() == list(range(deployed.FEATURES))
    assert made.slices.requests.sum() == made.baseline.requests
    rates = made.slices.n.sum(axis=0) / made.baseline.requests
    assert rates == pytest.approx(deployed.CHANCES, rel=0.05)


def test_a_handful_of_requests_is_no_baseline() -> None:
    builder = Builder(2)
    for number in range(9):
        builder.add(told(number))
    with pytest.raises(ConfigError, match="9 whole requests"):
        builder.fitted()


def test_more_blocks_than_are_held_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BASELINE_CELLS", 6)
    monkeypatch.setattr(limits, "BASELINE_FIRST", 1)
    monkeypatch.setattr(limits, "DRIFT_BLOCK_REQUESTS_MIN", 1)
    builder, given = Builder(2), (told(number) for number in range(40))
    with pytest.raises(ConfigError, match="4 blocks of 2"):
        collections.deque(map(builder.add, given), maxlen=0)


def test_requests_that_were_half_seen_are_remembered() -> None:
    builder, chance = Builder(deployed.FEATURES), np.random.default_rng(1)
    for now_ns in deployed.times(7):
        for number in range(60):
            feature, values = deployed.fired(chance, {})
            count = np.ones(len(feature), np.int64)
            builder.add(
                Told(
                    feature=feature,
                    count=count,
                    mean=values.astype(np.float64),
                    tokens=20,
                    key=number,
                    ended_ns=now_ns + number,
                )
            )
    assert builder.fitted(partial=builder.requests).baseline.whole_share == 0.5
