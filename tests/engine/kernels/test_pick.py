"""Winners of each row's list are those of a sort by the keys of everywhere, and the row is closed or open after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saewatch.engine.kernels.operands import Code, Rows
from saewatch.engine.kernels.pick import picked
from saewatch.engine.keys import index_of, order_keys, value_of

CAP, NONE = 256, 9999


def rows_of(is_open: list[int], floor: float = -torch.inf) -> Rows:
    count = len(is_open)
    row = torch.zeros(count)
    return Rows(
        x=row[:, None],
        exact=row[:, None],
        scale=row,
        length=row,
        floor=torch.full((count,), floor),
        is_open=torch.tensor(is_open, dtype=torch.int32),
    )


def best_of(rows: Rows, k: int) -> Code:
    """Such as no round has filled."""
    shape = (len(rows), k)
    index, value = torch.full(shape, 7, dtype=torch.int32), torch.full(shape, 7.0)
    return Code(index=index, value=value, count=torch.full(shape[:1], 7, dtype=torch.int32), lost=rows.is_open)


def sorted_keys(index: Tensor, value: Tensor, k: int) -> Tensor:
    keys = order_keys(value[None], index.long()[None])[0][value > -torch.inf]
    return keys.sort(descending=True).values[:k]


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("values", ["random", "few", "signed", "extreme"])
def test_they_are_those_of_a_sort(values: str, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    made = {
        "random": torch.rand(4, CAP, generator=generator),
        "few": torch.randint(1, 4, (4, CAP), generator=generator).float(),
        "signed": torch.randn(4, CAP, generator=generator).round(decimals=1),
        "extreme": torch.tensor([1e38, 1e-45, 0.0, -0.0, -1e-45, -1e38, torch.inf, 1.0]).repeat(4, CAP // 8),
    }[values]
    made[torch.rand(4, CAP, generator=generator) < 0.3] = -torch.inf  # these were admitted and do not fire
    index = (torch.arange(4 * CAP, dtype=torch.int32).view(4, CAP) * 3) % 3001
    index = index.sort(dim=1).values
    count = torch.tensor([CAP, 40, 1, 0], dtype=torch.int32)
    rows = rows_of([1, 1, 1, 1])
    best = best_of(rows, k)
    picked(index, made, count, rows, best, NONE)
    for t, listed in enumerate(count.tolist()):
        expected = sorted_keys(index[t, :listed], made[t, :listed], k)
        won = int(best.count[t])
        assert won == len(expected)
        pairs = dict(zip(index_of(expected).tolist(), value_of(expected).tolist(), strict=True))
        assert best.index[t, :won].tolist() == sorted(pairs), "ascending"
        assert best.value[t, :won].tolist() == [pairs[one] for one in sorted(pairs)]
        assert set(best.index[t, won:].tolist()) <= {NONE}
        assert not best.value[t, won:].any()
        assert rows.floor[t] == (value_of(expected)[-1] if won == k else -torch.inf)
    assert not rows.is_open.any()


def test_a_row_without_room_stays_open_with_a_higher_floor_and_no_winner_counts() -> None:
    index = torch.arange(CAP, dtype=torch.int32).repeat(2, 1)
    value = torch.arange(1.0, CAP + 1).repeat(2, 1)
    rows = rows_of([1, 1], floor=3.0)
    best = best_of(rows, 4)
    picked(index, value, torch.tensor([CAP + 1, CAP], dtype=torch.int32), rows, best, NONE)
    assert rows.is_open.tolist() == [1, 0]
    assert best.count.tolist() == [0, 4]
    assert rows.floor.tolist() == [CAP - 3.0] * 2
    picked(index, value, torch.tensor([2, CAP], dtype=torch.int32), rows, best, NONE)
    assert rows.is_open.tolist() == [0, 0]
    assert best.count.tolist() == [2, 4]
    assert best.index.tolist() == [[0, 1, NONE, NONE], [CAP - 4, CAP - 3, CAP - 2, CAP - 1]]
    assert rows.floor.tolist() == [CAP - 3.0] * 2, "fewer than k that fire say nothing of the k-th"


def test_a_floor_is_never_lowered() -> None:
    rows = rows_of([1], floor=100.0)
    index, value = torch.arange(CAP, dtype=torch.int32)[None], torch.arange(1.0, CAP + 1)[None]
    picked(index, value, torch.tensor([9], dtype=torch.int32), rows, best_of(rows, 4), NONE)
    assert rows.floor.tolist() == [100.0]


def test_a_row_that_is_closed_keeps_what_it_had() -> None:
    rows = rows_of([0], floor=2.0)
    best = best_of(rows, 3)
    value = torch.full((1, CAP), torch.nan)
    picked(torch.zeros(1, CAP, dtype=torch.int32), value, torch.tensor([900], dtype=torch.int32), rows, best, NONE)
    assert best.index.tolist() == [[7, 7, 7]]
    assert best.value.tolist() == [[7.0, 7.0, 7.0]]
    assert (best.count.tolist(), rows.floor.tolist(), rows.is_open.tolist()) == ([7], [2.0], [0])
