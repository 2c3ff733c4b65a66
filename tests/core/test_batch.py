"""The columnar records: each broken rule is refused by name; digests and row positions are what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch, Reason, WatchSet
from saewatch.core.errors import RecordError
from tests.core.frames import make
from tests.core.strategies import batches, censuses, large_batch, watch_sets

BATCH = next(record for record in make.records() if isinstance(record, FiringBatch))
WATCH = next(record for record in make.records() if isinstance(record, WatchSet))
CENSUS = next(record for record in make.records() if isinstance(record, Census))


def with_item(column: Any, index: int, value: Any) -> Any:
    """A copy of a column with one item changed."""
    copy = column.copy()
    copy[index] = value
    return copy


@given(st.one_of(batches(), watch_sets(), censuses()))
def test_sound_records_pass(record: FiringBatch | WatchSet | Census) -> None:
    record.check()


MAX = limits.POSITION_MAX
BROKEN: list[tuple[str, str, Any]] = [
    ("firing_batch.stream", "stream", -1),
    ("firing_batch.stream", "stream", 65_536),
    ("firing_batch.watch", "watch", -1),
    ("firing_batch.watch", "watch", 65_536),
    ("firing_batch.seq", "seq", -1),
    ("firing_batch.step", "step", -1),
    ("firing_batch.time_ns", "time_ns", 2**63),
    ("firing_batch spans", "request", BATCH.request[:2]),
    ("firing_batch spans", "position", BATCH.position[:2]),
    ("firing_batch spans", "origin", BATCH.origin[:2]),
    ("firing_batch spans", "origin", BATCH.origin.reshape(3, 1)),
    ("firing_batch missed", "missed_request", BATCH.missed_request[:1]),
    ("firing_batch missed", "missed_reason", BATCH.missed_reason[:0]),
    ("firing_batch missed", "missed_tokens", np.ones(3, np.int32)),
    ("firing_batch firings", "row", BATCH.row[:3]),
    ("firing_batch firings", "slot", BATCH.slot[:3]),
    ("firing_batch firings", "value", BATCH.value[:3]),
    ("firing_batch.span_start", "span_start", BATCH.span_start[:3]),
    ("firing_batch.span_start", "span_start", BATCH.span_start[:0]),
    ("firing_batch.span_start", "span_start", BATCH.span_start.reshape(2, 2)),
    ("firing_batch.span_start", "span_start", np.array([1, 3, 4, 6], np.int32)),
    ("firing_batch.span_start", "span_start", np.array([0, 3, 3, 6], np.int32)),
    ("firing_batch.span_start", "span_start", np.array([0, 4, 3, 6], np.int32)),
    # differences of neighbours wrap around to +1 here
    ("firing_batch.span_start", "span_start", np.array([0, 3, 2**31 - 1, -(2**31)], np.int32)),
    ("firing_batch.rows", "span_start", np.array([0, 3, 4, limits.BATCH_ROWS + 1], np.int32)),
    ("firing_batch.position", "position", np.array([9, -1, 4], np.int32)),
    ("firing_batch.position", "position", np.array([MAX - 2, 0, 4], np.int32)),
    ("firing_batch.request", "request", np.array([41, 0, 41], np.uint32)),
    ("firing_batch.missed_tokens", "missed_tokens", np.array([1, 0], np.int32)),
    ("firing_batch.missed_tokens", "missed_tokens", np.array([-1, 1], np.int32)),
    ("firing_batch.origin", "origin", np.array([0, 1, 3], np.uint8)),
    ("firing_batch.missed_reason", "missed_reason", np.array([0, len(Reason)], np.uint8)),
    ("firing_batch.row", "row", np.array([0, 0, 2, 6], np.uint32)),
    ("firing_batch.row", "row", np.array([0, 2, 0, 5], np.uint32)),
    ("firing_batch.row", "slot", np.array([3, 1, 1, 9], np.uint16)),
    ("firing_batch.row", "slot", np.array([1, 1, 1, 9], np.uint16)),
    ("firing_batch.value", "value", np.array([1, np.nan, 1, 1], np.float32)),
    ("firing_batch.value", "value", np.array([1, 1, np.inf, 1], np.float32)),
    ("firing_batch.value", "value", np.array([1, 1, 1, -np.inf], np.float32)),
]


@pytest.mark.parametrize(("subject", "field", "value"), BROKEN)
def test_each_broken_rule_of_a_batch_is_refused_by_name(subject: str, field: str, value: Any) -> None:
    BATCH.check()
    broken: FiringBatch = replace(BATCH, **{field: value})
    with pytest.raises(RecordError) as caught:
        broken.check()
    assert caught.value.subject == subject


@pytest.mark.parametrize("record", [BATCH, WATCH, CENSUS], ids=["batch", "watch", "census"])
def test_a_column_of_another_type_is_refused_and_not_cast(record: FiringBatch | WatchSet | Census) -> None:
    for name, _, _ in record.COLUMNS:
        column = getattr(record, name)
        for dtype in {"i8", "f8", "u1", ">u4"} - {column.dtype.str.lstrip("<|")}:
            change: dict[str, Any] = {name: np.ones(len(column), dtype)}
            other = replace(record, **change)
            with pytest.raises(RecordError, match=name):
                other.check()


def test_the_last_positions_and_an_empty_batch_pass() -> None:
    replace(BATCH, position=np.array([MAX - 3, MAX - 1, 0], np.int32)).check()
    empty = large_batch(spans=0, rows=0, firings=0)
    empty.check()
    assert (empty.rows, empty.firings) == (0, 0)
    with pytest.raises(RecordError, match=r"firing_batch\.row"):  # a firing needs a row
        replace(empty, row=np.zeros(1, np.uint32), slot=np.zeros(1, np.uint16), value=np.ones(1, np.float32)).check()


@given(batches(), st.integers(0, 2**31))
def test_a_digest_is_equal_for_equal_content_and_no_other(batch: FiringBatch, place: int) -> None:
    copy = replace(batch, **{name: getattr(batch, name).copy() for name, _, _ in FiringBatch.COLUMNS})
    assert copy.digest() == batch.digest()
    for name in [item.name for item in fields(FiringBatch)]:
        changed = getattr(copy, name)
        if isinstance(changed, int):
            changed += 1
        elif len(changed):  # one bit of one item
            changed = changed.copy()
            changed.view(np.uint8)[place % changed.nbytes] ^= 1 << place % 8
        else:
            changed = np.zeros(1, changed.dtype)
        assert replace(batch, **{name: changed}).digest() != batch.digest()


def test_a_digest_tells_neighbouring_fields_and_columns_apart() -> None:
    base = large_batch(spans=0, rows=0, firings=0)
    moved = [
        replace(base, stream=1, watch=23),
        replace(base, stream=12, watch=3),
        replace(base, row=np.zeros(2, np.uint32)),
        replace(base, value=np.zeros(2, np.float32)),
        replace(base, request=np.zeros(2, np.uint32)),
        replace(base, position=np.zeros(2, np.int32)),
        replace(base, missed_request=np.zeros(2, np.uint32)),
        replace(base, missed_tokens=np.zeros(2, np.int32)),
        replace(base, missed_reason=np.zeros(8, np.uint8)),
        replace(base, origin=np.zeros(8, np.uint8)),
        replace(base, value=np.array([0.0, -0.0], np.float32)),
    ]
    assert len({batch.digest() for batch in moved}) == len(moved)


def test_a_digest_does_not_depend_on_how_columns_lie_in_memory() -> None:
    strided = np.repeat(BATCH.value, 3)[::3]
    assert not strided.flags.c_contiguous
    assert replace(BATCH, value=strided).digest() == BATCH.digest()
    assert BATCH.digest().startswith("sha256:")


def naive_rows(batch: FiringBatch) -> list[tuple[int, int]]:
    """The request and the position of each row, one at a time."""
    found = []
    for span, request in enumerate(batch.request.tolist()):
        length = int(batch.span_start[span + 1]) - int(batch.span_start[span])
        found += [(request, int(batch.position[span]) + offset) for offset in range(length)]
    return found


@given(batches())
def test_row_positions_are_those_of_a_loop(batch: FiringBatch) -> None:
    request, position = batch.row_positions()
    assert list(zip(request.tolist(), position.tolist(), strict=True)) == naive_rows(batch)
    assert [request.dtype.name, position.dtype.name] == ["uint32", "int32"]


@given(batches())
def test_bytes_and_lengths_are_those_of_the_columns(batch: FiringBatch) -> None:
    assert batch.nbytes == sum(getattr(batch, name).nbytes for name, _, _ in batch.COLUMNS)
    assert batch.lengths.tolist() == np.diff(batch.span_start).tolist()


@given(batches(), st.data())
def test_parts_hold_exactly_their_rows(batch: FiringBatch, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, batch.rows))
    stop = data.draw(st.integers(start, batch.rows))
    part = batch.part(start, stop, missed=slice(1, 2))
    part.check()
    assert naive_rows(part) == naive_rows(batch)[start:stop]
    inside = (batch.row >= start) & (batch.row < stop)
    assert (part.row + np.uint32(start)).tolist() == batch.row[inside].tolist()
    assert part.slot.tolist() == batch.slot[inside].tolist()
    assert part.value.tobytes() == batch.value[inside].tobytes()
    assert part.missed_tokens.tolist() == batch.missed_tokens[1:2].tolist()


OTHERS: list[tuple[str, WatchSet | Census, Callable[[Any], dict[str, Any]]]] = [
    ("watch_set.stream", WATCH, lambda _: {"stream": 65_536}),
    ("watch_set.watch", WATCH, lambda _: {"watch": -1}),
    ("watch_set.total", WATCH, lambda _: {"total": limits.WATCH_SLOTS + 1}),
    ("watch_set.first", WATCH, lambda _: {"first": 2}),
    ("watch_set.first", WATCH, lambda _: {"first": -1}),
    ("watch_set.first", WATCH, lambda _: {"total": 2}),
    ("watch_set", WATCH, lambda old: {"row": old.row[:2]}),
    ("watch_set", WATCH, lambda old: {"floor": old.floor[:2]}),
    ("watch_set", WATCH, lambda old: {"kind": old.kind[:2]}),
    ("watch_set.row", WATCH, lambda old: {"row": with_item(old.row, 0, limits.LATENTS)}),
    ("watch_set.kind", WATCH, lambda old: {"kind": with_item(old.kind, 0, 2)}),
    ("watch_set.floor", WATCH, lambda old: {"floor": with_item(old.floor, 0, np.nan)}),
    ("watch_set.floor", WATCH, lambda old: {"floor": with_item(old.floor, 0, np.inf)}),
    ("census.stream", CENSUS, lambda _: {"stream": -1}),
    ("census.latents", CENSUS, lambda _: {"latents": limits.LATENTS + 1}),
    ("census.first", CENSUS, lambda _: {"first": 14}),
    ("census.first", CENSUS, lambda _: {"first": -1}),
    ("census.tokens", CENSUS, lambda _: {"tokens": -1}),
    ("census.time_ns", CENSUS, lambda _: {"time_ns": -1}),
    ("census", CENSUS, lambda old: {"total": old.total[:2]}),
    ("census.total", CENSUS, lambda old: {"total": with_item(old.total, 1, np.nan)}),
    ("census.count", CENSUS, lambda old: {"count": with_item(old.count, 1, 1001)}),
    ("census.count", CENSUS, lambda old: {"count": with_item(old.count, 1, 2**64 - 1)}),
    ("census.l0_mean", CENSUS, lambda _: {"l0_mean": float("nan")}),
    ("census.squared_error", CENSUS, lambda _: {"squared_error": -1.0}),
    ("census.squared_total", CENSUS, lambda _: {"squared_total": float("inf")}),
]


@pytest.mark.parametrize(("subject", "record", "change"), OTHERS, ids=[row[0] for row in OTHERS])
def test_each_broken_rule_of_a_watch_set_and_a_census_is_refused_by_name(
    subject: str, record: WatchSet | Census, change: Callable[[Any], dict[str, Any]]
) -> None:
    record.check()
    with pytest.raises(RecordError) as caught:
        replace(record, **change(record)).check()
    assert caught.value.subject == subject


def test_reasons_are_the_closed_list() -> None:
    assert [reason.label for reason in Reason] == [
        "cached",
        "external",
        "no_slot",
        "queue_full",
        "overflow",
        "gap",
        "sampled_out",
        "excluded",
        "opted_out",
        "blind",
        "shutdown",
    ]
    assert [int(reason) for reason in Reason] == list(range(11))  # they are on the wire
