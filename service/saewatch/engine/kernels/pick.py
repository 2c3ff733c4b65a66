"""The k greatest entries of each row's list, where latents compete: by value, then by lower index.

One program does what follows a round of screening for its row. The k-th greatest value is found by bisection: float32
values, read as integers, have the order of `engine.keys.order_keys`. Of entries that tie with it the first are taken,
for lists are ascending. A row whose list overflowed stays open, and that value becomes its floor: `dictionary` says
why, and screens it again. All others are closed, so that a further round leaves them as they are.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from saewatch.engine.kernels.full import launch, ordered
from saewatch.engine.kernels.operands import Code, Rows
from saewatch.engine.kernels.pack import CAPS
from saewatch.engine.kernels.variant import Variant, pointers


@triton.jit
def _turned(bits: tl.tensor) -> tl.tensor:
    """Bits of float32 numbers as int32 in the same order, and back."""
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _reached(number: tl.tensor, here: tl.tensor, wanted: tl.tensor) -> tl.tensor:
    """The greatest integer that ``wanted`` of the numbers ``here`` reach, int64."""
    low = tl.min(tl.where(here, number, 0x7FFFFFFF), axis=0).to(tl.int64)
    high = tl.max(tl.where(here, number, -0x7FFFFFFF), axis=0).to(tl.int64)
    while low < high:
        middle = low + ((high - low + 1) >> 1)
        enough = tl.sum((here & (number >= middle)).to(tl.int32), axis=0) >= wanted
        low, high = tl.where(enough, middle, low), tl.where(enough, high, middle - 1)
    return low


@triton.jit(do_not_specialize=["k", "none"])
def pick(
    index: tl.tensor,
    value: tl.tensor,
    count: tl.tensor,
    is_open: tl.tensor,
    floor: tl.tensor,
    best_index: tl.tensor,
    best_value: tl.tensor,
    best_count: tl.tensor,
    k: tl.tensor,
    none: tl.tensor,
    CAP: tl.constexpr,
) -> None:
    """From lists ``[T, CAP]``, ``-inf`` where nothing fires, to ``best [T, k]``. Rows that are not open keep theirs."""
    t, entry = tl.program_id(0).to(tl.int64), tl.arange(0, CAP)
    wanted, admitted = tl.load(is_open + t) != 0, tl.load(count + t)
    listed = wanted & (entry < admitted)
    found = tl.load(value + t * CAP + entry, mask=listed, other=float("-inf"))
    fires, number = found > float("-inf"), _turned(found.to(tl.int32, bitcast=True))
    total = tl.sum(fires.to(tl.int32), axis=0)
    won = tl.minimum(total, k)
    least = _reached(number, fires, won)
    above, ties = fires & (number > least), fires & (number == least)
    among = tl.cumsum(ties.to(tl.int32), axis=0)  # this one included
    chosen = above | (ties & (among <= won - tl.sum(above.to(tl.int32), axis=0)))
    place = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    latent = tl.load(index + t * CAP + entry, mask=chosen, other=0)
    tl.store(best_index + t * k + place, latent, mask=chosen)
    tl.store(best_value + t * k + place, found, mask=chosen)
    rest = wanted & (entry >= won) & (entry < k)
    tl.store(best_index + t * k + entry, none, mask=rest)
    tl.store(best_value + t * k + entry, 0.0, mask=rest)
    left = admitted > CAP
    tl.store(best_count + t, tl.where(left, 0, won), mask=wanted)
    tl.store(is_open + t, left.to(tl.int32), mask=wanted)
    reached = _turned(least.to(tl.int32)).to(tl.float32, bitcast=True)
    before = tl.load(floor + t)
    tl.store(floor + t, tl.maximum(before, reached), mask=wanted & (total >= k))


def _variant(cap: int) -> Variant:
    buffers = dict.fromkeys(("index", "count", "is_open", "best_index", "best_count"), "*i32")
    buffers |= dict.fromkeys(("value", "floor", "best_value"), "*fp32")
    return Variant(
        name=f"pick-{cap}",
        kernel=pick,
        signature=ordered(pick, buffers | dict.fromkeys(("k", "none"), "i32"), {"CAP": cap}),
        constexprs={"CAP": cap},
        warps=4 if cap <= 1024 else 8,  # of 4,096 entries each thread of four would hold 32
        stages=1,
        aligned=pointers(buffers),
    )


_BY_CAP = {cap: _variant(cap) for cap in CAPS}

VARIANTS: tuple[Variant, ...] = tuple(_BY_CAP.values())


def picked(index: Tensor, value: Tensor, count: Tensor, rows: Rows, best: Code, none: int) -> None:
    """Fills ``best [T, k]`` for open rows from lists ``[T, cap]``, and says in ``rows`` which are open still.

    Where fewer than k fire, the index is ``none`` and the value 0. A row that is open has a count of 0.
    """
    launch(
        _BY_CAP[index.shape[1]],
        (len(index),),
        index=index,
        value=value,
        count=count,
        is_open=rows.is_open,
        floor=rows.floor,
        best_index=best.index,
        best_value=best.value,
        best_count=best.count,
        k=best.index.shape[1],
        none=none,
    )
