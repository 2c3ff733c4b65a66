"""What a transformers model has at a hook point: activations as they are, before any dictionary reads them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saewatch.core import hookpoint
from saewatch.core.errors import HookPointError
from saewatch.engine.hf import PLACES, hooked, place_of


class _Taken(Exception):
    """The rows are there: what comes behind the hook point is not computed."""


@torch.no_grad()
def rows_at(model: Any, point: str, tokens: Sequence[int]) -> Tensor:
    """A forward pass over ``tokens`` up to ``point``, without padding and without a cache: its rows, ``[T, d]``."""
    return rows_at_each(model, [point], tokens)[point]


@torch.no_grad()
def rows_at_each(model: Any, points: Sequence[str], tokens: Sequence[int]) -> dict[str, Tensor]:
    """The same at several hook points, in one pass, which ends behind the last of them."""
    taken: dict[str, Tensor] = {}

    def keep(point: str, hidden: Tensor) -> None:
        taken[point] = hidden.flatten(0, -2).clone()  # later blocks may write into it
        if len(taken) == len({*points}):
            raise _Taken

    with ExitStack() as hooks, suppress(_Taken):
        for point in points:
            hooks.enter_context(hooked(place_of(model, hookpoint.parse(point)), partial(keep, point)))
        model.base_model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=False)
    return {point: taken[point] for point in points}


def places(model: Any, near: str) -> list[str]:
    """Where else a dictionary of ``near`` may have been trained: the residual stream behind every block, and every hook
    point of its own block and its neighbours, as far as the model has them. What a block takes is named after the one
    before it, which passes it on.
    """
    own = hookpoint.parse(near)
    layers = int(model.config.num_hidden_layers)
    beside = [layer for layer in (own.layer - 1, own.layer, own.layer + 1) if 0 <= layer < layers]
    sites = [site for site in PLACES[type(model).__name__].sites if site not in {"resid_pre", "resid_post"}]
    found = [*(f"resid_post.{layer}" for layer in range(layers)), "resid_pre.0"]
    found += [f"{site}.{layer}" for layer in beside for site in sites]
    same = {near, f"resid_post.{own.layer - 1}"} if own.point == "resid_pre" else {near}
    return [point for point in found if point not in same and _there(model, point)]


def _there(model: Any, point: str) -> bool:
    try:
        place_of(model, hookpoint.parse(point))
    except HookPointError:
        return False
    return True
