"""A block has what its batches had, also after it was bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from saewatch.core.batch import Reason
from saewatch.edge.history.block import REASONS, Block, block_of, read_block, read_tokens
from saewatch.monitor.events import Observed
from tests.edge.history.kept import MS, T0, kept


def a_block(tmp_path: Path) -> tuple[Block, list[str]]:
    """Two steps: of a request that is known, one that is not, and one that is only missed."""
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        one.start(8)
        one.batch([(7, 3, 2), (99, 0, 1)], [(0, 1, 1.5), (1, 0, 2.5), (2, 0, 3.5)])
        one.now_ns += 20 * MS
        one.batch([(7, 4, 2, 1)], [(1, 2, 9.0)], missed=[(8, Reason.GAP, 5), (0, Reason.BLIND, 2)])
        observed = [item for item in one.sink.queue.take() if isinstance(item, Observed)]
        block, requests = block_of(observed[0].table, observed)
        return block, [request.engine_id for request in requests]


def test_rows_positions_and_times(tmp_path: Path) -> None:
    block, requests = a_block(tmp_path)
    assert requests == ["plain-7", "plain-8"]
    assert block.request.tolist() == [0, 2, 0]
    span = block.span_of_firings()
    assert span.tolist() == [0, 0, 1, 2]
    assert block.position_of(np.arange(4), span).tolist() == [3, 4, 0, 5]
    assert (block.time_ns[span] - T0).tolist() == [0, 0, 0, 20 * MS]
    assert (block.missed_request.tolist(), block.missed_tokens.tolist()) == ([1, 2], [5, 2])
    assert (block.first_ns, block.last_ns) == (T0, T0 + 20 * MS)


def test_tokens_of_a_time_without_those_computed_again(tmp_path: Path) -> None:
    block, _ = a_block(tmp_path)
    every = block.tokens_within(T0, T0 + 21 * MS)
    assert every.seen.tolist() == [2, 0, 1]
    assert every.missed.shape == (3, REASONS)
    assert (every.missed[1, Reason.GAP], every.missed[2, Reason.BLIND], every.missed.sum()) == (5, 2, 7)
    late = block.tokens_within(T0 + 1, T0 + 21 * MS)
    assert (late.seen.sum(), late.missed.sum()) == (0, 7)
    assert block.tokens_within(T0, T0 + 20 * MS).missed.sum() == 0


def test_as_bytes_and_back(tmp_path: Path) -> None:
    block, _ = a_block(tmp_path)
    again = read_block(block.pack(block.first_ns), first_ns=block.first_ns, requests=block.requests)
    for name in Block.__dataclass_fields__:
        assert np.array_equal(getattr(again, name), getattr(block, name)), name
    assert again.slot.dtype == block.slot.dtype
    tokens = block.tokens_within(0, 2**62)
    rows, told = read_tokens(tokens.pack(np.array([11, 12])))
    assert rows.tolist() == [11, 12]
    assert (told.seen.tolist(), told.missed.tolist()) == (tokens.seen.tolist(), tokens.missed.tolist())
