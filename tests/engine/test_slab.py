"""The slab: two ways to pack, one result; and what does not fit is known exactly."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch import Tensor

from saewatch.engine.batching import Encoded
from saewatch.engine.slab import Scored, Slab, pack_fixed, pack_quick

Way = Callable[[Slab, Scored, int], None]
WAYS: list[Way] = [pack_fixed, pack_quick]


def scored(way: Way, fires: Tensor, u: Tensor | None = None) -> Scored:
    """Values are u + 1."""
    u = torch.zeros(fires.shape) if u is None else u
    columns = fires, u, torch.ones(fires.shape[1]), torch.ones(fires.shape[1])
    return Scored(*columns) if way is pack_fixed else Scored(*(column.numpy() for column in columns))


def packed(way: Way, fires: Tensor, capacity: int, *, parts: int = 1) -> tuple[Encoded, Slab]:
    slab = Slab(rows_max=max(1, len(fires)), firings_max=capacity)
    slab.start(len(fires))
    u = torch.arange(fires.numel(), dtype=torch.float32).reshape(fires.shape)
    size = -(-len(fires) // parts) or 1
    for first in range(0, len(fires), size):
        way(slab, scored(way, fires[first : first + size], u[first : first + size]), first)
    slab.to_host()
    return slab.encoded(), slab


def expected(fires: Tensor, capacity: int) -> tuple[list[tuple[int, int]], list[bool]]:
    """Row by row: what fits while nothing was lost, and which rows are lost."""
    kept: list[tuple[int, int]] = []
    lost, wanted = [], 0
    for row, slots in enumerate(fires.tolist()):
        pairs = [(row, slot) for slot, fired in enumerate(slots) if fired]
        wanted += len(pairs)
        lost.append(bool(pairs) and wanted > capacity)
        kept += [] if lost[-1] else pairs
    return kept, lost


@hypothesis.given(
    st.integers(0, 12).flatmap(
        lambda rows: st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=rows, max_size=rows)
    ),
    st.integers(1, 30),
    st.integers(1, 4),
)
def test_both_ways_give_what_a_loop_over_rows_gives(fires: list[list[bool]], capacity: int, parts: int) -> None:
    asked = torch.tensor(fires, dtype=torch.bool).reshape(len(fires), 5)
    pairs, lost = expected(asked, capacity)
    for way in WAYS:
        found, slab = packed(way, asked, capacity, parts=parts)
        assert list(zip(found.row.tolist(), found.slot.tolist(), strict=True)) == pairs
        assert found.overflowed.tolist() == lost
        assert found.value.tolist() == [row * 5 + slot + 1 for row, slot in pairs]
        assert int(slab.count) == len(pairs)
        assert int(slab.wanted) == int(asked.sum())


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_does_not_fit_is_left_out_whole(way: Way) -> None:
    fires = torch.tensor([[True, False, False], [True, True, True], [False, False, False], [True, False, False]])
    found, _ = packed(way, fires, 3)
    assert found.row.tolist() == [0]
    assert found.overflowed.tolist() == [False, True, False, True]  # a row that fires nothing has lost nothing


@pytest.mark.parametrize("way", WAYS)
def test_a_slab_may_be_filled_to_its_last_entry(way: Way) -> None:
    found, _ = packed(way, torch.ones(4, 3, dtype=torch.bool), 12)
    assert len(found.row) == 12
    assert not found.overflowed.any()


@pytest.mark.parametrize("way", WAYS)
def test_a_step_starts_from_an_empty_slab(way: Way) -> None:
    fires = torch.ones(4, 3, dtype=torch.bool)
    _, slab = packed(way, fires, 7)
    slab.start(1)
    way(slab, scored(way, fires[:1]), 0)
    found = slab.encoded()
    assert found.row.tolist() == [0, 0, 0]
    slab.start(4)
    way(slab, scored(way, torch.zeros(4, 3, dtype=torch.bool)), 0)
    assert not slab.encoded().overflowed.any()


def test_the_buffers_keep_their_addresses() -> None:
    slab = Slab(rows_max=4, firings_max=8)
    before = [buffer.data_ptr() for buffer in (slab.row, slab.slot, slab.value, slab.count, slab.overflow)]
    for way in WAYS:
        slab.start(4)
        way(slab, scored(way, torch.ones(4, 1, dtype=torch.bool)), 0)
    assert before == [buffer.data_ptr() for buffer in (slab.row, slab.slot, slab.value, slab.count, slab.overflow)]


class Elsewhere(Slab):
    """One whose copies on the host are not the buffers themselves, as beside a GPU."""

    def copied(self, slots: int | None) -> list[list[float]]:
        """What of its copies is written; the other entries are left out."""
        self._host = tuple(torch.full_like(one, -1, dtype=torch.float64) for one in self._buffers())
        self.to_host(slots)
        return [one[one >= 0].tolist() for one in self._host]


def test_a_step_sends_no_more_than_its_rows_can_fire() -> None:
    slab = Elsewhere(rows_max=5, firings_max=12, pooled=2)
    slab.start(2)
    pack_fixed(slab, scored(pack_fixed, torch.ones(2, 3, dtype=torch.bool)), 0)
    row, slot, value, count, excluded, overflow, pooled = slab.copied(3)
    assert (row, slot, value) == ([0, 0, 0, 1, 1, 1], [0, 1, 2] * 2, [1.0] * 6)
    assert (count, excluded, overflow, pooled) == ([6], [0, 0], [0, 0], [0, 0, 0, 0])
    assert len(slab.copied(100)[0]) == len(slab.copied(None)[0]) == 12, "but never more than there is"


def test_what_was_read_stays_when_the_slab_is_filled_again() -> None:
    found, slab = packed(pack_quick, torch.ones(2, 2, dtype=torch.bool), 8)
    slab.value.fill_(-1.0)
    slab.overflow.logical_not_()
    assert found.value.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert not found.overflowed.any()
    assert found.slot.dtype == np.uint16  # as on the wire
