"""The whole dictionary for many rows: cuBLAS computes a window of latents, and each window is packed before the next.

With some 200 rows and more the product is bound by arithmetic, and cuBLAS is at the machine's limit. So a window of
2,048 latents of every row is computed into one buffer, which stays in L2, and `append` adds what fires to the rows'
lists, one program for each row: ascending order, true counts, no atomics. The values are those of the window. cuBLAS
chooses the order of a sum by shape, so here, and only here, a value's last bits may differ with the number of rows,
within the grey band.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from saewatch.core.footprint import WINDOW
from saewatch.engine.kernels.full import admits, launch, ordered
from saewatch.engine.kernels.operands import Code, Latents, Rows, slack
from saewatch.engine.kernels.pack import CAPS
from saewatch.engine.kernels.variant import Variant, pointers


@triton.jit(do_not_specialize=["first", "width"])
def append(
    window: tl.tensor,
    stride: tl.tensor,
    lim: tl.tensor,
    s: tl.tensor,
    c: tl.tensor,
    norm: tl.tensor,
    slack: tl.tensor,
    scale: tl.tensor,
    length: tl.tensor,
    floor: tl.tensor,
    is_open: tl.tensor,
    index: tl.tensor,
    value: tl.tensor,
    count: tl.tensor,
    first: tl.tensor,
    width: tl.tensor,
    CAP: tl.constexpr,
    WINDOW: tl.constexpr,
) -> None:
    """Adds what fires among the latents ``first …`` to each open row's list; ``window [T, width]`` holds ``x . w``.

    What may reach the floor is kept: the floor came of other sums. A latent fires by its own product alone.
    """
    t, f = tl.program_id(0).to(tl.int64), tl.arange(0, WINDOW)
    wanted = tl.load(is_open + t) != 0
    known = (f < width) & wanted
    r, before = tl.load(scale + t), tl.load(count + t)
    u = tl.load(window + t * stride + f, mask=known, other=0.0) * r
    factor, offset = tl.load(s + f, mask=known, other=0.0), tl.load(c + f, mask=known, other=0.0)
    limit = tl.load(lim + f, mask=known, other=float("inf"))
    reach = tl.load(norm + f, mask=known, other=0.0) * (tl.load(length + t) * r * slack)
    on = (u > limit) & admits(u + reach, limit, factor, offset, tl.load(floor + t))
    fires = on.to(tl.int32)
    place = tl.cumsum(fires, axis=0) - fires + before
    kept = on & (place < CAP)
    tl.store(index + t * CAP + place, first + f, mask=kept)
    tl.store(value + t * CAP + place, factor * u + offset, mask=kept)
    tl.store(count + t, before + tl.sum(fires, axis=0), mask=wanted)


def _variant(cap: int) -> Variant:
    constexprs = {"CAP": cap, "WINDOW": WINDOW}
    floats = ("window", "lim", "s", "c", "norm", "scale", "length", "floor", "value")
    signature = dict.fromkeys(floats, "*fp32") | dict.fromkeys(("is_open", "index", "count"), "*i32")
    signature |= {"slack": "fp32"} | dict.fromkeys(("stride", "first", "width"), "i32")
    return Variant(
        name=f"window.append-{cap}",
        kernel=append,
        signature=ordered(append, signature, constexprs),
        constexprs=constexprs,
        warps=8,
        stages=1,
        aligned=(*pointers(signature), "stride"),
    )


_APPENDS = {cap: _variant(cap) for cap in CAPS}

VARIANTS: tuple[Variant, ...] = tuple(_APPENDS.values())


def appended(latents: Latents, rows: Rows, window: Tensor, out: Code) -> None:
    """Fills ``out`` with what fires on open rows, window by window; ``window [T', WINDOW]`` float32 is overwritten."""
    out.count.zero_()
    for first in range(0, len(latents), WINDOW):
        part = slice(first, min(first + WINDOW, len(latents)))
        width = part.stop - first
        product_into(window[: len(rows), :width], rows, latents.W[part])
        launch(
            _APPENDS[out.index.shape[1]],
            (len(rows),),
            window=window,
            stride=window.stride(0),
            lim=latents.lim[part],
            s=latents.s[part],
            c=latents.c[part],
            norm=latents.norm[part],
            slack=slack(latents.W.shape[1], 1),
            scale=rows.scale,
            length=rows.length,
            floor=rows.floor,
            is_open=rows.is_open,
            index=out.index,
            value=out.value,
            count=out.count,
            first=first,
            width=width,
        )
    torch.sub(out.count, out.index.shape[1], out=out.lost).clamp_(min=0)


def product_into(out: Tensor, rows: Rows, W: Tensor) -> None:
    """``x . w`` in float32 from one exact product where ``x`` and ``W`` share a 16-bit type, else all in float32."""
    if W.is_cuda and W.dtype == rows.x.dtype != torch.float32:
        torch.mm(rows.x, W.t(), out_dtype=torch.float32, out=out)
    else:
        torch.mm(rows.exact, W.float().t(), out=out)
