"""Keys: as values order, the lower index before the higher, and the same of every chunk."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from saewatch.engine.keys import order_keys, top_keys


@pytest.mark.parametrize("blocks", [1, 3, 8])
def test_topk_keys_do_not_depend_on_the_blocks(blocks: int) -> None:
    values = torch.randn(20, 24, generator=torch.Generator().manual_seed(0)).round(decimals=0)  # many ties
    best: Tensor | None = None
    for part in range(0, 24, 24 // blocks):
        best = top_keys(values[:, part : part + 24 // blocks], part, 5, best)
    assert best is not None
    whole = top_keys(values, 0, 5)
    assert torch.equal(best.sort().values, whole.sort().values)


@hypothesis.given(st.data())
def test_the_largest_are_those_of_all_keys(data: st.DataObject) -> None:
    number = st.one_of(st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan]), st.floats(width=32))
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    drawn = data.draw(st.lists(number, min_size=rows * columns, max_size=rows * columns))
    values, k = torch.tensor(drawn, dtype=torch.float32).reshape(rows, columns), data.draw(st.integers(1, 9))
    found = top_keys(values, 7, k).sort(dim=1, descending=True).values
    assert torch.equal(found, order_keys(values, 7).sort(dim=1, descending=True).values[:, :k])


@hypothesis.given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2))
def test_keys_order_as_values_do(pair: list[float]) -> None:
    left, right = order_keys(torch.tensor([pair], dtype=torch.float32), 0)[0].tolist()
    if pair[0] != pair[1]:
        assert (left > right) == (pair[0] > pair[1])
    elif math.copysign(1, pair[0]) == math.copysign(1, pair[1]):
        assert left > right
