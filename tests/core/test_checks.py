"""The checks that records share: bounds belong to the range, and a refusal says what was found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.core.checks import (
    at_least_zero,
    below,
    column_types,
    count_of,
    counts,
    finite,
    in_range,
    one_of,
    same_length,
)
from saewatch.core.errors import RecordError


def test_in_range_includes_both_bounds() -> None:
    for value in (2, 3, 4):
        in_range("x", value, 2, 4)
    for value in (1, 5, -(2**70), 2**70):
        with pytest.raises(RecordError, match=rf"\Ax: found {value}, expected 2 to 4\Z"):
            in_range("x", value, 2, 4)


def test_at_least_zero_takes_finite_numbers_only() -> None:
    at_least_zero("x", 0.0)
    at_least_zero("x", 1e308)
    for value in (-1e-300, float("nan"), float("inf")):
        with pytest.raises(RecordError, match=r"^x: "):
            at_least_zero("x", value)


def test_counts_names_the_field() -> None:
    counts("beat", SimpleNamespace(fed=0, seq=limits.COUNT_MAX), "fed", "seq")
    for value in (-1, limits.COUNT_MAX + 1):
        with pytest.raises(RecordError, match=r"^beat\.seq: "):
            counts("beat", SimpleNamespace(fed=0, seq=value), "fed", "seq")


def test_one_of_lists_what_is_known() -> None:
    one_of("x", "on", {"on", "off"})
    with pytest.raises(RecordError, match=r"^x: found 'of', expected one of 'off', 'on'$"):
        one_of("x", "of", {"on", "off"})


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 1), (2, 1)), ((), ()), ((0,), (0, 2))])
def test_same_length_refuses_other_shapes(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(RecordError, match=r"^x: found columns of shapes"):
        same_length("x", *(np.zeros(shape) for shape in shapes))


def test_same_length_gives_the_length() -> None:
    assert same_length("x", np.zeros(3), np.zeros(3, np.uint8)) == 3
    assert same_length("x", np.zeros(0), np.zeros(0)) == 0


def test_below_and_finite_look_at_every_item() -> None:
    below("x", np.array([0, 4], np.uint64), 5)
    below("x", np.zeros(0, np.uint8), 0)
    finite("x", np.zeros(0, np.float32))
    with pytest.raises(RecordError, match=r"\Ax: found 18446744073709551615, expected less than 5\Z"):
        below("x", np.array([0, 2**64 - 1], np.uint64), 5)
    with pytest.raises(RecordError, match=r"found 5, expected less than 5"):
        below("x", np.array([5, 4], np.uint8), 5)
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(RecordError, match=r"^x: found NaN or infinity"):
            finite("x", np.array([0.0, value]))


@pytest.mark.parametrize("dtype", ["<u8", "<i4", "<f4", ">u4", "u1"])
def test_column_types_names_the_column(dtype: str) -> None:
    record: Any = SimpleNamespace(COLUMNS=(("row", np.dtype("<u4"), "K"),), row=np.zeros(2, np.uint32))
    column_types("watch_set", record)
    record.row = np.zeros(2, dtype)
    with pytest.raises(RecordError, match=r"^watch_set\.row: found .*, expected uint32$"):
        column_types("watch_set", record)


def test_a_count_that_travelled_as_text() -> None:
    assert count_of("x", "0042") == 42
    for text in ("", "-1", "1.0", "many", "²", "9" * 20):
        with pytest.raises(RecordError, match=r"^x: found '.*', expected a count$"):
            count_of("x", text)
