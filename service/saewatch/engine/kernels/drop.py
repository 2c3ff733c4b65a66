"""Takes away what rows fired that are excluded after all, where the products were made before anybody could know it.

Inside the model's graph (`inside`) rows are multiplied before positions and tokens are looked at. A row that they
exclude has the scale NaN then. Its counts become 0, so that `append.append` reads none of its bits; and the totals are
summed anew, since the graph's were over rows that belong to nobody.
"""

from __future__ import annotations

import triton
import triton.language as tl

from saewatch.engine.kernels.variant import Variant


@triton.jit(do_not_specialize=["rows", "rows_max", "blocks"])
def drop(
    tiles: tl.tensor,
    r: tl.tensor,
    counts: tl.tensor,
    totals: tl.tensor,
    rows: tl.tensor,
    rows_max: tl.tensor,
    blocks: tl.tensor,
    BT: tl.constexpr,
) -> None:
    """Tile ``program 0`` by the ``program 1``-th ``BT`` rows; else as in `watched.fire`, in blocks of ``BT``."""
    tile, block = tl.program_id(0), tl.program_id(1)
    t, group = block * BT + tl.arange(0, BT), tl.load(tiles + 2 * tile)
    scale = tl.load(r + group * rows_max + t, mask=t < rows, other=float("nan"))
    at = counts + tile.to(tl.int64) * rows_max + t
    kept = tl.where(scale == scale, tl.load(at, mask=t < rows, other=0), 0)  # noqa: PLR0124 - NaN is no equal of itself
    tl.store(at, kept, mask=t < rows)
    tl.store(totals + tile * blocks + block, tl.sum(kept, axis=0))


BLOCK = 64
"""Rows of one program, and of what `append.append` takes for a block: as many as it reads at a time."""

VARIANTS: tuple[Variant, ...] = (
    Variant(
        name="drop",
        kernel=drop,
        signature={
            "tiles": "*i32",
            "r": "*fp32",
            "counts": "*i32",
            "totals": "*i32",
            **dict.fromkeys(("rows", "rows_max", "blocks"), "i32"),
            "BT": "constexpr",
        },
        constexprs={"BT": BLOCK},
        warps=2,
        stages=1,
        aligned=("tiles", "r", "counts", "totals"),
    ),
)
"""The one that `inside.Inside` enqueues."""
