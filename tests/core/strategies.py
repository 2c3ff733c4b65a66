"""Strategies for every kind of record, and frames written by hand: the format once more, apart from `wire`."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch, Origin, Reason, SlotKind, WatchSet
from saewatch.core.marks import Happening, Mark, RecordingHead, RecordingIndex, Sheet
from saewatch.core.records import (
    STAGES,
    Ack,
    Beat,
    Command,
    Outcome,
    Record,
    RequestEnd,
    RequestLabel,
    RequestStart,
    Result,
    Role,
    StreamBeat,
    StreamEnd,
    StreamOpen,
    TrafficClass,
)

U16 = st.integers(0, 0xFFFF)
COUNT = st.integers(0, limits.COUNT_MAX)
POSITION = st.integers(0, limits.POSITION_MAX)
REQUEST = st.integers(1, 2**32 - 1)
SHORT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
# Whatever UTF-8 can spell, control characters included; and the longest there is, in one and in four bytes a character.
TEXT = (
    SHORT
    | st.sampled_from(["", "\x00\x1b[31m\r\n", "SAEW"])
    | st.sampled_from(["x", "\U0001f50e"]).map(lambda unit: unit * (limits.TEXT_BYTES // len(unit.encode())))
)
TEXTS = st.dictionaries(SHORT, SHORT, max_size=4)
VALUE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NOT_NEGATIVE = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False)

SHARE = st.integers(0, limits.COUNT_MAX // (3 + len(Reason)))  # of what was fed: the sum is bounded
STREAM_BEATS = st.builds(
    StreamBeat,
    stream=U16,
    seq=COUNT,
    fed=COUNT,
    encoded=SHARE,
    reused=SHARE,
    missed=st.dictionaries(st.sampled_from([reason.label for reason in Reason]), SHARE),
    in_flight=SHARE,
    firings=COUNT,
    told=COUNT,
    told_firings=COUNT,
    sink_calls=COUNT,
    blind=SHORT,
)


def column(dtype: Any, count: int, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[npt.NDArray[Any]]:
    """A column of ``count`` items."""
    return arrays.arrays(dtype, count, elements=elements)


@st.composite
def batches(draw: st.DrawFn, spans: int = 5, missed: int = 4, span_rows: int = 6) -> FiringBatch:
    """A sound batch: spans of 1 to ``span_rows`` rows, any of their (row, slot) pairs firing."""
    lengths = np.array(draw(st.lists(st.integers(1, span_rows), max_size=spans)), dtype=np.int64)
    rows, count = int(lengths.sum()), draw(st.integers(0, missed))
    pairs = st.tuples(st.integers(0, max(0, rows - 1)), U16)
    fired = sorted(draw(st.sets(pairs, max_size=12))) if rows else []
    return FiringBatch(
        stream=draw(U16),
        watch=draw(U16),
        seq=draw(COUNT),
        step=draw(COUNT),
        time_ns=draw(COUNT),
        request=draw(column(np.uint32, len(lengths), REQUEST)),
        span_start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        position=draw(column(np.int32, len(lengths), st.integers(0, limits.POSITION_MAX - span_rows))),
        origin=draw(column(np.uint8, len(lengths), st.sampled_from([int(item) for item in Origin]))),
        missed_request=draw(column(np.uint32, count, st.integers(0, 2**32 - 1))),
        missed_reason=draw(column(np.uint8, count, st.sampled_from([int(item) for item in Reason]))),
        missed_tokens=draw(column(np.int32, count, st.integers(1, 2**31 - 1))),
        row=np.array([row for row, _ in fired], dtype=np.uint32),
        slot=np.array([slot for _, slot in fired], dtype=np.uint16),
        value=draw(column(np.float32, len(fired), VALUE)),
    )


def large_batch(*, spans: int, rows: int, firings: int, missed: int = 0, seed: int = 0, seq: int = 1) -> FiringBatch:
    """A batch of realistic or extreme size: ``firings`` spread over ``rows`` in ``spans``."""
    random = np.random.default_rng(seed)
    inner: Any = np.sort(random.choice(np.arange(1, rows), size=spans - 1, replace=False)) if spans > 1 else []
    fired = np.sort(random.choice(rows * 65_536, size=firings, replace=False)) if firings else np.zeros(0, np.int64)
    return FiringBatch(
        stream=1,
        watch=2,
        seq=seq,
        step=4,
        time_ns=5,
        request=random.integers(1, 2**32, spans, dtype=np.uint32),
        span_start=np.concatenate([[0], inner, [rows]] if spans else [[0]]).astype(np.int32),
        position=random.integers(0, 2**20, spans, dtype=np.int32),
        origin=random.integers(0, len(Origin), spans, dtype=np.uint8),
        missed_request=random.integers(0, 2**32, missed, dtype=np.uint32),
        missed_reason=random.integers(0, len(Reason), missed, dtype=np.uint8),
        missed_tokens=random.integers(1, 2**31 - 1, missed, dtype=np.int32),
        row=(fired >> 16).astype(np.uint32),
        slot=(fired & 0xFFFF).astype(np.uint16),
        value=random.normal(size=firings).astype(np.float32),
    )


@st.composite
def watch_sets(draw: st.DrawFn) -> WatchSet:
    """A sound part of a watch set, up to the last slot that there is."""
    count = draw(st.integers(0, 8))
    total = draw(st.integers(count, limits.WATCH_SLOTS))
    return WatchSet(
        stream=draw(U16),
        watch=draw(U16),
        digest=draw(TEXT),
        first=draw(st.integers(0, total - count)),
        total=total,
        row=draw(column(np.uint32, count, st.integers(0, limits.LATENTS - 1))),
        floor=draw(column(np.float32, count, VALUE)),
        kind=draw(column(np.uint8, count, st.sampled_from([int(item) for item in SlotKind]))),
    )


@st.composite
def censuses(draw: st.DrawFn) -> Census:
    """A sound part of a census."""
    count, tokens = draw(st.integers(0, 8)), draw(COUNT)
    latents = draw(st.integers(count, limits.LATENTS))
    return Census(
        stream=draw(U16),
        time_ns=draw(COUNT),
        tokens=tokens,
        latents=latents,
        first=draw(st.integers(0, latents - count)),
        l0_mean=draw(NOT_NEGATIVE),
        squared_error=draw(NOT_NEGATIVE),
        squared_total=draw(NOT_NEGATIVE),
        total=draw(column(np.float64, count, st.floats(allow_nan=False, allow_infinity=False))),
        count=draw(column(np.uint64, count, st.integers(0, tokens))),
        overflowed=draw(COUNT),
    )


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    """A sound part of a file, up to the largest that there is."""
    count = draw(st.integers(0, 40))
    total = draw(st.integers(count, limits.MANIFEST_BYTES))
    return Sheet(
        weights=draw(SHORT),
        name=draw(TEXT.filter(bool)),
        first=draw(st.integers(0, total - count)),
        total=total,
        data=draw(column(np.uint8, count, st.integers(0, 255))),
    )


@st.composite
def indexes(draw: st.DrawFn) -> RecordingIndex:
    """A sound index."""
    count = draw(st.integers(0, 8))
    offset, time_ns = (np.sort(draw(column(np.uint64, count, st.integers(0, limits.COUNT_MAX - 1)))) for _ in "ab")
    totals = ("duration_ns", "frames", "rows", "missed", "firings", "requests", "lost")
    return RecordingIndex(offset=offset, time_ns=time_ns, **{name: draw(COUNT) for name in totals})


STREAM_OPENS = st.builds(
    StreamOpen,
    stream=U16,
    engine=TEXT,
    epoch=COUNT,
    dp_rank=COUNT,
    pp_rank=COUNT,
    tp_rank=COUNT,
    versions=TEXTS,
    model_name=TEXT,
    model_digest=SHORT,
    model_proof=SHORT,
    quantisation=SHORT,
    hook_point=SHORT,
    weights_digest=SHORT,
    catalogue_digest=SHORT,
    mode=st.sampled_from(["exact", "thresholded"]),
    role=st.sampled_from(Role),
    excluded=TEXTS,
    blind=TEXT,
)
REQUEST_STARTS = st.builds(
    RequestStart,
    request=REQUEST,
    engine_id=TEXT,
    child=COUNT,
    prompt_len=POSITION,
    cached=POSITION,
    cached_from=st.sampled_from(["", "prefix", "external"]),
    adapter=SHORT,
    time_ns=COUNT,
)
BEATS = st.builds(
    Beat,
    engine=TEXT,
    epoch=COUNT,
    time_ns=COUNT,
    streams=st.lists(STREAM_BEATS, max_size=3).map(tuple),
    queue_bytes=COUNT,
    stage_seconds=st.dictionaries(st.sampled_from(sorted(STAGES)), NOT_NEGATIVE),
)
STREAM_ENDS = st.builds(
    StreamEnd,
    stream=U16,
    reason=st.sampled_from(["swap", "reload", "sleep", "shutdown", "fault"]),
    final=STREAM_BEATS,
)
LABELS = st.builds(
    RequestLabel,
    key=TEXT.filter(bool),
    client_id=TEXT,
    tenant=SHORT,
    traffic_class=st.sampled_from(TrafficClass),
    conversation=SHORT,
    trace_id=SHORT,
    outcome=st.sampled_from(Outcome),
    status=st.integers(0, 999),
    time_ns=COUNT,
)

BY_KIND: dict[type[Any], st.SearchStrategy[Record]] = {
    StreamOpen: STREAM_OPENS,
    WatchSet: watch_sets(),
    RequestStart: REQUEST_STARTS,
    RequestEnd: st.builds(RequestEnd, request=REQUEST, fed=POSITION, emitted=POSITION, time_ns=COUNT),
    FiringBatch: batches(),
    Census: censuses(),
    Beat: BEATS,
    StreamEnd: STREAM_ENDS,
    RequestLabel: LABELS,
    Ack: st.builds(Ack, stream=U16, epoch=COUNT, seq=COUNT),
    Command: st.builds(
        Command,
        command=COUNT,
        verb=st.sampled_from(["load", "watch", "on", "off", "self_test"]),
        arguments=TEXTS,
    ),
    Result: st.builds(Result, command=COUNT, good=st.booleans(), message=TEXT, details=TEXTS),
    RecordingHead: st.builds(RecordingHead, program=SHORT, began_ns=COUNT, note=TEXT),
    Mark: st.builds(Mark, link=REQUEST, time_ns=COUNT, what=st.sampled_from(Happening), lost=COUNT),
    Sheet: sheets(),
    RecordingIndex: indexes(),
}
RECORDS: st.SearchStrategy[Record] = st.one_of(*BY_KIND.values())


# --- frames by hand: what a foreign or hostile writer can send ----------------------------------------------------
def framed(kind: int, payload: bytes, *, version: int = 1, flags: int = 0, length: int | None = None) -> bytes:
    """A frame whose checksum is right, whatever the rest of it says."""
    signed = struct.pack("<BBHI", version, kind, flags, len(payload) if length is None else length)
    return b"SAEW" + signed + struct.pack("<I", zlib.crc32(signed + payload)) + payload


def columnar(head: Any, body: bytes = b"") -> bytes:
    """The payload of a columnar record; a head given as bytes stays as it is."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<II", len(text), 0) + text + body


def unframed(frame: bytes) -> tuple[int, Any, bytes | None]:
    """Kind, JSON and columns (None: a control record) of a sound frame."""
    kind, payload = frame[5], frame[16:]
    if kind not in {2, 5, 6, 15, 16}:
        return kind, json.loads(payload), None
    (length,) = struct.unpack_from("<I", payload)
    return kind, json.loads(payload[8 : 8 + length]), payload[8 + length :]


def reframed(kind: int, head: Any, body: bytes | None) -> bytes:
    """The reverse of `unframed`."""
    return framed(kind, json.dumps(head).encode() if body is None else columnar(head, body))
