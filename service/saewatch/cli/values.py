"""Values of options, for argparse: what is none is a wrong usage, and says so."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from saewatch.core.errors import UnreachableError
from saewatch.core.manifest import BUNDLE_FILE

Number = TypeVar("Number", int, float)
_UNITS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 24 * 3600 * 10**9, "ms": 10**6}


def above_zero(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """Reads a finite number above 0."""
    return _reader(kind, lambda found: 0 < found < math.inf, "a number above 0")


def from_zero(kind: Callable[[str], Number], most: float = math.inf) -> Callable[[str], Number]:
    """Reads a finite number from 0 on, up to ``most``."""
    says = "a number of 0 or more" if most == math.inf else f"a number between 0 and {most:g}"
    return _reader(kind, lambda found: 0 <= found <= most and found != math.inf, says)


def length_ns(text: str) -> int:
    """Reads a length of time."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length such as 90s, 15m, 2h or 3d")
    return round(float(match[1]) * _UNITS[match[2]])


def seconds(text: str) -> float:
    """Reads a length of time above 0: a number of seconds, or with a unit."""
    try:
        return above_zero(float)(text)
    except argparse.ArgumentTypeError:
        found = length_ns(text) / 1e9
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return found


def bundle(folder: Path) -> Path:
    """The same folder. Raises `UnreachableError` where there is no bundle: what one says is judged by who reads it."""
    path = folder / BUNDLE_FILE
    try:
        path.open("rb").close()
    except OSError as error:
        hint = f"Name the folder of a bundle, the one with {BUNDLE_FILE} in it."
        expected = "a file that can be read"
        raise UnreachableError(str(path), found=error.strerror, expected=expected, hint=hint) from error
    return folder


def _reader(kind: Callable[[str], Number], good: Callable[[Number], bool], says: str) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        try:
            found = kind(text)
        except ValueError:
            found = None
        if found is None or not good(found):
            raise argparse.ArgumentTypeError(f"{text!r} is not {says}")
        return found

    return read
