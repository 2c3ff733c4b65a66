"""What SAELens itself says: the oracle of the conformance rows. The only module that imports sae_lens; none needs it.

It runs in float64, on the stored weights, so that the answers are the same on every processor once they are rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sae_lens
import torch
from sae_lens.saes.sae import SAE
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Oracle:
    """Its name with version; ``encode``: (folder of a dictionary, rows ``[n, d_in]``) -> values ``[n, latents]``."""

    name: str
    encode: Callable[[Path, Tensor], Tensor]


def encode(folder: Path, x: Tensor) -> Tensor:
    """``SAE.encode`` of SAELens in float64, ``[n, latents]``."""
    sae = SAE.load_from_disk(folder, device="cpu", dtype="float64")
    with torch.no_grad():
        values: Tensor = sae.encode(x.double())
    return values


SAELENS = Oracle(f"sae-lens {sae_lens.__version__}", encode)
