"""Fit linear probes on tokens: balanced logistic regression, one direction per concept, in the activations' units."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F

from dictionaries.train.dataset import POSITIVE, UNLABELLED

L2 = 1e-3
OTHERS = 60_000


def fit(x: Tensor, labels: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """From x [N, d] and labels [N, q] to w [q, d] and b [q]. The standardisation of x is folded back into them."""
    rows = _rows(labels, seed)
    x, labels = x[rows], labels[rows]
    mean, std = x.mean(0), x.std(0) + 1e-6
    z = (x - mean) / std
    weight, target = _balanced(labels), (labels == POSITIVE).float()
    w = torch.zeros(labels.shape[1], x.shape[1], requires_grad=True)
    b = torch.zeros(labels.shape[1], requires_grad=True)
    lbfgs = torch.optim.LBFGS([w, b], max_iter=120, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        lbfgs.zero_grad()
        each = F.binary_cross_entropy_with_logits(z @ w.T + b, target, weight=weight, reduction="sum")
        total = each + L2 * w.pow(2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    lbfgs.step(loss)  # type: ignore[no-untyped-call]
    w64 = w.detach().double() / std.double()
    return w64.float(), (b.detach().double() - w64 @ mean.double()).float()


def _rows(labels: Tensor, seed: int) -> Tensor:
    """All tokens with a positive label, and OTHERS of the rest."""
    positive = (labels == POSITIVE).any(1)
    rest = (~positive).nonzero().flatten()
    chosen = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:OTHERS]]
    return torch.cat([positive.nonzero().flatten(), chosen]).sort().values


def _balanced(labels: Tensor) -> Tensor:
    """[N, q] weights: the positives of a column sum to a half, its negatives too, the unlabelled to nothing."""
    positive = (labels == POSITIVE).float()
    negative = ((labels != POSITIVE) & (labels != UNLABELLED)).float()
    return 0.5 * positive / positive.sum(0).clamp_min(1) + 0.5 * negative / negative.sum(0).clamp_min(1)
