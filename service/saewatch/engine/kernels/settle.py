"""Decides what was admitted: one float32 product for each pair, always in the same order, and then the values.

The order is a property of the pair: 256 columns at a time, a running sum for each of the 256, and their sum at the end.
So a pair's value has the same bits whatever else is in the step, whichever screen admitted it and however the tiles
fell: results are *batch-invariant*. A row of ``W`` that is read here was just read by the screen, or comes from L2.

`settle` writes a value for each entry of a row's list, ``-inf`` where nothing fires. `compact` closes the gaps, for
where latents do not compete; where they do, the greatest are picked as they stand.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from saewatch.engine.kernels import interpreted
from saewatch.engine.kernels.full import TYPES, launch, ordered
from saewatch.engine.kernels.operands import Code, Latents, Rows
from saewatch.engine.kernels.pack import CAPS
from saewatch.engine.kernels.variant import Variant, pointers

ENTRIES = 16
"""Entries that a program takes at a time."""

PROGRAMS = 2 if interpreted() else 16
"""Programs that share a row's entries: a row on which 100 latents fire keeps seven of them busy."""


@triton.jit
def settle(
    x: tl.tensor,
    W: tl.tensor,
    lim: tl.tensor,
    s: tl.tensor,
    c: tl.tensor,
    scale: tl.tensor,
    is_open: tl.tensor,
    index: tl.tensor,
    count: tl.tensor,
    value: tl.tensor,
    D: tl.tensor,
    CAP: tl.constexpr,
    ENTRIES: tl.constexpr,
    BD: tl.constexpr,
) -> None:
    """``value [T, CAP]`` of the entries of open rows: ``s u + c`` where ``u > lim``, else ``-inf``."""
    t, spread = tl.program_id(0).to(tl.int64), tl.num_programs(1) * ENTRIES
    kept = tl.where(tl.load(is_open + t) != 0, tl.minimum(tl.load(count + t), CAP), 0)
    for first in tl.range(tl.program_id(1) * ENTRIES, kept, spread):
        entry = first + tl.arange(0, ENTRIES)
        here = entry < kept
        latent = tl.load(index + t * CAP + entry, mask=here, other=0).to(tl.int64)
        acc = tl.zeros((ENTRIES, BD), tl.float32)
        for k in tl.range(0, D, BD):
            at = k + tl.arange(0, BD)
            row = tl.load(x + t * D + at, mask=at < D, other=0.0)
            w = tl.load(W + latent[:, None] * D + at[None, :], mask=here[:, None] & (at < D)[None, :], other=0.0)
            acc += w.to(tl.float32) * row[None, :]
        u = tl.sum(acc, axis=1) * tl.load(scale + t)
        limit = tl.load(lim + latent, mask=here, other=float("inf"))
        found = tl.load(s + latent, mask=here, other=0.0) * u + tl.load(c + latent, mask=here, other=0.0)
        tl.store(value + t * CAP + entry, tl.where(u > limit, found, float("-inf")), mask=here)


@triton.jit
def compact(
    index: tl.tensor,
    value: tl.tensor,
    count: tl.tensor,
    out_index: tl.tensor,
    out_value: tl.tensor,
    out_count: tl.tensor,
    lost: tl.tensor,
    CAP: tl.constexpr,
) -> None:
    """Lists without their gaps. ``out_count [T]``: what fired, and what nobody decided for want of room: ``lost``."""
    t, entry = tl.program_id(0).to(tl.int64), tl.arange(0, CAP)
    admitted = tl.load(count + t)
    here = entry < tl.minimum(admitted, CAP)
    found = tl.load(value + t * CAP + entry, mask=here, other=float("-inf"))
    fires = (found > float("-inf")).to(tl.int32)
    place = tl.cumsum(fires, axis=0) - fires
    latent = tl.load(index + t * CAP + entry, mask=here, other=0)
    tl.store(out_index + t * CAP + place, latent, mask=fires == 1)
    tl.store(out_value + t * CAP + place, found, mask=fires == 1)
    left = tl.maximum(admitted - CAP, 0)
    tl.store(out_count + t, tl.sum(fires, axis=0) + left)
    tl.store(lost + t, left)


def _settle(w: str, cap: int) -> Variant:
    constexprs = {"CAP": cap, "ENTRIES": ENTRIES, "BD": 256}
    buffers = {"W": f"*{w}"} | dict.fromkeys(("x", "lim", "s", "c", "scale", "value"), "*fp32")
    buffers |= dict.fromkeys(("is_open", "index", "count"), "*i32")
    return Variant(
        name=f"settle-{w}-{cap}",
        kernel=settle,
        signature=ordered(settle, buffers | {"D": "i32"}, constexprs),
        constexprs=constexprs,
        warps=4,
        stages=3,
        aligned=(*pointers(buffers), "D"),
    )


def _compact(cap: int) -> Variant:
    buffers = dict.fromkeys(("index", "count", "out_index", "out_count", "lost"), "*i32")
    buffers |= dict.fromkeys(("value", "out_value"), "*fp32")
    return Variant(
        name=f"settle.compact-{cap}",
        kernel=compact,
        signature=ordered(compact, buffers, {"CAP": cap}),
        constexprs={"CAP": cap},
        warps=4,
        stages=1,
        aligned=pointers(buffers),
    )


_SETTLES = {(w, cap): _settle(w, cap) for w in TYPES.values() for cap in CAPS}
_COMPACTS = {cap: _compact(cap) for cap in CAPS}

VARIANTS: tuple[Variant, ...] = (*_SETTLES.values(), *_COMPACTS.values())


def settled(latents: Latents, rows: Rows, index: Tensor, count: Tensor, value: Tensor) -> None:
    """Fills ``value [T, cap]`` for the lists of `pack.packed`."""
    cap = index.shape[1]
    launch(
        _SETTLES[TYPES[latents.W.dtype], cap],
        (len(rows), PROGRAMS),
        x=rows.exact,
        W=latents.W,
        lim=latents.lim,
        s=latents.s,
        c=latents.c,
        scale=rows.scale,
        is_open=rows.is_open,
        index=index,
        count=count,
        value=value,
        D=latents.W.shape[1],
    )


def compacted(index: Tensor, value: Tensor, count: Tensor, out: Code) -> None:
    """Closes the gaps of settled lists into ``out``."""
    launch(
        _COMPACTS[index.shape[1]],
        (len(index),),
        index=index,
        value=value,
        count=count,
        out_index=out.index,
        out_value=out.value,
        out_count=out.count,
        lost=out.lost,
    )
