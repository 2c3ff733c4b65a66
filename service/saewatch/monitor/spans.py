"""Parts of a batch: some of its spans and missed entries, rows numbered anew. No loop over spans, rows or firings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import I32, FiringBatch

Mask = npt.NDArray[np.bool_]


def take(batch: FiringBatch, spans: Mask, missed: Mask, firings: Mask | None = None) -> FiringBatch:
    """``batch`` with only the ``spans [R]``, ``missed [M]`` entries and, where given, ``firings [N]`` that are True.

    Firings of spans that are left out go with them.
    """
    lengths = batch.lengths
    row_kept = np.repeat(spans, lengths)  # [rows]
    kept = row_kept[batch.row] if firings is None else row_kept[batch.row] & firings
    row_number = np.cumsum(row_kept, dtype=np.uint32) - np.uint32(1)
    return replace(
        batch,
        request=batch.request[spans],
        span_start=_starts(lengths[spans]),
        position=batch.position[spans],
        origin=batch.origin[spans],
        missed_request=batch.missed_request[missed],
        missed_reason=batch.missed_reason[missed],
        missed_tokens=batch.missed_tokens[missed],
        row=row_number[batch.row[kept]],
        slot=batch.slot[kept],
        value=batch.value[kept],
    )


def _starts(lengths: I32) -> I32:
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
