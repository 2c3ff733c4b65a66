"""Staging slots: one step's rows and firings on their way from the device to the shipper's thread.

A slot is filled on the engine's thread and read on the shipper's; in between it belongs to neither, and an event says
when its host copies are there. On the CPU there is nothing to wait for and nothing to copy but the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saewatch.core.batch import I32
from saewatch.engine.batching import Encoded

if TYPE_CHECKING:
    from saewatch.engine.watched import Watched


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of the forward pass belong to whom."""

    order: Sequence[str]  # requests in the order of their rows, [R]
    starts: I32  # [R+1] first row of each request
    positions: Tensor  # [rows] on the device
    tokens: Tensor  # [rows] on the device: what was fed


class Slot:
    """Buffers for one step of every stream."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        first = watched[0].sink.buffer
        self._watched = watched
        self._slabs = [one.new_slab() for one in watched]
        self._count = 0
        self._cuda = first.device.type == "cuda"
        self._positions = torch.zeros(len(first), dtype=torch.int32, pin_memory=self._cuda)
        sinks = dict.fromkeys(one.sink for one in watched)  # streams on one hook point share its rows
        self._staged = {sink: torch.empty_like(sink.buffer) for sink in sinks} if self._cuda else {}
        self._index = torch.zeros(2, len(first), dtype=torch.int64, device=first.device)
        self._side = torch.cuda.Stream() if self._cuda else None
        self._ready = torch.cuda.Event() if self._cuda else None

    def take(self, rows: Rows) -> None:
        """Copies what the next forward pass will overwrite, on the forward's own stream."""
        self._count = int(rows.starts[-1])
        self._index[0, : self._count].copy_(rows.positions, non_blocking=True)
        self._index[1, : self._count].copy_(rows.tokens, non_blocking=True)
        for sink, staged in self._staged.items():
            staged[: self._count].copy_(sink.buffer[: self._count], non_blocking=True)

    def encode(self) -> None:
        """Enqueues the encoders, on the side stream where there is one."""
        if self._side is None:
            self._encode()
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            self._encode()
        assert self._ready is not None
        self._ready.record(self._side)

    def positions(self) -> I32:
        """Of each row, ``[rows]``; waits for the device."""
        self._wait()
        return self._positions[: self._count].numpy().copy()

    def read(self) -> list[Encoded]:
        """Each stream's firings, as arrays of their own; waits for the device."""
        self._wait()
        return [slab.encoded() for slab in self._slabs]

    def _wait(self) -> None:
        if self._ready is not None:
            self._ready.synchronize()

    def _encode(self) -> None:
        positions, tokens = self._index[:, : self._count]
        for one, slab in zip(self._watched, self._slabs, strict=True):
            source = self._staged.get(one.sink, one.sink.buffer)
            one.encode(source[: self._count], positions, tokens, slab)
            slab.to_host()
        self._positions[: self._count].copy_(positions, non_blocking=True)
