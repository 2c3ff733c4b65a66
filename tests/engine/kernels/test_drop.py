"""Counts of excluded rows go, and totals are those of the blocks that `append` reads."""

from __future__ import annotations

import torch

from saewatch.engine.kernels.drop import BLOCK, VARIANTS, drop


def test_an_excluded_rows_counts_go_and_totals_follow() -> None:
    rows, rows_max = BLOCK + 6, BLOCK + 10
    tiles = torch.tensor([[0, 0], [1, 0]], dtype=torch.int32)
    r = torch.ones(2, rows_max)
    r[0, 3] = r[1, BLOCK + 1] = torch.nan
    counts = torch.full((2, rows_max), 2, dtype=torch.int32)
    totals = torch.full((2, 2), -1, dtype=torch.int32)
    (variant,) = VARIANTS
    drop[2, 2](tiles, r, counts, totals, rows, rows_max, 2, **variant.constexprs)
    assert totals.tolist() == [[2 * BLOCK - 2, 12], [2 * BLOCK, 10]]
    assert counts[0, 3] == 0
    assert counts[1, BLOCK + 1] == 0
    assert int((counts[:, :rows] == 0).sum()) == 2
