"""Areas under the ROC curve, with intervals from a bootstrap over templates.

Requests of one template resemble each other, so that not requests are drawn with replacement but templates (or
authors; a request that names neither is a template of its own), apart among those that carry a concept and those that
do not. The intervals are percentiles of the resamples (Efron and Tibshirani 1993, chapter 13). The same draws are used
for whatever is compared, so that a difference is one of the same requests.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F64

Draws = npt.NDArray[np.uint16]
RESAMPLES = 500
_AT_ONCE = 2**21  # weights that are summed together: 16 MiB


@dataclass(frozen=True, slots=True)
class Area:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> list[float]:
        """[value, low, high] to three digits."""
        return [round(v, 3) for v in (self.value, self.low, self.high)]


def auroc(positive: F64, negative: F64) -> float:
    """The share of (positive, negative) pairs in the right order; ties count half."""
    ordered = np.sort(negative)
    below, upto = np.searchsorted(ordered, positive), np.searchsorted(ordered, positive, side="right")
    return float((below + upto).sum() / (2 * len(positive) * len(negative)))


def columns(positive: F64, negative: F64) -> F64:
    """AUROC of each column: [P, n] and [M, n] -> [n]."""
    return np.array([auroc(positive[:, j], negative[:, j]) for j in range(positive.shape[1])])


def area(positive: F64, negative: F64, clusters: tuple[Sequence[str], Sequence[str]], *, seed: int = 0) -> Area:
    """AUROC with a percentile interval: templates are drawn with replacement, on both sides."""
    random = np.random.default_rng(seed)
    draws = [drawn(random, names, RESAMPLES) for names in clusters]
    low, high = np.quantile(resampled(positive, negative, (draws[0], draws[1])), (0.025, 0.975))
    return Area(auroc(positive, negative), float(low), float(high))


def interval(value: float, samples: F64) -> Area:
    """A figure with the middle 95 % of its resamples."""
    low, high = np.quantile(samples, (0.025, 0.975))
    return Area(value, float(low), float(high))


def resampled(positive: F64, negative: F64, draws: tuple[Draws, Draws]) -> F64:
    """AUROC of each resample, ``[S]``: scores ``[P]``, ``[N]``, and how often each was drawn, ``[S, P]``, ``[S, N]``.

    A resample's area is a sum over positives of the weight of the negatives below: no pair is looked at by itself.
    """
    order = np.argsort(negative, kind="stable")
    below, upto = (np.searchsorted(negative[order], positive, side=side) for side in ("left", "right"))
    found = [np.zeros(0)]
    step = max(1, _AT_ONCE // (len(negative) + len(positive)))
    for first in range(0, len(draws[0]), step):
        ours, theirs = (side[first : first + step].astype(np.float64) for side in draws)
        summed = np.concatenate([np.zeros((len(theirs), 1)), np.cumsum(theirs[:, order], axis=1)], axis=1)
        right = (ours * (summed[:, below] + summed[:, upto])).sum(1) / 2
        found.append(right / (ours.sum(1) * summed[:, -1]))
    return np.concatenate(found)


def drawn(random: np.random.Generator, names: Sequence[str], resamples: int) -> Draws:
    """How often each row's template was drawn, ``[resamples, len(names)]``."""
    unique, of = np.unique(np.array(names), return_inverse=True)
    counts = random.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=resamples)
    return counts[:, of].astype(np.uint16)


class Resamples:
    """Draws of sets of requests by the name of each set, the same whenever it is asked for."""

    def __init__(self, resamples: int, *, seed: int = 0) -> None:
        self._resamples, self._seed = resamples, seed
        self._kept: dict[str, Draws] = {}

    def of(self, name: str, clusters: Sequence[str]) -> Draws:
        """``[resamples, len(clusters)]`` for the set of this name, whose rows have these templates."""
        if name not in self._kept:
            random = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
            self._kept[name] = drawn(random, clusters, self._resamples)
        return self._kept[name]


# --- differences ------------------------------------------------------------------------------------------------------
LEVEL = 0.025
"""Of one side, so that a refusal is one of the upper end of a 95 % interval."""


def chance_above(samples: F64, bound: float) -> float:
    """How likely a difference is to be ``bound`` or more, by its resamples; where none is, by the tail of a normal
    distribution, since so many resamples tell no chance below ``1 / len(samples)``.
    """
    if hits := int((samples >= bound).sum()):
        return (1 + hits) / (1 + len(samples))
    spread = max(float(samples.std()), float(np.finfo(np.float64).tiny))
    tail = 0.5 * math.erfc(min((bound - float(samples.mean())) / spread, 1e3) / math.sqrt(2.0))
    return min(1 / (1 + len(samples)), tail)


def holm(chances: Mapping[str, float], level: float = LEVEL) -> list[str]:
    """Names whose chance is small even among so many, by Holm (1979): none is named wrongly with 1 - ``level``."""
    found: list[str] = []
    for index, (name, chance) in enumerate(sorted(chances.items(), key=lambda one: (one[1], one[0]))):
        if chance > level / (len(chances) - index):
            break
        found.append(name)
    return found
