"""What the verbs know of the terminal that they talk to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def live(out: Any) -> bool:
    """Whether ``out`` is a terminal whose last line can be written anew."""
    return bool(out.isatty()) and os.environ.get("TERM") != "dumb"


def in_colour(out: Any, environment: Mapping[str, str] | None = None) -> bool:
    """Whether ``out`` is a terminal that does not ask for none (no-color.org: any value but an empty one)."""
    here = os.environ if environment is None else environment
    return bool(out.isatty()) and here.get("TERM") != "dumb" and not here.get("NO_COLOR")


def printable(text: str) -> str:
    """``text`` without what would command the terminal: engines, clients and files name themselves."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
