"""Frames: one record each, at most `limits.FRAME_BYTES`, read back exactly or refused.

::

    0      4        5     6      8       12     16
    magic  version  kind  flags  length  crc32  payload
    "SAEW" u8       u8    u16=0  u32     u32    length bytes

Little-endian. The checksum covers version to length and the payload, so that no single changed byte passes. The payload
of a control record is JSON with exactly the record's fields; that of a columnar record (batch, watch set, census) is a
JSON head padded to eight bytes, preceded by its length, and then the columns in the order of the record's ``COLUMNS``,
widest first, so that every column is aligned and can be viewed in place. A length is compared with what is there
before anything is made of it.

On a socket a datagram is a frame; a recording is frames one after another, and `Reader` finds the next after damage.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch, WatchSet
from saewatch.core.errors import CorruptFrame, FrameError, RecordError, TruncatedFrame, VersionMismatch
from saewatch.core.records import (
    Ack,
    Beat,
    Command,
    Record,
    RequestEnd,
    RequestLabel,
    RequestStart,
    Result,
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
}
_NUMBER = {kind: number for number, kind in KINDS.items()}
_HINTS = {kind: get_type_hints(kind) for kind in KINDS.values()}
_HEADER = struct.Struct("<4sBBHII")
_HEAD_LENGTH = struct.Struct("<II")  # of the JSON head, padded; zero
HEADER_BYTES = _HEADER.size
PAYLOAD_BYTES = limits.FRAME_BYTES - HEADER_BYTES

T = TypeVar("T")


def encode(record: Record) -> bytes:
    """One frame. Raises `RecordError` for a record that breaks its rules or does not fit; split batches with `fit`."""
    record.check()
    payload = _columnar_payload(record) if hasattr(record, "COLUMNS") else _json_bytes(record)
    if len(payload) > PAYLOAD_BYTES:
        raise RecordError(
            type(record).__name__, found=f"{len(payload)} bytes", expected=f"at most {PAYLOAD_BYTES}", hint="Split it."
        )
    unsigned = _HEADER.pack(MAGIC, VERSION, _NUMBER[type(record)], 0, len(payload), 0)
    crc = zlib.crc32(payload, zlib.crc32(unsigned[4:12]))
    return unsigned[:12] + struct.pack("<I", crc) + payload


def decode(data: bytes | memoryview) -> Record:
    """The record of exactly one frame; columns are read-only views into ``data``. Raises `FrameError`."""
    view = memoryview(data)
    length = _frame_length(view)
    if len(view) > length:
        raise CorruptFrame("frame", found=f"{len(view)} bytes", expected=f"{length}, by its header")
    return _read(view)


def fit(batch: FiringBatch) -> list[FiringBatch]:
    """``batch`` as it is, or cut into pieces that each fit a frame, numbered from ``batch.seq`` on.

    Raises `RecordError` when a single row has more firings than a frame takes: the tap books such a row as overflow.
    """
    pieces = _cut(batch)
    return [replace(piece, seq=batch.seq + index) for index, piece in enumerate(pieces)]


class Reader:
    """Frames from a byte stream, such as a recording: yields a record, or the `FrameError` in place of a damaged one.

    After damage it looks for the next magic; ``skipped`` counts the bytes in between.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.skipped = 0

    def feed(self, data: bytes) -> Iterator[Record | FrameError]:
        """Yields what is complete after ``data``."""
        self._buffer += data
        while (item := self._next()) is not None:
            yield item

    def close(self) -> Iterator[FrameError]:
        """Yields a `TruncatedFrame` if the stream ended inside a frame."""
        if self._buffer:
            yield TruncatedFrame("recording", found=f"{len(self._buffer)} bytes at its end", expected="a whole frame")

    def _next(self) -> Record | FrameError | None:
        if len(self._buffer) < HEADER_BYTES:
            return None
        try:
            length = _frame_length(memoryview(bytes(self._buffer[:HEADER_BYTES])), header_only=True)
            if len(self._buffer) < length:
                return None if not self._damaged_ahead(length) else self._resync(_lost_tail(length))
            record = _read(memoryview(bytes(self._buffer[:length])))
        except FrameError as error:
            return self._resync(error)
        del self._buffer[:length]
        return record

    def _damaged_ahead(self, length: int) -> bool:
        """Whether a whole frame follows inside what an incomplete one claims: then its length was damaged."""
        start = self._buffer.find(MAGIC, 4)
        while 0 <= start and start + HEADER_BYTES <= len(self._buffer) and start < length:
            candidate = memoryview(bytes(self._buffer[start : start + limits.FRAME_BYTES]))
            if _is_whole(candidate):
                return True
            start = self._buffer.find(MAGIC, start + 1)
        return False

    def _resync(self, error: FrameError) -> FrameError:
        start = self._buffer.find(MAGIC, 1)
        # The last three bytes may be the beginning of a magic that is not complete yet.
        cut = start if start > 0 else max(1, len(self._buffer) - len(MAGIC) + 1)
        del self._buffer[:cut]
        self.skipped += cut
        return error


def _is_whole(view: memoryview) -> bool:
    try:
        length = _frame_length(view, header_only=True)
        if len(view) < length:
            return False
        _read(view[:length])
    except FrameError:
        return False
    return True


def _lost_tail(length: int) -> FrameError:
    return TruncatedFrame("frame", found="another frame inside it", expected=f"{length} bytes")


def _frame_length(view: memoryview, *, header_only: bool = False) -> int:
    """Bytes of the frame that ``view`` begins with, by its header, which is checked first."""
    if len(view) < HEADER_BYTES:
        raise TruncatedFrame("frame", found=f"{len(view)} bytes", expected=f"a header of {HEADER_BYTES}")
    magic, version, kind, flags, length, _ = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise CorruptFrame("frame.magic", found=bytes(magic), expected=MAGIC, hint="Is another program on this socket?")
    if length > PAYLOAD_BYTES:
        raise CorruptFrame("frame.length", found=length, expected=f"at most {PAYLOAD_BYTES}")
    if not header_only and len(view) < HEADER_BYTES + length:
        raise TruncatedFrame("frame", found=f"{len(view)} bytes", expected=HEADER_BYTES + length)
    if version not in READS:
        raise VersionMismatch(
            "frame.version", found=version, expected=f"{READS.start} to {READS.stop - 1}", hint="Update the older side."
        )
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
        record: Record = _from_columns(cls, payload) if hasattr(cls, "COLUMNS") else _from_json(cls, _loads(payload))
        record.check()
    except RecordError as error:
        raise CorruptFrame(error.subject, found=error.found, expected=error.expected, hint=error.hint) from error
    return record


# --- control records: JSON ----------------------------------------------------------------------------------------
def _json_bytes(record: Any) -> bytes:
    names = [item.name for item in fields(record)]
    return json.dumps({name: _plain(getattr(record, name)) for name in names}, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _loads(payload: memoryview) -> Any:
    try:
        return json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise CorruptFrame("frame.payload", found="no JSON", expected="JSON in UTF-8") from error


def _from_json(cls: type[T], value: Any, *, skip: tuple[str, ...] = (), extra: Mapping[str, Any] | None = None) -> T:
    if not isinstance(value, dict):
        raise RecordError(cls.__name__, found=type(value).__name__, expected="an object")
    hints = _HINTS.get(cls) or get_type_hints(cls)
    expected = {item.name: item for item in fields(cls) if item.name not in skip}  # type: ignore[arg-type]  # a dataclass
    unknown = sorted(set(value) - set(expected))
    if unknown:
        raise RecordError(cls.__name__, found=f"unknown field {unknown[0]!r}", expected=f"{sorted(expected)}")
    for name, item in expected.items():
        if name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise RecordError(f"{cls.__name__}.{name}", found="nothing", expected="a value")
    read = {name: _typed(f"{cls.__name__}.{name}", hints[name], item) for name, item in value.items()}
    return cls(**read, **(extra or {}))


def _typed(subject: str, hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin is tuple:
        return tuple(_typed(subject, get_args(hint)[0], item) for item in _listed(subject, value))
    if origin is not None:  # Mapping[str, X]
        item_hint = get_args(hint)[1]
        return {key: _typed(f"{subject}[{key}]", item_hint, item) for key, item in _mapped(subject, value).items()}
    if is_dataclass(hint):
        return _from_json(hint, value)  # type: ignore[arg-type]  # is_dataclass does not narrow to a type
    return _SCALARS[hint](subject, value)


def _listed(subject: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > limits.RECORD_ITEMS:
        raise RecordError(subject, found=_shape(value), expected=f"a list of at most {limits.RECORD_ITEMS}")
    return value


def _mapped(subject: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > limits.RECORD_ITEMS:
        raise RecordError(subject, found=_shape(value), expected=f"an object of at most {limits.RECORD_ITEMS} keys")
    return value


def _integer(subject: str, value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise RecordError(subject, found=_shape(value), expected="an integer of 64 bits")
    return value


def _number(subject: str, value: Any) -> float:
    if type(value) not in {int, float} or not np.isfinite(value):
        raise RecordError(subject, found=_shape(value), expected="a finite number")
    return float(value)


def _text(subject: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > limits.TEXT_BYTES:
        raise RecordError(subject, found=_shape(value), expected=f"text of at most {limits.TEXT_BYTES} characters")
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
def _columnar_payload(record: Any) -> bytes:
    names = {name for name, _, _ in record.COLUMNS}
    counts = {group: _count(group, len(getattr(record, name))) for name, _, group in record.COLUMNS}
    head = {item.name: getattr(record, item.name) for item in fields(record) if item.name not in names}
    text = json.dumps({**head, "counts": counts}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    columns = [np.ascontiguousarray(getattr(record, name), dtype=dtype).tobytes() for name, dtype, _ in record.COLUMNS]
    return b"".join([_HEAD_LENGTH.pack(len(text), 0), text, *columns])


def _count(group: str, length: int) -> int:
    return length - 1 if group == "R1" else length


def _from_columns(cls: Any, payload: memoryview) -> Any:
    if len(payload) < _HEAD_LENGTH.size:
        raise RecordError(cls.__name__, found=f"{len(payload)} bytes", expected="a head")
    head_bytes, _ = _HEAD_LENGTH.unpack_from(payload)
    if head_bytes > len(payload) - _HEAD_LENGTH.size:
        raise RecordError(f"{cls.__name__} head", found=f"{head_bytes} bytes", expected=f"at most {len(payload)}")
    head = _loads(payload[_HEAD_LENGTH.size : _HEAD_LENGTH.size + head_bytes])
    counts = head.pop("counts", None) if isinstance(head, dict) else None
    columns = _columns(cls, counts, payload[_HEAD_LENGTH.size + head_bytes :])
    return _from_json(cls, head, skip=tuple(columns), extra=columns)


def _columns(cls: Any, counts: Any, body: memoryview) -> dict[str, Any]:
    lengths = {group: _length(cls, group, counts) for _, _, group in cls.COLUMNS}
    size = sum(np.dtype(dtype).itemsize * lengths[group] for _, dtype, group in cls.COLUMNS)
    if size != len(body):
        raise RecordError(f"{cls.__name__} columns", found=f"{len(body)} bytes", expected=f"{size}, by its counts")
    columns, offset = {}, 0
    for name, dtype, group in cls.COLUMNS:
        columns[name] = np.frombuffer(body, dtype=dtype, count=lengths[group], offset=offset)
        offset += columns[name].nbytes
    return columns


def _length(cls: Any, group: str, counts: Any) -> int:
    found = counts.get("R" if group == "R1" else group, counts.get(group)) if isinstance(counts, dict) else None
    if type(found) is not int or not 0 <= found <= limits.FRAME_BYTES:
        raise RecordError(f"{cls.__name__}.counts.{group}", found=_shape(found), expected=f"0 to {limits.FRAME_BYTES}")
    return found + 1 if group == "R1" else found


# --- splitting ----------------------------------------------------------------------------------------------------
_BATCH_HEAD_BYTES = 512  # header, head and padding of a batch are below this


def batch_bytes(batch: FiringBatch) -> int:
    """An upper bound of the bytes of ``batch`` as a frame."""
    spans, missed, firings = len(batch.request), len(batch.missed_request), batch.firings
    return _BATCH_HEAD_BYTES + 13 * spans + 4 + 9 * missed + 10 * firings


def _cut(batch: FiringBatch) -> list[FiringBatch]:
    if batch_bytes(batch) <= limits.FRAME_BYTES:
        return [batch]
    if batch.rows > 1:
        middle = batch.rows // 2
        return _cut(_rows(batch, 0, middle, missed=slice(None))) + _cut(
            _rows(batch, middle, batch.rows, missed=slice(0))
        )
    half = len(batch.missed_request) // 2
    if half == 0:
        raise RecordError("firing_batch", found=f"{batch.firings} firings in one row", expected="what a frame takes")
    return _cut(_rows(batch, 0, batch.rows, missed=slice(half))) + _cut(_rows(batch, 0, 0, missed=slice(half, None)))


def _rows(batch: FiringBatch, start: int, stop: int, *, missed: slice) -> FiringBatch:
    """Rows ``start`` to ``stop`` of ``batch``, spans cut where they must be, and a part of its missed entries."""
    first = np.clip(batch.span_start[:-1], start, stop)
    last = np.clip(batch.span_start[1:], start, stop)
    kept = last > first
    firings = slice(*np.searchsorted(batch.row, [start, stop]))
    return replace(
        batch,
        request=batch.request[kept],
        position=batch.position[kept] + (first - batch.span_start[:-1])[kept],
        origin=batch.origin[kept],
        span_start=np.concatenate([[0], np.cumsum((last - first)[kept])]).astype(np.int32),
        missed_request=batch.missed_request[missed],
        missed_reason=batch.missed_reason[missed],
        missed_tokens=batch.missed_tokens[missed],
        row=batch.row[firings] - np.uint32(start),
        slot=batch.slot[firings],
        value=batch.value[firings],
    )
