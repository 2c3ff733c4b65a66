"""The one meaning of "latent j fires on token t", whatever the dictionary's activation function.

    u = r[t] * (x[t] . w[j])                          x upcast to float32, products and sum in float32
    emit (t, j, s[j] * u + c[j])   iff   u > lim[j]   (and for TopK: iff it is among the row's k largest)

Each row of ``ACTIVATIONS`` says how one activation folds into ``(lim, s, c)`` and, as its torch reference, what it
computes unfolded. The pre-bias folds in too (``wb = W b_dec``; ``lim += wb``; ``c -= s wb``), so ``W`` is always the
trainer's matrix, untouched, in the trainer's precision, ``[rows, d_in]`` with rows contiguous. Input normalisation is
the scale ``r`` per row (and a centred row for layer_norm).

Folding is done in float64 and rounded once to float32, and the digest of the result must not depend on the processor.
A BLAS sums in an order that depends on it (blocks, vector width, fused multiply-add), so sums here run over ``d_in``
one column after the other with numpy's elementwise multiply and add, each of which IEEE 754 rounds in one way; powers
of e, which differ between vector libraries, come from `decimal`, which rounds them correctly.

The reference in float32 defines results. Two correct encoders may differ on pairs within the *grey band* of a limit,
``2^-20 |x| |w|``, and nowhere else; ties of TopK go to the lowest index. Where ``c`` would cancel against ``s u`` to a
value that is not above 0 in float32, the limit is raised until it is: what is emitted is always above its floor.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.manifest import EncoderSheet, InputNorm
from saewatch.engine.heads import Head, headed
from saewatch.engine.keys import order_keys

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
Vectors = Mapping[str, F64]
Reference = Callable[[Tensor, Mapping[str, Tensor], int | None], Tensor]

GREY = 2.0**-20
"""Half width of the grey band, over the norms' product: kernels are free inside, equal outside."""

VALUE_TOLERANCE = 1e-5
"""Greatest difference of a value, over the row's largest value."""

_FOLD_ROWS = 4096  # rows folded at a time: 4,096 x 16,384 in float64 is 512 MiB
_EXP = decimal.Context(prec=40)  # digits of e^r before it is rounded to float64's 17


@dataclass(frozen=True, slots=True)
class Limits:
    """``lim``, ``s`` and ``c`` of each row, ``[rows]`` each."""

    lim: F64
    s: F64
    c: F64


@dataclass(frozen=True, slots=True)
class Activation:
    """One row of the table.

    ``vectors`` names what the trainer stores per latent; ``fold`` takes them, in float64, to limits; ``reference``
    takes pre-activations ``x.w`` ``[T, latents]`` (pre-bias applied), the vectors and k to dense values, in torch.
    """

    vectors: tuple[str, ...]
    fold: Callable[[Vectors], Limits]
    reference: Reference
    competes: bool = False


def _fold_relu(v: Vectors) -> Limits:
    b = v["b_enc"]
    return Limits(lim=-b, s=np.ones_like(b), c=b)


def _fold_jumprelu(v: Vectors) -> Limits:
    b = v["b_enc"]
    return Limits(lim=np.maximum(v["threshold"] - b, -b), s=np.ones_like(b), c=b)


def _fold_gated(v: Vectors) -> Limits:
    s, inverse = exp(v["r_mag"]), exp(-v["r_mag"])
    return Limits(lim=np.maximum(-v["b_gate"], -v["b_mag"] * inverse), s=s, c=v["b_mag"])


def _fold_topk(v: Vectors) -> Limits:
    n = v["decoder_norm"]
    return Limits(lim=-v["b_enc"], s=n, c=n * v["b_enc"])


def _relu(u: Tensor, v: Mapping[str, Tensor], _k: int | None) -> Tensor:
    return torch.relu(u + v["b_enc"])


def _jumprelu(u: Tensor, v: Mapping[str, Tensor], _k: int | None) -> Tensor:
    pre = u + v["b_enc"]
    return torch.relu(pre) * (pre > v["threshold"])


def _gated(u: Tensor, v: Mapping[str, Tensor], _k: int | None) -> Tensor:
    return torch.relu(u * v["r_mag"].exp() + v["b_mag"]) * (u + v["b_gate"] > 0)


def _topk(u: Tensor, v: Mapping[str, Tensor], k: int | None) -> Tensor:
    pre = (u + v["b_enc"]) * v["decoder_norm"]
    order = torch.sort(pre, dim=-1, descending=True, stable=True)
    kept = order.indices[:, :k]
    return torch.zeros_like(pre).scatter(-1, kept, torch.relu(pre.gather(-1, kept)))


ACTIVATIONS: Mapping[str, Activation] = {
    "relu": Activation(("b_enc",), _fold_relu, _relu),
    "jumprelu": Activation(("b_enc", "threshold"), _fold_jumprelu, _jumprelu),
    "batchtopk": Activation(("b_enc", "threshold"), _fold_jumprelu, _jumprelu),  # its inference threshold, one scalar
    "topk": Activation(("b_enc", "decoder_norm"), _fold_topk, _topk, competes=True),
    "gated": Activation(("b_gate", "b_mag", "r_mag"), _fold_gated, _gated),
    "linear": Activation(("b_enc",), _fold_relu, _relu),  # a probe's score, above 0 and its emission floor
}

REFUSED: Mapping[str, str] = {
    "abstopk": "its values are signed, and a latent may fire below zero",
    "matching_pursuit": "each latent depends on those chosen before it",
    "temporal": "it attends over the sequence, so a token's latents are not a function of its own row",
}
"""Activations that do not fold, and why."""


def activation_of(name: str) -> Activation:
    """The table's row; ManifestError for one that does not fold or is not known."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    why = REFUSED.get(name, "it is not in the table engine/encode.py ACTIVATIONS")
    raise ManifestError(
        "encoder.activation",
        found=repr(name),
        expected=f"one of {', '.join(ACTIVATIONS)}",
        hint=f"It cannot be watched row by row: {why}.",
    )


@dataclass(frozen=True, slots=True)
class Folded:
    """Limits in float32, as stored: ``lim, s, c`` of ``[rows]``."""

    lim: F32
    s: F32
    c: F32


def fold(name: str, vectors: Vectors, *, W: Tensor | None = None, pre_bias: F64 | None = None) -> Folded:
    """The limits of one activation, folded in float64 and rounded once.

    Args:
        name: a row of ACTIVATIONS.
        vectors: what the row asks for, ``[rows]`` float64 each.
        W: encoder, ``[rows, d_in]``; needed where there is a pre-bias.
        pre_bias: ``b_dec`` where it is subtracted from the input, ``[d_in]`` float64.
    """
    limits = activation_of(name).fold(vectors)
    lim, s, c = limits.lim, limits.s, limits.c
    if W is not None and pre_bias is not None:
        wb = ordered_dot(W, pre_bias)
        lim, c = lim + wb, c - s * wb
    rounded = [np.asarray(column, dtype=np.float32) for column in (lim, s, c)]
    return raise_limits(Folded(*rounded), np.zeros(len(lim), dtype=np.float32))


def raise_limits(folded: Folded, floor: F32) -> Folded:
    """Limits raised until ``s * u + c > floor`` in float32 for every ``u > lim``; ``inf`` where no u does that.

    The value grows with u (s is never negative), so the greatest u whose value is not above the floor is found by
    bisection over the float32 numbers in their order: exact, and 33 steps whatever the magnitudes.
    """
    low = np.full(floor.shape, _ordinal(np.float32(-np.inf)), dtype=np.int64)
    high = np.full(floor.shape, _ordinal(np.float32(np.inf)), dtype=np.int64)
    for _ in range(33):
        middle = (low + high + 1) // 2
        with np.errstate(over="ignore", invalid="ignore"):
            above = folded.s * _from_ordinal(middle) + folded.c > floor
        low, high = np.where(above, low, middle), np.where(above, middle - 1, high)
    lim = np.maximum(folded.lim, _from_ordinal(low)) + np.float32(0.0)  # of -0.0 and 0.0, processors keep either
    return Folded(lim=lim, s=folded.s, c=folded.c)


def ordered_dot(W: Tensor, b: F64) -> F64:
    """``W b [rows]`` in float64, summed column after column: the same bits on every processor."""
    return _by_columns(W, lambda total, column, index: total + column * b[index])


def ordered_norm(W: Tensor) -> F64:
    """Euclidean norms of rows in float64, summed like `ordered_dot`."""
    squared = _by_columns(W, lambda total, column, _: total + column * column)
    return np.asarray(np.sqrt(squared))


def exp(r: F64) -> F64:
    """``e^r``, correctly rounded, ``[rows]``."""
    return np.array([float(_EXP.exp(decimal.Decimal(float(value)))) for value in r], dtype=np.float64)


def normalise(x: Tensor, norm: InputNorm) -> tuple[Tensor, Tensor | None]:
    """Rows as the product reads them, and their scales ``r [T]`` (None: 1 for each row); ``x [T, d]`` float32.

    SAELens 6 (``SAE._setup_activation_normalization``): layer_norm divides by the *unbiased* deviation plus eps,
    constant_norm_rescale brings each row to the norm sqrt(d_in).
    """
    if norm.kind == "layer_norm":
        x = x - x.mean(dim=-1, keepdim=True)
        return x, 1.0 / (x.std(dim=-1) + (norm.eps or 0.0))
    if norm.kind == "constant_norm_rescale":
        return x, math.sqrt(x.shape[-1]) / torch.linalg.vector_norm(x, dim=-1)
    return x, None


def unnormalise(decoded: Tensor, x: Tensor, norm: InputNorm) -> Tensor:
    """The reconstruction of raw rows ``x [T, d]`` from what the decoder gives (SAELens' ``run_time_..._fn_out``)."""
    if norm.kind == "layer_norm":
        deviation: Tensor = x.std(dim=-1, keepdim=True)
        return decoded * deviation + x.mean(dim=-1, keepdim=True)
    if norm.kind == "constant_norm_rescale":
        norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return decoded * norms / math.sqrt(x.shape[-1])
    return decoded


def products(x: Tensor, r: Tensor | None, W: Tensor) -> Tensor:
    """``u [T, n]`` in float32 from rows ``x [T, d]`` and scales of `normalise`, and rows ``W [n, d]``."""
    u = torch.mm(x, W.float().t())
    return u if r is None else u.mul_(r[:, None])


def check_precision() -> None:
    """ConfigError where torch multiplies float32 in less: what fires would not be what the dictionary says."""
    found = torch.get_float32_matmul_precision()
    if found != "highest":
        hint = "Unset VLLM_FLOAT32_MATMUL_PRECISION (torch.set_float32_matmul_precision)."
        raise ConfigError("float32_matmul_precision", found=found, expected="highest", hint=hint)


def grey_band(x: Tensor, W: Tensor) -> Tensor:
    """Half widths ``2^-20 |x| |w|`` of the band around a limit, ``[T, n]``; ``x`` is normalised and scaled."""
    lengths: Tensor = torch.linalg.vector_norm(x.double(), dim=-1)
    widths: Tensor = torch.linalg.vector_norm(W.double(), dim=-1)
    return lengths[:, None] * widths[None, :] * GREY


def encode(
    x: Tensor,
    W: Tensor,
    folded: Folded,
    sheet: EncoderSheet,
    *,
    mode: str = "exact",
    heads: Sequence[Head] = (),
) -> Tensor:
    """The reference: dense values ``[T, rows]`` float32, zero where nothing fires. For tests and checks, not serving.

    Args:
        x: activations, ``[T, d_in]``, any float type.
        W: encoder, ``[rows, d_in]``: latents, then directions.
        folded: limits of the mode that is asked for.
        sheet: activation, k, latents and input normalisation.
        mode: ``exact`` | ``thresholded``; they differ where latents compete.
        heads: those that the sheet names, all of them.
    """
    prepared, r = normalise(x.float(), sheet.input_norm)
    u = headed(products(prepared, r, W), x.float(), sheet, heads)
    lim, s, c = (torch.from_numpy(column) for column in (folded.lim, folded.s, folded.c))
    values = s * u + c
    fires = u > lim
    if sheet.k is not None and mode == "exact":
        keys = order_keys(values[:, : sheet.latents], 0)
        fires[:, : sheet.latents] &= keys >= torch.topk(keys, sheet.k, dim=1).values[:, -1:]
    return torch.where(fires, values, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a comparison came to."""

    oracle: str
    compared: int
    """Pairs that fire in either."""
    mismatched: int
    """Pairs outside the grey band that fire in one only."""
    in_grey_band: int
    """Pairs inside it that fire in one only."""
    error_max: float
    """Greatest difference of a value, over its row's largest."""

    @property
    def good(self) -> bool:
        """Whether the two agree."""
        return self.mismatched == 0 and self.error_max <= VALUE_TOLERANCE


def compare(
    found: Tensor, expected: Tensor, grey: Tensor, *, whole: Tensor | None = None, oracle: str = "reference"
) -> Verdict:
    """Dense values ``[T, n]`` (0: does not fire) against the oracle's; ``grey [T, n]`` bool of `grey_pairs`.

    ``whole [T, rows]``: the oracle's values of all rows, where ``n`` are some of them. A difference is judged by the
    largest value of its row: one beside zero is a difference of large products, and has their rounding.
    """
    differ = (found > 0) != (expected > 0)
    both = (found > 0) & (expected > 0)
    largest = (
        (expected if whole is None else whole)
        .double()
        .amax(dim=1, keepdim=True)
        .clamp_min(torch.finfo(torch.float32).tiny)
    )
    error = torch.where(both, (found.double() - expected.double()).abs() / largest, 0.0)
    return Verdict(
        oracle=oracle,
        compared=int((differ | both).sum()),
        mismatched=int((differ & ~grey).sum()),
        in_grey_band=int((differ & grey).sum()),
        error_max=float(error.max()) if error.numel() else 0.0,
    )


def grey_pairs(
    x: Tensor,
    W: Tensor,
    folded: Folded,
    sheet: EncoderSheet,
    *,
    mode: str = "exact",
    heads: Sequence[Head] = (),
) -> Tensor:
    """Pairs ``[T, rows]`` whose decision float32 does not settle: computed in float64 from ``x [T, d_in]``."""
    prepared, r = normalise(x.double(), sheet.input_norm)
    prepared = prepared if r is None else prepared * r[:, None]
    u = headed(prepared @ W.double().t(), x.double(), sheet, heads)
    band = grey_band(prepared, W)
    for head in heads:
        band[:, head.row] = head.bound(x) * GREY
    lim, s, c = (torch.from_numpy(column).double() for column in (folded.lim, folded.s, folded.c))
    grey = (u - lim).abs() <= band
    if sheet.k is not None and mode == "exact":
        values = (s * u + c)[:, : sheet.latents]
        ranked = values.sort(dim=1, descending=True).values
        for place in (sheet.k - 1, min(sheet.k, sheet.latents - 1)):  # the last that wins and the first that does not
            near = (values - ranked[:, place : place + 1]).abs() <= 2 * (band * s)[:, : sheet.latents]
            grey[:, : sheet.latents] |= near
    return grey


def _by_columns(W: Tensor, step: Callable[[F64, F64, int], F64]) -> F64:
    parts = []
    for start in range(0, W.shape[0], _FOLD_ROWS):
        columns = W[start : start + _FOLD_ROWS].t().to(torch.float64).contiguous().numpy()
        total: F64 = np.zeros(columns.shape[1])
        for index, column in enumerate(columns):
            total = step(total, column, index)
        parts.append(total)
    return np.concatenate(parts) if parts else np.zeros(0)


def _ordinal(value: np.float32) -> int:
    bits = int(value.view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF) - 1


def _from_ordinal(ordinals: npt.NDArray[np.int64]) -> F32:
    bits = np.where(ordinals >= 0, ordinals, (-ordinals - 1) | 0x80000000)
    return bits.astype(np.uint32).view(np.float32)
