"""What a dictionary has to beat: the request's words, a linear probe on the activations, and a dictionary that was
never trained.

A dictionary of random directions looks surprisingly good: it sees the same activations, and picking the best of
thousands of random features finds something (arXiv 2602.14111). So it is given the firing rates of the trained one,
and features are chosen from it in the same way, on the same requests.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F

from saewatch.core import limits
from saewatch.core.batch import F64
from saewatch.dictionary import logistic

WORDS_L2 = 1e-4
PROBE_L2 = 1e-3
_CHUNK = 2**24  # numbers that are sorted together: 64 MiB


class BagOfWords:
    """Logistic regression on which words and pairs of words a request has; each request's row has unit length.

    Terms that only one request has are left out, and of very many the rarer ones.
    """

    def __init__(self, positive: Sequence[str], negative: Sequence[str]) -> None:
        counts = Counter(term for text in (*positive, *negative) for term in _terms(text))
        common = sorted((t for t, n in counts.items() if n > 1), key=lambda term: (-counts[term], term))
        self.column = {term: i for i, term in enumerate(sorted(common[: limits.QUALITY_WORDS]))}
        self.w, self.b = logistic.two_groups(self._rows(positive), self._rows(negative), l2=WORDS_L2)

    def score(self, texts: Sequence[str]) -> F64:
        """[R]."""
        return (self._rows(texts) @ self.w + self.b).double().numpy()

    def _rows(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), len(self.column))
        for row, text in zip(rows, texts, strict=True):
            row[[self.column[term] for term in _terms(text) if term in self.column]] = 1.0
        return F.normalize(rows, dim=1)


def _terms(text: str) -> set[str]:
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {*words, *(f"{one} {two}" for one, two in itertools.pairwise(words))}


class Pooled:
    """A linear probe on a request's mean activation ``[d]``: balanced logistic regression on standardised columns."""

    def __init__(self, positive: F64, negative: F64) -> None:
        both = np.concatenate([positive, negative])
        self._mean, self._scale = both.mean(0), both.std(0) + 1e-6
        sides = [torch.from_numpy((side - self._mean) / self._scale).float() for side in (positive, negative)]
        w, self._b = logistic.two_groups(sides[0], sides[1], l2=PROBE_L2)
        self._w = w.double().numpy()

    def score(self, rows: F64) -> F64:
        """[R, d] -> [R]."""
        return np.asarray((rows - self._mean) / self._scale @ self._w + self._b, np.float64)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A dictionary that was never trained: random unit rows around the mean, each with its own threshold."""

    rows: Tensor  # [n, d]
    mean: Tensor  # [d]
    threshold: Tensor  # [n]

    def values(self, x: Tensor) -> Tensor:
        """[T, d] -> [T, n], 0 where a latent does not fire."""
        pre = (x - self.mean) @ self.rows.T
        return pre * (pre > self.threshold)


def frozen(x: Tensor, rate: Tensor, *, seed: int = 0) -> Frozen:
    """Rows that fire on ``x [T, d]`` as often as ``rate [n]`` says; a latent that never fires counts as once in T."""
    rows = F.normalize(torch.randn(len(rate), x.shape[1], generator=torch.Generator().manual_seed(seed)), dim=1)
    mean = x.mean(0)
    index = ((1 - rate.clamp(1 / len(x), 1 - 1 / len(x))) * (len(x) - 1)).long()
    step = max(1, _CHUNK // len(x))
    found = [torch.zeros(0)]
    for first in range(0, len(rate), step):
        pre = (x - mean) @ rows[first : first + step].T
        found.append(pre.sort(dim=0).values.gather(0, index[None, first : first + step])[0].clamp_min(0))
    return Frozen(rows, mean, torch.cat(found))
