"""Firings that come and go on fixed prompts: how many the golden replays lost and gained by themselves.

A feature may fire less often and, where it does, as high as ever: its values say nothing then. Its *steady* firings are
those in most golden replays. A replay lacks some of them and has others beside them, each feature so many on average;
in a round in which there are many more, it has moved. Counts of a feature in 20 replays, with Jeffreys' prior, make the
next one negative binomial (Gelman et al., Bayesian Data Analysis, 2.6): features near their threshold, whose firings
come and go in every replay, are not told for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saewatch.monitor.diff.tails import Z95, more_counted
from saewatch.monitor.drift.counts import F64, I64
from saewatch.monitor.drift.effect import Ratios
from saewatch.monitor.drift.spread import F32, Flags


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flips:
    """``[F]`` each. Of several replays the sums."""

    gone: I64  # steady firings that were not there
    fresh: I64  # firings that are not steady

    @classmethod
    def of(cls, value: F32, steady: Flags, feature: I64, features: int) -> Flips:
        """Of one replay: ``value`` ``[E]`` is 0 where nothing fired."""
        fires: npt.NDArray[np.bool_] = value != 0
        return cls(
            gone=np.bincount(feature[steady & ~fires], minlength=features).astype(np.int64),
            fresh=np.bincount(feature[~steady & fires], minlength=features).astype(np.int64),
        )

    def __add__(self, other: Flips) -> Flips:
        return Flips(gone=self.gone + other.gone, fresh=self.fresh + other.fresh)


def flipped(now: Flips, before: Flips, runs: int, steady: I64, some: I64) -> Ratios:
    """On how many times as many tokens the features ``some`` fire; one round beside ``runs`` golden ones.

    ``steady`` ``[F]``: firings of each. What is gone and what is fresh are asked apart; the less likely one counts.
    """
    sides = [(now.gone[some], before.gone[some]), (now.fresh[some], before.fresh[some])]
    chances = np.array([more_counted(count, earlier, runs) for count, earlier in sides])
    fresh = chances[1] < chances[0]
    count, earlier = (np.where(fresh, right, left) for left, right in zip(*sides, strict=True))
    low, high = _byar(count)
    off = (np.array([count, low, high]) - earlier / runs) / steady[some]
    effect, near, far = np.maximum(1.0 + np.where(fresh, off, -off), 0.0)
    return Ratios(
        effect=effect,
        low=np.where(fresh, near, far),
        high=np.where(fresh, far, near),
        chance=np.minimum(2.0 * chances.min(axis=0), 1.0),
    )


def _byar(count: I64) -> tuple[F64, F64]:
    """Byar's limits of the mean of which ``count`` were seen, 95 % (Rothman and Boice 1979); 0 counts as 0 to 3.7."""
    low, high = (
        n * (1.0 - 1.0 / (9.0 * n) + side / (3.0 * np.sqrt(n))) ** 3
        for n, side in ((np.maximum(count, 1.0), -Z95), (count + 1.0, Z95))
    )
    return np.where(count > 0, low, 0.0), high
