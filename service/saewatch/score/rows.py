"""What a transformers model has at a hook point: activations as they are, before any dictionary reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saewatch.core import hookpoint
from saewatch.engine.hf import hooked, place_of


class _Taken(Exception):
    """The rows are there: what comes behind the hook point is not computed."""


@torch.no_grad()
def rows_at(model: Any, point: str, tokens: Sequence[int]) -> Tensor:
    """A forward pass over ``tokens`` up to ``point``, without padding and without a cache: its rows, ``[T, d]``."""
    taken = list[Tensor]()

    def take(hidden: Tensor) -> None:
        taken.append(hidden.flatten(0, -2).clone())
        raise _Taken

    with hooked(place_of(model, hookpoint.parse(point)), take), contextlib.suppress(_Taken):
        model.base_model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=False)
    (rows,) = taken
    return rows
