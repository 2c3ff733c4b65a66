"""The whole dictionary on a GPU, from rows to lists of what fires; a ``[T, latents]`` tensor never exists.

Few rows go through a screen, which says what may fire, and `settle`, which decides it (`full`, `pack`, `settle`); many
go through windows of cuBLAS' product (`window`), or of our own (`fused`), as `table` says. Where latents compete (TopK)
all are given a floor for each row: a sample of the latents is computed first, and the k-th greatest of its groups'
peaks is a value that k latents reach. So the k greatest are among what reaches the floor, which is some hundred
entries, and `pick` takes them from those in the order of everywhere (`engine.keys.order_keys`): by value, then by lower
index. Only what fires is listed. That loses no winner, because TopK's limits are where a value passes 0: what
does not fire is below all that does.

That holds as long as the row's list has room. A row whose list overflowed is *open*: its k-th greatest entry so far is
a higher floor, which is valid as well, and it goes through the screen again. To find such rows the host would have to
wait; instead few rows, or a fixed number of places (`REDO`) of many, are always screened again, `ROUNDS` times, and
where no row is open the screen's programs end without reading ``W``. A row that is still open then is said to be so,
and its winners are not used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saewatch.core.footprint import SAMPLE, WINDOW, WINNERS
from saewatch.engine.kernels import decode, full, fused, pack, pick, screen, settle, table, window
from saewatch.engine.kernels.operands import Code, Latents, Rows
from saewatch.engine.kernels.screen import Quantised

REDO = 16
"""Rows that are screened again at most: one tile of the smallest screen."""

ROUNDS = 2
"""Times that they are."""

PEAKS_PER_WINNER = 2
"""Groups of a sample that there must be for each winner, or groups are narrower."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lists:
    """How rows become lists. It holds no buffers: whoever encodes on another stream does not disturb this one.

    A call takes its buffers from the device's allocator, at most 13 KiB a row and a mask of a bit a (row, latent) for
    `full.ROWS` rows (by `fused` up to 71 KiB a row, and 66 MiB in all while rows are fewer than 8,192): a microsecond
    each, and of fixed addresses inside a captured graph.
    """

    cap: int
    """Entries of a row's list, of `pack.CAPS`."""
    quantised: Quantised | None = None
    """The dictionary in int8, for the screen that reads half as much."""
    many: str = ""
    """How many rows go: ``window`` or ``fused``; empty: as `table.many` says."""

    @property
    def routes(self) -> tuple[int, ...]:
        """Numbers of rows by which all kernels are launched that any number of rows takes."""
        return *full.SHAPES, full.ROWS + 1, *(fewest for fewest, _ in table.FUSED)

    def fired(self, latents: Latents, rows: Rows) -> Code:
        """What fires on each row, in order."""
        out = self.empty(rows)
        if len(rows) > full.ROWS:
            self._windows(latents, rows, out, competing=False)
        elif len(rows):
            settle.compacted(*self._settled(latents, rows), out)
        return out

    def winners(self, latents: Latents, rows: Rows, k: int) -> Code:
        """Each row's ``k`` greatest of what fires. Where fewer do, the index is one past the last latent, the value 0.

        A row whose winners nobody knows is ``lost`` (1), and has a count of 0.
        """
        rows = replace(rows, is_open=rows.is_open.clone())
        index = torch.full((len(rows), k), len(latents), dtype=torch.int32, device=rows.x.device)
        value, count = rows.exact.new_zeros(len(rows), k), rows.is_open.new_zeros(len(rows))
        best = Code(index=index, value=value, count=count, lost=rows.is_open)
        if len(rows):
            rows = replace(rows, floor=self._floor(latents, rows, k))
            self._compete(latents, rows, best)
            again = self._compete if len(rows) <= full.ROWS else self._some_again
            for _ in range(ROUNDS):
                again(latents, rows, best)
        return best

    def add_decoded(self, table: Tensor, code: Code, out: Tensor) -> None:
        """Adds what ``code`` decodes to by the rows of ``table [F, n]`` to ``out [T, n]`` float32."""
        if len(out):
            decode.gathered(table, code, out)

    def empty(self, rows: Rows) -> Code:
        """Lists with room for these rows."""
        index, value, count = self._room(rows)
        return Code(index=index, value=value, count=count, lost=rows.is_open.new_zeros(len(rows)))

    def _room(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Indices, values and counts, each where a kernel expects a buffer to begin."""
        index = rows.is_open.new_empty(len(rows), self.cap)
        return index, rows.exact.new_empty(len(rows), self.cap), rows.is_open.new_zeros(len(rows))

    def _windows(self, latents: Latents, rows: Rows, out: Code, *, competing: bool) -> None:
        """Fills ``out`` for many rows."""
        if (self.many or table.many(len(rows), len(latents))) == "fused":
            fused.appended(latents, rows, out, competing=competing)
        else:
            window.appended(latents, rows, rows.exact.new_empty(len(rows), WINDOW), out)

    def _settled(self, latents: Latents, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Indices, values and counts of a screen's lists: the value is ``-inf`` where nothing fires."""
        (index, value, count), tiles = self._room(rows), -(-len(latents) // full.TILE)
        bits = rows.is_open.new_empty(len(rows), tiles * full.TILE // 32)
        if self.quantised is not None and len(rows) <= screen.ROWS:
            screen.admitted(self.quantised, latents, rows, bits)
        else:
            full.admitted(latents, rows, bits)
        pack.packed(bits, rows, index, count)
        settle.settled(latents, rows, index, count, value)
        return index, value, count

    def _floor(self, latents: Latents, rows: Rows, k: int) -> Tensor:
        """Of each row a value that k latents reach, ``[T]``; ``-inf`` where the sample is too small to say."""
        sampled = -(-len(latents) // SAMPLE)
        group = next((group for group in full.GROUPS if sampled // group >= PEAKS_PER_WINNER * k), 1)
        if sampled // group < k:
            return torch.full_like(rows.floor, -torch.inf)
        found = torch.empty(len(rows), -(-sampled // group), device=rows.x.device)
        for first in range(0, len(rows), full.ROWS):
            part = _part(rows, slice(first, first + full.ROWS))
            full.peak_values(latents, part, found[first : first + full.ROWS], step=SAMPLE, group=group)
        return torch.topk(found, k, dim=1).values[:, -1].clone()  # aligned, which a view of one row would not be

    def _compete(self, latents: Latents, rows: Rows, best: Code) -> None:
        """One round of all open rows: their winners go to ``best``, and ``rows`` says which are open still."""
        if len(rows) > full.ROWS:
            self._windows(latents, rows, code := self.empty(rows), competing=True)
            listed = code.index, code.value, code.count
        else:
            listed = self._settled(latents, rows)
        pick.picked(*listed, rows, best, none=len(latents))

    def _some_again(self, latents: Latents, rows: Rows, best: Code) -> None:
        """A round of the first `REDO` open rows of many."""
        order = rows.is_open * (2 * len(rows)) - torch.arange(len(rows), device=rows.is_open.device)
        chosen = torch.topk(order, REDO).indices
        part = _part(rows, chosen)
        some = Code(index=best.index[chosen], value=best.value[chosen], count=best.count[chosen], lost=part.is_open)
        self._compete(latents, part, some)
        for into, found in (
            (best.index, some.index),
            (best.value, some.value),
            (best.count, some.count),
            (rows.is_open, part.is_open),
            (rows.floor, part.floor),
        ):
            into.index_copy_(0, chosen, found)


def cap_for_winners(k: int) -> int | None:
    """The room of a row's list from which ``k`` are picked: twice the 8 k entries that are expected. None: too many."""
    return None if k > WINNERS else pack.cap_for(2 * SAMPLE * k)


def _part(rows: Rows, part: slice | Tensor) -> Rows:
    return Rows(
        x=rows.x[part],
        exact=rows.exact[part],
        scale=rows.scale[part],
        length=rows.length[part],
        floor=rows.floor[part],
        is_open=rows.is_open[part],
    )
