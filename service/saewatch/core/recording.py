"""Recordings: what a sidecar received, in a file, with when and on which connection it came.

The format is the wire format: frames one after another, among them those of `saewatch.core.marks`. The frames' version
is the recording's, `wire.READS` are those that are read. A recorder that was killed leaves no index and perhaps half a
frame: such a file is read all the same. So is one that was damaged: what is no frame is skipped and counted, and with
it what follows up to the next mark, since the mark that it belongs to may have been in the damage.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import BinaryIO

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import FiringBatch
from saewatch.core.errors import CorruptFrame, FrameError, VersionMismatch
from saewatch.core.marks import Happening, Mark, RecordingHead, RecordingIndex, Sheet
from saewatch.core.records import Record, RequestEnd
from saewatch.core.wire import MAGIC, Reader, decode, encode

CHUNK_BYTES = 2 * limits.FRAME_BYTES
HINT = "A recording is made by `saewatch record` or `saewatch serve --record`."


@dataclass(slots=True)
class Totals:
    """What records come to."""

    frames: int = 0
    rows: int = 0
    missed: int = 0
    firings: int = 0
    requests: int = 0  # that ended

    def add(self, record: Record) -> None:
        """Counts one more."""
        self.frames += 1
        if isinstance(record, FiringBatch):
            self.rows += record.rows
            self.missed += int(record.missed_tokens.sum())
            self.firings += record.firings
        elif isinstance(record, RequestEnd):
            self.requests += 1


class Writer:
    """Writes a recording into ``file``, which is empty. What the file raises passes through.

    `sheets` comes first, then any number of `happens` and `write` in the order of their times, and `close` at the end.
    """

    def __init__(self, file: BinaryIO, head: RecordingHead) -> None:
        self._file = file
        self._mark: Mark | None = None
        self._first_ns = self._last_ns = 0
        self._marks, self._stride = 0, 1
        self._places: list[tuple[int, int]] = []  # offset and time of every ``stride``-th mark
        self.totals = Totals()
        self.bytes = 0
        """Written so far."""
        self.lost = 0
        """Records that were not written."""
        self._put(head)

    @property
    def duration_ns(self) -> int:
        """From the first mark to the last record."""
        return self._last_ns - self._first_ns

    def sheets(self, weights: str, files: Mapping[str, bytes]) -> None:
        """Files of a dictionary's bundle, by name."""
        for name, content in files.items():
            data = np.frombuffer(content, dtype=np.uint8)
            for first in range(0, len(data), limits.SHEET_PART_BYTES):
                part = data[first : first + limits.SHEET_PART_BYTES]
                self._put(Sheet(weights=weights, name=name, first=first, total=len(data), data=part))

    def happens(self, link: int, time_ns: int, what: Happening, *, lost: int = 0) -> None:
        """A connection was made or is gone; ``lost`` records before that were not written."""
        mark = Mark(link=link, time_ns=time_ns, what=what, lost=lost)
        if self._marks % self._stride == 0:
            self._place(time_ns)
        self._first_ns = self._first_ns if self._marks else time_ns
        self._last_ns = time_ns
        self._marks += 1
        self.lost += lost
        self._mark = mark
        self._put(mark)

    def write(self, link: int, time_ns: int, record: Record, *, lost: int = 0) -> None:
        """A record was received; ``lost`` ones before it were not written."""
        mark = self._mark
        if mark is None or mark.link != link or time_ns - mark.time_ns > limits.MARK_INTERVAL_NS or lost:
            self.happens(link, time_ns, Happening.FRAMES, lost=lost)
        self._last_ns = time_ns
        self.totals.add(record)
        self._put(record)

    def close(self, *, lost: int = 0) -> None:
        """Writes the index; ``lost`` records came after the last one and were not written. The file stays open."""
        self.lost += lost
        offset, time_ns = np.array(self._places, dtype=np.uint64).reshape(-1, 2).T
        totals = asdict(self.totals)
        self._put(
            RecordingIndex(duration_ns=self.duration_ns, lost=self.lost, offset=offset, time_ns=time_ns, **totals)
        )

    def _place(self, time_ns: int) -> None:
        if len(self._places) == limits.INDEX_MARKS:  # an even number: every second one goes, and the next one fits
            self._places, self._stride = self._places[::2], 2 * self._stride
        self._places.append((self.bytes, time_ns))

    def _put(self, record: Record) -> None:
        frame = encode(record)
        self._file.write(frame)
        self.bytes += len(frame)


@dataclass(frozen=True, slots=True)
class Received:
    """What came on a connection, and when; without a record the connection was made or is gone."""

    mark: Mark
    record: Record | None


class Recording:
    """A recording in ``file``, which can be sought in and belongs to the caller.

    Raises `FrameError` for a file that is none, or one of a version that is not read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.index = _index(file)
        """None where the recorder was killed, or the end of the file is missing."""
        self.head: RecordingHead | None = None
        """None where it is damaged."""
        self.sheets: dict[str, dict[str, bytes]] = {}
        """Whole files of dictionaries' bundles, by weights digest and name."""
        self.began_ns = 0
        """Time of the first mark."""
        self.damaged_frames = self.damaged_bytes = 0
        """What could not be read of what `received` has gone over so far."""
        self._refuse_others()
        self._read_beginning()

    def received(self) -> Iterator[Received]:
        """Everything that was received, in order, from the beginning; one at a time."""
        mark: Mark | None = None
        self.damaged_frames = self.damaged_bytes = 0
        for item in self._items():
            if isinstance(item, Mark):
                mark = item
                if mark.what != Happening.FRAMES:
                    yield Received(mark, None)
            elif isinstance(item, FrameError):
                mark = None
                self.damaged_frames += 1
            elif not isinstance(item, RecordingHead | Sheet | RecordingIndex):
                if mark is not None:
                    yield Received(mark, item)
                else:
                    self.damaged_frames += 1
                    self.damaged_bytes += len(encode(item))

    def defects(self) -> list[str]:
        """What is wrong with the file, in words, as far as `received` has gone over it; empty where nothing is."""
        found = [] if self.index else ["its end is missing: the recorder was killed, or the copy is not complete"]
        if self.damaged_frames or self.damaged_bytes:
            frames, nbytes = f"{self.damaged_frames:,} damaged frames", f"{self.damaged_bytes:,} B"
            found.append(f"{frames} ({nbytes}) were left out")
        if self.index and self.index.lost:
            found.append(f"the recorder lost {self.index.lost:,} records")
        return found

    def _items(self, *, upto: float = float("inf")) -> Iterator[Record | FrameError]:
        """Every frame that begins in the first ``upto`` bytes, about."""
        reader, fed, skipped = Reader(), 0, 0
        self._file.seek(0)
        while fed < upto and (data := self._file.read(CHUNK_BYTES)):
            fed += len(data)
            yield from reader.feed(data)
            self.damaged_bytes += reader.skipped - skipped
            skipped = reader.skipped
        if fed < upto:
            yield from reader.close()
            self.damaged_bytes += reader.skipped - skipped

    def _refuse_others(self) -> None:
        """Raises `FrameError` when no recording of ours begins here; a damaged beginning is none of that."""
        errors: list[FrameError] = []
        for item in self._items(upto=limits.RECORDING_SEARCH_BYTES):
            if isinstance(item, FrameError):
                errors.append(item)
            elif isinstance(item, RecordingHead) or errors:
                return
            else:
                raise CorruptFrame("recording", found=type(item).__name__, expected="RecordingHead first", hint=HINT)
        for error in errors:
            if isinstance(error, VersionMismatch):
                hint = "Read it with the saewatch that wrote it, or record anew."
                raise VersionMismatch("recording", found=error.found, expected=error.expected, hint=hint)
        raise CorruptFrame("recording", found="no frame of ours at its beginning", expected="RecordingHead", hint=HINT)

    def _read_beginning(self) -> None:
        """Everything before the first mark."""
        parts: dict[tuple[str, str], bytearray] = {}
        for item in self._items():
            if isinstance(item, RecordingHead):
                self.head = item
            elif isinstance(item, Sheet):
                self._add(item, parts.setdefault((item.weights, item.name), bytearray()))
            elif isinstance(item, Mark):
                self.began_ns = item.time_ns
                return

    def _add(self, sheet: Sheet, content: bytearray) -> None:
        """A part of a file; one whose part before it is missing stays incomplete."""
        if sheet.first == len(content):
            content += sheet.data.tobytes()
        if len(content) == sheet.total:
            self.sheets.setdefault(sheet.weights, {})[sheet.name] = bytes(content)


def _index(file: BinaryIO) -> RecordingIndex | None:
    """The index that ``file`` ends with."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - limits.FRAME_BYTES))
    tail = file.read(limits.FRAME_BYTES)
    at = len(tail)
    while (at := tail.rfind(MAGIC, 0, at)) >= 0:
        try:
            record = decode(memoryview(tail)[at:])
        except FrameError:
            continue
        return record if isinstance(record, RecordingIndex) else None
    return None
