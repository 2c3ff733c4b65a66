"""What a dictionary has to beat: the request's words, and a dictionary that was never trained."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F

from dictionaries.train import logistic
from dictionaries.train.sae import Autoencoder

Floats = NDArray[np.float64]
WORDS_L2 = 1e-4


class BagOfWords:
    """Logistic regression on which words and pairs of words a request has; each request's row has unit length."""

    def __init__(self, positive: Sequence[str], negative: Sequence[str]) -> None:
        counts = Counter(term for text in (*positive, *negative) for term in _terms(text))
        self.column = {term: i for i, term in enumerate(sorted(t for t, n in counts.items() if n > 1))}
        self.w, self.b = logistic.two_groups(self._rows(positive), self._rows(negative), l2=WORDS_L2)

    def score(self, texts: Sequence[str]) -> Floats:
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


def frozen_random(sae: Autoencoder, x: Tensor, *, seed: int = 0) -> Autoencoder:
    """Random unit rows, each with the threshold at which it fires as often on `x` as the trained latent does."""
    d, n = sae.W_enc.shape
    rows = F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)
    mean = x.mean(0)
    pre = (x - mean) @ rows.T
    rate = (sae.encode(x) > 0).float().mean(0).clamp(1 / len(x), 1 - 1 / len(x))
    index = ((1 - rate) * (len(x) - 1)).long()
    theta = pre.sort(dim=0).values.gather(0, index[None])[0].clamp_min(0)
    return Autoencoder(rows.T.contiguous(), -(mean @ rows.T), rows, mean, theta)
