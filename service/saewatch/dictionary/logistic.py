"""Balanced logistic regression by L-BFGS: several heads over the same rows at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F

ITERATIONS = 120


def fit(z: Tensor, target: Tensor, weight: Tensor, *, l2: float) -> tuple[Tensor, Tensor]:
    """Rows z [N, d], target and weight [N, q] (a column's weights sum to 1) to w [q, d], b [q]."""
    w = torch.zeros(target.shape[1], z.shape[1], requires_grad=True)
    b = torch.zeros(target.shape[1], requires_grad=True)
    lbfgs = torch.optim.LBFGS([w, b], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        lbfgs.zero_grad()
        each = F.binary_cross_entropy_with_logits(z @ w.T + b, target, weight=weight, reduction="sum")
        total = each + l2 * w.pow(2).sum()
        total.backward()
        return total

    lbfgs.step(loss)
    return w.detach(), b.detach()


def balanced(positive: Tensor, negative: Tensor) -> Tensor:
    """Weights of 0/1 masks [N, q]: a column's positives sum to a half, its negatives too, the rest to nothing."""
    positive, negative = positive.float(), negative.float()
    return 0.5 * positive / positive.sum(0).clamp_min(1) + 0.5 * negative / negative.sum(0).clamp_min(1)


def two_groups(positive: Tensor, negative: Tensor, *, l2: float) -> tuple[Tensor, float]:
    """One head that tells rows [P, d] from rows [M, d]: w [d] and b."""
    z = torch.cat([positive, negative])
    target = torch.zeros(len(z), 1)
    target[: len(positive)] = 1
    w, b = fit(z, target, balanced(target, 1 - target), l2=l2)
    return w[0], float(b[0])
