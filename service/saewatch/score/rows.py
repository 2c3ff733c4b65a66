"""What a transformers model has at a hook point: activations as they are, before any dictionary reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saewatch.core import hookpoint
from saewatch.engine.hf import place_of


@torch.no_grad()
def rows_at(model: Any, point: str, tokens: Sequence[int]) -> Tensor:
    """One forward pass over ``tokens``, without padding and without a cache: the rows at ``point``, ``[T, d]``."""
    place, taken = place_of(model, hookpoint.parse(point)), list[Tensor]()
    target = place.target()
    if place.site.side == "output":
        handle = target.register_forward_hook(lambda _module, _inputs, output: _keep(taken, output))
    else:
        handle = target.register_forward_pre_hook(
            lambda _module, inputs, named: _keep(taken, inputs or named["hidden_states"]), with_kwargs=True
        )
    try:
        model.base_model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=False)
    finally:
        handle.remove()
    (rows,) = taken
    return rows


def _keep(taken: list[Tensor], given: Any) -> None:
    """A copy: later blocks may write into the tensor."""
    taken.append((given[0] if isinstance(given, tuple) else given).flatten(0, -2).clone())
