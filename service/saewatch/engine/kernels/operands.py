"""What the kernels of the whole dictionary read: its latents, and a step's rows.

Everything has a fixed address and a size that does not depend on the data. The bound on rounding is here, because both
what admits a pair and what decides it refer to it: a sum of ``n`` float32 products, in any order and with truncation as
tensor cores do, is off by at most ``n 2^-23 sum |x_i w_i|`` (Higham, Accuracy and Stability of Numerical Algorithms,
3.1), and that sum is at most ``|x| |w|`` by Cauchy and Schwarz.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saewatch.core.footprint import BLOCK

SPARE_TERMS = 256
"""Roundings beside the sum's own: of norms, scales, the margin itself, and the deciding product (d / 256 + 12)."""

ALIGNMENT = 16
"""Bytes that a row of ``W`` and of ``x`` must be a multiple of, or no descriptor can load it."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Latents:
    """Rows of the encoder with their limits. Views of the buffers of `engine.whole.Whole`."""

    W: Tensor  # [F, d] bf16, f16 or float32, rows contiguous
    lim: Tensor  # [F] float32
    s: Tensor  # [F] float32
    c: Tensor  # [F] float32
    norm: Tensor  # [F] float32, |w| or a little more

    def __len__(self) -> int:
        return len(self.W)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Rows:
    """Rows of a step as the product reads them."""

    x: Tensor  # [T, d] bf16, f16 or float32
    exact: Tensor  # [T, d] the same in float32, for the product that decides
    scale: Tensor  # [T] float32, r
    length: Tensor  # [T] float32, |x| or a little more
    floor: Tensor  # [T] float32: no value below it is wanted; -inf where latents do not compete
    is_open: Tensor  # [T] int32: 0 leaves a row out

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Code:
    """What fires on each row: the sparse form of ``[T, latents]``. Entries beyond ``count`` mean nothing."""

    index: Tensor  # [T, cap] int32, ascending
    value: Tensor  # [T, cap] float32
    count: Tensor  # [T] int32: kept and lost; of winners that nobody knows 0
    lost: Tensor  # [T] int32: what had no room, or 1 for such winners; the row's list is not whole


def norms(W: Tensor) -> Tensor:
    """Lengths of rows in float32, never less than the true ones."""
    wide = torch.float64 if W.device.type == "cpu" else torch.float32
    lengths = torch.cat([torch.linalg.vector_norm(part.to(wide), dim=1) for part in W.split(BLOCK)])  # W is large
    return (lengths * (1.0 + 2.0**-10)).float()


def rows_of(x: Tensor, r: Tensor | None, *, floor: Tensor | None = None, is_open: Tensor | None = None) -> Rows:
    """The rows of ``x [T, d]`` with scales ``r``; all of them are open unless ``is_open`` says otherwise."""
    count, device, exact = len(x), x.device, x.float().contiguous()
    return Rows(
        x=x.contiguous(),
        exact=exact,
        scale=torch.ones(count, device=device) if r is None else r.float(),
        length=torch.linalg.vector_norm(exact, dim=1) * (1.0 + 2.0**-10),
        floor=torch.full((count,), -torch.inf, device=device) if floor is None else floor,
        is_open=torch.ones(count, dtype=torch.int32, device=device) if is_open is None else is_open.int(),
    )


def slack(d: int, terms: int) -> float:
    """Greatest error of a product of width ``d``, over ``|x| |w|``; ``terms``: products of planes for each."""
    return (terms * d + SPARE_TERMS) * 2.0**-23
