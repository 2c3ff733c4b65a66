"""Choose latents for a concept on half a: the best single one, and a group with a linear head."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from dictionaries.train.measure import columns

Floats = NDArray[np.float64]
GROUP = 20
CANDIDATES = 60
STRENGTH = 0.3


@dataclass(frozen=True, slots=True)
class Group:
    """Latents and a head: the score of a request is the sum of weights[i] * log1p(max value of latents[i])."""

    latents: list[int]
    weights: list[float]
    single: int

    def score(self, values: Floats) -> Floats:
        """[R, n] request maxima -> [R]."""
        return np.asarray(_logs(values[:, self.latents]) @ np.array(self.weights))

    def single_score(self, values: Floats) -> Floats:
        """The best single latent's maximum."""
        return values[:, self.single]


def choose(positive: Floats, negative: Floats) -> Group:
    """From request maxima [P, n] and [M, n] of half a. Latents that fire in too few positives are not considered."""
    areas = columns(positive, negative)
    single = int(areas.argmax())
    candidates = np.argsort(-areas)[:CANDIDATES]
    logs = _logs(np.concatenate([positive, negative])[:, candidates])
    target = np.repeat((1, 0), (len(positive), len(negative)))
    kept = np.arange(len(candidates))
    while True:  # drop the least useful latents, a quarter at a time
        head = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=400).fit(logs[:, kept], target)
        if len(kept) <= GROUP:
            return Group(candidates[kept].tolist(), [float(w) for w in head.coef_[0]], single)
        use = np.abs(head.coef_[0]) * logs[:, kept].std(0)
        kept = kept[np.sort(np.argsort(-use)[: max(GROUP, len(kept) * 3 // 4)])]


def _logs(values: Floats) -> Floats:
    return np.log1p(np.maximum(values, 0.0))
