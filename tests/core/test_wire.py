"""Frames: every record comes back as it was, and nothing else comes back at all."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.batch import FiringBatch, WatchSet
from saewatch.core.errors import CorruptFrame, FrameError, RecordError, TruncatedFrame, VersionMismatch
from saewatch.core.records import Ack, Beat, Command, Record, Result, StreamBeat, same
from saewatch.core.wire import KINDS, PAYLOAD_BYTES, decode, encode
from tests.core.frames import make
from tests.core.strategies import (
    BY_KIND,
    columnar,
    framed,
    large_batch,
    reframed,
    unframed,
)

FRAMES = {type(record).__name__: encode(record) for record in make.records()}


# --- round trip ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", BY_KIND, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_every_kind_comes_back_as_it_was(kind: type[Any], data: st.DataObject) -> None:
    record = data.draw(BY_KIND[kind])
    frame = encode(record)
    assert len(frame) <= limits.FRAME_BYTES
    assert same(decode(frame), record)
    assert encode(decode(frame)) == frame


@pytest.mark.parametrize(
    ("spans", "rows", "firings", "missed"),
    [(0, 0, 0, 0), (1, 1, 0, 0), (0, 0, 0, 9000), (64, 64, 2048, 3), (9000, 9000, 0, 0), (1, 2**20, 9000, 0)],
)
def test_batches_of_extreme_sizes_come_back(spans: int, rows: int, firings: int, missed: int) -> None:
    batch = large_batch(spans=spans, rows=rows, firings=firings, missed=missed)
    again = decode(encode(batch))
    assert same(again, batch)
    assert isinstance(again, FiringBatch)
    assert again.digest() == batch.digest()


def test_columns_are_aligned_views_that_cannot_be_written() -> None:
    buffer = bytearray(FRAMES["FiringBatch"])
    batch = decode(memoryview(buffer))
    assert isinstance(batch, FiringBatch)
    for name, _, _ in FiringBatch.COLUMNS:
        column = getattr(batch, name)
        assert not column.flags.writeable
        assert column.flags.aligned
        assert column.base is not None


@pytest.mark.parametrize(
    "record",
    [
        Result(command=1, good=True, message="x" * (limits.TEXT_BYTES + 1)),
        Result(command=1, good=True, message="\ud800"),
        Result(command=1, good=True, details={"\udfff": ""}),
        Result(command=2**63, good=True),
        Ack(stream=0, epoch=0, seq=np.int64(3)),  # type: ignore[arg-type]  # what a careless caller hands over
        Ack(stream=True, epoch=0, seq=3),
        Ack(stream="0", epoch=0, seq=3),  # type: ignore[arg-type]  # as above
        Beat(engine="e", epoch=0, time_ns=0, stage_seconds={"host": float("nan")}),
        Beat(engine="e", epoch=0, time_ns=0, streams=(StreamBeat(stream=0, seq=0),) * (limits.RECORD_ITEMS + 1)),
    ],
    ids=["long", "surrogate", "surrogate key", "huge", "numpy", "truth", "text", "nan", "items"],
)
def test_what_reading_would_refuse_is_not_written(record: Record) -> None:
    with pytest.raises(RecordError):
        encode(record)


def test_a_record_beyond_a_frame_is_not_written() -> None:
    texts = {str(index): "x" * limits.TEXT_BYTES for index in range(40)}
    with pytest.raises(RecordError, match="Split it"):
        encode(Command(command=1, verb="load", arguments=texts))


# --- damage to a datagram -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FRAMES)
def test_every_changed_byte_is_refused(name: str) -> None:
    frame = bytearray(FRAMES[name])
    for position, byte in enumerate(bytes(frame)):
        for value in {byte ^ 1, byte ^ 0x80, byte ^ 0xFF, 0, 0x20} - {byte}:
            frame[position] = value
            with pytest.raises(FrameError):
                decode(bytes(frame))
        frame[position] = byte


def test_every_value_of_every_byte_of_a_small_frame_is_refused() -> None:
    frame = bytearray(FRAMES["Ack"])
    for position, byte in enumerate(bytes(frame)):
        for value in set(range(256)) - {byte}:
            frame[position] = value
            with pytest.raises(FrameError):
                decode(bytes(frame))
        frame[position] = byte


@pytest.mark.parametrize("name", FRAMES)
def test_every_truncation_and_every_tail_is_refused(name: str) -> None:
    frame = FRAMES[name]
    for length in range(len(frame)):
        with pytest.raises(TruncatedFrame):
            decode(frame[:length])
    for tail in (b"\0", b"SAEW", frame):
        with pytest.raises(CorruptFrame):
            decode(frame + tail)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"SAEW\x01" + tail))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(data)


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=80))
def test_noise_under_a_right_checksum_is_refused(kind: int, payload: bytes) -> None:
    for body in (payload, columnar(payload), columnar({}, payload)):
        with pytest.raises(FrameError):
            decode(framed(kind, body))


def test_header_fields_are_refused_by_name() -> None:
    payload = FRAMES["Ack"][16:]
    for bad, error, said in (
        (b"HTTP" + FRAMES["Ack"][4:], CorruptFrame, "frame.magic"),
        (framed(10, payload, version=0), VersionMismatch, "frame.version"),
        (framed(10, payload, version=2), VersionMismatch, "frame.version"),
        (framed(10, payload, version=2, length=2**32 - 1), VersionMismatch, "frame.version"),
        (framed(0, payload), CorruptFrame, "frame.kind"),
        (framed(17, payload), CorruptFrame, "frame.kind"),
        (framed(10, payload, flags=1), CorruptFrame, "frame.kind"),
        (framed(10, payload, length=PAYLOAD_BYTES + 1), CorruptFrame, "frame.length"),
        (framed(10, payload, length=PAYLOAD_BYTES), TruncatedFrame, "frame"),
        (FRAMES["Ack"][:-1] + b" ", CorruptFrame, "frame.crc32"),
        (FRAMES["Ack"] + b" ", CorruptFrame, "frame"),
    ):
        with pytest.raises(error) as caught:
            decode(bad)
        assert caught.value.subject == said


# --- hostile contents under a right checksum ----------------------------------------------------------------------
HUGE = 10**400
WRONG: dict[type[Any], tuple[Any, ...]] = {
    int: (None, True, 1.0, "1", [], {}, HUGE, 2**63, -(2**63), -1, float("inf"), float("nan")),
    float: (None, True, "1", [], {}, HUGE, float("nan"), float("inf"), -float("inf"), -1.0),
    str: (None, True, 1, 1.0, [], {}, "x" * 4097, "\u00e9" * 2049, "\ud800", "a\udfff"),
    bool: (None, 0, 1, "true", [], {}),
    dict: (None, True, 1, "", [], {"\ud800": 1}, {"x" * 4097: "1"}, {str(index): "1" for index in range(4097)}),
    list: (None, True, 1, "", {}, [None], [1], [[]], [{}], [{}] * 4097),
}


def spoilt(value: Any) -> Iterator[Any]:
    """``value`` with one field, at whatever depth, replaced by what does not belong there, dropped or added."""
    if isinstance(value, dict):
        yield {**value, "unknown\x1b": 1}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        for other in (*WRONG[type(item)], *spoilt(item)):
            copy = value.copy()
            copy[key] = other
            yield copy


@pytest.mark.parametrize("name", FRAMES)
def test_every_field_of_a_wrong_type_is_refused(name: str) -> None:
    kind, head, body = unframed(FRAMES[name])
    count = 0
    for bad in spoilt(head):
        count += 1
        with pytest.raises(FrameError) as caught:
            decode(reframed(kind, bad, body))
        assert len(str(caught.value)) < 2000
        assert str(caught.value).isprintable()
    assert count > 20


@pytest.mark.parametrize("name", FRAMES)
def test_a_missing_field_is_refused_unless_it_has_a_default(name: str) -> None:
    kind, head, body = unframed(FRAMES[name])
    needed = {"Command": 2, "Result": 2, "RequestEnd": 3, "StreamOpen": 3, "Ack": 3}
    refused = 0
    for field in head:
        try:
            decode(reframed(kind, {key: value for key, value in head.items() if key != field}, body))
        except CorruptFrame:
            refused += 1
    assert refused == needed.get(name, refused)
    assert refused > 0


@pytest.mark.parametrize(
    "payload",
    [
        b'{"stream":0,"epoch":0,"seq":1,"seq":2}',
        b'{"stream":0,"epoch":0,"seq":NaN}',
        b'{"stream":0,"epoch":0,"seq":Infinity}',
        b'{"stream":0,"epoch":0,"seq":1e400}',
        b'{"stream":0,"epoch":0,"seq":1}x',
        b'{"stream":0,"epoch":0,"seq":1' + b"0" * 5000 + b"}",
        '{"stream":0,"epoch":0,"seq":1}'.encode("utf-16"),
        '{"stream":0,"epoch":0,"seq":1}'.encode("utf-8-sig"),
        b'{"stream":0,"epoch":0,"seq":1,"\xff":1}',
        b"",
        b"null",
        b"[]",
        b'"SAEW"',
        b"[" * PAYLOAD_BYTES,
        b'{"stream":' * (PAYLOAD_BYTES // 10),
        b"[" * (PAYLOAD_BYTES // 2) + b"]" * (PAYLOAD_BYTES // 2),
    ],
    ids=lambda payload: repr(payload[-40:]),
)
def test_json_that_is_not_quite_json_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptFrame):
        decode(framed(10, payload))


def test_a_key_that_comes_twice_is_refused_at_any_depth() -> None:
    with pytest.raises(CorruptFrame):
        decode(framed(12, b'{"command":1,"good":true,"details":{"a":"1","a":"2"}}'))


@pytest.mark.parametrize("name", ["FiringBatch", "WatchSet", "Census", "Sheet", "RecordingIndex"])
def test_counts_that_are_not_the_columns_are_refused(name: str) -> None:
    kind, head, body = unframed(FRAMES[name])
    assert body is not None
    for group, count in head["counts"].items():
        numbers: tuple[Any, ...] = (count + 1, count - 1, -1, 0, 2**31 - 1, 2**32, 2**64, HUGE, float(count))
        for wrong in (*numbers, True, None, "1", []):
            with pytest.raises(CorruptFrame):
                decode(reframed(kind, {**head, "counts": {**head["counts"], group: wrong}}, body))
    others: tuple[Any, ...] = (None, [], 1, {}, {**head["counts"], "X": 0}, {**head["counts"], "R1": 1})
    for counts in others:
        with pytest.raises(CorruptFrame):
            decode(reframed(kind, {**head, "counts": counts}, body))
    for other in (body[:-1], body + b"\0", b""):
        with pytest.raises(CorruptFrame):
            decode(reframed(kind, head, other))


def test_a_count_that_is_no_integer_is_refused() -> None:
    kind, head, body = unframed(encode(large_batch(spans=1, rows=1, firings=1, missed=1)))
    for group in "RMN":
        for one in (True, 1.0, "1"):
            with pytest.raises(CorruptFrame, match="counts"):
                decode(reframed(kind, {**head, "counts": {**head["counts"], group: one}}, body))


def test_a_head_of_a_wrong_length_is_refused() -> None:
    payload = FRAMES["FiringBatch"][16:]
    (length,) = struct.unpack_from("<I", payload)
    for wrong, zero in ((length - 1, 0), (length + 1, 0), (len(payload), 0), (2**32 - 1, 0), (0, 0), (length, 1)):
        with pytest.raises(CorruptFrame):
            decode(framed(5, struct.pack("<II", wrong, zero) + payload[8:]))
    for short in range(8):
        with pytest.raises(CorruptFrame):
            decode(framed(5, payload[:short]))


def test_a_head_that_leaves_the_columns_unaligned_is_refused() -> None:
    _, head, body = unframed(FRAMES["FiringBatch"])
    assert body is not None
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8 + 1)
    with pytest.raises(CorruptFrame, match="head"):
        decode(framed(5, struct.pack("<II", len(text), 0) + text + body))


@pytest.mark.parametrize("count", [limits.RECORD_ITEMS, limits.RECORD_ITEMS + 1])
def test_a_list_has_at_most_so_many_items(count: int) -> None:
    beats = ",".join(['{"stream":0,"seq":0}'] * count)
    frame = framed(7, f'{{"engine":"","epoch":0,"time_ns":0,"streams":[{beats}]}}'.encode())
    if count <= limits.RECORD_ITEMS:
        decode(frame)
        return
    with pytest.raises(CorruptFrame, match="list of at most"):
        decode(frame)


def hostile_frames() -> Iterator[bytes]:
    """Small and full frames that claim, or unfold to, as much as they can."""
    for claim in (2**16, 2**17, 2**31 - 1, 2**32, 2**62):
        for kind, groups in ((2, "K"), (5, "RMN"), (6, "K"), (15, "B"), (16, "K")):
            yield framed(kind, columnar({"stream": 0, "counts": dict.fromkeys(groups, claim)}))
    for unit in (b"[],", b"{},", b"0,", b'"",', b'{"a":0},', b"[[[]]],", b"1e9,"):
        yield framed(7, b'{"streams":[' + unit * ((PAYLOAD_BYTES - 20) // len(unit)) + b"0]}")
    keys = ",".join(f'"{index:x}":0' for index in range(13_000))
    yield framed(7, f'{{"stage_seconds":{{{keys}}}}}'.encode())
    yield framed(10, b"[" * PAYLOAD_BYTES)
    yield framed(10, b'{"seq":' + b"9" * (PAYLOAD_BYTES - 10) + b"}")
    yield framed(9, b'{"key":"' + b"\\ud800" * ((PAYLOAD_BYTES - 20) // 6) + b'"}')


def test_a_hostile_frame_costs_little_memory_and_time() -> None:
    for frame in hostile_frames():
        tracemalloc.start()
        with pytest.raises(FrameError):
            decode(frame)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # JSON unfolds: an empty list is 3 bytes in the frame and 64 in memory, a pair of an object some 250.
        assert peak < 40_000 + 64 * len(frame)
        started = time.process_time()
        with pytest.raises(FrameError):
            decode(frame)
        assert time.process_time() - started < 5.0  # some milliseconds when nothing else runs


def test_few_bytes_cannot_claim_many_rows() -> None:
    kind, head, body = unframed(encode(large_batch(spans=1, rows=1, firings=0)))
    assert body is not None
    for rows in (limits.BATCH_ROWS + 1, 2**31 - 1):
        with pytest.raises(CorruptFrame, match="rows"):
            decode(reframed(kind, head, body.replace(struct.pack("<2i", 0, 1), struct.pack("<2i", 0, rows))))
    batch = decode(encode(large_batch(spans=1, rows=limits.BATCH_ROWS, firings=0)))
    assert isinstance(batch, FiringBatch)
    tracemalloc.start()
    batch.row_positions()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 24 * limits.MIB


def test_a_watch_set_of_all_slots_goes_by_continuation() -> None:
    part = 8192
    for first in range(0, limits.WATCH_SLOTS, part):
        row = np.arange(first, first + part, dtype=np.uint32)
        floor, kind = np.zeros(part, np.float32), np.zeros(part, np.uint8)
        record = WatchSet(
            stream=0, watch=0, digest="", first=first, total=limits.WATCH_SLOTS, row=row, floor=floor, kind=kind
        )
        assert same(decode(encode(record)), record)
