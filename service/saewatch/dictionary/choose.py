"""Choose latents for a concept on labelled requests: the best single one, and a group with a linear head.

What is chosen on some requests looks better on them than it is: it is judged on others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saewatch.core.batch import F64
from saewatch.dictionary import logistic
from saewatch.dictionary.area import columns

GROUP = 20
CANDIDATES = 60
L2 = 1e-3


@dataclass(frozen=True, slots=True)
class Group:
    """Latents and a head: the score of a request is the sum of weights[i] * log1p(max value of latents[i])."""

    latents: list[int]
    weights: list[float]
    single: int

    def score(self, values: F64) -> F64:
        """From request maxima [R, n] to [R]."""
        return np.asarray(_logs(values[:, self.latents]) @ np.array(self.weights), dtype=np.float64)

    def single_score(self, values: F64) -> F64:
        """The best single latent's maximum."""
        return np.asarray(values[:, self.single], dtype=np.float64)


def choose(positive: F64, negative: F64, size: int = GROUP) -> Group:
    """From request maxima [P, n] and [M, n]: a group of at most ``size``."""
    areas = columns(positive, negative)
    candidates = np.argsort(-areas)[:CANDIDATES]
    logs = [torch.from_numpy(_logs(side[:, candidates])).float() for side in (positive, negative)]
    scale = torch.cat(logs).std(0).clamp_min(1e-3)
    kept = torch.arange(len(candidates))
    while True:  # drop the least useful latents, a quarter at a time
        head = _head(logs, scale, kept)
        if len(kept) <= size:
            weights = (head / scale[kept]).tolist()
            return Group(candidates[kept.numpy()].tolist(), weights, int(areas.argmax()))
        kept = kept[head.abs().topk(max(size, len(kept) * 3 // 4)).indices.sort().values]


def _head(logs: list[Tensor], scale: Tensor, kept: Tensor) -> Tensor:
    positive, negative = ((side / scale)[:, kept] for side in logs)
    return logistic.two_groups(positive, negative, l2=L2)[0]


def _logs(values: F64) -> F64:
    return np.asarray(np.log1p(np.maximum(values, 0.0)), dtype=np.float64)
