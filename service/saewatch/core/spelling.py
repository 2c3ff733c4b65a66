"""Names that are spelt nearly like one that is not there, for the hints of refusals: in bounded time."""

from __future__ import annotations

import difflib
import heapq
import itertools
import operator
from collections.abc import Iterable

COMPARED = 1024
"""Names at most that one is compared with, some 0.1 ms each: those that begin most like it."""
LETTERS = 64
"""Of a name at most that is compared: the rest of a longer one cannot be a slip."""


def near(name: str, names: Iterable[str], count: int = 1, *, alike: float = 0.6) -> list[str]:
    """Up to ``count`` of these names, the nearest first; ``alike``: the share of letters that agree, by Ratcliff."""
    start, there = name[:LETTERS], list(names)
    if len(there) > COMPARED:
        there = heapq.nlargest(COMPARED, there, key=lambda one: _shared(start, one))
    return difflib.get_close_matches(start, there, count, alike)


def _shared(one: str, other: str) -> int:
    """Letters with which both begin."""
    return sum(1 for _ in itertools.takewhile(bool, map(operator.eq, one, other)))
