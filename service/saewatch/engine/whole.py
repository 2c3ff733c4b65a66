"""The whole dictionary on the device, for what the watched rows cannot answer: TopK's competition, and the census.

``W`` stays in its stored type and is upcast a block of columns at a time, so that no ``[T, latents]`` tensor is ever
made: TopK keeps the k best keys of a row while it walks through the blocks, and the census takes one block after the
other.

On a GPU the kernels of `engine/kernels` do both (`code`, `top`): rows become lists of what fires, and no block is
written at all. Then a decoder that is wide is kept as its sketch (`sketch`), since what the census wants of it is a
length.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saewatch.core.errors import MisfitError
from saewatch.core.footprint import BLOCK, KEPT, WIDTH, sketches
from saewatch.core.manifest import EncoderSheet, InputNorm
from saewatch.engine import kernels
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import products, unnormalise
from saewatch.engine.heads import Head, Heads
from saewatch.engine.kernels.operands import Code, Latents, Rows, norms, rows_of
from saewatch.engine.keys import index_of, top_keys, value_of
from saewatch.engine.sketch import Sketch

if TYPE_CHECKING:
    from saewatch.engine.kernels.dictionary import Lists
    from saewatch.engine.kernels.screen import Quantised


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Given:
    """A step's rows beside the numbers themselves."""

    kept: Tensor  # [T] bool: the others are not looked at
    dtype: torch.dtype = torch.float32
    """A type that holds the rows exactly: that of the hook point, unless they were centred."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Top:
    """Each row's k largest latents. Where fewer fire, the kernels give the index one past the last, and value 0."""

    index: Tensor  # [T, k] int64
    value: Tensor  # [T, k] float32
    lost: Tensor | None = None
    """``[T]`` bool: rows whose winners nobody knows (`kernels.dictionary`); None where that cannot be."""


class Whole:
    """All rows of a dictionary, in buffers of fixed address for at most ``rows`` rows of ``d_in``.

    ``decodes``: the decoder is there too, and reconstructs what was read (a transcoder's does not).
    """

    def __init__(
        self,
        *,
        rows: int,
        d_in: int,
        dtype: torch.dtype = torch.float32,
        d_out: int = 0,
        sketched: bool = False,
        int8: bool = False,
        device: torch.device | str = "cpu",
        fused: bool | None = None,
    ) -> None:
        """Sized by what is given; ``sketched``: the decoder is kept as its sketch.

        ``fused``: the kernels are used; None: where they can be and there is a GPU. ``int8``: they screen in it.
        """
        self.sheet: EncoderSheet | None = None
        self.decodes = False
        self._mode = "exact"
        self.W = _zeros(rows, d_in, dtype, torch.device(device))
        self.lim = torch.full((rows,), torch.inf, device=device)
        self.s = torch.ones(rows, device=device)
        self.c = torch.zeros(rows, device=device)
        self.W_dec = torch.zeros(rows if d_out and not sketched else 0, d_out, dtype=dtype, device=device)
        self.b_dec = torch.zeros(d_out, device=device)
        self.sketch = Sketch(latents=rows, d_out=d_out, device=device) if d_out and sketched else None
        self.fused = _fused(self.W) if fused is None else fused
        self._norm = torch.zeros(rows, device=device)
        self._quantised = self._made_quantised(rows, d_in) if int8 and self.fused else None
        self._lists: Lists | None = None
        self._heads: Sequence[Head] = ()
        self._stacked: dict[range, Heads] = {}  # by the rows of a block

    @classmethod
    def sized(
        cls, dictionary: Dictionary, *, decoder: bool, int8: bool = False, device: torch.device | str = "cpu"
    ) -> Whole:
        """Buffers for a dictionary and for those of its shape that replace it; ``decoder``: for a census."""
        sheet, dtype = dictionary.manifest.encoder, dictionary.W.dtype
        if decoder and dictionary.W_dec is not None:
            dtype = torch.promote_types(dtype, dictionary.W_dec.dtype)
        d_out = sheet.d_out if decoder and dictionary.manifest.kind == "sae" else 0
        sketched = sketches(d_out, staged=torch.device(device).type != "cpu")
        if sketched:
            dtype = dictionary.W.dtype
        return cls(
            rows=sheet.rows, d_in=sheet.d_in, dtype=dtype, d_out=d_out, sketched=sketched, int8=int8, device=device
        )

    def check(self, dictionary: Dictionary) -> None:
        """MisfitError when a dictionary does not fit the buffers."""
        check_room("W", dictionary.W, self.W)
        if dictionary.W_dec is not None and len(self.b_dec):
            check_room("W_dec", dictionary.W_dec, self._room_of_decoder())

    def load(self, dictionary: Dictionary, mode: str) -> None:
        """Copies a dictionary into the buffers; MisfitError when it does not fit them."""
        self.check(dictionary)
        sheet, folded = dictionary.manifest.encoder, dictionary.folded(mode)
        self._mode = mode
        self.W[: sheet.rows].copy_(dictionary.W)
        for buffer, column in ((self.lim, folded.lim), (self.s, folded.s), (self.c, folded.c)):
            buffer[: sheet.rows].copy_(torch.from_numpy(column))
        self._norm[: sheet.rows].copy_(norms(self.W[: sheet.rows]))
        self.decodes = dictionary.manifest.kind == "sae" and dictionary.W_dec is not None and len(self.b_dec) > 0
        if self.decodes and dictionary.W_dec is not None and dictionary.b_dec is not None:
            if self.sketch is not None:
                self.sketch.load(dictionary.W_dec, dictionary.b_dec)
            else:
                self.W_dec[: sheet.latents].copy_(dictionary.W_dec)
            self.b_dec.copy_(dictionary.b_dec)
        self._heads, self._stacked = dictionary.heads, {}
        for first, stop in _blocks(sheet.latents, sheet.rows) if self._heads else ():
            self._heads_of(range(first, stop))  # which no step is to wait for
        self.sheet = sheet
        self._lists = self._made_lists() if self.fused else None
        if self._quantised is not None:
            self._quantised.load(self._latents.W, _typical(dictionary))

    @property
    def k(self) -> int | None:
        """How many latents of a row fire at most, where they compete."""
        return self._sheet.k if self._mode == "exact" else None

    def top(self, x: Tensor, r: Tensor | None, given: Given | None = None) -> Top:
        """Each row's k largest latents; ``x``, ``r`` from `normalise`."""
        if self._lists is not None and given is not None:
            found = self._winners(x, r, given)
            return Top(index=found.index.to(torch.int64), value=found.value, lost=found.lost > 0)
        best: Tensor | None = None
        for first, stop in _blocks(0, self._sheet.latents):
            best = top_keys(self._values(x, r, first, stop), first, self.k or 0, best)
        assert best is not None
        return Top(index=index_of(best), value=value_of(best))

    def code(self, x: Tensor, r: Tensor | None, given: Given) -> Code | None:
        """What fires of the latents on each row; None where there are no kernels, and `blocks` has to be asked.

        A row that is not kept, or that is not wholly known, has no entry.
        """
        if self._lists is None:
            return None
        return self._lists.fired(self._latents, _rows(x, r, given)) if self.k is None else self._winners(x, r, given)

    def _winners(self, x: Tensor, r: Tensor | None, given: Given) -> Code:
        assert self._lists is not None, "there are kernels"
        return self._lists.winners(self._latents, _rows(x, r, given), self.k or 0)

    def compile(self, dtype: torch.dtype) -> None:
        """Runs the kernels once for each number of rows that takes others, so that no step waits for a compiler.

        ``dtype``: of the hook point's rows.
        """
        if self._lists is None:
            return
        exact = torch.float32 if self._sheet.input_norm.kind == "layer_norm" else dtype
        for rows in self._lists.routes:
            kept = torch.ones(rows, dtype=torch.bool, device=self.W.device)
            code = self.code(
                torch.zeros(rows, self.W.shape[1], device=self.W.device), None, Given(kept=kept, dtype=exact)
            )
            if code is not None and self.decodes:
                self.decoded(code)

    @property
    def decoder(self) -> Tensor:
        """What each latent adds to the reconstruction, ``[rows, n]``: its row of the decoder, or that row's sketch."""
        return self.W_dec if self.sketch is None else self.sketch.table

    def bias(self, rows: int) -> Tensor:
        """What `decoder`'s rows are added to, ``[rows, n]`` float32."""
        return self.b_dec.expand(rows, -1).clone() if self.sketch is None else self.sketch.start(rows)

    def decoded(self, code: Code) -> Tensor:
        """What ``code`` decodes to, ``[T, d_out]`` float32; sketched where there is a sketch."""
        assert self._lists is not None, "only `code` gives lists"
        out = self.bias(len(code.count))
        self._lists.add_decoded(self.decoder, code, out)
        return out

    def squared_error(self, x: Tensor, decoded: Tensor, norm: InputNorm) -> Tensor:
        """``|x - x_hat|^2`` of each row, ``[T]`` float64, where latents ``decoded`` to this; estimated by a sketch."""
        if self.sketch is not None:
            return self.sketch.squared_error(x, decoded, norm)
        return (x - unnormalise(decoded, x, norm)).double().square().sum(dim=1)

    def directions(self, x: Tensor, r: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """The part of `blocks` that is not latents."""
        for first, stop in _blocks(self._sheet.latents, self._sheet.rows):
            yield first, self._fired(x, r, first, stop)

    def blocks(self, x: Tensor, r: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """First row of ``W`` and values ``[T, n]`` (zero: does not fire) of one block after the other."""
        latents = self._sheet.latents
        chosen = self.top(x, r) if self.k is not None else None
        for first, stop in _blocks(0, latents):
            if chosen is None:
                yield first, self._fired(x, r, first, stop)
            else:
                yield first, _within(chosen.index, chosen.value, first, stop)
        yield from self.directions(x, r)

    @property
    def _sheet(self) -> EncoderSheet:
        assert self.sheet is not None, "load a dictionary first"
        return self.sheet

    def headed(self, u: Tensor, x: Tensor, first: int) -> Tensor:
        """Products ``u [T, n]`` of the rows from ``first`` on, with what the heads among them give instead.

        A dictionary with directions normalises nothing: ``x [T, d_in]`` is the raw row.
        """
        rows = range(first, first + u.shape[1])
        if self._heads and rows.stop > self._sheet.latents:
            self._heads_of(rows).into(u, x)
        return u

    def _heads_of(self, rows: range) -> Heads:
        """The heads among ``rows``, on the device."""
        if rows not in self._stacked:
            columns = {row: row - rows.start for row in rows}
            self._stacked[rows] = Heads(self._heads, columns, self.W.device)
        return self._stacked[rows]

    @property
    def _latents(self) -> Latents:
        count = self._sheet.latents
        columns = (column[:count] for column in (self.lim, self.s, self.c, self._norm))
        lim, s, c, norm = columns
        return Latents(W=self.W[:count], lim=lim, s=s, c=c, norm=norm)

    def _made_lists(self) -> Lists | None:
        """None where a row's k winners would leave its list no room."""
        from saewatch.engine.kernels.dictionary import Lists, cap_for_winners

        cap = KEPT if self.k is None else cap_for_winners(self.k)
        return None if cap is None else Lists(cap=cap, quantised=self._quantised)

    def _made_quantised(self, rows: int, d_in: int) -> Quantised:
        from saewatch.engine.kernels.screen import Quantised

        return Quantised.sized(rows, d_in, self.W.device)

    def _room_of_decoder(self) -> Tensor:
        """A tensor of the rows, width and type that a decoder may have."""
        if self.sketch is None:
            return self.W_dec
        return torch.empty(len(self.W), len(self.b_dec), device="meta")

    def _values(self, x: Tensor, r: Tensor | None, first: int, stop: int) -> Tensor:
        return self.s[first:stop] * products(x, r, self.W[first:stop]) + self.c[first:stop]

    def _fired(self, x: Tensor, r: Tensor | None, first: int, stop: int) -> Tensor:
        u = self.headed(products(x, r, self.W[first:stop]), x, first)
        return torch.where(u > self.lim[first:stop], self.s[first:stop] * u + self.c[first:stop], 0.0)


def _typical(dictionary: Dictionary) -> Tensor | None:
    """A row like most that the dictionary reads, where it says one: an SAE adds its bias to what it explains."""
    return dictionary.b_dec if dictionary.manifest.kind == "sae" else None


def _zeros(rows: int, d_in: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[rows, d_in]``, on a CPU in huge pages, where the system gives them.

    The product with one row reads all of it once, and spends a tenth of its time on the addresses of small pages.
    """
    size = rows * d_in * dtype.itemsize
    if device.type != "cpu" or not size or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(rows, d_in, dtype=dtype, device=device)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # it comes as zeros
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(rows, d_in)  # which keeps the memory


def _fused(W: Tensor) -> bool:
    return W.is_cuda and kernels.available() and W.shape[1] % WIDTH == 0


def _rows(x: Tensor, r: Tensor | None, given: Given) -> Rows:
    return rows_of(x.to(given.dtype), r, is_open=given.kept)


def check_room(name: str, tensor: Tensor, buffer: Tensor) -> None:
    """MisfitError when ``tensor`` has more rows, another width or a type that ``buffer`` cannot hold exactly."""
    hint = "The buffers are sized at start; restart the engine with this dictionary."
    if tensor.shape[1] != buffer.shape[1] or tensor.shape[0] > buffer.shape[0]:
        room = f"at most {buffer.shape[0]} rows of width {buffer.shape[1]}"
        raise MisfitError(f"dictionary.{name}", found=list(tensor.shape), expected=room, hint=hint)
    if torch.promote_types(tensor.dtype, buffer.dtype) != buffer.dtype:
        raise MisfitError(f"dictionary.{name}", found=tensor.dtype, expected=f"a type within {buffer.dtype}", hint=hint)


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, BLOCK):
        yield first, min(first + BLOCK, stop)


def _within(indices: Tensor, values: Tensor, first: int, stop: int) -> Tensor:
    """The chosen values of one block: those outside it go to a spare column."""
    width = stop - first
    column = torch.where((indices >= first) & (indices < stop), indices - first, width)
    dense = torch.zeros(values.shape[0], width + 1, device=values.device)
    return dense.scatter_(1, column, torch.relu(values))[:, :width]
