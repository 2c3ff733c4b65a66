from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.monitor.drift.counts import nothing
from saewatch.monitor.drift.history import DAY_NS, census_l0, history, unexplained


def test_blocks_become_columns_by_day() -> None:
    some = replace(
        nothing(2),
        n=np.array([1, 2], np.int32),
        requests=5,
        encoded=9,
        unexplained=3_000_000,
        census=10,
        l0=70_000_000,
        sampled=20,
    )
    found = history([(DAY_NS - 1, some), (DAY_NS, nothing(2)), (9 * DAY_NS, some)])
    assert (found.blocks, found.features) == (3, 2)
    assert found.n.tolist() == [[1, 2], [0, 0], [1, 2]]
    assert found.day.tolist() == [0, 1, 9]
    assert found.weeks().tolist() == [0, 0, 1]
    assert found.unexplained[0] == pytest.approx(0.3)
    assert np.isnan(found.unexplained[1]), "without a census it is not known, and not 0"
    assert found.l0[0] == pytest.approx(3.5)
    assert np.isnan(found.l0[1])
    assert found.of(found.day == 9).requests.tolist() == [5]


def test_two_dictionaries_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 and of 3 features"):
        history([(0, nothing(2)), (1, nothing(3))])


def test_more_than_is_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BASELINE_CELLS", 5)
    with pytest.raises(ConfigError, match="3 blocks of 2"):
        history((at, nothing(2)) for at in range(1000))


def test_no_census_is_no_number() -> None:
    assert np.isnan(unexplained(nothing(1)))
    assert np.isnan(census_l0(nothing(1)))
