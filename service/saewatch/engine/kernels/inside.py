"""The watched rows of one hook point, multiplied inside the model's graph and packed behind it.

Inside, `Inside.fire` enqueues `watched.prepare` and `watched.fire` for as many rows as the graph was captured for, and
so leaves bits, values and counts of rows that may be nobody's. Behind the pass it is known how many rows count, where
they are in their requests and what was fed: `Inside.pack` lets `watched.prepare` look at the rows once more, with that,
`drop` takes the counts of rows away that are excluded after all, and `append` packs the rest into the step's slab. The
rows themselves stay where the sink wrote them, and what lies between is overwritten by the next pass: both happen on
the model's stream, one after the other.

A graph does not tell the host for how many rows it ran. So all sizes of step have tiles of one number of slots, and
`drop` sums counts over blocks of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saewatch.core.footprint import ROWS
from saewatch.engine.kernels import drop
from saewatch.engine.kernels.group import Group, Work
from saewatch.engine.kernels.launch import Together, joined, start
from saewatch.engine.kernels.table import BY_NAME, ROUTES, route
from saewatch.engine.kernels.tables import Tables, tables
from saewatch.engine.kernels.variant import Variant
from saewatch.engine.kernels.watched import SIZES
from saewatch.engine.slab import Slab

SLOTS = min(size.slots for size in SIZES.values())
"""Of every tile, whatever the number of rows."""

LARGEST = max(limit for limit in ROUTES if limit < ROWS)
"""Rows whose tile all larger steps take: the next one has more slots."""


class Inside:
    """The kernels of all ``groups``, which read one buffer of rows and one set of watched rows as long as they live.

    Their slabs are nobody's: `packs` names those of a step.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = tuple(groups)
        self._rows_max, device = len(groups[0].x), groups[0].x.device
        # Buffers of their own for each pair of types: what lies between has to last until the pass is over.
        self._together = joined(groups, lambda: Work(device), self._rows_max)
        late = torch.full((self._rows_max,), torch.iinfo(torch.int64).max, device=device)
        self._unknown = late, torch.full_like(late, -1)  # positions and tokens that nothing excludes

    def fire(self, rows: int) -> None:
        """Enqueues the products of ``rows`` rows of the buffer. Nothing is allocated, and nothing waits."""
        for one in self._together:
            one.prepare(one.tables[SLOTS], 0, rows, self._unknown)
            one.fire(_variant(one, rows), 0, rows)

    def packs(self, slabs: Sequence[Slab]) -> list[Tables]:
        """What `pack` needs to pack into ``slabs``, one for each group."""
        found, place = [], {id(group): slab for group, slab in zip(self._groups, slabs, strict=True)}
        for one in self._together:
            into = [replace(group, slab=place[id(group)]) for group in one.groups]
            found.append(tables(into, tile=SLOTS, rows=self._rows_max, centred=one.centred))
        return found

    def pack(self, packs: Sequence[Tables], rows: int, positions: Tensor, tokens: Tensor) -> None:
        """Enqueues the packing of what the first ``rows`` rows fired; ``positions``, ``tokens`` ``[rows]`` int64."""
        for one, table in zip(self._together, packs, strict=True):
            self._pack(one, table, rows, (positions, tokens))

    def compile(self) -> None:
        """Compiles what any step may choose, so that none waits for it."""
        for one in self._together:
            for limit in ROUTES:
                one.fire(_variant(one, limit), 0, limit, warm=True)
            self._pack(one, one.tables[SLOTS], 1, self._unknown, warm=True)

    @staticmethod
    def _pack(one: Together, table: Tables, rows: int, fed: tuple[Tensor, Tensor], *, warm: bool = False) -> None:
        one.prepare(table, 0, rows, fed, warm=warm)
        if len(table.tiles):
            blocks = -(-rows // drop.BLOCK)
            arguments = (table.tiles, one.r, one.counts, one.totals, rows, one.rows_max, blocks)
            start(BY_NAME["drop"], (len(table.tiles), blocks), arguments, warm=warm)
        one.append(table, 0, rows, drop.BLOCK, warm=warm)


def _variant(one: Together, rows: int) -> Variant:
    return route(min(rows, LARGEST), one.x, one.w)
