"""The order in which the latents of a row compete for TopK, as integers: by value, then by lower index."""

from __future__ import annotations

import torch
from torch import Tensor


def top_keys(values: Tensor, first: int, k: int, best: Tensor | None = None) -> Tensor:
    """The k largest keys of each row, unordered, ``[T, min(k, …)]`` int64, among ``values [T, n]`` and ``best``.

    A key orders by value, then by *lower* index (``first`` is the index of column 0), so that ties are decided the
    same way in any chunking.
    """
    keys = _largest(values, first, min(k, values.shape[1]))
    if best is None:
        return keys
    keys = torch.cat([best, keys], dim=1)
    return torch.topk(keys, min(k, keys.shape[1]), dim=1, sorted=False).values


def _largest(values: Tensor, first: int, k: int) -> Tensor:
    """The k largest keys of each row: by values alone, unless a row has as many as k only up to a tie (or NaN)."""
    if values.device.type == "cpu":  # a GPU would be waited for
        top = torch.topk(values, k, dim=1, sorted=False)
        least = top.values.amin(dim=1, keepdim=True)
        if bool(((values >= least).sum(dim=1) == k).all()):
            return order_keys(top.values, top.indices + first)
    return torch.topk(order_keys(values, first), k, dim=1, sorted=False).values


def order_keys(values: Tensor, first: int | Tensor) -> Tensor:
    """``[T, n]`` float32 to int64 keys in the order (value, lower index); ``first``: index of column 0, or of each."""
    bits = values.contiguous().view(torch.int32).to(torch.int64)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    columns = torch.arange(values.shape[1], device=values.device) + first if isinstance(first, int) else first
    return (ordered << 32) | (0xFFFFFFFF - columns)


def value_of(keys: Tensor) -> Tensor:
    """The values of `order_keys`, float32."""
    ordered = (keys >> 32).to(torch.int32)
    return torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).view(torch.float32)


def index_of(keys: Tensor) -> Tensor:
    """The indices of `order_keys`, int64."""
    return 0xFFFFFFFF - (keys & 0xFFFFFFFF)
