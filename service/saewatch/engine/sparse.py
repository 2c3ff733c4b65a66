"""What the whole dictionary fires on some rows, without its zeros: the full encode on the CPU.

One product serves every activation, gated ones too, since their two paths share ``W``. It is made a block of latents at
a time, and a block's products are compared with their limits while the processor's cache holds them; values are
computed for what fires only. So no ``[T, latents]`` tensor is made, but where latents compete: there the values of some
rows at a time are kept until their k largest are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saewatch.engine.encode import F32, products
from saewatch.engine.whole import Whole

I64 = npt.NDArray[np.int64]

LATENTS = 1024
"""Latents of one block: a product with so many rows of ``W`` takes MKL 0.6 to 0.9 of the time that it takes in one
product with 16,384 of them, and a smaller block no less."""

LATENTS_OF_ONE = 2**14
"""The same for a single row, where there is nothing to keep and each call costs."""

GROUP = 32
"""Latents of one group, of which the largest is looked for first."""

VALUES = 2**24
"""Values of latents that compete, at a time: 64 MiB."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Firings:
    """By row, and within a row by index; an index is a row of ``W``: latents, then directions."""

    row: I64  # [N]
    index: I64  # [N]
    value: F32  # [N]

    def without(self, excluded: npt.NDArray[np.bool_]) -> Firings:
        """What is left when the rows ``excluded [T]`` fire nothing."""
        if not excluded.any():
            return self
        kept = ~excluded[self.row]
        return Firings(row=self.row[kept], index=self.index[kept], value=self.value[kept])

    def dense(self, rows: int, columns: int) -> F32:
        """The same with its zeros, ``[rows, columns]``."""
        values = np.zeros((rows, columns), dtype=np.float32)
        values[self.row, self.index] = self.value
        return values


def firings(whole: Whole, x: Tensor, r: Tensor | None) -> Firings:
    """What fires on rows ``x [T, d_in]`` float32 with scales ``r [T]``, both from `normalise`; on the CPU."""
    assert whole.sheet is not None, "load a dictionary first"
    latents, rows = whole.sheet.latents, whole.sheet.rows
    if whole.k is None:
        return _ordered(list(_alone(whole, x, r, 0, rows)))
    return _ordered([*_competing(whole, x, r, whole.k), *_alone(whole, x, r, latents, rows)])


def _alone(whole: Whole, x: Tensor, r: Tensor | None, start: int, stop: int) -> Iterator[Firings]:
    """Of rows ``start .. stop`` of ``W``, each of which decides alone, block after block."""
    lim, s, c = (column.numpy() for column in (whole.lim, whole.s, whole.c))
    for part in _parts(start, stop, _block(x)):
        u = _products(x, r, whole.W[part])
        whole.headed(torch.from_numpy(u), x, part.start)
        row, column = _where(u > lim[part])
        index = column + part.start
        yield Firings(row=row, index=index, value=s[index] * u[row, column] + c[index])


def _competing(whole: Whole, x: Tensor, r: Tensor | None, k: int) -> Iterator[Firings]:
    """The k largest latents of each row, those that fire."""
    assert whole.sheet is not None
    latents, s, c = whole.sheet.latents, whole.s.numpy(), whole.c.numpy()
    for rows in _parts(0, len(x), max(1, VALUES // latents)):
        values = np.empty((rows.stop - rows.start, latents), dtype=np.float32)
        for part in _parts(0, latents, _block(x)):
            u = _products(x[rows], None if r is None else r[rows], whole.W[part])
            np.multiply(u, s[part], out=values[:, part])
            values[:, part] += c[part]
        values[np.isnan(values[:, 0])] = -np.inf  # a row that is not a number fires nothing
        index = _largest(values, k)
        value = np.take_along_axis(values, index, axis=1)
        row, place = (value > 0).nonzero()
        yield Firings(row=row + rows.start, index=index[row, place], value=value[row, place])


def _largest(values: F32, k: int) -> I64:
    """Indices of each row's k largest, ascending, ``[T, k]``; of equal ones the lowest.

    The k-th largest of maxima over groups lies at or below the k-th largest of all, and leaves few to be ordered.
    """
    rows, count = values.shape
    groups = count // GROUP
    some = values if groups < k else values[:, : groups * GROUP].reshape(rows, GROUP, groups).max(axis=1)
    place = some.shape[1] - k
    floor = np.partition(some, place, axis=1)[:, place]
    row, column = _where(values >= floor[:, None])
    order = np.lexsort((column, -values[row, column], row))
    first = np.searchsorted(row, np.arange(rows))
    return np.sort(column[order][first[:, None] + np.arange(k)], axis=1)


def _products(x: Tensor, r: Tensor | None, W: Tensor) -> F32:
    """`products` as an array. One row is numpy's: MKL takes it for a product of matrices, which is a fifth slower.

    With one thread, a dot product for each row of ``W`` is a quarter faster again; several share only the other.
    """
    if len(x) != 1:
        return np.asarray(products(x, r, W))
    alone = torch.get_num_threads() == 1 and hasattr(np, "vecdot")  # numpy 1 has none
    row, matrix = x[0].numpy(), W.float().numpy()
    u = (np.vecdot(matrix, row) if alone else matrix @ row)[None]
    return np.asarray(u if r is None else u * r.numpy()[:, None])


def _where(fires: npt.NDArray[np.bool_]) -> tuple[I64, I64]:
    """Rows and columns of what is true: numpy finds them faster in one dimension."""
    row, column = np.divmod(np.flatnonzero(fires), fires.shape[1])
    return row, column


def _block(x: Tensor) -> int:
    return LATENTS if len(x) > 1 else LATENTS_OF_ONE


def _parts(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def _ordered(parts: Sequence[Firings]) -> Firings:
    """Parts of ascending indices, put together; each is by row in itself."""
    if len(parts) == 1:
        return parts[0]
    row = np.concatenate([part.row for part in parts])
    order = np.argsort(row, kind="stable")  # indices ascend within a row, since parts do
    index, value = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("index", "value"))
    return Firings(row=row[order], index=index, value=value)
