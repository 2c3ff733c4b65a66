"""A dictionary that was never trained, in the trainer's form."""

import torch
from torch import Tensor

from dictionaries.train.sae import Autoencoder
from saewatch.dictionary.baselines import frozen


def frozen_random(sae: Autoencoder, x: Tensor, *, seed: int = 0) -> Autoencoder:
    """Random unit rows, each with the threshold at which it fires as often on `x` as the trained latent does."""
    rate = (sae.encode(x) > 0).float().mean(0)
    made = frozen(x, rate, seed=seed)
    W_enc: Tensor = made.rows.T.contiguous()
    return Autoencoder(W_enc, -(made.mean @ made.rows.T), made.rows, made.mean, torch.clone(made.threshold))
