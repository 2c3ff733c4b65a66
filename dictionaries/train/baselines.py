"""What a dictionary has to beat: the prompt's words, and a dictionary that was never trained."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F

from dictionaries.train.sae import Autoencoder

Floats = NDArray[np.float64]


class BagOfWords:
    """Logistic regression on a request's words and pairs of words."""

    def __init__(self, positive: Sequence[str], negative: Sequence[str]) -> None:
        self.words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        seen = self.words.fit_transform([*positive, *negative])
        self.head = LogisticRegression(C=10, class_weight="balanced", max_iter=400)
        self.head.fit(seen, np.repeat((1, 0), (len(positive), len(negative))))

    def score(self, texts: Sequence[str]) -> Floats:
        """[R]."""
        return np.asarray(self.head.decision_function(self.words.transform(texts)), dtype=np.float64)


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
