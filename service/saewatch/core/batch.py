"""The columnar records: firings, what is watched, and the census of a whole dictionary.

`FiringBatch` is the one type that goes through the whole program: one engine step of one stream, as numpy columns. It
is never changed after it was made; `check()` runs before it is written and after it was read.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.core.checks import at_least_zero, below, column_types, counts, finite, in_range, same_length
from saewatch.core.errors import RecordError

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Columns = tuple[tuple[str, np.dtype[Any], str], ...]
"""Of a columnar record: name, type on the wire, and the group of columns of one length; R1 is one longer than R."""


class Origin(enum.IntEnum):
    """How a span's firings came about."""

    COMPUTED = 0
    RECOMPUTED = 1  # the position was reported before: after a preemption
    REUSED = 2  # replayed for a prefix-cache hit


class Reason(enum.IntEnum):
    """Why a fed token has no firings to show. The list is closed: it becomes a metric's label."""

    CACHED = 0  # prefix cache hit, no stored firings
    EXTERNAL = 1  # KV computed elsewhere
    NO_SLOT = 2  # the encoder was behind: no free staging slot
    QUEUE_FULL = 3  # the shipper's queue was full
    OVERFLOW = 4  # more firings than the slab or a frame takes
    GAP = 5  # sent, or not sendable, while no sidecar acknowledged
    SAMPLED_OUT = 6
    EXCLUDED = 7  # the dictionary was not trained on such tokens
    OPTED_OUT = 8  # by a trusted hop
    BLIND = 9  # the tap is disabled
    SHUTDOWN = 10

    @property
    def label(self) -> str:
        """The spelling in metrics and APIs."""
        return self.name.lower()


class SlotKind(enum.IntEnum):
    """What a watched slot reads."""

    LATENT = 0
    DIRECTION = 1


NO_REQUEST = 0
"""The request number of losses that can no longer be booked to a request."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FiringBatch:
    """What one stream saw in one engine step: spans of rows, and the firings in them.

    A *row* is one position of one request. Rows are numbered over the spans of the batch: span ``i`` covers rows
    ``span_start[i]`` to ``span_start[i + 1]`` and positions from ``position[i]`` on. Rows without firings are in a
    span all the same; an excluded or missed row is in none and is counted under ``missed``.
    """

    COLUMNS: ClassVar[Columns] = (
        ("request", np.dtype("<u4"), "R"),
        ("span_start", np.dtype("<i4"), "R1"),
        ("position", np.dtype("<i4"), "R"),
        ("missed_request", np.dtype("<u4"), "M"),
        ("missed_tokens", np.dtype("<i4"), "M"),
        ("row", np.dtype("<u4"), "N"),
        ("value", np.dtype("<f4"), "N"),
        ("slot", np.dtype("<u2"), "N"),
        ("origin", np.dtype("u1"), "R"),
        ("missed_reason", np.dtype("u1"), "M"),
    )

    stream: int
    watch: int
    seq: int  # given when the batch is made, +1 each: a gap is loss after the tap
    step: int
    time_ns: int  # wall time of the step; data, never an order
    request: U32  # [R]
    span_start: I32  # [R+1]
    position: I32  # [R]
    origin: U8  # [R] Origin
    missed_request: U32  # [M] NO_REQUEST where the request is no longer known
    missed_reason: U8  # [M] Reason
    missed_tokens: I32  # [M]
    row: U32  # [N]
    slot: U16  # [N]
    value: F32  # [N]

    @property
    def rows(self) -> int:
        """Rows in all spans."""
        return int(self.span_start[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return 13 * len(self.request) + 4 + 9 * len(self.missed_request) + 10 * len(self.row)

    @property
    def lengths(self) -> I32:
        """Rows of each span, ``[R]``."""
        return self.span_start[1:] - self.span_start[:-1]

    @property
    def fresh_rows(self) -> int:
        """Rows that were not reported before."""
        return int(self.lengths[self.origin != Origin.RECOMPUTED].sum())

    @property
    def reused_rows(self) -> int:
        """Rows that were replayed for a prefix-cache hit."""
        return int(self.lengths[self.origin == Origin.REUSED].sum())

    @property
    def firings(self) -> int:
        """Firings in all rows."""
        return int(self.row.shape[0])

    def check(self) -> None:
        """Raises `RecordError` unless every column keeps the rules above."""
        in_range("firing_batch.stream", self.stream, 0, 0xFFFF)
        in_range("firing_batch.watch", self.watch, 0, 0xFFFF)
        counts("firing_batch", self, "seq", "step", "time_ns")
        column_types("firing_batch", self)
        spans = same_length("firing_batch spans", self.request, self.position, self.origin)
        same_length("firing_batch missed", self.missed_request, self.missed_reason, self.missed_tokens)
        same_length("firing_batch firings", self.row, self.slot, self.value)
        starts = self.span_start  # compared, not subtracted: a difference of two i32 can wrap
        if starts.shape != (spans + 1,) or starts[0] != 0 or (starts[1:] <= starts[:-1]).any():
            raise RecordError("firing_batch.span_start", found="rows out of order", expected="0 first, then ascending")
        in_range("firing_batch.rows", self.rows, 0, limits.BATCH_ROWS)
        if (self.position < 0).any() or (self.position > limits.POSITION_MAX - self.lengths).any():
            raise RecordError("firing_batch.position", found="a position out of range", expected="0 to 2^31-1")
        if (self.request == NO_REQUEST).any():
            raise RecordError("firing_batch.request", found=NO_REQUEST, expected="a request's number")
        if (self.missed_tokens <= 0).any():
            raise RecordError("firing_batch.missed_tokens", found="zero or less", expected="a count of tokens")
        below("firing_batch.origin", self.origin, len(Origin))
        below("firing_batch.missed_reason", self.missed_reason, len(Reason))
        below("firing_batch.row", self.row, self.rows)
        finite("firing_batch.value", self.value)
        key = (self.row.astype(np.uint64) << np.uint64(16)) | self.slot
        if (key[1:] <= key[:-1]).any():
            raise RecordError("firing_batch.row", found="firings out of order", expected="ascending (row, slot)")

    def digest(self) -> str:
        """sha256 over every field: equal batches have one digest, in whatever order the device filled its slots."""
        state = hashlib.sha256(f"{self.stream},{self.watch},{self.seq},{self.step},{self.time_ns}".encode())
        for name, dtype, _ in self.COLUMNS:
            column = getattr(self, name)
            state.update(f"|{name}:{column.shape[0]}:".encode())
            state.update(np.ascontiguousarray(column, dtype=dtype).tobytes())
        return f"sha256:{state.hexdigest()}"

    def part(self, start: int, stop: int, *, missed: slice) -> Self:
        """Rows ``start`` to ``stop``, spans cut where they must be, and a part of the missed entries."""
        first = np.clip(self.span_start[:-1], start, stop)
        last = np.clip(self.span_start[1:], start, stop)
        kept = last > first
        firings = slice(*np.searchsorted(self.row, np.array([start, stop], dtype=np.uint32)))
        return replace(
            self,
            request=self.request[kept],
            position=self.position[kept] + (first - self.span_start[:-1])[kept],
            origin=self.origin[kept],
            span_start=np.concatenate([[0], np.cumsum((last - first)[kept])]).astype(np.int32),
            missed_request=self.missed_request[missed],
            missed_reason=self.missed_reason[missed],
            missed_tokens=self.missed_tokens[missed],
            row=self.row[firings] - np.uint32(start),
            slot=self.slot[firings],
            value=self.value[firings],
        )

    def row_positions(self) -> tuple[U32, I32]:
        """The request and the position of each row, ``[rows]`` each."""
        lengths = self.lengths
        offset = np.arange(self.rows, dtype=np.int32) - np.repeat(self.span_start[:-1], lengths)
        return np.repeat(self.request, lengths), np.repeat(self.position, lengths) + offset


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WatchSet:
    """Slots ``first`` to ``first + K`` of the ``total`` slots that a stream emits from now on."""

    COLUMNS: ClassVar[Columns] = (
        ("row", np.dtype("<u4"), "K"),
        ("floor", np.dtype("<f4"), "K"),
        ("kind", np.dtype("u1"), "K"),
    )

    stream: int
    watch: int
    digest: str
    first: int
    total: int
    row: U32  # [K] index among the dictionary's latents, or among its directions
    floor: F32  # [K] emission floor: only greater values are sent
    kind: U8  # [K] SlotKind

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range or columns differ in length."""
        in_range("watch_set.stream", self.stream, 0, 0xFFFF)
        in_range("watch_set.watch", self.watch, 0, 0xFFFF)
        in_range("watch_set.total", self.total, 0, limits.WATCH_SLOTS)
        column_types("watch_set", self)
        count = same_length("watch_set", self.row, self.floor, self.kind)
        in_range("watch_set.first", self.first, 0, self.total - count)
        below("watch_set.row", self.row, limits.LATENTS)
        below("watch_set.kind", self.kind, len(SlotKind))
        finite("watch_set.floor", self.floor)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Census:
    """Latents ``first`` to ``first + K`` of the whole dictionary, on sampled tokens since the last census."""

    COLUMNS: ClassVar[Columns] = (("total", np.dtype("<f8"), "K"), ("count", np.dtype("<u8"), "K"))

    stream: int
    time_ns: int
    tokens: int  # sampled tokens
    latents: int  # in the whole dictionary
    first: int
    l0_mean: float  # latents firing per token
    squared_error: float  # sum over tokens of |x - x_hat|^2; 0 without a decoder
    squared_total: float  # sum over tokens of |x - mean|^2
    total: F64  # [K] sum of values
    count: U64  # [K] tokens on which the latent fired
    overflowed: int = 0  # sampled tokens on which more latents fired than a list holds: they are in no other figure

    def check(self) -> None:
        """Raises `RecordError` where a field is out of range or columns differ in length."""
        in_range("census.stream", self.stream, 0, 0xFFFF)
        in_range("census.latents", self.latents, 0, limits.LATENTS)
        counts("census", self, "time_ns", "tokens", "overflowed")
        column_types("census", self)
        count = same_length("census", self.total, self.count)
        in_range("census.first", self.first, 0, self.latents - count)
        finite("census.total", self.total)
        below("census.count", self.count, self.tokens + 1)
        for name in ("l0_mean", "squared_error", "squared_total"):
            at_least_zero(f"census.{name}", getattr(self, name))
