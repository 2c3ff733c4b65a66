"""Paired comparison of arms whose blocks alternate, on a machine whose speed drifts.

A *round* is one block of each arm, in random order. Neighbours share whatever the machine did just then, so the ratio
of two blocks of one round is free of drift that is slower than a round, and the random order takes the sign from what
is left. A round gives one log ratio. The estimate is the median of their pairwise means, and its interval that of
Wilcoxon's signed ranks (Hodges and Lehmann 1963): no few rounds that something else disturbed can move either far, and
for ordinary noise they are nearly as narrow as a mean's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964
"""Of a normal distribution, 95 % lie within so many deviations."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long one arm takes as another one, with a 95 % interval."""

    median: float
    lower95: float
    upper95: float


def rounds(arms: Sequence[str], count: int, *, seed: int) -> list[list[str]]:
    """``count`` rounds, each a random order of all ``arms``."""
    chance = random.Random(seed)
    return [chance.sample(list(arms), len(arms)) for _ in range(count)]


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """The ratio ``over / under`` of two arms' seconds, one of each for a round, in the order of the rounds.

    With fewer than six rounds the interval is that of all pairwise means, which holds the truth less often than 95 %.
    """
    logs = np.log(np.asarray(over, np.float64)) - np.log(np.asarray(under, np.float64))
    assert logs.ndim == 1, "one number a round"
    n = len(logs)
    assert n, "at least one round"
    first, second = np.triu_indices(n)
    means = np.sort((logs[first] + logs[second]) / 2)
    outside = math.floor(
        n * (n + 1) / 4 - Z95 * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    )  # of the means, on each side
    chosen = (np.median(means), means[max(outside, 0)], means[-1 - max(outside, 0)])
    return Ratio(*(float(np.exp(value)) for value in chosen))
