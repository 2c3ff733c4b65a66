"""The screen of few rows at half the bytes: ``W`` in int8, and a margin that proves that nothing is missed.

    w = e + s q + (w - e - s q)     e: its columns that are kept apart; q int8, s = max |w_i - e_i| / 127 for each row
    x = y + r (128 h + l) + dx      y: the same columns; h, l int8, r = max |x_i - y_i| / 16,256: two planes, 15 bits
    w . x <= e.y + s (r (128 q.h + q.l) + |q| |dx| + |w - e - s q| / s |x - y|)      by Cauchy and Schwarz, for any x

A pair is admitted where that bound is above its limit; `settle.py` decides it by the product that it uses everywhere,
from ``W`` itself. So the results are those of the other screen to the last bit, and reading the dictionary costs half
as much, for half as much memory more. Sums of int8 are exact in int32, up to a width of 130,000: they do not depend
on any order. int8 and not fp8: its step is uniform, which makes the margin a third, and Hopper sums fp8 in less than
float32.

What is kept apart are the few dimensions in which a residual stream is a hundred times as large as in the others, and
much the same in every row (*massive activations*: Sun et al., 2024, arXiv:2402.17762). They would set both the step of
``x`` and the length that the margin is in proportion to, so nearly all would be admitted. Which they are is read from
the decoder's bias, `massive`, and is a matter of speed alone: the bound holds for any choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from saewatch.core.footprint import APART
from saewatch.engine.kernels.full import TILE, admits, launch, ordered, store_words, vectors, words_of
from saewatch.engine.kernels.operands import ALIGNMENT, SPARE_TERMS, Latents, Rows
from saewatch.engine.kernels.variant import Variant, pointers

MARGIN = SPARE_TERMS * 2.0**-23
"""Roundings of the bound and of the deciding product, over ``|w| |x|``."""

MASSIVE = 8.0
"""Times the median from which a dimension is: of normal numbers one in 10^7 is so large."""

_AT_ONCE = 1024  # rows of W quantised at a time: 32 MiB in float32 at a width of 8,192, five times


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Quantised:
    """A dictionary's rows in int8. ``width`` is that of ``W``, up to a multiple of 16."""

    q: Tensor  # [F, width] int8, 0 where kept apart
    step: Tensor  # [F] float32, s
    size: Tensor  # [F] float32, |q|
    error: Tensor  # [F] float32, |w - e - s q| / s
    exact: Tensor  # [APART, F] float32, the columns that are kept apart
    apart: Tensor  # [APART] int32, which these are
    count: Tensor  # [1] int32, how many
    kept: Tensor  # [width] int8: 0 for those, and 1 for the others

    @classmethod
    def sized(cls, rows: int, d_in: int, device: torch.device | str = "cpu") -> Quantised:
        """Buffers of fixed address."""
        width = -(-d_in // ALIGNMENT) * ALIGNMENT
        step, size, error = (torch.zeros(rows, device=device) for _ in range(3))
        apart = torch.zeros(APART + 1, dtype=torch.int32, device=device)
        return cls(
            q=torch.zeros(rows, width, dtype=torch.int8, device=device),
            step=step,
            size=size,
            error=error,
            exact=torch.zeros(APART, rows, device=device),
            apart=apart[:APART],
            count=apart[APART:],
            kept=torch.ones(width, dtype=torch.int8, device=device),
        )

    def load(self, W: Tensor, typical: Tensor | None = None) -> None:
        """Quantises ``W [F, d]`` into the first rows of the buffers, but what is `massive` in ``typical [d]``."""
        columns = massive(typical).to(W.device) if typical is not None else self.apart[:0].long()
        self.apart[: len(columns)] = columns.int()
        self.count.fill_(len(columns))
        self.kept.fill_(1)[columns] = 0
        for first in range(0, len(W), _AT_ONCE):
            part = slice(first, min(first + _AT_ONCE, len(W)))
            w = W[part].float()
            self.exact[: len(columns), part] = w[:, columns].T
            w = w.index_fill(1, columns, 0.0)
            step = w.abs().amax(dim=1).clamp_(min=2.0**-100) / 127.0
            q = torch.round(w / step[:, None]).clamp_(-127, 127)
            self.q[part, : W.shape[1]] = q.to(torch.int8)
            self.step[part] = step
            self.size[part] = torch.linalg.vector_norm(q, dim=1) * (1.0 + 2.0**-10)
            self.error[part] = torch.linalg.vector_norm(w - step[:, None] * q, dim=1) / step * (1.0 + 2.0**-10)


def massive(typical: Tensor) -> Tensor:
    """Dimensions (int64, `APART` at most) in which ``typical [d]``, a row like most, is `MASSIVE` times its median."""
    size = typical.float().abs()
    largest = torch.topk(size, min(APART, len(size)))
    return largest.indices[largest.values > MASSIVE * size.median()]


@triton.jit
def halve(
    x: tl.tensor, kept: tl.tensor, apart: tl.tensor, count: tl.tensor, halves: tl.tensor, beside: tl.tensor,
    step: tl.tensor, rest: tl.tensor, length: tl.tensor, D: tl.tensor, width: tl.tensor,
    BT: tl.constexpr, BD: tl.constexpr, BA: tl.constexpr,
) -> None:  # fmt: skip
    """A row of float32 as two rows of int8, ``halves [blocks, 2, BT, width]``, and ``beside [T, BA]`` what is apart.

    With its step, the length of the rest, and that of what is not apart: both in steps first, which cannot underflow.
    """
    t = tl.program_id(0)
    most = tl.zeros((BD,), tl.float32)
    for k in tl.range(0, D, BD):
        at = k + tl.arange(0, BD)
        own = (at < D) & (tl.load(kept + at, mask=at < D, other=0) != 0)
        most = tl.maximum(most, tl.abs(tl.load(x + t.to(tl.int64) * D + at, mask=own, other=0.0)))
    r = tl.maximum(tl.max(most, axis=0), 1e-30) / 16256.0
    high = halves + ((t // BT) * 2 * BT + t % BT).to(tl.int64) * width
    low = high + BT * width
    left, all_of_it = tl.zeros((BD,), tl.float32), tl.zeros((BD,), tl.float32)
    for k in tl.range(0, width, BD):
        at = k + tl.arange(0, BD)
        own = (at < D) & (tl.load(kept + at, mask=at < D, other=0) != 0)
        value = tl.load(x + t.to(tl.int64) * D + at, mask=own, other=0.0) / r
        whole = tl.floor(value + 0.5)
        h = tl.floor((whole + 64.0) / 128.0)
        tl.store(high + at, h.to(tl.int32).to(tl.int8), mask=at < width)
        tl.store(low + at, (whole - 128.0 * h).to(tl.int32).to(tl.int8), mask=at < width)
        left += (value - whole) * (value - whole)
        all_of_it += value * value
    tl.store(step + t, r)
    tl.store(rest + t, r * tl.sqrt(tl.sum(left, axis=0)) * 1.001)
    tl.store(length + t, r * tl.sqrt(tl.sum(all_of_it, axis=0)) * 1.001)
    e = tl.arange(0, BA)
    there = e < tl.load(count)
    column = tl.load(apart + e, mask=there, other=0)
    tl.store(beside + t * BA + e, tl.load(x + t.to(tl.int64) * D + column, mask=there, other=0.0))


@triton.jit(do_not_specialize=["T", "F", "words", "stride"])
def screen8(
    q_desc: tl.tensor, halves_desc: tl.tensor, step: tl.tensor, size: tl.tensor, error: tl.tensor,
    exact: tl.tensor, count: tl.tensor, lim: tl.tensor, s: tl.tensor, c: tl.tensor, norm: tl.tensor,
    beside: tl.tensor, unit: tl.tensor, rest: tl.tensor, part: tl.tensor, scale: tl.tensor, length: tl.tensor,
    floor: tl.tensor, is_open: tl.tensor, bits: tl.tensor, slack: tl.tensor,
    T: tl.tensor, F: tl.tensor, width: tl.tensor, words: tl.tensor, stride: tl.tensor,
    BT: tl.constexpr, BF: tl.constexpr, BD: tl.constexpr, BA: tl.constexpr,
) -> None:  # fmt: skip
    """As `full.screen`, from int8."""
    f0, t0 = tl.program_id(0) * BF, tl.program_id(1) * BT
    f, t = f0 + tl.arange(0, BF), t0 + tl.arange(0, BT)
    here, known = t < T, f < F
    wanted = tl.load(is_open + t, mask=here, other=0) != 0
    some = tl.max(wanted.to(tl.int32), axis=0)
    acc = tl.zeros((BF, 2 * BT), tl.int32)
    for k in tl.range(0, width * some, BD):
        acc = tl.dot(q_desc.load([f0, k]), halves_desc.load([2 * t0, k]).T, acc, out_dtype=tl.int32)
    high, low = tl.split(tl.permute(tl.reshape(acc, (BF, 2, BT)), (0, 2, 1)))
    product = (high.to(tl.float32) * 128.0 + low.to(tl.float32)) * tl.load(unit + t, mask=here, other=0.0)[None, :]
    product += tl.load(size + f, mask=known, other=0.0)[:, None] * tl.load(rest + t, mask=here, other=0.0)[None, :]
    product += tl.load(error + f, mask=known, other=0.0)[:, None] * tl.load(part + t, mask=here, other=0.0)[None, :]
    top = product * tl.load(step + f, mask=known, other=0.0)[:, None]
    for e in tl.range(0, tl.load(count)):
        column = tl.load(exact + e * stride + f, mask=known, other=0.0)
        top += column[:, None] * tl.load(beside + t * BA + e, mask=here, other=0.0)[None, :]
    reach = tl.load(length + t, mask=here, other=0.0) * slack
    top += tl.load(norm + f, mask=known, other=0.0)[:, None] * reach[None, :]
    top *= tl.load(scale + t, mask=here, other=0.0)[None, :]
    limit = tl.load(lim + f, mask=known, other=float("inf"))
    factor, offset = tl.load(s + f, mask=known, other=0.0), tl.load(c + f, mask=known, other=0.0)
    least = tl.load(floor + t, mask=here, other=0.0)
    on = admits(top, limit[:, None], factor[:, None], offset[:, None], least[None, :]) & wanted[None, :]
    store_words(bits, words_of(on, BF, BT), f0, t, here, words, BF)


SHAPES = {16: (4, 5), 64: (8, 4)}
"""Rows of a tile: warps, stages; of 128 columns each. From what the compiler reports; none was measured on a GPU."""
_COLUMNS = 128

ROWS = max(SHAPES)
"""Most rows that are screened so: two planes are twice the products, which bind from some 92 rows."""


def _halve(rows: int) -> Variant:
    constexprs = {"BT": rows, "BD": 1024, "BA": APART}
    signature = dict.fromkeys(("x", "beside", "step", "rest", "length"), "*fp32")
    signature |= {"kept": "*i8", "halves": "*i8", "apart": "*i32", "count": "*i32", "D": "i32", "width": "i32"}
    return Variant(
        name=f"screen.halve-{rows}",
        kernel=halve,
        signature=ordered(halve, signature, constexprs),
        constexprs=constexprs,
        warps=4,
        stages=1,
        aligned=(*pointers(signature), "D", "width"),
    )


def _screen(rows: int) -> Variant:
    constexprs = {"BT": rows, "BF": TILE, "BD": _COLUMNS, "BA": APART}
    floats = ["step", "size", "error", "exact", "lim", "s", "c", "norm"]
    floats += ["beside", "unit", "rest", "part", "scale", "length", "floor"]
    signature = {
        "q_desc": f"tensordesc<i8[{TILE}, {_COLUMNS}]>",
        "halves_desc": f"tensordesc<i8[{2 * rows}, {_COLUMNS}]>",
    }
    signature |= (
        dict.fromkeys(floats, "*fp32") | dict.fromkeys(("count", "is_open", "bits"), "*i32") | {"slack": "fp32"}
    )
    signature |= dict.fromkeys(("T", "F", "width", "words", "stride"), "i32")
    warps, stages = SHAPES[rows]
    return Variant(
        name=f"screen.screen8-{rows}",
        kernel=screen8,
        signature=ordered(screen8, signature, constexprs),
        constexprs=constexprs,
        warps=warps,
        stages=stages,
        aligned=(*pointers(signature), "width"),
        mma="IGMMA",
    )


_HALVES, _SCREENS = {rows: _halve(rows) for rows in SHAPES}, {rows: _screen(rows) for rows in SHAPES}

VARIANTS: tuple[Variant, ...] = (*_HALVES.values(), *_SCREENS.values())


def admitted(quantised: Quantised, latents: Latents, rows: Rows, bits: Tensor) -> None:
    """As `full.admitted`, for at most `ROWS` rows."""
    size = next(size for size in SHAPES if size >= len(rows))
    width = quantised.q.shape[1]
    halves = torch.empty(2 * size, width, dtype=torch.int8, device=bits.device)
    unit, rest, part = torch.empty(3, size, device=bits.device)
    beside = torch.empty(size, APART, device=bits.device)
    launch(
        _HALVES[size],
        (len(rows),),
        x=rows.exact,
        kept=quantised.kept,
        apart=quantised.apart,
        count=quantised.count,
        halves=halves,
        beside=beside,
        step=unit,
        rest=rest,
        length=part,
        D=rows.exact.shape[1],
        width=width,
    )
    launch(
        _SCREENS[size],
        (triton.cdiv(len(latents), TILE), 1),
        q_desc=TensorDescriptor.from_tensor(quantised.q[: len(latents)], [TILE, _COLUMNS]),
        halves_desc=TensorDescriptor.from_tensor(halves, [2 * size, _COLUMNS]),
        **vectors(quantised, "step", "size", "error", "exact", "count"),
        **vectors(latents, "lim", "s", "c", "norm"),
        **vectors(rows, "scale", "length", "floor", "is_open"),
        beside=beside,
        unit=unit,
        rest=rest,
        part=part,
        bits=bits,
        slack=MARGIN,
        T=len(rows),
        F=len(latents),
        width=width,
        words=bits.shape[1],
        stride=quantised.exact.shape[1],
    )
