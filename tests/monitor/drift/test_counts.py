from __future__ import annotations

import itertools

import pytest

from saewatch.core.errors import RecordError
from saewatch.monitor.drift.counts import merged, nothing
from tests.monitor.drift.test_reducer import REQUESTS, add, reducer, same


def test_blocks_merge_in_any_order_to_the_whole() -> None:
    whole, parts = reducer(), []
    for request in REQUESTS:
        part = reducer()
        add(whole, request)
        add(part, request)
        parts.append(part.close())
    expected = whole.close()
    for order in itertools.permutations(parts):
        together = nothing(3)
        for each in order:
            together = merged(together, each)
        assert same(together, expected)


def test_different_dictionaries_do_not_merge() -> None:
    with pytest.raises(RecordError, match="features"):
        merged(nothing(3), nothing(4))
