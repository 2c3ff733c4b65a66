"""Fit linear probes on tokens: balanced logistic regression, one direction per concept, in the activations' units."""

import torch
from torch import Tensor

from dictionaries.train.dataset import NEGATIVE, POSITIVE
from saewatch.dictionary import logistic

L2 = 1e-3
OTHERS = 60_000


def fit(x: Tensor, labels: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """From x [N, d] and labels [N, q] to w [q, d] and b [q]. The standardisation of x is folded back into them."""
    rows = _rows(labels, seed)
    x, labels = x[rows], labels[rows]
    mean, std = x.mean(0), x.std(0) + 1e-6
    weight = logistic.balanced(labels == POSITIVE, labels == NEGATIVE)
    w, b = logistic.fit((x - mean) / std, (labels == POSITIVE).float(), weight, l2=L2)
    w = halved((w.double() / std.double()).float())
    return w, (b.double() - w.double() @ mean.double()).float()


def halved(w: Tensor) -> Tensor:
    """Rounded as a bundle with fp16 latents stores it, so that nothing is rounded at import.

    Each row is brought by a power of two to where its largest weight lies in [1/2, 1), rounded to fp16, and back.
    """
    _, exponent = torch.frexp(w.abs().amax(1, keepdim=True))
    return torch.ldexp(torch.ldexp(w, -exponent).half().float(), exponent)


def _rows(labels: Tensor, seed: int) -> Tensor:
    """All tokens with a positive label, and OTHERS of the rest."""
    positive = (labels == POSITIVE).any(1)
    rest = (~positive).nonzero().flatten()
    chosen = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:OTHERS]]
    return torch.cat([positive.nonzero().flatten(), chosen]).sort().values
