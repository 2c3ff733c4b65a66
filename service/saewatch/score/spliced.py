"""What a model predicts with other rows in the place of its own at one hook point: is a reconstruction good enough?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from saewatch.core import hookpoint
from saewatch.engine.hf import place_of
from saewatch.engine.sink import Place

Change = Callable[[Tensor], Tensor]
"""Rows ``[T, d]`` of one text, as the model has them, to others of the same shape."""


@torch.no_grad()
def cross_entropy(model: Any, point: str, tokens: Sequence[int], change: Change | None = None) -> float:
    """The sum over a text's tokens but the first of ``-log p(token)``, in nats, with the rows at ``point`` changed."""
    ids = torch.tensor([list(tokens)], device=model.device)
    if change is None:
        return _summed(model, ids)
    with spliced(place_of(model, hookpoint.parse(point)), change):
        return _summed(model, ids)


@contextmanager
def spliced(place: Place, change: Change) -> Iterator[None]:
    """At each forward pass meanwhile the model goes on with what ``change`` makes of the rows at ``place``."""
    target = place.target()

    def after(_module: Any, _inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        changed = _changed(first, change)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def before(_module: Any, inputs: Any, named: Any) -> Any:
        if inputs:
            return (_changed(inputs[0], change), *inputs[1:]), named
        return inputs, {**named, "hidden_states": _changed(named["hidden_states"], change)}

    output = place.site.side == "output"
    handle = (
        target.register_forward_hook(after) if output else target.register_forward_pre_hook(before, with_kwargs=True)
    )
    try:
        yield
    finally:
        handle.remove()


def _changed(hidden: Tensor, change: Change) -> Tensor:
    rows = hidden.flatten(0, -2)
    return change(rows).to(hidden.dtype).reshape(hidden.shape)


def _summed(model: Any, ids: Tensor) -> float:
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
