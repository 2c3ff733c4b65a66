"""Some rows of a long text, each as likely to be kept as any other, with where they stood. For looking at closely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saewatch.core import limits

ROWS = 8192
"""Rows that are kept at most, however narrow they are."""


class Sample:
    """Rows drawn by Vitter's algorithm R (1985), with a seed: the same texts give the same rows."""

    def __init__(self, d_in: int, *, seed: int = 0) -> None:
        self.size = max(256, min(ROWS, limits.QUALITY_SAMPLE_BYTES // (4 * d_in)))
        self._x = torch.zeros(self.size, d_in)
        self._id = torch.zeros(self.size, dtype=torch.int64)
        self._position = torch.zeros(self.size, dtype=torch.int64)
        self._random, self._seen = np.random.default_rng(seed), 0

    def add(self, ids: Sequence[int], x: Tensor) -> None:
        """The rows ``x [T, d_in]`` of one text, with its tokens; rows that are no numbers are left out."""
        tokens, positions = torch.tensor(list(ids)), torch.arange(len(x))
        finite = x.isfinite().all(dim=1)
        x, tokens, positions = x[finite], tokens[finite], positions[finite]
        numbers = self._seen + np.arange(len(x))
        places = np.where(numbers < self.size, numbers, self._random.integers(0, numbers + 1))
        self._seen += len(x)
        for row in np.flatnonzero(places < self.size).tolist():
            at = int(places[row])
            self._x[at], self._id[at], self._position[at] = x[row].float(), tokens[row], positions[row]

    @property
    def count(self) -> int:
        """Rows that are kept."""
        return min(self._seen, self.size)

    @property
    def x(self) -> Tensor:
        """``[n, d_in]`` float32."""
        return self._x[: self.count]

    @property
    def ids(self) -> Tensor:
        """Their tokens, ``[n]``."""
        return self._id[: self.count]

    @property
    def positions(self) -> Tensor:
        """Their positions, ``[n]``."""
        return self._position[: self.count]
