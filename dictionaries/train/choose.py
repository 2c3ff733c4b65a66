"""Choose latents for a concept on half a: the best single one, and a group with a linear head."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dictionaries.train import logistic
from dictionaries.train.measure import columns

Floats = NDArray[np.float64]
GROUP = 20
CANDIDATES = 60
L2 = 1e-3


@dataclass(frozen=True, slots=True)
class Group:
    """Latents and a head: the score of a request is the sum of weights[i] * log1p(max value of latents[i])."""

    latents: list[int]
    weights: list[float]
    single: int

    def score(self, values: Floats) -> Floats:
        """From request maxima [R, n] to [R]."""
        return np.asarray(_logs(values[:, self.latents]) @ np.array(self.weights), dtype=np.float64)

    def single_score(self, values: Floats) -> Floats:
        """The best single latent's maximum."""
        return np.asarray(values[:, self.single], dtype=np.float64)


def choose(positive: Floats, negative: Floats) -> Group:
    """From request maxima [P, n] and [M, n] of half a."""
    areas = columns(positive, negative)
    candidates = np.argsort(-areas)[:CANDIDATES]
    logs = [torch.from_numpy(_logs(side[:, candidates])).float() for side in (positive, negative)]
    scale = torch.cat(logs).std(0).clamp_min(1e-3)
    kept = torch.arange(len(candidates))
    while True:  # drop the least useful latents, a quarter at a time
        head = _head(logs, scale, kept)
        if len(kept) <= GROUP:
            weights = (head / scale[kept]).tolist()
            return Group(candidates[kept.numpy()].tolist(), weights, int(areas.argmax()))
        kept = kept[head.abs().topk(max(GROUP, len(kept) * 3 // 4)).indices.sort().values]


def _head(logs: list[Tensor], scale: Tensor, kept: Tensor) -> Tensor:
    positive, negative = ((side / scale)[:, kept] for side in logs)
    return logistic.two_groups(positive, negative, l2=L2)[0]


def _logs(values: Floats) -> Floats:
    return np.asarray(np.log1p(np.maximum(values, 0.0)), dtype=np.float64)
