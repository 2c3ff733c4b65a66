"""Sums of a table's rows by lists: what a sparse code decodes to, or its sketch (`engine.sketch`).

One program for each row and 128 columns adds the entries in their order, so the bits do not depend on anything else.
It reads as many bytes as the entries' rows have, and writes no product of rows and latents.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from saewatch.engine.kernels.full import TYPES, launch, ordered
from saewatch.engine.kernels.operands import Code
from saewatch.engine.kernels.variant import Variant, pointers

COLUMNS = 128


@triton.jit(do_not_specialize=["cap"])
def gather(
    table: tl.tensor, index: tl.tensor, value: tl.tensor, count: tl.tensor, out: tl.tensor,
    cap: tl.tensor, width: tl.tensor, COLUMNS: tl.constexpr, ENTRIES: tl.constexpr,
) -> None:  # fmt: skip
    """``out [T, width] += sum of value x table[index]`` over each row's entries."""
    t, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    kept, inside = tl.minimum(tl.load(count + t), cap), at < width
    acc = tl.load(out + t * width + at, mask=inside, other=0.0)
    for first in tl.range(0, kept, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        here = entry < kept
        latent = tl.load(index + t * cap + entry, mask=here, other=0).to(tl.int64)
        weight = tl.load(value + t * cap + entry, mask=here, other=0.0)
        part = tl.load(table + latent[:, None] * width + at[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        acc += tl.sum(part.to(tl.float32) * weight[:, None], axis=0)
    tl.store(out + t * width + at, acc, mask=inside)


def _variant(kind: str) -> Variant:
    constexprs = {"COLUMNS": COLUMNS, "ENTRIES": 8}
    signature = {"table": f"*{kind}", "index": "*i32", "value": "*fp32", "count": "*i32", "out": "*fp32"}
    signature |= {"cap": "i32", "width": "i32"}
    return Variant(
        name=f"decode.gather-{kind}",
        kernel=gather,
        signature=ordered(gather, signature, constexprs),
        constexprs=constexprs,
        warps=4,
        stages=3,
        aligned=(*pointers(signature), "width"),
    )


_GATHERS = {kind: _variant(kind) for kind in TYPES.values()}

VARIANTS: tuple[Variant, ...] = tuple(_GATHERS.values())


def gathered(table: Tensor, code: Code, out: Tensor) -> None:
    """Adds to ``out [T, width]`` float32 the rows of ``table [F, width]`` that ``code`` lists, times their values."""
    width = table.shape[1]
    launch(
        _GATHERS[TYPES[table.dtype]],
        (len(out), triton.cdiv(width, COLUMNS)),
        table=table,
        index=code.index,
        value=code.value,
        count=code.count,
        out=out,
        cap=code.index.shape[1],
        width=width,
    )
