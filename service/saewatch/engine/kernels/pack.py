"""From a mask to a list: each row's admitted latents in ascending order, and how many there were.

A row is packed by several programs, one for each segment of its mask. Each counts the bits before its own segment
(at most 16 KiB at 131,072 latents, from L2) and so knows its place without asking the others: no atomics, no second
launch, and the same bytes on every run. The count is true even where the list is full; what does not fit is left out
at the end, and `settle.py` says so for the row.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from saewatch.engine.kernels.full import launch, ordered
from saewatch.engine.kernels.operands import Rows
from saewatch.engine.kernels.variant import Variant, pointers

SEGMENT = 512
"""Words of one program: 16,384 latents."""


@triton.jit
def _ones(word: tl.tensor) -> tl.tensor:
    """Bits set in each word, by sums of neighbours: 2, 4, 8, 16, then 32 bits wide."""
    v = word.to(tl.uint32, bitcast=True)
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    v = (v + (v >> 4)) & 0x0F0F0F0F
    v = v + (v >> 8)
    return ((v + (v >> 16)) & 0x3F).to(tl.int32)


@triton.jit
def placed(word: tl.tensor, before: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Bits ``[n, 32]`` of words ``[n]``, each bit's place in a list of ``before`` entries, and how many are set."""
    on = (word[:, None] >> tl.arange(0, 32)[None, :]) & 1
    each = tl.sum(on, axis=1)
    place = (tl.cumsum(each, axis=0) - each + before)[:, None] + tl.cumsum(on, axis=1) - on
    return on == 1, place, tl.sum(each, axis=0)


@triton.jit(do_not_specialize=["words"])
def pack(
    bits: tl.tensor,
    is_open: tl.tensor,
    index: tl.tensor,
    count: tl.tensor,
    words: tl.tensor,
    CAP: tl.constexpr,
    SEGMENT: tl.constexpr,
    HEAD: tl.constexpr,
    BW: tl.constexpr,
) -> None:
    """``bits [T, words]`` to ``index [T, CAP]`` and ``count [T]``. Rows that are not open keep what they had."""
    t, segment = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wanted = tl.load(is_open + t) != 0
    row, start = bits + t * words, segment * SEGMENT
    stop = tl.minimum(start + SEGMENT, words)
    before = tl.zeros((), tl.int32)
    for first in tl.range(0, tl.where(wanted, start, 0), HEAD):
        at = first + tl.arange(0, HEAD)
        before += tl.sum(_ones(tl.load(row + at, mask=at < start, other=0)), axis=0)
    for first in tl.range(start, tl.where(wanted, stop, start), BW):
        at = first + tl.arange(0, BW)
        on, place, found = placed(tl.load(row + at, mask=at < stop, other=0), before)
        latent = at[:, None] * 32 + tl.arange(0, 32)[None, :]
        tl.store(index + t * CAP + place, latent, mask=on & (place < CAP))
        before += found
    if stop == words:
        tl.store(count + t, before, mask=wanted)


CAPS = (256, 1024, 4096)


def _variant(cap: int) -> Variant:
    constexprs = {"CAP": cap, "SEGMENT": SEGMENT, "HEAD": 1024, "BW": 64}
    buffers = dict.fromkeys(("bits", "is_open", "index", "count"), "*i32")
    return Variant(
        name=f"pack-{cap}",
        kernel=pack,
        signature=ordered(pack, buffers | {"words": "i32"}, constexprs),
        constexprs=constexprs,
        warps=4,
        stages=2,
        aligned=pointers(buffers),
    )


_BY_CAP = {cap: _variant(cap) for cap in CAPS}

VARIANTS: tuple[Variant, ...] = tuple(_BY_CAP.values())


def cap_for(wanted: int) -> int:
    """The least room for a row that holds ``wanted`` entries, or the largest that there is."""
    return next((cap for cap in CAPS if cap >= wanted), CAPS[-1])


def packed(bits: Tensor, rows: Rows, index: Tensor, count: Tensor) -> None:
    """Lists the set bits of open rows: ``bits [T, words]`` to ``index [T, cap]`` int32 and ``count [T]`` int32."""
    words = bits.shape[1]
    grid = (len(rows), triton.cdiv(words, SEGMENT))
    launch(_BY_CAP[index.shape[1]], grid, bits=bits, is_open=rows.is_open, index=index, count=count, words=words)
