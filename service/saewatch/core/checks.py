"""Checks that records share. Each raises `RecordError` naming what was examined."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.core.errors import RecordError


def in_range(subject: str, value: int, low: int, high: int) -> None:
    """An integer within bounds, both included."""
    if not low <= value <= high:
        raise RecordError(subject, found=value, expected=f"{low} to {high}")


def at_least_zero(subject: str, value: float) -> None:
    """A finite number that is not negative."""
    if not 0.0 <= value < math.inf:
        raise RecordError(subject, found=value, expected="a finite number from 0 on")


def counts(subject: str, record: Any, *names: str) -> None:
    """Fields that count something, or say when."""
    for name in names:
        in_range(f"{subject}.{name}", getattr(record, name), 0, limits.COUNT_MAX)


def count_of(subject: str, text: str) -> int:
    """A count that travelled as text."""
    if not (text.isdecimal() and text.isascii() and len(text) <= len(str(limits.COUNT_MAX))):
        raise RecordError(subject, found=f"{text!r:.80}", expected="a count")
    return int(text)


def one_of(subject: str, value: str, known: Collection[Any]) -> None:
    """A value of a closed list."""
    if value not in known:
        expected = f"one of {', '.join(sorted(map(repr, map(str, known))))}"
        raise RecordError(subject, found=f"{value!r:.80}", expected=expected)


def column_types(subject: str, record: Any) -> None:
    """Columns of the declared types: writing any other would change numbers that do not fit."""
    for name, dtype, _ in record.COLUMNS:
        found = getattr(record, name).dtype
        if found != dtype:
            raise RecordError(f"{subject}.{name}", found=found, expected=dtype)


def same_length(subject: str, *columns: npt.NDArray[Any]) -> int:
    """Columns of one dimension and one length, which is returned."""
    lengths = {column.shape for column in columns}
    if len(lengths) != 1 or len(columns[0].shape) != 1:
        raise RecordError(subject, found=f"columns of shapes {sorted(map(str, lengths))}", expected="one length")
    return int(columns[0].shape[0])


def below(subject: str, column: npt.NDArray[Any], bound: int) -> None:
    """No item of a column reaches ``bound``."""
    if column.size and int(column.max()) >= bound:
        raise RecordError(subject, found=int(column.max()), expected=f"less than {bound}")


def finite(subject: str, column: npt.NDArray[Any]) -> None:
    """Neither NaN nor infinity in a column."""
    if not np.isfinite(column).all():
        raise RecordError(subject, found="NaN or infinity", expected="finite numbers")
