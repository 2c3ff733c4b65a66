"""Rows that are kept of a long text."""

from __future__ import annotations

import pytest
import torch

from saewatch.core import limits
from saewatch.dictionary.sample import Sample


def test_all_rows_of_a_short_text_and_no_row_that_is_no_number() -> None:
    one = Sample(3)
    x = torch.arange(12.0).reshape(4, 3)
    x[2, 1] = torch.nan
    one.add([7, 8, 9, 10], x)
    one.add([11], torch.ones(1, 3))
    assert one.ids.tolist() == [7, 8, 10, 11]
    assert one.positions.tolist() == [0, 1, 3, 0]
    assert one.x.tolist()[3] == [1, 1, 1]


def test_of_a_long_one_every_row_is_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUALITY_SAMPLE_BYTES", 1)
    one = Sample(2)
    assert one.size == 256
    for start in range(0, 20_000, 100):
        numbers = torch.arange(start, start + 100.0)
        one.add([0] * 100, torch.stack([numbers, numbers], 1))
    kept = one.x[:, 0].sort().values
    assert len(kept.unique()) == 256
    assert abs(float(kept.mean()) - 10_000) < 4 * 20_000 / 12**0.5 / 16
