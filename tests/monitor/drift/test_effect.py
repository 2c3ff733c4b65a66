from __future__ import annotations

import numpy as np
import pytest

from saewatch.monitor.drift.effect import Effect, Ratios
from saewatch.monitor.drift.rules import SPARSE_SHARE


@pytest.mark.parametrize(
    ("of", "low", "high", "least"),
    [
        ("panel", 0.4, 0.5, np.log(2.0)),
        ("panel_firings", 0.0, 0.5, np.log(2.0)),
        ("n", 0.9, 9.0, 0.0),
        ("w", 2.0, 9.0, np.log(2.0)),
        ("z", 0.2, 0.4, 0.2),
        ("az", -0.4, -0.2, 0.2),
        ("dense", 2.0 * SPARSE_SHARE, 0.9, np.log(2.0)),
    ],
)
def test_the_least_is_the_end_of_the_interval_that_is_nearest_to_nothing(
    of: str, low: float, high: float, least: float
) -> None:
    assert Effect(1, of, (low + high) / 2.0, low, high).least == pytest.approx(least)


def test_many_have_their_least_as_each_of_them_has() -> None:
    low, high = np.array([0.0, 0.4, 0.9, 2.0]), np.array([0.5, 0.8, 1.1, 4.0])
    many = Ratios(effect=(low + high) / 2.0, low=low, high=high, chance=np.ones(4))
    assert many.least == pytest.approx([Effect(0, "panel", 1.0, a, b).least for a, b in zip(low, high, strict=True)])
