"""Staging slots: one step's rows and firings on their way from the device to the shipper's thread.

A slot is filled on the engine's thread and read on the shipper's; in between it belongs to neither, and an event says
when its host copies are there.

On the CPU a step is encoded in place before the engine goes on, unless it has few rows and nothing but watched ones are
computed: then the rows are copied, and the reader encodes them. Thirty small calls cost the engine's thread a
millisecond, since a forward pass leaves it cold caches, and the reader's core a third of that.

On a GPU all slots encode on one side stream, one after the other: they share what lies between its kernels, and take
no more of the machine from the next forward pass than one step needs. Streams that the kernels encode are one launch.
The other place for that is inside the model's graph (`inside`), where slots copy no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saewatch.core.batch import I32, Census
from saewatch.engine.batching import Encoded
from saewatch.engine.beside import own_stream
from saewatch.engine.encoder import Encoder, launch_of
from saewatch.engine.kernels.group import Work
from saewatch.engine.ledger import Step

if TYPE_CHECKING:
    from saewatch.engine.kernels.launch import Launch
    from saewatch.engine.watched import Watched


LATE_ROWS = 256
"""Steps of at most so many rows are encoded by the reader: decoding steps, whose rows are few and cheap to copy."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of the forward pass belong to whom."""

    order: Sequence[str]  # requests in the order of their rows, [R]
    starts: I32  # [R+1] first row of each request
    positions: Tensor  # [rows] on the device
    tokens: Tensor  # [rows] on the device: what was fed


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the worker's thread leaves behind after a step."""

    step: Step
    read: Callable[[], Sequence[Encoded]] | None = None
    """Waits for the device and gives each stream's firings; None when nothing was captured."""
    release: Callable[[], None] | None = None
    """Gives the staging slot back."""
    positions: Callable[[], I32] | None = None
    """Waits for the device and gives each row's position, where the step does not hold them yet."""
    census: Sequence[Census] = ()
    watching: int = 0
    """Number of the `Watching` that it was taken under."""


class Side:
    """Where the slots of a tap encode: a stream beside the forward's, and the buffers between the kernels."""

    def __init__(self, device: torch.device) -> None:
        self.stream = own_stream(device)
        self.work = Work(device)


class Taken:
    """What every slot has: a slab for each stream, the step's positions and tokens, and an event behind its copies."""

    def __init__(self, watched: Sequence[Watched], side: Side | None = None) -> None:
        """``side``: shared with the tap's other slots; None: one of its own."""
        first = watched[0].sink.buffer
        self._slabs = [one.new_slab() for one in watched]
        self._count = 0
        self._cuda = first.device.type == "cuda"
        self._positions = torch.zeros(len(first), dtype=torch.int32, pin_memory=self._cuda)
        self._index = torch.zeros(2, len(first), dtype=torch.int64, device=first.device)
        self._shared = side or Side(first.device)
        self._side = self._shared.stream
        self._ready = torch.cuda.Event(blocking=True) if self._cuda else None  # or its reader spins on a core

    def positions(self) -> I32:
        """Of each row, ``[rows]``; waits for the device."""
        self._wait()
        return self._positions[: self._count].numpy().copy()

    def read(self) -> list[Encoded]:
        """Each stream's firings, as arrays of their own; waits for the device."""
        self._wait()
        return [slab.encoded() for slab in self._slabs]

    def keep(self, watched: Sequence[Watched]) -> None:
        """Nothing else is encoded from here on, and no step that did is on its way. On the reader's thread."""

    def _number(self, rows: Rows) -> None:
        """Copies positions and tokens."""
        self._count = int(rows.starts[-1])
        self._index[0, : self._count].copy_(rows.positions, non_blocking=True)
        self._index[1, : self._count].copy_(rows.tokens, non_blocking=True)

    def beside(self) -> AbstractContextManager[Any]:
        """What its encoders sum up has to be read where they run: another stream would not wait for them."""
        return torch.cuda.stream(self._side)

    def _wait(self) -> None:
        if self._ready is not None:
            self._ready.synchronize()


class Slot(Taken):
    """Buffers for one step of every stream, whose rows are copied here and encoded from here."""

    def __init__(self, watched: Sequence[Watched], side: Side | None = None) -> None:
        super().__init__(watched, side)
        self._watched: Sequence[Watched] = ()  # of the step that is here
        sinks = dict.fromkeys(one.sink for one in watched)  # streams on one hook point share its rows
        self._staged = {sink: torch.empty_like(sink.buffer) for sink in sinks} if self._cuda else {}
        self._here: tuple[Tensor, Tensor] | None = None  # on the CPU: positions and tokens
        self._late = False  # the reader is to encode
        self._launch: tuple[Launch, Sequence[tuple[Encoder, int]]] | None = None  # and what it was made for
        if self._cuda:  # takes the memory between its kernels while the engine still counts what is free
            self._launched(watched)

    def take(self, rows: Rows, watched: Sequence[Watched]) -> None:
        """Copies what the next forward pass will overwrite, on the forward's own stream.

        ``watched``: what is to be encoded, on the sinks that the slot was made for.
        """
        self._watched = watched
        self._count = int(rows.starts[-1])
        if not self._cuda:
            self._take_here(rows)
            return
        self._number(rows)
        for sink, staged in self._staged.items():
            staged[: self._count].copy_(sink.buffer[: self._count], non_blocking=True)

    def _take_here(self, rows: Rows) -> None:
        self._positions.numpy()[: self._count] = rows.positions.numpy()
        self._here = rows.positions, rows.tokens
        self._late = self._count <= LATE_ROWS and all(one.light for one in self._watched)
        if self._late:
            self._here = self._positions[: self._count], rows.tokens.clone()
            sinks = dict.fromkeys(one.sink for one in self._watched)
            self._staged = {sink: sink.buffer[: self._count].clone() for sink in sinks}

    def encode(self) -> None:
        """Enqueues the encoders, on the side stream where there is one."""
        if self._side is None:
            if not self._late:
                self._encode()
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with self.beside():
            self._encode()
        assert self._ready is not None
        self._ready.record(self._side)

    def read(self) -> list[Encoded]:
        """As every slot; where it was left to the reader, encodes."""
        if self._late:
            self._encode_late()
        found = super().read()
        self._watched = ()  # or a free slot would keep a dictionary in memory that was replaced
        return found

    def keep(self, watched: Sequence[Watched]) -> None:
        """As every slot. Where the engine's thread launches meanwhile, it has what it needs in its hands."""
        launch, encoders = self._launch, [one.encoder for one in watched]
        if launch is not None and any(encoder not in encoders for encoder, _ in launch[1]):
            self._launch = None

    @torch.inference_mode()
    def _encode_late(self) -> None:
        """On the reader's thread, which must start none beside those that compute the model (`beside`)."""
        self._encode()
        self._late, self._staged = False, {}

    def _encode(self) -> None:
        positions, tokens = self._index[:, : self._count] if self._here is None else self._here
        self._encode_together(positions, tokens)
        for one, slab in zip(self._watched, self._slabs, strict=True):
            rows = self._source(one)[: self._count]
            if one.encoder.launched:
                one.count(rows, slab)
            else:
                one.encode(rows, positions, tokens, slab)
            slab.to_host(one.encoder.slots_max)
        if self._here is None:
            self._positions[: self._count].copy_(positions, non_blocking=True)

    def _source(self, one: Watched) -> Tensor:
        staged = self._staged.get(one.sink)
        if staged is None:  # else the sink may have no buffer: vLLM takes it off while it reads weights anew
            return one.sink.buffer
        return staged

    def _encode_together(self, positions: Tensor, tokens: Tensor) -> None:
        """All streams that the kernels encode."""
        launch = self._launched(self._watched)
        if launch is not None:
            launch.run(self._count, positions.to(torch.int64), tokens.to(torch.int64))

    def _launched(self, watched: Sequence[Watched]) -> Launch | None:
        """Their table is made anew where anything of it has changed; None: the kernels encode no stream."""
        streams = zip(watched, self._slabs, strict=True)
        together = [(one.encoder, self._source(one), slab) for one, slab in streams if one.encoder.launched]
        if not together:
            return None
        of = [(encoder, x.data_ptr()) for encoder, x, _ in together]
        launch = self._launch
        if launch is None or launch[1] != of:
            groups = [encoder.group(x, slab) for encoder, x, slab in together]
            launch = self._launch = launch_of(groups, self._shared.work), of
        return launch[0]
