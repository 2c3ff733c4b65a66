"""The whole dictionary for many rows in one pass: the product, the limits and the mask before a sum leaves its tile.

What `window` does with cuBLAS and a kernel behind it, one kernel does here: it multiplies a tile of rows and latents,
compares the sums with the limits while they are in registers, and writes a bit for each (row, latent) beside the sums
themselves. `listed` then reads the bits, a thirty-second of the window, and fetches the sums of what fires alone.

A program keeps its block of rows and walks through tiles of latents, so that all programs of one moment read the same
rows of ``W`` from L2. There are as many programs as multiprocessors, whatever the number of rows: few blocks of rows
share the latents among more programs. The window is as wide as its memory allows (`SUMS`), so that few rows make enough
tiles, and it is written by the tensor memory accelerator, for which the sums need no registers more.

A pair's sum is made in one order, whatever the number of rows and wherever its tile lies. So unlike cuBLAS' its last
bits do not depend on the step; they may differ from those of few rows (`settle`) within the grey band. Operands that
are not of one 16-bit type are summed by planes (`full`); what those leave out, 2^-25 of ``|x| |w|``, is inside that
band.

Whether this is faster than cuBLAS was not measured: `table.FUSED` says which way is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from saewatch.engine.kernels.full import (
    PAIRS,
    _sums,
    descriptors,
    launch,
    ordered,
    paired,
    planes_of,
    slack_of,
    vectors,
)
from saewatch.engine.kernels.operands import Code, Latents, Rows
from saewatch.engine.kernels.pack import CAPS, placed
from saewatch.engine.kernels.variant import Variant, pointers

SUMS = 2**24
"""Sums of a window: 64 MiB in float32, what an H200's second-level cache holds."""

WIDTHS = (16_384, 8192, 4096, 2048)
"""Latents of a window: the widest whose sums fit, or the narrowest."""

PROGRAMS = 132
"""At a time: multiprocessors of an H100 or H200. At 1,024 rows 8 blocks by 64 tiles are 3.9 tiles each."""


@triton.jit
def _halves(u: tl.tensor, BT: tl.constexpr, BF: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Left and right columns of a tile: each thread's own registers."""
    left, right = tl.split(tl.permute(tl.reshape(u, (BT, 2, BF // 2)), (0, 2, 1)))
    return left, right


@triton.jit
def _leave(
    u: tl.tensor,
    t: tl.tensor,
    wanted: tl.tensor,
    least: tl.tensor,
    column: tl.tensor,
    window_desc: tl.tensor,
    lim: tl.tensor,
    s: tl.tensor,
    c: tl.tensor,
    bits: tl.tensor,
    T: tl.tensor,
    F: tl.tensor,
    first: tl.tensor,
    words: tl.tensor,
    COMPETING: tl.constexpr,
) -> None:
    """Some columns of the window leave their tile: what fires, and all sums ``u``."""
    BT: tl.constexpr = u.shape[0]
    BF: tl.constexpr = u.shape[1]
    f = first + column + tl.arange(0, BF)
    known = f < F
    on = (u > tl.load(lim + f, mask=known, other=float("inf"))[None, :]) & wanted[:, None]
    if COMPETING:
        factor, offset = tl.load(s + f, mask=known, other=0.0), tl.load(c + f, mask=known, other=0.0)
        on &= factor[None, :] * u + offset[None, :] >= least[:, None]
    bit = tl.reshape(on.to(tl.int32), (BT, BF // 32, 32)) << tl.arange(0, 32)[None, None, :]
    place = t.to(tl.int64)[:, None] * words + (column // 32 + tl.arange(0, BF // 32))[None, :]
    tl.store(bits + place, tl.sum(bit, axis=2), mask=(t < T)[:, None])
    window_desc.store([tl.program_id(0) * BT, column], u)


@triton.jit(do_not_specialize=["T", "F", "first", "tiles", "words"])
def fire(
    x_desc: tl.tensor,
    w_desc: tl.tensor,
    window_desc: tl.tensor,
    lim: tl.tensor,
    s: tl.tensor,
    c: tl.tensor,
    scale: tl.tensor,
    least: tl.tensor,
    is_open: tl.tensor,
    bits: tl.tensor,
    T: tl.tensor,
    F: tl.tensor,
    D: tl.tensor,
    first: tl.tensor,
    tiles: tl.tensor,
    words: tl.tensor,
    BT: tl.constexpr,
    BF: tl.constexpr,
    BD: tl.constexpr,
    PW: tl.constexpr,
    PX: tl.constexpr,
    COMPETING: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:
    """Latents ``first …`` in so many ``tiles``: ``bits [T, words]`` of what fires and is no less than ``least``.

    The window ``[T, tiles BF]`` holds ``u``. A block without an open row is left as it was; `listed` does not read it.
    """
    t0 = tl.program_id(0) * BT
    t = t0 + tl.arange(0, BT)
    wanted = tl.load(is_open + t, mask=t < T, other=0) != 0
    r = tl.load(scale + t, mask=t < T, other=0.0)
    lowest = tl.load(least + t, mask=t < T, other=0.0)
    last = tl.where(tl.max(wanted.to(tl.int32), axis=0) != 0, tiles, 0)
    for tile in tl.range(tl.program_id(1), last, tl.num_programs(1)):
        f0 = tile * BF
        # as `full` has it, but for whose rows are the product's first: those of ``x`` here
        u = _sums(w_desc, x_desc, t0, first + f0, D, BF, BT, BD, PX, PW, UPCAST) * r[:, None]
        left, right = _halves(u, BT, BF)
        for half in tl.static_range(2):
            part = left if half == 0 else right
            at = f0 + half * (BF // 2)
            if COMPETING:  # three vectors of limits: half as many columns at a time, or registers spill
                one, other = _halves(part, BT, BF // 2)
                _leave(one, t, wanted, lowest, at, window_desc, lim, s, c, bits, T, F, first, words, COMPETING)
                at += BF // 4
                _leave(other, t, wanted, lowest, at, window_desc, lim, s, c, bits, T, F, first, words, COMPETING)
            else:
                _leave(part, t, wanted, lowest, at, window_desc, lim, s, c, bits, T, F, first, words, COMPETING)


@triton.jit(do_not_specialize=["first", "used", "words"])
def listed(
    bits: tl.tensor,
    window: tl.tensor,
    stride: tl.tensor,
    s: tl.tensor,
    c: tl.tensor,
    is_open: tl.tensor,
    index: tl.tensor,
    value: tl.tensor,
    count: tl.tensor,
    first: tl.tensor,
    used: tl.tensor,
    words: tl.tensor,
    CAP: tl.constexpr,
    BW: tl.constexpr,
) -> None:
    """Adds what fires among the latents ``first …`` to an open row's list: ``used`` of its ``words`` have bits."""
    t = tl.program_id(0).to(tl.int64)
    wanted = tl.load(is_open + t) != 0
    before = tl.load(count + t)
    for start in tl.range(0, tl.where(wanted, used, 0), BW):
        at = start + tl.arange(0, BW)
        on, place, found = placed(tl.load(bits + t * words + at, mask=at < used, other=0), before)
        kept, column = on & (place < CAP), at[:, None] * 32 + tl.arange(0, 32)[None, :]
        u = tl.load(window + t * stride + column, mask=kept, other=0.0)
        factor = tl.load(s + first + column, mask=kept, other=0.0)
        offset = tl.load(c + first + column, mask=kept, other=0.0)
        tl.store(index + t * CAP + place, first + column, mask=kept)
        tl.store(value + t * CAP + place, factor * u + offset, mask=kept)
        before += found
    tl.store(count + t, before, mask=wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Rows, latents and columns of one tile, and how it is run."""

    rows: int
    latents: int
    columns: int
    warps: int
    stages: int


NATIVE = Tile(rows=128, latents=256, columns=64, warps=8, stages=3)
"""Of one 16-bit type: each warp group multiplies 64 rows by 256 latents at a time, the most that it can."""
PLANES = Tile(rows=128, latents=128, columns=32, warps=8, stages=3)
"""Of others: half the sums, since their planes are in registers beside them."""


PARTS = {False: 2, True: 4}
"""In how many parts a tile leaves, by whether latents compete: each has its limits in registers beside its sums."""


def tile_of(w: str, x: str) -> Tile:
    """The tile for such types."""
    return NATIVE if w == x != "fp32" else PLANES


def _fire(w: str, x: str, *, competing: bool) -> Variant:
    tile = tile_of(w, x)
    sizes = {"BT": tile.rows, "BF": tile.latents, "BD": tile.columns, "PW": planes_of(w, x), "PX": planes_of(x, w)}
    constexprs = sizes | {"COMPETING": competing, "UPCAST": False}
    floats = ("lim", "s", "c", "scale", "least")
    signature = {
        "x_desc": f"tensordesc<{x}[{tile.rows}, {tile.columns}]>",
        "w_desc": f"tensordesc<{w}[{tile.latents}, {tile.columns}]>",
        "window_desc": f"tensordesc<fp32[{tile.rows}, {tile.latents // PARTS[competing]}]>",
        **dict.fromkeys(floats, "*fp32"),
        **dict.fromkeys(("is_open", "bits"), "*i32"),
        **dict.fromkeys(("T", "F", "D", "first", "tiles", "words"), "i32"),
    }
    return Variant(
        name=f"fused.fire-{x}-{w}" + ("-topk" if competing else ""),
        kernel=fire,
        signature=ordered(fire, signature, constexprs),
        constexprs=constexprs,
        warps=tile.warps,
        stages=tile.stages,
        aligned=(*pointers(signature), "D"),
        mma="HGMMA",
    )


def _listed(cap: int) -> Variant:
    constexprs = {"CAP": cap, "BW": 64}
    signature = dict.fromkeys(("window", "s", "c", "value"), "*fp32")
    signature |= dict.fromkeys(("bits", "is_open", "index", "count"), "*i32")
    signature |= dict.fromkeys(("stride", "first", "used", "words"), "i32")
    return Variant(
        name=f"fused.listed-{cap}",
        kernel=listed,
        signature=ordered(listed, signature, constexprs),
        constexprs=constexprs,
        warps=4,
        stages=1,
        aligned=(*pointers(signature), "stride"),
    )


_FIRES = {(w, x, k): _fire(w, x, competing=k) for w, x in PAIRS for k in (False, True)}
_LISTS = {cap: _listed(cap) for cap in CAPS}

VARIANTS: tuple[Variant, ...] = (*_FIRES.values(), *_LISTS.values())


def width_for(rows: int) -> int:
    """Latents of a window of so many rows."""
    return next((width for width in WIDTHS if rows * width <= SUMS), WIDTHS[-1])


def appended(latents: Latents, rows: Rows, out: Code, *, competing: bool) -> None:
    """Fills ``out`` with what fires on open rows; where latents compete, with what may reach the rows' floors."""
    out.count.zero_()
    x, *types = paired(latents, rows)
    variant, width = _FIRES[types[0], types[1], competing], width_for(len(rows))
    window = rows.exact.new_empty(len(rows), width)
    bits = rows.is_open.new_empty(len(rows), width // 32)
    least = _least(latents, rows, slack_of(variant, latents)) if competing else rows.floor
    for first in range(0, len(latents), width):
        tiles = triton.cdiv(min(width, len(latents) - first), variant.constexprs["BF"])
        _fired(variant, latents, replace(rows, x=x, floor=least), window, bits, first=first, tiles=tiles)
        _listed_into(out, latents, rows, window, bits, first=first, words=tiles * variant.constexprs["BF"] // 32)
    torch.sub(out.count, out.index.shape[1], out=out.lost).clamp_(min=0)


def _least(latents: Latents, rows: Rows, slack: float) -> Tensor:
    """Floors less the greatest error that any value of the row can have, ``[T]``: what reaches a floor is no less."""
    size = rows.length * rows.scale * (latents.norm * latents.s.abs()).max()
    return rows.floor - size * (slack + _ROUNDINGS) - latents.c.abs().max() * _ROUNDINGS


_ROUNDINGS = 2.0**-21  # of a value, over the sizes of its two terms: the double of `full.ROUNDING`


def _fired(
    variant: Variant, latents: Latents, rows: Rows, window: Tensor, bits: Tensor, *, first: int, tiles: int
) -> None:
    sizes = variant.constexprs
    blocks = triton.cdiv(len(rows), sizes["BT"])
    launch(
        variant,
        (blocks, min(tiles, max(1, PROGRAMS // blocks))),
        **descriptors(variant, latents.W, rows.x),
        window_desc=TensorDescriptor.from_tensor(window, [sizes["BT"], sizes["BF"] // PARTS[sizes["COMPETING"]]]),
        **vectors(latents, "lim", "s", "c"),
        **vectors(rows, "scale", "is_open"),
        least=rows.floor,
        bits=bits,
        T=len(rows),
        F=len(latents),
        D=latents.W.shape[1],
        first=first,
        tiles=tiles,
        words=bits.shape[1],
    )


def _listed_into(
    out: Code, latents: Latents, rows: Rows, window: Tensor, bits: Tensor, *, first: int, words: int
) -> None:
    launch(
        _LISTS[out.index.shape[1]],
        (len(rows),),
        bits=bits,
        window=window,
        stride=window.stride(0),
        **vectors(latents, "s", "c"),
        is_open=rows.is_open,
        index=out.index,
        value=out.value,
        count=out.count,
        first=first,
        used=words,
        words=bits.shape[1],
    )
