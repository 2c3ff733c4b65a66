"""What a condition measures on a stream of tokens, and when it *occurs*.

    max, topM, KofN, runR    as `core.aggregate` spells and means them; the same number as a calibrated limit's
    mean, share              of values, and of tokens that fire: known when the scope ends, and judged there
    count                    tokens that fire
    ewmaH                    values, each token weighing half of what the one H tokens later does

A condition occurs on a token with which the statistic of the tokens so far is above the limit. For ``max``, ``KofN``
and ``runR`` it occurs again with each window that is above it; ``topM`` and ``count`` only grow, so they occur once.
Tokens that take no part are as if they were not there.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from saewatch.core import aggregate, limits
from saewatch.core.errors import ConfigError

_EWMA = re.compile(r"ewma([1-9]\d{0,3})", re.ASCII)
AT_END = ("mean", "share")
"""Kinds that are judged when their scope ends."""
ONCE = ("count", "head", "top")
"""Kinds that only grow."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """``kind``: max | top | window | count | share | mean | ewma | head; ``head``: a group's own score."""

    kind: str
    k: int = 1
    n: int = 1

    @property
    def spelt(self) -> str:
        """As a rule spells it; ``head`` is a group's own score."""
        if self.kind == "top":
            return f"top{self.k}"
        if self.kind == "window":
            return f"run{self.k}" if self.k == self.n else f"{self.k}of{self.n}"
        return f"ewma{self.n}" if self.kind == "ewma" else self.kind

    @property
    def of_tokens(self) -> bool:
        """Whether it counts tokens that fire, and not their values."""
        return self.kind in {"count", "share"}

    @property
    def most(self) -> float:
        """What it never passes: every token fires, and a request has no more of them than its length can say."""
        return {"share": 1.0, "count": 2.0**31}.get(self.kind, math.inf)

    @property
    def steps(self) -> int:
        """Elementary steps for each firing at worst."""
        return {"top": 2 + self.k, "window": 2 + self.k, "ewma": 4, "head": 4}.get(self.kind, 2)

    @property
    def nbytes(self) -> int:
        """State for each request."""
        return {"top": 8 * self.k, "window": 8 * self.k, "ewma": 16}.get(self.kind, 8) + 1


def read(text: str, subject: str) -> Statistic:
    """The statistic that a rule spells so. Raises `ConfigError` for any other text, and for windows out of bounds."""
    if text in {"count", "share"}:
        return Statistic(text)
    found = _EWMA.fullmatch(text)
    if found:
        return Statistic("ewma", n=int(found[1]))
    try:
        how = aggregate.read(text)
    except ConfigError as error:
        expected = f"{error.expected}, count, share, or ewmaH"
        raise ConfigError(subject, found=error.found, expected=expected) from None
    made = Statistic("max" if how.kind == "top" and how.k == 1 else how.kind, how.k, how.n)
    if made.k > limits.POLICY_WINDOW:
        raise ConfigError(subject, found=f"{made.k} tokens", expected=f"at most {limits.POLICY_WINDOW}")
    return made
