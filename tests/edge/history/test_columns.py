"""Columns come back as they were, in few bytes, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core.errors import RecordError
from saewatch.edge.history.columns import pack, unpack

I64 = st.integers(-(2**62), 2**62)


@given(st.lists(st.lists(I64, max_size=20), max_size=5), st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_they_come_back(columns: list[list[int]], values: list[float]) -> None:
    data = pack([np.array(column, np.int64) for column in columns], np.array(values, np.float32))
    found, value = unpack(data)
    assert [column.tolist() for column in found] == columns
    assert value.tolist() == values


def test_unsigned_columns_do_not_wrap() -> None:
    found, _ = unpack(pack([np.array([2**32 - 1, 0, 2**32 - 1], np.uint32), np.array([9, 1], np.uint16)]))
    assert [column.tolist() for column in found] == [[2**32 - 1, 0, 2**32 - 1], [9, 1]]


def test_what_hardly_changes_takes_next_to_nothing() -> None:
    assert len(pack([np.arange(10**6), np.full(10**6, 7)])) < 20_000


@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_changed_byte_is_found(place: int, change: int) -> None:
    data = bytearray(pack([np.arange(50)], np.ones(9, np.float32)))
    data[place % len(data)] ^= change
    with pytest.raises(RecordError, match="checksum"):
        unpack(bytes(data))


@pytest.mark.parametrize("length", [0, 3, 12])
def test_what_is_cut_short_is_found(length: int) -> None:
    with pytest.raises(RecordError):
        unpack(pack([np.arange(50)])[:length])
