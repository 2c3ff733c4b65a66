"""Parts of batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core.batch import FiringBatch, Reason
from saewatch.monitor import spans
from tests import fakes


def firings_of(batch: FiringBatch) -> set[tuple[int, int, int, float]]:
    """Request, position, slot and value of every firing, the slow way."""
    request, position = batch.row_positions()
    return {
        (int(request[row]), int(position[row]), int(slot), float(value))
        for row, slot, value in zip(batch.row, batch.slot, batch.value, strict=True)
    }


@st.composite
def batches(draw: st.DrawFn) -> FiringBatch:
    lengths = draw(st.lists(st.integers(1, 5), max_size=6))
    rows = sum(lengths)
    places = (
        draw(st.sets(st.tuples(st.integers(0, max(rows - 1, 0)), st.integers(0, 3)), max_size=12)) if rows else set()
    )
    return fakes.batch(
        [(number + 1, 10 * number, length) for number, length in enumerate(lengths)],
        [(row, slot, row + slot / 8) for row, slot in sorted(places)],
        missed=[(number + 1, Reason.GAP, number + 1) for number in range(draw(st.integers(0, 3)))],
    )


@given(batches(), st.data())
def test_a_part_holds_what_its_spans_held(batch: FiringBatch, data: st.DataObject) -> None:
    chosen = np.array([data.draw(st.booleans()) for _ in batch.request], dtype=bool)
    part = spans.take(batch, chosen, np.zeros(len(batch.missed_request), dtype=bool))
    part.check()
    kept = set(batch.request[chosen].tolist())
    assert firings_of(part) == {firing for firing in firings_of(batch) if firing[0] in kept}
    assert part.rows == int(np.diff(batch.span_start)[chosen].sum())


@given(batches())
def test_a_part_and_the_rest_are_the_whole(batch: FiringBatch) -> None:
    half, missed = batch.request % 2 == 0, batch.missed_request % 2 == 0
    parts = [spans.take(batch, half, missed), spans.take(batch, ~half, ~missed)]
    assert firings_of(parts[0]) | firings_of(parts[1]) == firings_of(batch)
    assert sum(part.rows for part in parts) == batch.rows
    assert sum(int(part.missed_tokens.sum()) for part in parts) == int(batch.missed_tokens.sum())


def test_chosen_firings_only() -> None:
    batch = fakes.batch([(1, 0, 2), (2, 5, 1)], [(0, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0)])
    part = spans.take(batch, np.array([False, True]), np.zeros(0, bool), batch.value > 1.5)
    assert firings_of(part) == {(2, 5, 0, 3.0)}
    assert part.rows == 1, "rows are covered whether their firings are chosen or not"
