"""Every configuration of every kernel, and which one a shape takes.

The compile gate compiles `VARIANTS` for the GPU; no launcher may use another one. A route names rows of a step, the
least that tells the shapes apart: each row of the table has its reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from saewatch.core.footprint import ROWS
from saewatch.engine.kernels import append, decode, drop, full, fused, pack, pick, screen, settle, watched, window
from saewatch.engine.kernels.variant import Variant

VARIANTS: tuple[Variant, ...] = (
    *watched.VARIANTS,
    *append.VARIANTS,
    *drop.VARIANTS,
    *full.VARIANTS,
    *screen.VARIANTS,
    *pack.VARIANTS,
    *settle.VARIANTS,
    *pick.VARIANTS,
    *window.VARIANTS,
    *fused.VARIANTS,
    *decode.VARIANTS,
)
"""All of them, by module. Which of the whole dictionary's a shape takes stands where it is chosen: `full.SHAPES` by
rows up to 128, `many` beyond, and `screen.SHAPES` where the dictionary is there in int8."""

BY_NAME: Mapping[str, Variant] = {variant.name: variant for variant in VARIANTS}

ROUTES: tuple[int, ...] = (
    16,  # "decode": 2,048 slots are 128 programs, nearly one a multiprocessor, that read W once
    128,  # "batch": as many; W is read once or twice from memory, rows from the cache
    ROWS,  # "prefill", "split": products bound it, and larger tiles read less; operands in planes need the registers
)
"""Rows up to which each tile of `watched.sizes` is chosen; the last one has no end.

The reasons are arithmetic and what the compiler reports of registers. None was measured: no GPU was there.
"""


def route(rows: int, x: str, w: str) -> Variant:
    """The configuration of `watched.fire` for a part of so many rows of such types (``bf16``, ``fp16``, ``fp32``)."""
    names = watched.sizes(x, w)
    place = next(number for number, limit in enumerate(ROUTES) if rows <= limit)
    return BY_NAME[f"watched.fire-{names[min(place, len(names) - 1)]}-{x}-{w}"]


FUSED: tuple[tuple[int, int], ...] = ()
"""Where `fused` was faster than `window` on a GPU: least rows of a call, and least latents. Nowhere was it measured.

`benchmarks/bench_encode.py` times both in its cells of many rows, and prints what belongs here.
"""


def many(rows: int, latents: int) -> str:
    """Which way more than `full.ROWS` rows of so many latents go: ``fused`` or ``window``."""
    return "fused" if any(rows >= fewest and latents >= least for fewest, least in FUSED) else "window"
