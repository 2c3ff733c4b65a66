"""The slab: fixed buffers that one step's firings are packed into.

Rows are packed in order, and inside a row by slot, so the result does not depend on which device or thread found a
firing first. A row whose firings do not fit is left out whole and marked, and so is every later row that fires:
prefix sums decide it without a loop over rows, and the engine knows exactly which rows it lost.

Two ways with one result: `pack_fixed` has no data-dependent shape and no host synchronisation, so a CUDA graph can
hold it (cumulative sums, then a scatter whose misses go to one spare entry); `pack_quick` is for the CPU, where
``nonzero`` is cheaper than a scatter over every (row, slot) pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saewatch.engine.batching import Encoded


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A step's rows against the watched slots: who fires, and values as ``s * u + c``, or ``u`` itself without ``s``.

    Arrays for `pack_quick`.
    """

    fires: Any  # [T, S] bool
    u: Any  # [T, S] float32
    s: Any = None  # [S] float32
    c: Any = None  # [S] float32
    lost: Any = None  # [T] bool: rows of which nobody knows what fires, for `pack_fixed`; their ``fires`` is empty


class Slab:
    """Buffers of fixed address for ``rows_max`` rows and ``firings_max`` firings, and their copies on the host."""

    def __init__(self, *, rows_max: int, firings_max: int, device: torch.device | str = "cpu", pooled: int = 0) -> None:
        """``pooled``: numbers of each row that pooled probes go on with on the host."""
        self.rows_max = rows_max
        self.firings_max = firings_max
        self.rows = 0  # of the step that was packed last
        self.device = torch.device(device)
        spare = firings_max + 1  # the last entry takes what did not fire
        self.row = torch.zeros(spare, dtype=torch.int32, device=device)
        self.slot = torch.zeros(spare, dtype=torch.int32, device=device)
        self.value = torch.zeros(spare, dtype=torch.float32, device=device)
        self.count = torch.zeros(1, dtype=torch.int64, device=device)  # kept
        self.wanted = torch.zeros(1, dtype=torch.int64, device=device)  # kept and lost
        self.excluded = torch.zeros(rows_max, dtype=torch.bool, device=device)
        self.overflow = torch.zeros(rows_max, dtype=torch.bool, device=device)
        self.pooled = torch.zeros(rows_max, pooled, device=device)
        self._host = self._pinned() if self.device.type != "cpu" else self._buffers()
        self._read = tuple(buffer.numpy() for buffer in self._host)

    def start(self, rows: int) -> None:
        """Empties the slab for a step of ``rows`` rows."""
        self.rows = rows
        if self.device.type == "cpu":
            *_, count, _, _, wanted = self.columns
            count[0] = wanted[0] = 0
        else:
            self.count.zero_()
            self.wanted.zero_()

    @property
    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        """On the CPU: the buffers themselves, as arrays: row, slot, value, count, excluded, overflow and wanted."""
        assert self.device.type == "cpu", "elsewhere they are copies"
        return *self._read[:6], self.wanted.numpy()

    def to_host(self, slots: int | None = None) -> None:
        """Enqueues the copy to pinned memory on the current stream; nothing to do on the CPU.

        Nobody knows yet how much there is to copy, but that a row fires each of its ``slots`` at most: a step of few
        rows does not send the room of the largest one.
        """
        most = self.firings_max if slots is None else min(self.firings_max, self.rows * slots)
        sizes = (most, most, most, 1, self.rows, self.rows, self.rows)
        for here, there, size in zip(self._buffers(), self._host, sizes, strict=True):
            if here is not there:
                there[:size].copy_(here[:size], non_blocking=True)

    def encoded(self) -> Encoded:
        """The host's copy, as arrays of its own; to be called after the event that follows `to_host`."""
        row, slot, value, count, excluded, overflow, pooled = self._read
        kept = int(count[0])
        return Encoded(
            row=row[:kept].copy(),
            slot=slot[:kept].astype(np.uint16),
            value=value[:kept].copy(),
            excluded=excluded[: self.rows].copy(),
            overflowed=overflow[: self.rows].copy(),
            pooled=pooled[: self.rows].copy() if pooled.shape[1] else None,
        )

    def _buffers(self) -> tuple[Tensor, ...]:
        return self.row, self.slot, self.value, self.count, self.excluded, self.overflow, self.pooled

    def _pinned(self) -> tuple[Tensor, ...]:
        return tuple(torch.empty(b.shape, dtype=b.dtype, pin_memory=True) for b in self._buffers())


def enqueued(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of the host's ``tensor`` on ``device``, where nobody waits for it."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def pack_fixed(slab: Slab, scored: Scored, first: int) -> None:
    """Appends the step's rows ``first ..``. Capturable."""
    fires, values = scored.fires, scored.u if scored.s is None else scored.s * scored.u + scored.c
    rows, slots = fires.shape
    if rows == 0:
        return
    per_row = fires.sum(dim=1, dtype=torch.int64)
    end = per_row.cumsum(0) + slab.wanted
    fits = end <= slab.firings_max
    lost = ~fits & (per_row > 0)
    slab.overflow[first : first + rows] = lost if scored.lost is None else lost | scored.lost
    slab.count += (per_row * fits).sum()
    place = (end - per_row)[:, None] + fires.cumsum(dim=1) - 1
    place = torch.where(fires & fits[:, None], place, slab.firings_max).flatten()
    every_row = torch.arange(first, first + rows, dtype=torch.int32, device=slab.device)
    every_slot = torch.arange(slots, dtype=torch.int32, device=slab.device)
    slab.row.scatter_(0, place, every_row[:, None].expand(rows, slots).reshape(-1))
    slab.slot.scatter_(0, place, every_slot[None, :].expand(rows, slots).reshape(-1))
    slab.value.scatter_(0, place, values.reshape(-1))
    slab.wanted += per_row.sum()


def pack_quick(slab: Slab, scored: Scored, first: int) -> None:
    """As `pack_fixed`, on the CPU: values are computed for what fired only, and in numpy, whose calls cost a third."""
    into_row, into_slot, value, count, _, overflow, wanted = slab.columns
    u, s, c = scored.u, scored.s, scored.c
    row, slot = scored.fires.nonzero()
    start, rows = int(wanted[0]), len(scored.fires)
    wanted += len(row)
    overflow[first : first + rows] = False
    if start + len(row) > slab.firings_max:
        per_row = np.bincount(row, minlength=rows)
        fits = np.cumsum(per_row) + start <= slab.firings_max
        overflow[first : first + rows] = ~fits & (per_row > 0)
        kept = int(per_row[fits].sum())  # the rows that fit are a prefix
        row, slot = row[:kept], slot[:kept]
    count += len(row)
    part = slice(start, start + len(row))
    into_row[part] = row + first
    into_slot[part] = slot
    value[part] = u[row, slot] if s is None else s[slot] * u[row, slot] + c[slot]
