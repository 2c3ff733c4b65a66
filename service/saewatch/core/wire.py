"""Frames: one record each, at most `limits.FRAME_BYTES`, read back exactly or refused.

::

    0      4        5     6      8       12     16
    magic  version  kind  flags  length  crc32  payload
    "SAEW" u8       u8    u16=0  u32     u32    length bytes

Little-endian. The checksum covers version to length and the payload, so that no single changed byte passes. The payload
of a control record is JSON with the record's fields and no others (one that has a default may be missing: a later
version adds fields); that of a columnar record (one with ``COLUMNS``, as a batch) is a JSON head padded to eight bytes,
preceded by its length, and then the columns in the order of the record's ``COLUMNS``, widest first, so that every
column is aligned and can be viewed in place. A length is compared with what is there before anything is made of it,
and a record is held to the same types before it is written as after it was read.

On a socket a datagram is a frame; a recording is frames one after another, and `Reader` finds the next after damage.
"""

from __future__ import annotations

import json
import re
import struct
import sys
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch, WatchSet
from saewatch.core.errors import CorruptFrame, FrameError, RecordError, TruncatedFrame, VersionMismatch
from saewatch.core.marks import Mark, RecordingHead, RecordingIndex, Sheet
from saewatch.core.records import (
    Ack,
    Beat,
    Command,
    Record,
    RequestEnd,
    RequestLabel,
    RequestStart,
    Result,
    StreamBeat,
    StreamEnd,
    StreamOpen,
)

MAGIC = b"SAEW"
VERSION = 1
READS = range(1, 2)
"""Versions that this program reads."""

KINDS: Mapping[int, type[Any]] = {
    1: StreamOpen,
    2: WatchSet,
    3: RequestStart,
    4: RequestEnd,
    5: FiringBatch,
    6: Census,
    7: Beat,
    8: StreamEnd,
    9: RequestLabel,
    10: Ack,
    11: Command,
    12: Result,
    13: RecordingHead,
    14: Mark,
    15: Sheet,
    16: RecordingIndex,
}
_NUMBER = {kind: number for number, kind in KINDS.items()}
_HINTS = {kind: get_type_hints(kind) for kind in (*KINDS.values(), StreamBeat)}
_NEEDED = {
    kind: {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(kind)}
    for kind in _HINTS
}
"""Fields of a record, and whether they must be there."""
_HEADER = struct.Struct("<4sBBHII")
_HEAD_LENGTH = struct.Struct("<II")  # of the JSON head with its padding; zero
HEADER_BYTES = _HEADER.size
PAYLOAD_BYTES = limits.FRAME_BYTES - HEADER_BYTES
_SURROGATE = re.compile("[\ud800-\udfff]")


def encode(record: Record) -> bytes:
    """One frame. Raises `RecordError` for a record that breaks its rules or does not fit; split batches with `fit`."""
    columns = _column_names(type(record))
    head = _plain_fields(record, skip=columns)
    _typed_fields(type(record), head, skip=columns)
    record.check()
    payload = _columnar_payload(record, head) if columns else _dumps(head)
    if len(payload) > PAYLOAD_BYTES:
        raise RecordError(
            type(record).__name__, found=f"{len(payload)} bytes", expected=f"at most {PAYLOAD_BYTES}", hint="Split it."
        )
    unsigned = _HEADER.pack(MAGIC, VERSION, _NUMBER[type(record)], 0, len(payload), 0)
    crc = zlib.crc32(payload, zlib.crc32(unsigned[4:12]))
    return unsigned[:12] + struct.pack("<I", crc) + payload


def decode(data: bytes | memoryview) -> Record:
    """The record of exactly one frame; columns are read-only views into ``data``. Raises `FrameError`."""
    view = memoryview(data).toreadonly()
    length = _frame_length(view)
    if len(view) > length:
        raise CorruptFrame("frame", found=f"{len(view)} bytes", expected=f"{length}, by its header")
    return _read(view)


def fit(batch: FiringBatch) -> list[FiringBatch]:
    """``batch`` as it is, or cut into pieces that each fit a frame, numbered from ``batch.seq`` on.

    Raises `RecordError` when a single row has more firings than a frame takes: the tap books such a row as overflow.
    """
    pieces = _cut(batch)
    if len(pieces) == 1:
        return pieces
    return [replace(piece, seq=batch.seq + index) for index, piece in enumerate(pieces)]


class Reader:
    """Frames from a byte stream, such as a recording: yields a record, or the `FrameError` in place of a damaged one.

    What it yields does not depend on how the stream was cut into pieces. It decides about a frame when all the bytes
    are there that the header claims, at most `limits.FRAME_BYTES`, and after damage looks for the next magic behind
    the damaged one, so that a wrong length hides no later frame. ``skipped`` counts the bytes that are in no record.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lost = False  # the damage was told; its bytes are skipped up to the next magic
        self.skipped = 0

    def feed(self, data: bytes) -> Iterator[Record | FrameError]:
        """Yields what is complete after ``data``."""
        self._buffer += data
        while (item := self._next()) is not None:
            yield item

    def close(self) -> Iterator[Record | FrameError]:
        """The stream has ended: a `TruncatedFrame` if inside a frame, and then what that one's claim had hidden."""
        while self._buffer and not (self._lost and self._seek(keep=0)):
            item = self._next()
            yield self._give_up(_ended(len(self._buffer))) if item is None else item

    def _next(self) -> Record | FrameError | None:
        if self._lost and self._seek(keep=len(MAGIC) - 1):
            return None
        if len(self._buffer) < HEADER_BYTES:
            return None
        try:
            length = _frame_length(memoryview(bytes(self._buffer[:HEADER_BYTES])), header_only=True)
            if len(self._buffer) < length:
                return None
            record = _read(memoryview(bytes(self._buffer[:length])))
        except FrameError as error:
            return self._give_up(error)
        del self._buffer[:length]
        return record

    def _give_up(self, error: FrameError) -> FrameError:
        """Skips one byte of what is not a frame, so that the search goes on behind its magic."""
        del self._buffer[:1]
        self.skipped += 1
        self._lost = True
        return error

    def _seek(self, *, keep: int) -> bool:
        """Skips to the next magic. True without one; then ``keep`` bytes stay, which may be the beginning of one."""
        start = self._buffer.find(MAGIC)
        self._lost = start < 0
        cut = max(0, len(self._buffer) - keep) if self._lost else start
        del self._buffer[:cut]
        self.skipped += cut
        return self._lost


def _ended(found: int) -> FrameError:
    return TruncatedFrame("recording", found=f"{found} bytes at its end", expected="a whole frame")


def _frame_length(view: memoryview, *, header_only: bool = False) -> int:
    """Bytes of the frame that ``view`` begins with, by its header, which is checked first."""
    if len(view) < HEADER_BYTES:
        raise TruncatedFrame("frame", found=f"{len(view)} bytes", expected=f"a header of {HEADER_BYTES}")
    magic, version, kind, flags, length, _ = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise CorruptFrame("frame.magic", found=bytes(magic), expected=MAGIC, hint="Is another program on this socket?")
    if version not in READS:  # first: another version may give the rest another meaning
        raise VersionMismatch(
            "frame.version", found=version, expected=f"{READS.start} to {READS.stop - 1}", hint="Update the older side."
        )
    if length > PAYLOAD_BYTES:
        raise CorruptFrame("frame.length", found=length, expected=f"at most {PAYLOAD_BYTES}")
    if not header_only and len(view) < HEADER_BYTES + length:
        raise TruncatedFrame("frame", found=f"{len(view)} bytes", expected=HEADER_BYTES + length)
    if kind not in KINDS or flags != 0:
        raise CorruptFrame(
            "frame.kind", found=f"kind {kind}, flags {flags}", expected=f"kinds {sorted(KINDS)}, flags 0"
        )
    return HEADER_BYTES + int(length)


def _read(view: memoryview) -> Record:
    _, _, kind, _, _, crc = _HEADER.unpack_from(view)
    payload = view[HEADER_BYTES:]
    if zlib.crc32(payload, zlib.crc32(view[4:12])) != crc:
        raise CorruptFrame("frame.crc32", found="another checksum", expected=f"{crc:#010x}")
    cls = KINDS[kind]
    try:
        columnar = hasattr(cls, "COLUMNS")
        record: Record = _from_columns(cls, payload) if columnar else cls(**_typed_fields(cls, _loads(payload)))
        record.check()
    except RecordError as error:
        raise CorruptFrame(error.subject, found=error.found, expected=error.expected, hint=error.hint) from error
    return record


# --- control records: JSON ----------------------------------------------------------------------------------------
def _plain_fields(record: Any, *, skip: Container[str] = ()) -> dict[str, Any]:
    return {name: _plain(getattr(record, name)) for name in _NEEDED[type(record)] if name not in skip}


def _plain(value: Any) -> Any:
    if type(value) in _SCALARS:
        return value
    if is_dataclass(value):
        return _plain_fields(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _loads(payload: memoryview) -> Any:
    try:
        return _JSON.decode(str(payload, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFrame("frame.payload", found="no JSON", expected="JSON in UTF-8, each key once") from error


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's members. ValueError for one that stands there twice: nobody could say which is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=each_once)


def _typed_fields(cls: type[Any], value: Any, *, skip: Container[str] = ()) -> dict[str, Any]:
    """The arguments of ``cls`` that ``value`` has, each of its declared type."""
    if not isinstance(value, dict):
        raise RecordError(cls.__name__, found=_shape(value), expected="an object")
    expected = {name: needed for name, needed in _NEEDED[cls].items() if name not in skip}
    unknown = sorted(value.keys() - expected.keys())
    if unknown:
        raise RecordError(cls.__name__, found=f"unknown field {unknown[0]!r:.80}", expected=f"{sorted(expected)}")
    for name, needed in expected.items():
        if needed and name not in value:
            raise RecordError(f"{cls.__name__}.{name}", found="nothing", expected="a value")
    return {name: _typed(f"{cls.__name__}.{name}", _HINTS[cls][name], item) for name, item in value.items()}


def _typed(subject: str, hint: Any, value: Any) -> Any:
    scalar = _SCALARS.get(hint)
    if scalar is not None:  # first: every batch has five of them
        return scalar(subject, value)
    origin = get_origin(hint)
    if origin is tuple:
        return tuple(_typed(subject, get_args(hint)[0], item) for item in _listed(subject, value))
    if origin is not None:  # Mapping[str, X]
        item_hint = get_args(hint)[1]
        pairs = _mapped(subject, value).items()
        return {_text(f"{subject} key", key): _typed(f"{subject}[{key!r:.80}]", item_hint, item) for key, item in pairs}
    return hint(**_typed_fields(hint, value))


def _listed(subject: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > limits.RECORD_ITEMS:
        raise RecordError(subject, found=_shape(value), expected=f"a list of at most {limits.RECORD_ITEMS}")
    return value


def _mapped(subject: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > limits.RECORD_ITEMS:
        raise RecordError(subject, found=_shape(value), expected=f"an object of at most {limits.RECORD_ITEMS} keys")
    return value


def _integer(subject: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -limits.COUNT_MAX <= value <= limits.COUNT_MAX:
        raise RecordError(subject, found=_shape(value), expected="an integer of 64 bits")
    return value


def _number(subject: str, value: Any) -> float:
    # Compared before it is converted: float(10**400) overflows.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise RecordError(subject, found=_shape(value), expected="a finite number")
    return float(value)


def _text(subject: str, value: Any) -> str:
    # JSON can spell lone surrogates, UTF-8 cannot: whatever writes them later would fail.
    if not isinstance(value, str) or _SURROGATE.search(value) is not None or len(value.encode()) > limits.TEXT_BYTES:
        raise RecordError(subject, found=_shape(value), expected=f"text of at most {limits.TEXT_BYTES} bytes of UTF-8")
    return value


def _truth(subject: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RecordError(subject, found=_shape(value), expected="true or false")
    return value


_SCALARS: Mapping[Any, Callable[[str, Any], Any]] = {int: _integer, float: _number, str: _text, bool: _truth}


def _shape(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, str | list | dict) else ""
    return "nothing" if isinstance(value, NoneType) else f"{type(value).__name__}{size}"


# --- columnar records ---------------------------------------------------------------------------------------------
def _column_names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(name for name, _, _ in getattr(cls, "COLUMNS", ()))


def _columnar_payload(record: Any, head: dict[str, Any]) -> bytes:
    counts = {group: len(getattr(record, name)) for name, _, group in record.COLUMNS if group != "R1"}
    text = _dumps({**head, "counts": counts})
    text += b" " * (-len(text) % 8)
    columns = [np.ascontiguousarray(getattr(record, name), dtype=dtype).tobytes() for name, dtype, _ in record.COLUMNS]
    return b"".join([_HEAD_LENGTH.pack(len(text), 0), text, *columns])


def _from_columns(cls: Any, payload: memoryview) -> Any:
    if len(payload) < _HEAD_LENGTH.size:
        raise RecordError(cls.__name__, found=f"{len(payload)} bytes", expected="a head")
    head_bytes, zero = _HEAD_LENGTH.unpack_from(payload)
    room = len(payload) - _HEAD_LENGTH.size
    if head_bytes > room or head_bytes % 8 or zero:
        raise RecordError(f"{cls.__name__} head", found=f"{head_bytes} bytes", expected=f"eights, at most {room}")
    head = _loads(payload[_HEAD_LENGTH.size : _HEAD_LENGTH.size + head_bytes])
    counts = head.pop("counts", None) if isinstance(head, dict) else None
    columns = _columns(cls, counts, payload[_HEAD_LENGTH.size + head_bytes :])
    return cls(**_typed_fields(cls, head, skip=columns), **columns)


def _columns(cls: Any, counts: Any, body: memoryview) -> dict[str, Any]:
    lengths = _lengths(cls, counts)
    size = sum(dtype.itemsize * lengths[group] for _, dtype, group in cls.COLUMNS)
    if size != len(body):
        raise RecordError(f"{cls.__name__} columns", found=f"{len(body)} bytes", expected=f"{size}, by its counts")
    columns, offset = {}, 0
    for name, dtype, group in cls.COLUMNS:
        columns[name] = np.frombuffer(body, dtype=dtype, count=lengths[group], offset=offset)
        offset += columns[name].nbytes
    return columns


def _lengths(cls: Any, counts: Any) -> dict[str, int]:
    groups = {group for _, _, group in cls.COLUMNS} - {"R1"}
    if not isinstance(counts, dict) or set(counts) != groups:
        raise RecordError(f"{cls.__name__}.counts", found=_shape(counts), expected=f"an object of {sorted(groups)}")
    for group, found in counts.items():
        if type(found) is not int or not 0 <= found <= limits.FRAME_BYTES:
            raise RecordError(f"{cls.__name__}.counts.{group}", found=_shape(found), expected="a length of a frame")
    return {**counts, "R1": counts.get("R", 0) + 1}


# --- splitting ----------------------------------------------------------------------------------------------------
_BATCH_HEAD_BYTES = 512  # header, head and padding of a batch are below this


def batch_bytes(batch: FiringBatch) -> int:
    """An upper bound of the bytes of ``batch`` as a frame."""
    spans, missed, firings = len(batch.request), len(batch.missed_request), batch.firings
    return _BATCH_HEAD_BYTES + 13 * spans + 4 + 9 * missed + 10 * firings


def _cut(batch: FiringBatch) -> list[FiringBatch]:
    if batch_bytes(batch) <= limits.FRAME_BYTES and batch.rows <= limits.BATCH_ROWS:
        return [batch]
    rows, missed = batch.rows, len(batch.missed_request)
    if rows == 1 and not missed:
        raise RecordError("firing_batch", found=f"{batch.firings} firings in one row", expected="what a frame takes")
    middle, half = rows // 2, (missed + 1) // 2
    return _cut(batch.part(0, middle, missed=slice(half))) + _cut(batch.part(middle, rows, missed=slice(half, None)))
