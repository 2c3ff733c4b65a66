"""Paired comparison of arms whose blocks alternate, on a machine whose speed drifts.

A *round* is one block of each arm, in random order. Neighbours share whatever the machine did just then, so the ratio
of two blocks of one round is free of drift that is slower than a round, and the random order takes the sign from what
is left. A round gives one log ratio; their median and a bootstrap over rounds give the estimate and its interval,
neither of which a few rounds that something else disturbed can move far.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
"""Of the rounds: the 2.5 % quantile of so many medians is known to some percent of the interval's width."""


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


def ratio(over: Sequence[float], under: Sequence[float], *, seed: int = 0) -> Ratio:
    """The ratio ``over / under`` of two arms' seconds, one of each for a round, in the order of the rounds."""
    logs = np.log(np.asarray(over, np.float64)) - np.log(np.asarray(under, np.float64))
    assert logs.ndim == 1, "one number a round"
    assert len(logs), "at least one round"
    medians = _medians(logs, np.random.default_rng(seed))
    lower, upper = np.quantile(medians, [0.025, 0.975])
    return Ratio(*(float(np.exp(value)) for value in (np.median(logs), lower, upper)))


def _medians(logs: npt.NDArray[np.float64], chance: np.random.Generator) -> npt.NDArray[np.float64]:
    """Of resampled rounds (Efron 1979)."""
    drawn = chance.integers(len(logs), size=(RESAMPLES, len(logs)))
    return np.asarray(np.median(logs[drawn], axis=1), dtype=np.float64)
