"""Batches against a loop over tokens: spans, renumbered firings, what is left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core.batch import NO_REQUEST, FiringBatch, Origin, Reason
from saewatch.core.wire import decode, encode
from saewatch.engine.batching import Encoded, build, losses
from saewatch.engine.ledger import Ledger, Missed, Settled, Step


@st.composite
def steps(draw: st.DrawFn) -> tuple[Settled, Encoded]:
    """A step's settled rows (some of the buffer's, ascending) and what the encoder made of the buffer."""
    spans = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 50), st.integers(0, 6)), max_size=5))
    row, request, position, origin = [], [], [], []
    buffer = 0
    for number, (rows, first, again) in enumerate(spans, start=1):
        counted = draw(st.integers(0, rows))  # the others are rejected drafts
        for offset in range(counted):
            row.append(buffer + offset)
            request.append(number if draw(st.integers(0, 9)) else 1)
            position.append(first + offset)
            origin.append(Origin.RECOMPUTED if offset < again else Origin.COMPUTED)
        buffer += rows + draw(st.integers(0, 1))
    flags = st.lists(st.sampled_from([False, False, True]), min_size=buffer, max_size=buffer)
    fired = sorted(draw(st.sets(st.tuples(st.integers(0, max(buffer - 1, 0)), st.integers(0, 65_535)), max_size=20)))
    fired = fired if buffer else []
    settled = Settled(
        started=(),
        ended=(),
        fed=0,
        missed=(),
        row=np.array(row, np.int32),
        request=np.array(request, np.uint32),
        position=np.array(position, np.int32),
        origin=np.array(origin, np.uint8),
    )
    encoded = Encoded(
        row=np.array([item for item, _ in fired], np.int32),
        slot=np.array([slot for _, slot in fired], np.uint16),
        value=np.array([item + slot / 65_536 for item, slot in fired], np.float32),
        excluded=np.array(draw(flags), bool),
        overflowed=np.array(draw(flags), bool),
    )
    return settled, encoded


def made(settled: Settled, encoded: Encoded, missed: list[Missed]) -> FiringBatch:
    batch = build(settled, encoded, stream=3, watch=4, seq=5, step=6, time_ns=7, missed=missed)
    batch.check()
    return batch


def naive(settled: Settled, encoded: Encoded) -> list[tuple[int, int, int, list[tuple[int, float]]]]:
    """Request, position, origin and firings of each row that is sent, token by token."""
    rows = []
    for row, request, position, origin in zip(
        settled.row, settled.request, settled.position, settled.origin, strict=True
    ):
        if encoded.excluded[row] or encoded.overflowed[row]:
            continue
        fired = [
            (int(slot), float(value))
            for at, slot, value in zip(encoded.row, encoded.slot, encoded.value, strict=True)
            if at == row
        ]
        rows.append((int(request), int(position), int(origin), fired))
    return rows


def by_token(batch: FiringBatch) -> list[tuple[int, int, int, list[tuple[int, float]]]]:
    rows = []
    for span in range(len(batch.request)):
        first, last = int(batch.span_start[span]), int(batch.span_start[span + 1])
        for row in range(first, last):
            at = batch.row == row
            fired = list(zip(batch.slot[at].tolist(), batch.value[at].tolist(), strict=True))
            position = int(batch.position[span]) + row - first
            rows.append((int(batch.request[span]), position, int(batch.origin[span]), fired))
    return rows


@settings(max_examples=100)
@given(step=steps())
def test_a_batch_says_what_a_loop_over_tokens_says(step: tuple[Settled, Encoded]) -> None:
    settled, encoded = step
    batch = made(settled, encoded, [])
    assert by_token(batch) == naive(settled, encoded)
    joints = zip(batch.request, batch.request[1:], batch.origin, batch.origin[1:], strict=False)
    ends = batch.position + np.diff(batch.span_start)
    for (left, right, before, after), end, start in zip(joints, ends, batch.position[1:], strict=False):
        assert left != right or before != after or end != start  # no span could have been longer


@settings(max_examples=100)
@given(step=steps())
def test_each_row_that_is_left_out_is_a_loss_once(step: tuple[Settled, Encoded]) -> None:
    settled, encoded = step
    expected: Counter[tuple[int, Reason]] = Counter()
    for row, request, origin in zip(settled.row, settled.request, settled.origin, strict=True):
        if origin != Origin.RECOMPUTED and (encoded.excluded[row] or encoded.overflowed[row]):
            expected[int(request), Reason.EXCLUDED if encoded.excluded[row] else Reason.OVERFLOW] += 1
    found = losses(settled, encoded)
    assert {(request, reason): tokens for request, reason, tokens in found} == expected
    assert len(found) == len(expected)


def test_a_batch_that_only_tells_losses_passes_its_check_and_the_wire() -> None:
    nothing = Ledger().settle(Step(number=0, time_ns=0))
    batch = made(nothing, Encoded.empty(), [(NO_REQUEST, Reason.GAP, 2**31 - 1), (7, Reason.CACHED, 16)])
    assert (batch.rows, batch.firings, batch.span_start.tolist()) == (0, 0, [0])
    back = decode(encode(batch))
    assert isinstance(back, FiringBatch)
    assert back.missed_request.tolist() == [NO_REQUEST, 7]
    assert back.digest() == batch.digest()


def test_a_row_without_firings_is_in_a_span_all_the_same() -> None:
    settled, flags = _plain(3), np.zeros(3, bool)
    encoded = Encoded(np.zeros(0, np.int32), np.zeros(0, np.uint16), np.zeros(0, np.float32), flags, flags)
    assert made(settled, encoded, []).span_start.tolist() == [0, 3]


def test_an_excluded_row_splits_its_span_and_the_firings_behind_it_are_renumbered() -> None:
    settled, none = _plain(3), np.zeros(3, bool)
    every = np.arange(3, dtype=np.int32)
    encoded = Encoded(every, np.zeros(3, np.uint16), np.ones(3, np.float32), np.array([False, True, False]), none)
    batch = made(settled, encoded, [])
    assert (batch.span_start.tolist(), batch.position.tolist(), batch.row.tolist()) == ([0, 1, 2], [0, 2], [0, 1])


def test_a_step_whose_rows_are_all_excluded_is_an_empty_batch() -> None:
    settled, flags = _plain(2), np.ones(2, bool)
    encoded = Encoded(np.zeros(1, np.int32), np.zeros(1, np.uint16), np.ones(1, np.float32), flags, ~flags)
    batch = made(settled, encoded, [])
    assert (batch.rows, batch.firings) == (0, 0)
    assert losses(settled, encoded) == [(1, Reason.EXCLUDED, 2)]


def _plain(rows: int) -> Settled:
    every = np.arange(rows, dtype=np.int32)
    return Settled(
        started=(),
        ended=(),
        fed=rows,
        missed=(),
        row=every,
        request=np.ones(rows, np.uint32),
        position=every,
        origin=np.zeros(rows, np.uint8),
    )
