"""The records that only a recording holds: what the frames between them mean, and what they come to.

A recording is frames one after another (`saewatch.core.recording` writes and reads it)::

    RecordingHead            once, first: which program, when, why
    Sheet …                  the files of the dictionaries' bundles, tensors left out: a recording explains itself
    Mark, frames, Mark, …    what was received, as it came; a mark says when and on which connection
    RecordingIndex           once, last: where to find which time, and what everything comes to

On a socket these records make no sense and are refused as any that is out of place.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import U8, U64, Columns
from saewatch.core.checks import below, column_types, counts, in_range, one_of, same_length
from saewatch.core.errors import RecordError


class Happening(enum.StrEnum):
    """What a mark tells."""

    CONNECTED = "connected"
    FRAMES = "frames"  # nothing but when and where the frames after it came
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingHead:
    """What a recording begins with. Its version is that of its frames."""

    program: str  # version of saewatch that wrote it
    began_ns: int
    note: str = ""  # for people

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range."""
        counts("recording_head", self, "began_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Holds for all frames up to the next mark."""

    link: int  # number of the connection, given by the recorder
    time_ns: int  # when they were received, to `limits.MARK_INTERVAL_NS`
    what: str = Happening.FRAMES
    lost: int = 0  # records that came just before this and could not be written

    def check(self) -> None:
        """Raises `RecordError` where a field is out of its range or list."""
        in_range("mark.link", self.link, 1, 0xFFFFFFFF)
        counts("mark", self, "time_ns", "lost")
        one_of("mark.what", self.what, set(Happening))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """Bytes ``first`` to ``first + B`` of the ``total`` bytes of one file of a dictionary's bundle."""

    COLUMNS: ClassVar[Columns] = (("data", np.dtype("u1"), "B"),)

    weights: str  # weights digest of the dictionary
    name: str  # in the bundle's folder: "dictionary.json"
    first: int
    total: int
    data: U8  # [B]

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range."""
        if not self.name:
            raise RecordError("sheet.name", found="nothing", expected="a file's name")
        in_range("sheet.total", self.total, 0, limits.MANIFEST_BYTES)
        column_types("sheet", self)
        in_range("sheet.first", self.first, 0, self.total - same_length("sheet", self.data))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordingIndex:
    """Where marks are, every so many of them, and what the recording comes to."""

    COLUMNS: ClassVar[Columns] = (("offset", np.dtype("<u8"), "K"), ("time_ns", np.dtype("<u8"), "K"))

    duration_ns: int  # from the first mark to the last record
    frames: int  # records that were received and written
    rows: int
    missed: int  # tokens that the batches say were missed
    firings: int
    requests: int  # that ended
    lost: int  # records that could not be written
    offset: U64  # [K] bytes from the beginning of the file to a mark
    time_ns: U64  # [K] of that mark

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range, or the marks are not in order."""
        counts("recording_index", self, "duration_ns", "frames", "rows", "missed", "firings", "requests", "lost")
        column_types("recording_index", self)
        count = same_length("recording_index", self.offset, self.time_ns)
        in_range("recording_index.marks", count, 0, limits.INDEX_MARKS)
        for name in ("offset", "time_ns"):
            column = getattr(self, name)
            below(f"recording_index.{name}", column, limits.COUNT_MAX)
            if (np.diff(column.astype(np.int64)) < 0).any():
                raise RecordError(f"recording_index.{name}", found="out of order", expected="ascending numbers")


MARKS = (RecordingHead, Mark, Sheet, RecordingIndex)
"""What no engine sends."""
