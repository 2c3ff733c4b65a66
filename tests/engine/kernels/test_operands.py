"""Lengths and margins are never too small."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from saewatch.core.footprint import BLOCK
from saewatch.engine.kernels.operands import norms, rows_of, slack
from tests import made


def test_lengths_are_never_less_than_the_true_ones() -> None:
    x = made.rows(50, d_in=500).bfloat16()
    true = torch.linalg.vector_norm(x.double(), dim=1)
    assert bool((norms(x).double() >= true).all())
    assert bool((rows_of(x, None).length.double() >= true).all())


def test_of_a_dictionary_only_a_part_is_held_in_another_type() -> None:
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
                largest = max(largest, found.numel())
            return found

    W = made.rows(2 * BLOCK + 3, d_in=16).bfloat16()
    with Sizes():  # type: ignore[no-untyped-call]  # torch's
        found = norms(W)
    assert largest == BLOCK * 16
    assert torch.equal(found, torch.cat([norms(W[:5]), norms(W[5:])]))


def test_the_margin_grows_with_the_number_of_products() -> None:
    assert slack(4096, 1) >= 4096 * 2.0**-23
    assert slack(4096, 6) > slack(4096, 3) > slack(4096, 1)
