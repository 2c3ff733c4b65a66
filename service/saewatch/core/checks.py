"""Checks that records share. Each raises `RecordError` naming what was examined."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from saewatch.core.errors import RecordError


def in_range(subject: str, value: int, low: int, high: int) -> None:
    """An integer within bounds, both included."""
    if not low <= value <= high:
        raise RecordError(subject, found=value, expected=f"{low} to {high}")


def one_of(subject: str, value: str, known: set[Any]) -> None:
    """A value of a closed list."""
    if value not in known:
        raise RecordError(
            subject, found=repr(value), expected=f"one of {', '.join(sorted(map(repr, map(str, known))))}"
        )


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
