"""Altered copies of a model, from nearly the same to broken: what a certificate has to put into this order.

Rounding is symmetric, to so many bits for each row of each matrix of the blocks, and what comes out is served in
bfloat16. Tuning is AdamW on a few texts, whole weights. Both are stand-ins: a served quantisation rounds in groups and
corrects itself, and a served tuning is longer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BATCH = 4
"""Texts of one step of tuning."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a copy is made: bits of each weight (0: as they are), or steps of tuning at a learning rate."""

    bits: int = 0
    steps: int = 0
    rate: float = 0.0


COPIES: Mapping[str, Recipe] = {
    "bf16": Recipe(),
    "int8": Recipe(bits=8),
    "int6": Recipe(bits=6),
    "int5": Recipe(bits=5),
    "int4": Recipe(bits=4),
    "tuned_tiny": Recipe(steps=8, rate=1e-5),
    "tuned_small": Recipe(steps=20, rate=5e-5),
    "tuned_large": Recipe(steps=40, rate=3e-4),
}
"""From dictionaries.md 8; each family from what changes least to what changes most."""
FAMILIES = (("bf16", "int8", "int6", "int5", "int4"), ("tuned_tiny", "tuned_small", "tuned_large"))


def altered(model: Any, recipe: Recipe, texts: Sequence[Sequence[int]]) -> Any:
    """A copy of a float32 model, in bfloat16. ``texts``: token ids that it is tuned on."""
    made = copy.deepcopy(model)
    if recipe.bits:
        round_weights(made, recipe.bits)
    if recipe.steps:
        tune(made, recipe, texts)
    return made.to(torch.bfloat16).eval()


@torch.no_grad()
def round_weights(model: Any, bits: int) -> None:
    """All matrices of the blocks, in place: to the nearest of the steps that a row's largest weight allows."""
    for name, weight in model.named_parameters():
        if ".layers." in name and weight.dim() == 2:
            weight.copy_(rounded(weight, bits))


def rounded(weight: Tensor, bits: int) -> Tensor:
    """``[out, in]`` with each row at one of ``2^bits - 1`` steps."""
    step = weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (weight / step).round() * step, 0.0)


def tune(model: Any, recipe: Recipe, texts: Sequence[Sequence[int]]) -> None:
    """Some steps of AdamW on the texts in turn, in place."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate)
    for step in range(recipe.steps):
        optimiser.zero_grad()
        for number in range(BATCH):
            ids = torch.tensor([list(texts[(step * BATCH + number) % len(texts)])])
            (model(input_ids=ids, labels=ids).loss / BATCH).backward()
        optimiser.step()
    model.eval()
