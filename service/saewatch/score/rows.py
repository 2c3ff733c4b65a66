"""What a transformers model has at a hook point: activations as they are, before any dictionary reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saewatch.core import hookpoint
from saewatch.engine.hf import hooked, place_of


@torch.no_grad()
def rows_at(model: Any, point: str, tokens: Sequence[int]) -> Tensor:
    """One forward pass over ``tokens``, without padding and without a cache: the rows at ``point``, ``[T, d]``."""
    taken = list[Tensor]()
    place = place_of(model, hookpoint.parse(point))
    with hooked(place, lambda hidden: taken.append(hidden.flatten(0, -2).clone())):  # later blocks may write into it
        model.base_model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=False)
    (rows,) = taken
    return rows
