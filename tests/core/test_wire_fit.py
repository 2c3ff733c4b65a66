"""Splitting: a batch that no frame takes is cut by rows, and nothing is lost or changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.batch import FiringBatch
from saewatch.core.errors import RecordError
from saewatch.core.records import same
from saewatch.core.wire import batch_bytes, decode, encode, fit
from tests.core.strategies import batches, large_batch


def told(pieces: list[FiringBatch]) -> list[tuple[list[Any], list[Any], list[Any]]]:
    """Rows, firings and losses of the pieces one after another, rows and slots by (request, position)."""
    rows: list[Any] = []
    firings: list[Any] = []
    missed: list[Any] = []
    for piece in pieces:
        request, position = piece.row_positions()
        origin = np.repeat(piece.origin, np.diff(piece.span_start))
        start = len(rows)
        rows += zip(request.tolist(), position.tolist(), origin.tolist(), strict=True)
        firings += zip((piece.row.astype(int) + start).tolist(), piece.slot.tolist(), piece.value.tolist(), strict=True)
        columns = (piece.missed_request, piece.missed_reason, piece.missed_tokens)
        missed += zip(*(column.tolist() for column in columns), strict=True)
    return [(rows, firings, missed)]


@settings(max_examples=25)
@given(
    spans=st.sampled_from([0, 1, 7, 400, 15_000]),
    rows=st.sampled_from([1, 3, 20_000, 60_000]),
    firings=st.sampled_from([0, 1, 9000, 40_000]),
    missed=st.sampled_from([0, 1, 5, 40_000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_fit_loses_and_changes_nothing(spans: int, rows: int, firings: int, missed: int, seed: int) -> None:
    rows = max(spans, rows) if spans else 0
    firings = firings if rows > 100 else min(firings, 9000 * bool(rows))
    batch = large_batch(spans=spans, rows=rows, firings=firings, missed=missed, seed=seed, seq=11)
    pieces = fit(batch)
    assert told(pieces) == told([batch])
    assert [piece.seq for piece in pieces] == list(range(11, 11 + len(pieces)))
    for piece in pieces:
        frame = encode(piece)  # which checks it
        assert len(frame) <= batch_bytes(piece) <= limits.FRAME_BYTES
        again = decode(frame)
        assert isinstance(again, FiringBatch)
        assert again.digest() == piece.digest()
    assert len(pieces) <= 1 + 2 * batch_bytes(batch) // (limits.FRAME_BYTES - 512)


@given(batches())
def test_a_batch_that_fits_stays_whole(batch: FiringBatch) -> None:
    (piece,) = fit(batch)
    assert same(piece, batch)
    assert len(encode(batch)) <= batch_bytes(batch)


def test_the_head_of_a_batch_is_below_what_fit_reckons_with() -> None:
    batch = large_batch(spans=0, rows=0, firings=0)
    most = limits.COUNT_MAX
    longest = FiringBatch(
        **{name: getattr(batch, name) for name, _, _ in FiringBatch.COLUMNS},
        stream=0xFFFF,
        watch=0xFFFF,
        seq=most,
        step=most,
        time_ns=most,
    )
    assert len(encode(longest)) + len(str(limits.FRAME_BYTES)) * 3 < batch_bytes(longest)


@pytest.mark.parametrize("missed", [0, 1, 20_000])
def test_a_row_that_fits_no_frame_is_refused(missed: int) -> None:
    with pytest.raises(RecordError, match="firings in one row"):
        fit(large_batch(spans=1, rows=1, firings=13_200, missed=missed))
    batch = large_batch(spans=2, rows=2, firings=13_000, missed=missed)
    assert told(fit(batch)) == told([batch])


def test_more_rows_than_a_batch_may_have_are_split() -> None:
    pieces = fit(large_batch(spans=2, rows=limits.BATCH_ROWS + 2, firings=10))
    assert [piece.rows for piece in pieces] == [limits.BATCH_ROWS // 2 + 1] * 2
