"""The census: the whole dictionary on a sampled slice of tokens.

Watched rows say nothing of the rest of the dictionary: how many latents fire on a token, which are dead or dense, how
much of the residual stream the dictionary explains. So a small share of rows is encoded in full and decoded again.
Sums stay on the device, in float64, until `take` reads and empties them; a step costs no synchronisation.

On a GPU the rows become lists of what fires. Reconstruction is then measured by a sketch of the decoder where that is
wide (`sketch`: a figure with a standard deviation of its own; the log says so at the start, no record does).

Which rows are sampled follows from the number of each row in the stream alone (a hash of it below the share), so a
replay of the same rows samples the same ones, and the host knows them without asking the device.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saewatch.core.manifest import InputNorm
from saewatch.engine.encode import normalise
from saewatch.engine.kernels.operands import Code
from saewatch.engine.sketch import DEVIATION
from saewatch.engine.whole import Given, Whole

logger = logging.getLogger(__name__)

ROWS = 256
"""Rows taken through the dictionary at a time."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CensusCounts:
    """What the sampled tokens came to. ``count``, ``total`` are over rows of ``W``: latents, then directions."""

    tokens: int
    count: npt.NDArray[np.uint64]  # [rows] tokens on which it fired
    total: npt.NDArray[np.float64]  # [rows] sum of its values
    overflowed: int  # tokens on which more fired than a list holds: none of the others
    l0_mean: float
    l0_sd: float
    squared_error: float  # sum of |x - x_hat|^2; 0 without a decoder
    squared_total: float  # sum of |x - mean x|^2

    @property
    def fvu(self) -> float | None:
        """Share of the variance that is not explained, over the whole sample; None without a decoder or variance."""
        if self.squared_error == 0.0 or self.squared_total <= 0.0:
            return None
        return self.squared_error / self.squared_total


def sampled(first_row: int, rows: int, share: float, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """Which of the stream's rows ``first_row ..`` belong to the census, as indices into the step, ascending.

    Args:
        first_row: rows of this stream before the step.
        rows: rows of the step.
        share: of rows, 0 to 1.
        seed: another one samples other rows.
    """
    bound = round(min(max(share, 0.0), 1.0) * 2.0**64)
    if bound == 0:
        return np.zeros(0, dtype=np.int64)
    numbers = np.arange(first_row, first_row + rows, dtype=np.uint64)
    return np.flatnonzero(_mixed(numbers, seed) <= np.uint64(bound - 1)).astype(np.int64)


class Census:
    """Running sums over sampled rows of the dictionary in ``whole``."""

    def __init__(self, whole: Whole, *, d_in: int, norm: InputNorm) -> None:
        self._whole, self._norm = whole, norm
        if whole.sketch is not None:
            estimated = "saewatch: unexplained variance is estimated from a sketch of the decoder; "
            logger.info(estimated + "relative standard deviation %.1f %%", 100 * DEVIATION)  # noqa: G003 - one line
        device = whole.W.device
        self._count = torch.zeros(len(whole.W), dtype=torch.int64, device=device)
        self._total = torch.zeros(len(whole.W), dtype=torch.float64, device=device)
        self._x = torch.zeros(d_in, dtype=torch.float64, device=device)
        self._scalars = torch.zeros(5, dtype=torch.float64, device=device)  # tokens, l0, l0^2, |x - x_hat|^2, |x|^2
        self._overflowed = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, x: Tensor, excluded: Tensor) -> None:
        """Counts rows ``x [T, d_in]`` but those ``excluded [T]`` (bool); no synchronisation."""
        for first in range(0, len(x), ROWS):
            self._add(x[first : first + ROWS], ~excluded[first : first + ROWS])

    @torch.inference_mode()  # as the sums of a dictionary that came while the engine ran were made
    def take(self) -> CensusCounts:
        """The sums since the last call, which start again from zero. Waits for the device."""
        tokens, l0, l0_squared, error, squared = self._scalars.tolist()
        mean = l0 / tokens if tokens else 0.0
        variance = max(0.0, l0_squared / tokens - mean * mean) if tokens else 0.0
        centred = squared - float(self._x.square().sum()) / tokens if tokens else 0.0
        rows = self._whole.sheet.rows if self._whole.sheet else 0
        found = CensusCounts(
            tokens=int(tokens),
            overflowed=int(self._overflowed),
            count=self._count[:rows].cpu().numpy().astype(np.uint64),
            total=self._total[:rows].cpu().numpy().copy(),
            l0_mean=mean,
            l0_sd=variance**0.5,
            squared_error=error,
            squared_total=max(0.0, centred),
        )
        for buffer in (self._count, self._total, self._x, self._scalars, self._overflowed):
            buffer.zero_()
        return found

    def _add(self, x: Tensor, kept: Tensor) -> None:
        given = Given(kept=kept, dtype=torch.float32 if self._norm.kind == "layer_norm" else x.dtype)
        x = torch.where(kept[:, None], x.float(), 0.0)
        prepared, r = normalise(x, self._norm)
        code = self._whole.code(prepared, r, given)
        if code is None:
            self._add_blocks(x, prepared, r, kept)
        else:
            self._add_code(x, code, kept)
            for first, block in self._whole.directions(prepared, r):
                self._tally_block(first, block, kept)

    def _add_blocks(self, x: Tensor, prepared: Tensor, r: Tensor | None, kept: Tensor) -> None:
        latents = self._whole.sheet.latents if self._whole.sheet else 0
        l0 = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        decoded = self._whole.bias(len(x))
        for first, block in self._whole.blocks(prepared, r):
            values = self._tally_block(first, block, kept)
            if first < latents:
                l0 += (values > 0).sum(dim=1)
                if self._whole.decodes:
                    decoded.addmm_(values, self._whole.decoder[first : first + block.shape[1]].float())
        self._add_rows(x, kept, l0, decoded if self._whole.decodes else None)

    def _add_code(self, x: Tensor, code: Code, kept: Tensor) -> None:
        """From lists; a row whose list is not whole takes no part, and is counted."""
        self._overflowed += (kept & (code.lost != 0)).sum()
        kept = kept & (code.lost == 0)
        there = (torch.arange(code.index.shape[1], device=x.device) < code.count[:, None]) & kept[:, None]
        self._tally(torch.where(there, code.index, len(self._count)).to(torch.int64), code.value)
        self._add_rows(x, kept, there.sum(dim=1).double(), self._whole.decoded(code) if self._whole.decodes else None)

    def _tally_block(self, first: int, block: Tensor, kept: Tensor) -> Tensor:
        """Counts a block's values ``[T, n]``, and gives those of rows that are kept."""
        values = torch.where((block > 0) & kept[:, None], block, 0.0)
        part = slice(first, first + block.shape[1])
        self._count[part] += (values > 0).sum(dim=0)
        self._total[part] += values.sum(dim=0, dtype=torch.float64)
        return values

    def _tally(self, index: Tensor, values: Tensor) -> None:
        """Counts listed values; ``index`` is one past the last row where there is none.

        Sorted first, and then each latent's values are summed by one thread: an addition for each value as it comes
        would give other last bits on every run.
        """
        ordered, order = index.flatten().sort(stable=True)
        count = torch.zeros(len(self._count) + 1, dtype=torch.int64, device=index.device)
        count.scatter_add_(0, ordered, torch.ones_like(ordered))
        listed = values.flatten()[order].double()
        total = torch.segment_reduce(listed, "sum", lengths=count, initial=0.0, unsafe=True)
        self._count += count[:-1]
        self._total += total[:-1]

    def _add_rows(self, x: Tensor, kept: Tensor, l0: Tensor, decoded: Tensor | None) -> None:
        """What is summed over the rows that are ``kept``: ``l0 [T]``, and what they came to."""
        error = torch.zeros_like(l0) if decoded is None else self._whole.squared_error(x, decoded, self._norm)
        x = torch.where(kept[:, None], x, 0.0).double()
        l0, error = (torch.where(kept, one, 0.0) for one in (l0, error))
        self._x += x.sum(dim=0)
        self._scalars += torch.stack((kept.sum().double(), l0.sum(), l0.square().sum(), error.sum(), x.square().sum()))


def _mixed(numbers: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """splitmix64 (Steele, Lea, Flood 2014): every bit of the result depends on every bit of the number."""
    with np.errstate(over="ignore"):
        z = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
