"""Watched rows that are multiplied inside the model's graph: the other place than beside it (``placement: graph``).

Behind each sink stands a second operator, ``saewatch::fire``, in the same compiled and captured graph. It finds its
kernels by the address of the sink's buffer, which never changes, and enqueues them (`kernels.inside`). So rows are
neither copied nor read by another stream: when the pass is over, a slot packs what is there on the model's own stream.
Only the copies of firings to the host have a stream of their own, or the next pass would wait for them.

A graph holds addresses. Whatever is watched later is therefore copied into the buffers that were there at the start:
`Graphed.hold` does it between two passes, on the stream that both are on, so that no pass is multiplied half by one and
half by the other. A tap that has a `Graphed` has to be told before each pass (`tap.Tap.enter`).

Only rows that decide alone can be here: the whole dictionary, heads and a census have no place in a graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saewatch.core.errors import SelfTestFailed
from saewatch.engine.encoder import inside_of
from saewatch.engine.sink import LIBRARY, Sink
from saewatch.engine.slab import Slab
from saewatch.engine.staging import Rows, Side, Taken

if TYPE_CHECKING:
    from saewatch.engine.kernels.inside import Inside
    from saewatch.engine.watched import Watched

_BY_BUFFER: weakref.WeakValueDictionary[int, Inside] = weakref.WeakValueDictionary()
"""The kernels of each buffer that a living tap multiplies, by its address."""


def _fire(hidden: Tensor, buffer: Tensor, fired: Tensor) -> None:
    """A call with a buffer that is not known (a copy that the compiler made) is not counted, and `prove` sees that."""
    found = _BY_BUFFER.get(buffer.data_ptr())
    if found is not None and len(hidden):
        found.fire(len(hidden))
        fired.add_(1)


def _fire_meta(hidden: Tensor, buffer: Tensor, fired: Tensor) -> None:
    """Shapes only: nothing is returned."""


LIBRARY.impl("fire", _fire, "CompositeExplicitAutograd")
LIBRARY.impl("fire", _fire_meta, "Meta")


Pack = Callable[[int, Tensor, Tensor], None]
"""Enqueues the packing of a hook point's rows: how many they are, their positions and tokens."""


class Graphed:
    """All streams of a tap, by hook point, with the buffers that the model's graph reads.

    To be made before the model's first forward pass: from then on their sinks multiply.
    """

    def __init__(self, watched: Sequence[Watched]) -> None:
        self._first = tuple(one.encoder for one in watched)
        self._held = [weakref.ref(one) for one in self._first]  # so that what is replaced while no pass comes can go
        for one in watched:
            one.inside = one.encoder
        self._at: dict[Sink, list[int]] = {}
        for number, one in enumerate(watched):
            self._at.setdefault(one.sink, []).append(number)
        self._kernels: dict[Sink, Inside] = {}
        for sink, numbers in self._at.items():
            nobodys = Slab(rows_max=len(sink.buffer), firings_max=1, device=sink.buffer.device)
            groups = [self._first[number].group(sink.buffer, nobodys) for number in numbers]
            self._kernels[sink] = _BY_BUFFER[sink.buffer.data_ptr()] = kernels = inside_of(groups)
            kernels.compile()
            sink.multiply()

    def hold(self, watched: Sequence[Watched]) -> None:
        """From the next pass on this is watched; none: it does not matter. Called on the stream of the passes."""
        for number, one in enumerate(watched):
            if one.encoder is not self._held[number]():
                self._first[number].follow(one.encoder)
                self._held[number] = weakref.ref(one.encoder)

    def packs(self, slabs: Sequence[Slab]) -> list[Pack]:
        """What packs a step into ``slabs``, one for each stream."""
        found: list[Pack] = []
        for sink, numbers in self._at.items():
            kernels = self._kernels[sink]
            found.append(partial(kernels.pack, kernels.packs([slabs[number] for number in numbers])))
        return found

    @property
    def slots(self) -> list[int]:
        """That each stream's buffers have."""
        return [one.slots_max for one in self._first]

    def prove(self) -> None:
        """Raises `SelfTestFailed` unless the rows of each sink were multiplied in some pass."""
        for sink in self._at:
            if sink.fired is None or int(sink.fired) == 0:
                hint = "The graph was compiled without the operator, or it gives it a copy of the sink's buffer."
                raise SelfTestFailed("placement", found="no product in the graph", expected="one a pass", hint=hint)


class InsideSlot(Taken):
    """Buffers for one step of every stream, whose rows were multiplied when its pass was over."""

    def __init__(self, graphed: Graphed, watched: Sequence[Watched], side: Side | None = None) -> None:
        super().__init__(watched, side)
        self._packs = graphed.packs(self._slabs)
        self._slots = graphed.slots

    def take(self, rows: Rows, _watched: Sequence[Watched]) -> None:
        """Packs what the next forward pass will overwrite, on the forward's own stream."""
        self._number(rows)
        for slab in self._slabs:
            slab.start(self._count)
        for pack in self._packs:
            pack(self._count, *self._index[:, : self._count])

    def encode(self) -> None:
        """Enqueues the copies to the host, on the side stream where there is one."""
        if self._side is None:
            self._to_host()
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with self.beside():
            self._to_host()
        assert self._ready is not None
        self._ready.record(self._side)

    def _to_host(self) -> None:
        for slab, slots in zip(self._slabs, self._slots, strict=True):
            slab.to_host(slots)
        self._positions[: self._count].copy_(self._index[0, : self._count], non_blocking=True)
