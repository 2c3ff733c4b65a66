"""Areas under the ROC curve with intervals from a bootstrap over templates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Area:
    """An AUROC and its 95 % interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> list[float]:
        """[value, low, high] to three digits."""
        return [round(v, 3) for v in (self.value, self.low, self.high)]


def auroc(positive: Floats, negative: Floats) -> float:
    """The share of (positive, negative) pairs in the right order; ties count half."""
    ordered = np.sort(negative)
    below, upto = np.searchsorted(ordered, positive), np.searchsorted(ordered, positive, side="right")
    return float((below + upto).sum() / (2 * len(positive) * len(negative)))


def columns(positive: Floats, negative: Floats) -> Floats:
    """AUROC of each column: [P, n] and [M, n] -> [n]."""
    return np.array([auroc(positive[:, j], negative[:, j]) for j in range(positive.shape[1])])


def area(positive: Floats, negative: Floats, clusters: tuple[Sequence[str], Sequence[str]], *, seed: int = 0) -> Area:
    """AUROC with a percentile interval: templates are drawn with replacement, on both sides."""
    random = np.random.default_rng(seed)
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    weights = [_weights(random, names) for names in clusters]
    totals = np.einsum("sp,pn,sn->s", weights[0], pairs, weights[1], optimize=True)
    sampled = totals / (weights[0].sum(1) * weights[1].sum(1))
    low, high = np.quantile(sampled, (0.025, 0.975))
    return Area(float(pairs.mean()), float(low), float(high))


def _weights(random: np.random.Generator, names: Sequence[str]) -> Floats:
    """[RESAMPLES, len(names)]: how often each row's template was drawn."""
    unique, of = np.unique(np.array(names), return_inverse=True)
    drawn = random.multinomial(len(unique), np.full(len(unique), 1 / len(unique)), size=RESAMPLES)
    return drawn[:, of].astype(np.float64)
