"""Values of options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saewatch.cli.values import above_zero, bundle, from_zero, length_ns, seconds
from saewatch.core.errors import UnreachableError


@pytest.mark.parametrize(
    ("read", "text", "found"),
    [
        (above_zero(int), "3", 3),
        (above_zero(float), "0.5", 0.5),
        (from_zero(int), "0", 0),
        (from_zero(float, 2), "2", 2.0),
        (length_ns, "1.5h", 5400 * 10**9),
        (seconds, "1.5", 1.5),
        (seconds, "2h", 7200.0),
    ],
)
def test_numbers(read: Callable[[str], Any], text: str, found: float) -> None:
    assert read(text) == found
    assert type(read(text)) is type(found)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (above_zero(int), "0"),
        (above_zero(int), "1.5"),
        (above_zero(float), "nan"),
        (above_zero(float), "inf"),
        (from_zero(float), "inf"),
        (from_zero(float), "-0.1"),
        (from_zero(float, 2), "2.1"),
        (from_zero(int), "many"),
    ],
)
def test_what_is_none_is_said(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a number"):
        read(text)


@pytest.mark.parametrize(
    ("read", "text"), [(length_ns, "90"), (seconds, "0"), (seconds, "0s"), (seconds, "1w"), (seconds, "inf")]
)
def test_what_is_no_length_is_said(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no"):
        read(text)


def test_a_folder_of_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=rf"{tmp_path}/bundle\.json: found No such file.*Name the folder"):
        bundle(tmp_path)
    (tmp_path / "bundle.json").touch()
    assert bundle(tmp_path) == tmp_path
