from __future__ import annotations

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.monitor.drift.blocks import Blocks

MINUTE_NS = 60 * 10**9
NOTHING = (np.zeros(0, np.intp), np.zeros(0, np.int64), np.zeros(0))


def filled(requests: int, now_ns: int = 0) -> Blocks:
    blocks = Blocks(np.zeros(2), np.ones(2))
    for _ in range(requests):
        blocks.add(*NOTHING, tokens=5, key=0, now_ns=now_ns)
    return blocks


def test_ten_minutes_and_fifty_requests_or_six_hours() -> None:
    assert not filled(0).due(10**18), "nothing was begun"
    assert not filled(50).due(10 * MINUTE_NS - 1)
    assert filled(50).due(10 * MINUTE_NS)
    assert not filled(49).due(359 * MINUTE_NS)
    assert filled(1).due(360 * MINUTE_NS)


def test_a_block_begins_with_its_first_request() -> None:
    blocks = filled(60, now_ns=77)
    assert blocks.close().requests == 60
    assert not blocks.due(10**18)
    blocks.partial(100 * MINUTE_NS)
    assert not blocks.due(109 * MINUTE_NS)
    assert blocks.close().requests == 1


def test_a_block_is_closed_before_its_sums_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DRIFT_BLOCK_REQUESTS", 70)
    assert not filled(69).due(1)
    assert filled(70).due(1)
    assert 2**19 * 3 * 1024 < 2**31
