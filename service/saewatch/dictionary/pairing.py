"""Running sums over tokens of what two readings of the same texts gave: reference beside served, column by column.

    corr        Pearson correlation of the two values, where not to fire is 0
    jaccard     tokens on which both fired ÷ tokens on which either did
    rate_ratio  tokens on which the served one fired ÷ tokens on which the reference did
    shift       median of served value ÷ reference value - 1, over tokens on which both fired
    FVU         Σ|x - x̂|² ÷ Σ|x - x̄|² over all rows that were added, as SAEBench has it

Memory is that of the columns, however many tokens there are. For the median, ratios are counted in bins that are a
third of themselves wide, so it is good to a sixth of itself, and is 0 where it is below one in ten thousand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saewatch.core.batch import F64
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import unnormalise

I64 = npt.NDArray[np.int64]

_LEAST, _PER_DECADE, _DECADES = 1e-4, 8, 6
_SIDE = _PER_DECADE * _DECADES
BINS = 2 * _SIDE + 1
"""Of ratios, ascending: from a hundredfold fall to a hundredfold rise, and no shift in the middle."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figures:
    """What the sums came to, a number for each column."""

    tokens: int
    reference: I64  # [C] tokens on which the reference fired
    served: I64  # [C]
    both: I64  # [C]
    corr: F64  # [C] 0 where either never changed
    shift: F64  # [C] NaN where they never fired together

    @property
    def jaccard(self) -> F64:
        """``[C]``; NaN where nothing fired."""
        return _ratio(self.both, self.reference + self.served - self.both)

    @property
    def rate_ratio(self) -> F64:
        """``[C]``; NaN where the reference never fired."""
        return _ratio(self.served, self.reference)


class Pairing:
    """Sums of ``columns`` pairs of values."""

    def __init__(self, columns: int) -> None:
        self.tokens = 0
        self._fired = torch.zeros(3, columns, dtype=torch.int64)  # reference, served, both
        self._sums = torch.zeros(5, columns, dtype=torch.float64)  # a, b, a², b², ab
        self._shifts = torch.zeros(columns * BINS, dtype=torch.int32)

    def add(self, reference: Tensor, served: Tensor) -> None:
        """Values ``[T, columns]`` of the same tokens; 0: nothing fired."""
        fires, fires_served = reference != 0, served != 0
        together = fires & fires_served
        self._fired += torch.stack([flags.sum(0) for flags in (fires, fires_served, together)])
        a, b = reference.double(), served.double()
        self._sums += torch.stack([a.sum(0), b.sum(0), (a * a).sum(0), (b * b).sum(0), (a * b).sum(0)])
        row, column = together.nonzero(as_tuple=True)
        bins = _bins(b[row, column] / a[row, column] - 1.0)
        self._shifts.index_add_(0, column * BINS + bins, torch.ones_like(column, dtype=torch.int32))
        self.tokens += len(reference)

    def figures(self) -> Figures:
        """Of everything that was added."""
        n = max(self.tokens, 1)
        a, b, aa, bb, ab = (one / n for one in self._sums)
        spread = ((aa - a * a).clamp_min(0) * (bb - b * b).clamp_min(0)).sqrt()
        corr = torch.where(spread > 0, (ab - a * b) / spread.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        reference, served, both = (one.numpy() for one in self._fired)
        return Figures(
            tokens=self.tokens,
            reference=reference,
            served=served,
            both=both,
            corr=corr.clamp(-1.0, 1.0).numpy(),
            shift=_medians(self._shifts.view(-1, BINS).numpy(), both),
        )


class Unexplained:
    """FVU of one reading. Without a decoder, or where what is written is not what is read, there is none."""

    def __init__(self, dictionary: Dictionary) -> None:
        sheet = dictionary.manifest.encoder
        self.measured = dictionary.W_dec is not None and dictionary.manifest.kind == "sae" and sheet.latents > 0
        self._sheet = sheet
        self._decoder = dictionary.W_dec.float() if self.measured and dictionary.W_dec is not None else torch.zeros(0)
        self._bias = torch.zeros(sheet.d_in) if dictionary.b_dec is None else dictionary.b_dec.float()
        self._x = torch.zeros(sheet.d_in, dtype=torch.float64)
        self._error = self._squares = 0.0
        self.rows = 0

    def add(self, x: Tensor, values: Tensor) -> None:
        """Rows ``[T, d_in]`` and their latents' values ``[T, latents]``."""
        if not self.measured:
            return
        decoded = unnormalise(torch.addmm(self._bias, values, self._decoder), x, self._sheet.input_norm)
        self._error += float((x - decoded).double().square().sum())
        self._squares += float(x.double().square().sum())
        self._x += x.double().sum(0)
        self.rows += len(x)

    @property
    def value(self) -> float | None:
        """None where it cannot be said."""
        total = self._squares - float(self._x.square().sum()) / max(self.rows, 1)
        return self._error / total if self.measured and total > 0.0 else None


def _ratio(above: I64, below: I64) -> F64:
    found: F64 = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return found


def _bins(shift: Tensor) -> Tensor:
    size = shift.abs()
    place = ((size.clamp_min(_LEAST) / _LEAST).log10() * _PER_DECADE).floor().clamp_max(_SIDE - 1) + 1
    return _SIDE + torch.where(size < _LEAST, 0, shift.sign() * place).long()


def _medians(counts: npt.NDArray[np.int32], both: I64) -> F64:
    """The middle of the bin that holds each column's median; NaN of nothing."""
    bins = (counts.cumsum(axis=1, dtype=np.int64) * 2 < both[:, None]).sum(axis=1)
    place = np.minimum(bins, BINS - 1) - _SIDE
    size = _LEAST * 10.0 ** ((np.abs(place) - 0.5) / _PER_DECADE)
    found: F64 = np.where(both > 0, np.where(place == 0, 0.0, np.sign(place) * size), np.nan)
    return found
