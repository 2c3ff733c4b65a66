"""One step's launches, and the buffers between the kernels; `table` says which configuration.

Groups are launched together where they multiply the same types: one launch in all for dictionaries stored in one type,
however many there are. A step goes through in parts of `footprint.ROWS` rows, so that what lies between the kernels
stays small: a bit a (row, slot), the values of what fired, four bytes a row and tile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saewatch.core.footprint import ROWS
from saewatch.engine.kernels import interpreted
from saewatch.engine.kernels.append import ROWS_AT_ONCE as APPENDED
from saewatch.engine.kernels.group import Group, Work
from saewatch.engine.kernels.table import BY_NAME, ROUTES, route
from saewatch.engine.kernels.tables import Tables, centred_width, tables
from saewatch.engine.kernels.variant import Variant
from saewatch.engine.kernels.watched import INTERPRETED, SIZES
from saewatch.engine.kernels.watched import ROWS_AT_ONCE as PREPARED

NAMES: Mapping[torch.dtype, str] = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Together:
    """Groups of the same types, their tables for each size of tile, and their buffers for ``rows_max`` rows at once."""

    groups: Sequence[Group]
    x: str
    w: str
    rows_max: int
    tables: Mapping[int, Tables]
    centred: Tensor
    r: Tensor
    base: Tensor
    bits: Tensor
    values: Tensor
    counts: Tensor
    totals: Tensor

    def prepare(self, table: Tables, first: int, rows: int, fed: tuple[Tensor, Tensor], *, warm: bool = False) -> None:
        """Enqueues what says of each row whether it counts; ``fed``: positions and tokens."""
        variant = BY_NAME[f"watched.prepare-{NAMES[self.groups[0].x.dtype]}"]
        arguments = (table.groups, *fed, self.r, self.base, first, rows, self.rows_max)
        start(variant, (-(-rows // PREPARED), len(self.groups)), arguments, warm=warm)

    def fire(self, variant: Variant, first: int, rows: int, *, warm: bool = False) -> None:
        """Enqueues the products, with what fires of them."""
        size = SIZES[variant.name.split("-")[1]]
        table, blocks = self.tables[size.slots], -(-rows // size.rows)
        if len(table.tiles):
            arguments = (table.groups, table.tiles, self.r, *self._between, *self._shape(table, first, rows, blocks))
            start(variant, (len(table.tiles), blocks), arguments, warm=warm)

    def append(self, table: Tables, first: int, rows: int, block: int, *, warm: bool = False) -> None:
        """Enqueues the packing into the slabs of ``table``; totals are of ``block`` rows each."""
        shape = self._shape(table, first, rows, -(-rows // block))
        arguments = (table.groups, self.base, *self._between, *shape, block)
        start(BY_NAME["append"], (-(-rows // APPENDED), len(self.groups)), arguments, warm=warm)

    @property
    def _between(self) -> tuple[Tensor, ...]:
        return self.bits, self.values, self.counts, self.totals

    def _shape(self, table: Tables, first: int, rows: int, blocks: int) -> tuple[int, ...]:
        return first, rows, self.rows_max, table.words, table.slots, blocks


def joined(groups: Sequence[Group], work: Callable[[], Work], rows: int) -> list[Together]:
    """Groups by the types that they multiply, each time with buffers of ``work()`` for ``rows`` rows at a time."""
    by_type: dict[tuple[torch.dtype, ...], list[Group]] = {}
    for group in groups:
        by_type.setdefault((group.x.dtype, *group.types), []).append(group)
    return [_joined(alike, work(), rows) for alike in by_type.values()]


def _joined(groups: Sequence[Group], work: Work, rows: int) -> Together:
    tile = min(size.slots for size in SIZES.values())
    centred = work.take("centred", rows * sum(map(centred_width, groups)), torch.float32)
    found = {n: tables(groups, tile=n, rows=rows, centred=centred) for n in {s.slots for s in SIZES.values()}}
    tiles, blocks = len(found[tile].tiles), -(-rows // min(size.rows for size in SIZES.values()))
    return Together(
        groups=groups,
        x=NAMES[groups[0].types[0]],
        w=NAMES[groups[0].types[1]],
        rows_max=rows,
        tables=found,
        centred=centred,
        r=work.take("r", rows * len(groups), torch.float32),
        base=work.take("base", len(groups), torch.int64),
        bits=work.take("bits", rows * found[tile].words, torch.int16),
        values=work.take("values", rows * found[tile].slots, torch.float32),
        counts=work.take("counts", rows * tiles, torch.int32),
        totals=work.take("totals", blocks * tiles, torch.int32),
    )


class Launch:
    """The kernels of all ``groups``, for steps of any size up to their rows; may be captured in a CUDA graph."""

    def __init__(self, groups: Sequence[Group], work: Work) -> None:
        self._groups = tuple(groups)  # the tables hold addresses of theirs
        self._together = joined(groups, lambda: work, min(ROWS, max(len(group.x) for group in groups)))

    def run(self, rows: int, positions: Tensor, tokens: Tensor) -> None:
        """Enqueues a step of ``rows`` rows; ``positions``, ``tokens`` ``[rows]`` int64. Nothing waits."""
        for group in self._groups:
            group.slab.start(rows)
        for first in range(0, rows, ROWS):
            for together in self._together:
                self._enqueue(together, first, min(ROWS, rows - first), (positions, tokens))

    def compile(self) -> None:
        """Compiles what any step may choose, so that none waits for it."""
        here = torch.zeros(1, dtype=torch.int64, device=self._groups[0].x.device)
        for limit in ROUTES:
            for together in self._together:
                self._enqueue(together, 0, limit, (here, here), warm=True)

    @staticmethod
    def _enqueue(one: Together, first: int, rows: int, fed: tuple[Tensor, Tensor], *, warm: bool = False) -> None:
        variant = route(rows, one.x, one.w)
        size = SIZES[variant.name.split("-")[1]]
        table = one.tables[size.slots]
        one.prepare(table, first, rows, fed, warm=warm)
        one.fire(variant, first, rows, warm=warm)
        one.append(table, first, rows, size.rows, warm=warm)


def start(variant: Variant, grid: tuple[int, int], arguments: Sequence[Any], *, warm: bool) -> None:
    """Enqueues one kernel, or only compiles it."""
    if interpreted():
        if not warm:
            own = INTERPRETED if "UPCAST" in variant.constexprs else {}
            variant.kernel[grid](*arguments, **(dict(variant.constexprs) | dict(own)), **variant.options)
        return
    if warm:
        _ = variant.kernel.warmup(*arguments, grid=grid, **variant.constexprs, **variant.options).run  # loads it, too
    else:
        variant.kernel[grid](*arguments, **variant.constexprs, **variant.options)
