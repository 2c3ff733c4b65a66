"""The whole dictionary for few rows: which latents may fire, as one bit for each (row, latent). Memory-bound.

Features are the product's M and rows its N ("swap-AB"), so that a few rows fill a tensor core's tile, and each
program streams its 128 rows of ``W`` once. What leaves the tile is a mask of 1/32 of the dense tensor. It *admits*: a
pair is in it where ``u`` plus the greatest error of the tensor cores' sum is above the limit (and, where latents
compete, where its value may reach the row's floor). `settle.py` then decides each admitted pair by one float32 product
in a fixed order, so that results do not depend on the tile or the number of rows, and no values are stored here: a
dense tensor of values, however sparsely written, is what this room exists to avoid.

Tensor cores multiply 16-bit numbers. Where ``W`` and ``x`` have one 16-bit type, that is one exact product. Otherwise
each operand that is not bfloat16 is split into three bfloat16 *planes*, whose sum is the number itself (3 x 8 bits of
mantissa), and the planes' products are added; the three smallest of nine are left out and are in the margin. TF32 is
never used.

`peaks` is the same pass over a sample of the latents: the greatest value of each group, less its error. The k-th of
those is a floor that no winner is below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from saewatch.engine.kernels import interpreted
from saewatch.engine.kernels.operands import Latents, Rows, slack
from saewatch.engine.kernels.variant import Variant, pointers

ROUNDING = tl.constexpr(2.0**-22)  # of a value, over the sizes of its two terms

TILE = 128
"""Latents of one program: 1,024 programs at 131,072 latents are 7.76 waves of 132 multiprocessors."""

GROUPS = (16, 1)
"""Latents that share a peak: the wider, unless it leaves too few groups."""


@triton.jit
def _planes(v: tl.tensor, COUNT: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """A number as the sum of bfloat16 planes: one for what is bfloat16 or float16 already, else three."""
    if COUNT == 1:
        return v, v, v
    else:  # noqa: RET505 - without it Triton compiles both ways, whose types differ
        v = v.to(tl.float32)
        high = v.to(tl.bfloat16)
        rest = v - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        return high, middle, (rest - middle.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def _dot(w: tl.tensor, x: tl.tensor, acc: tl.tensor, UPCAST: tl.constexpr) -> tl.tensor:
    if UPCAST:
        return tl.dot(w.to(tl.float32), x.to(tl.float32).T, acc, input_precision="ieee")
    return tl.dot(w, x.T, acc)


@triton.jit
def _sums(
    x_desc: tl.tensor,
    w_desc: tl.tensor,
    f0: tl.tensor,
    t0: tl.tensor,
    D: tl.tensor,
    BT: tl.constexpr,
    BF: tl.constexpr,
    BD: tl.constexpr,
    PW: tl.constexpr,
    PX: tl.constexpr,
    UPCAST: tl.constexpr,
) -> tl.tensor:
    """``w . x`` of a tile, ``[BF, BT]`` float32."""
    acc = tl.zeros((BF, BT), tl.float32)
    for k in tl.range(0, D, BD):
        w0, w1, w2 = _planes(w_desc.load([f0, k]), PW)
        x0, x1, x2 = _planes(x_desc.load([t0, k]), PX)
        acc = _dot(w0, x0, acc, UPCAST)
        if PW == 3:
            acc = _dot(w1, x0, acc, UPCAST)
            acc = _dot(w2, x0, acc, UPCAST)
        if PX == 3:
            acc = _dot(w0, x1, acc, UPCAST)
            acc = _dot(w0, x2, acc, UPCAST)
        if PW == 3 and PX == 3:
            acc = _dot(w1, x1, acc, UPCAST)
    return acc


@triton.jit
def admits(u: tl.tensor, lim: tl.tensor, s: tl.tensor, c: tl.tensor, floor: tl.tensor) -> tl.tensor:
    """Whether a pair may fire: ``u`` is its greatest possible product. Rounding of the value is in 2^-22."""
    value = s * u + c
    return (u > lim) & (value + (tl.abs(s * u) + tl.abs(c)) * ROUNDING >= floor)


@triton.jit
def words_of(on: tl.tensor, BF: tl.constexpr, BT: tl.constexpr) -> tl.tensor:
    """Bits ``[BF, BT]`` as words of 32 latents, ``[BF // 32, BT]`` int32."""
    on = tl.reshape(on.to(tl.int32), (BF // 32, 32, BT))
    return tl.sum(on << tl.arange(0, 32)[None, :, None], axis=1)


@triton.jit
def store_words(
    bits: tl.tensor, word: tl.tensor, f0: tl.tensor, t: tl.tensor, here: tl.tensor, words: tl.tensor, BF: tl.constexpr
) -> None:
    """Stores a tile's words in the rows' masks, ``bits [T, words]``."""
    place = t.to(tl.int64)[None, :] * words + (f0 // 32 + tl.arange(0, BF // 32))[:, None]
    tl.store(bits + place, word, mask=here[None, :])


@triton.jit(do_not_specialize=["T", "F", "words"])
def screen(
    x_desc: tl.tensor,
    w_desc: tl.tensor,
    lim: tl.tensor,
    s: tl.tensor,
    c: tl.tensor,
    norm: tl.tensor,
    slack: tl.tensor,
    scale: tl.tensor,
    length: tl.tensor,
    floor: tl.tensor,
    is_open: tl.tensor,
    bits: tl.tensor,
    T: tl.tensor,
    F: tl.tensor,
    D: tl.tensor,
    words: tl.tensor,
    BT: tl.constexpr,
    BF: tl.constexpr,
    BD: tl.constexpr,
    PW: tl.constexpr,
    PX: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:
    """Masks of what may fire, ``bits [T, words]``. A row that is not open gets no bit; a block of such reads no W."""
    f0, t0 = tl.program_id(0) * BF, tl.program_id(1) * BT
    f, t = f0 + tl.arange(0, BF), t0 + tl.arange(0, BT)
    here, known = t < T, f < F
    wanted = tl.load(is_open + t, mask=here, other=0) != 0
    some = tl.max(wanted.to(tl.int32), axis=0)
    acc = _sums(x_desc, w_desc, f0, t0, D * some, BT, BF, BD, PW, PX, UPCAST)
    r = tl.load(scale + t, mask=here, other=0.0)
    reach = tl.load(length + t, mask=here, other=0.0) * r * slack
    least = tl.load(floor + t, mask=here, other=0.0)
    top = acc * r[None, :] + tl.load(norm + f, mask=known, other=0.0)[:, None] * reach[None, :]
    limit = tl.load(lim + f, mask=known, other=float("inf"))
    factor, offset = tl.load(s + f, mask=known, other=0.0), tl.load(c + f, mask=known, other=0.0)
    on = admits(top, limit[:, None], factor[:, None], offset[:, None], least[None, :]) & wanted[None, :]
    store_words(bits, words_of(on, BF, BT), f0, t, here, words, BF)


@triton.jit(do_not_specialize=["T", "F", "step", "groups"])
def peaks(
    x_desc: tl.tensor,
    w_desc: tl.tensor,
    s: tl.tensor,
    c: tl.tensor,
    norm: tl.tensor,
    slack: tl.tensor,
    scale: tl.tensor,
    length: tl.tensor,
    out: tl.tensor,
    T: tl.tensor,
    F: tl.tensor,
    D: tl.tensor,
    step: tl.tensor,
    groups: tl.tensor,
    GROUP: tl.constexpr,
    BT: tl.constexpr,
    BF: tl.constexpr,
    BD: tl.constexpr,
    PW: tl.constexpr,
    PX: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:
    """The greatest of the least possible values of each group of latents ``0, step, 2 step …``; ``out [T, groups]``."""
    f0, t0 = tl.program_id(0) * BF, tl.program_id(1) * BT
    f, t = f0 + tl.arange(0, BF), t0 + tl.arange(0, BT)
    here, known = t < T, f < F
    acc = _sums(x_desc, w_desc, f0, t0, D, BT, BF, BD, PW, PX, UPCAST)
    r = tl.load(scale + t, mask=here, other=0.0)
    reach = tl.load(length + t, mask=here, other=0.0) * r * slack
    bottom = acc * r[None, :] - tl.load(norm + f * step, mask=known, other=0.0)[:, None] * reach[None, :]
    factor = tl.load(s + f * step, mask=known, other=0.0)[:, None]
    offset = tl.load(c + f * step, mask=known, other=0.0)[:, None]
    value = factor * bottom + offset - (tl.abs(factor * bottom) + tl.abs(offset)) * ROUNDING
    value = tl.where(known[:, None], value, float("-inf"))
    best = tl.max(tl.reshape(value, (BF // GROUP, GROUP, BT)), axis=1)
    g = f0 // GROUP + tl.arange(0, BF // GROUP)
    place = t.to(tl.int64)[None, :] * groups + g[:, None]
    tl.store(out + place, best, mask=here[None, :] & (g < groups)[:, None])


TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
SHAPES = {
    16: (128, 4, 5),  # 128 programs and more, each streaming 128 rows of W; five tiles on their way hide the latency
    64: (128, 8, 4),  # the same; with four warps the sums' registers spill
    128: (64, 8, 5),  # still bound by reading W (below 184 rows); narrower, for 16 KiB of x beside 16 KiB of W
}
"""Rows of a tile: columns at a time, warps, stages. From what the compiler reports; none was measured on a GPU."""

ROWS = max(SHAPES)
"""Most rows of one tile: with more, `W` would be read once for each block of rows."""


def _variant(kernel: Any, w: str, x: str, rows: int, group: int = 0) -> Variant:
    columns, warps, stages = SHAPES[rows]
    if w != x or w == "fp32":
        columns, warps, stages = 64, 8, 3  # four bytes a number, and its planes
    if rows == ROWS and x == "fp32" and (w == "fp32" or group == 1):
        columns = 32  # planes of both, or a sum beside each row's greatest: with 64 they spill
    sizes = {"BT": rows, "BF": TILE, "BD": columns, "PW": planes_of(w, x), "PX": planes_of(x, w)}
    arguments = dict.fromkeys(("lim", "s", "c", "norm"), "*fp32") | {"slack": "fp32"}
    arguments |= dict.fromkeys(("scale", "length", "floor"), "*fp32") | {"is_open": "*i32", "bits": "*i32"}
    integers = ["T", "F", "D", "words"]
    if group:
        sizes["GROUP"], integers = group, ["T", "F", "D", "step", "groups"]
        arguments = {name: kind for name, kind in arguments.items() if name not in ("lim", "floor", "is_open", "bits")}
        arguments["out"] = "*fp32"
    descriptors = {"x_desc": f"tensordesc<{x}[{rows}, {columns}]>", "w_desc": f"tensordesc<{w}[{TILE}, {columns}]>"}
    constexprs = sizes | {"UPCAST": False}
    return Variant(
        name=f"full.{kernel.__name__}-{rows}-{x}-{w}" + (f"-{group}" if group else ""),
        kernel=kernel,
        signature=ordered(kernel, descriptors | arguments | dict.fromkeys(integers, "i32"), constexprs),
        constexprs=constexprs,
        warps=warps,
        stages=stages,
        aligned=(*pointers(arguments), "D"),
        mma="HGMMA",
    )


def ordered(kernel: Any, types: Mapping[str, str], constexprs: Mapping[str, Any]) -> dict[str, str]:
    """A signature in the order of the kernel's arguments."""
    known = {**types} | dict.fromkeys(constexprs, "constexpr")
    return {name: known[name] for name in kernel.arg_names}


def planes_of(one: str, other: str) -> int:
    """Planes of an operand of type ``one`` beside another: one where a tensor core multiplies it as it is."""
    return 1 if one == "bf16" or (one == other and one != "fp32") else 3


PAIRS = (("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "bf16"), ("bf16", "fp32"), ("fp16", "fp32"), ("fp32", "fp32"))
_SCREENS = {(w, x, rows): _variant(screen, w, x, rows) for w, x in PAIRS for rows in SHAPES}
_PEAKS = {
    (w, x, rows, group): _variant(peaks, w, x, rows, group) for w, x in PAIRS for rows in SHAPES for group in GROUPS
}

VARIANTS: tuple[Variant, ...] = (*_SCREENS.values(), *_PEAKS.values())


def admitted(latents: Latents, rows: Rows, bits: Tensor) -> None:
    """Fills ``bits [T, words]`` int32 with what may fire; ``words`` is a multiple of a tile's."""
    x, (w_name, x_name, size) = _operand(latents, rows)
    variant = _SCREENS[w_name, x_name, size]
    grid = (triton.cdiv(len(latents), TILE), triton.cdiv(len(rows), size))
    launch(
        variant,
        grid,
        **descriptors(variant, latents.W, x),
        **vectors(latents, "lim", "s", "c", "norm"),
        slack=slack_of(variant, latents),
        **vectors(rows, "scale", "length", "floor", "is_open"),
        bits=bits,
        T=len(rows),
        F=len(latents),
        D=latents.W.shape[1],
        words=bits.shape[1],
    )


def peak_values(latents: Latents, rows: Rows, out: Tensor, *, step: int, group: int) -> None:
    """Fills ``out [T, groups]`` with values that some latent of each group reaches, of every ``step``-th latent."""
    sample = latents.W[::step]
    x, (w_name, x_name, size) = _operand(latents, rows)
    variant = _PEAKS[w_name, x_name, size, group]
    grid = (triton.cdiv(len(sample), TILE), triton.cdiv(len(rows), size))
    launch(
        variant,
        grid,
        **descriptors(variant, sample, x),
        **vectors(latents, "s", "c", "norm"),
        slack=slack_of(variant, latents),
        **vectors(rows, "scale", "length"),
        out=out,
        T=len(rows),
        F=len(sample),
        D=sample.shape[1],
        step=step,
        groups=out.shape[1],
    )


def launch(variant: Variant, grid: tuple[int, ...], **arguments: Any) -> None:
    """Enqueues one kernel. It takes vectors as contiguous; what has one number may have any stride."""
    tensors = [value for value in arguments.values() if isinstance(value, Tensor) and value.ndim]
    assert all(value.stride(-1) == 1 or value.shape[-1] == 1 for value in tensors)
    upcast = {"UPCAST": True} if interpreted() and "UPCAST" in variant.constexprs else {}
    variant.kernel[grid](**arguments, **(dict(variant.constexprs) | upcast), **variant.options)


def paired(latents: Latents, rows: Rows) -> tuple[Tensor, str, str]:
    """``x`` in a type that has variants beside ``W``'s, and the names of both types, of ``W`` first."""
    w, x = TYPES[latents.W.dtype], rows.x
    if (w, TYPES[x.dtype]) not in PAIRS:
        x = x.float()
    return x, w, TYPES[x.dtype]


def _operand(latents: Latents, rows: Rows) -> tuple[Tensor, tuple[str, str, int]]:
    """``x``, and the key of a variant: types, and the smallest tile that holds the rows."""
    x, w_name, x_name = paired(latents, rows)
    return x, (w_name, x_name, next((size for size in SHAPES if size >= len(rows)), ROWS))


def descriptors(variant: Variant, W: Tensor, x: Tensor) -> Mapping[str, TensorDescriptor]:
    """How a tile's loads find ``x`` and ``W``."""
    sizes = variant.constexprs
    return {
        "x_desc": TensorDescriptor.from_tensor(x, [sizes["BT"], sizes["BD"]]),
        "w_desc": TensorDescriptor.from_tensor(W, [sizes["BF"], sizes["BD"]]),
    }


def slack_of(variant: Variant, latents: Latents) -> float:
    """Greatest error of the sums of ``variant``, over the sizes of the two rows."""
    terms = {(1, 1): 1, (1, 3): 3, (3, 1): 3, (3, 3): 6}[variant.constexprs["PW"], variant.constexprs["PX"]]
    return slack(latents.W.shape[1], terms)


def vectors(operand: object, *names: str) -> Mapping[str, Tensor]:
    """Arguments of a kernel that go by the names of ``operand``'s fields."""
    return {name: getattr(operand, name) for name in names}
