"""What is counted of the requests of one block of time: integers, so that any order of adding gives the same.

The unit is the request, never the token: firings come in bursts, and a burst is one piece of evidence. For each feature
``n`` requests in which it fired, ``w`` its firings with at most 32 of a request, and two marks of how high it fired:
``z``, the mean log-value of a request from a centre in steps of 1/1024 scales, and ``az``, its size without the sign.
Centres and scales are of the baseline's and need not be accurate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from saewatch.core.errors import RecordError

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Column = I32 | I64
"""32 bits hold a reducer's block of `limits.DRIFT_BLOCK_REQUESTS` requests; blocks added up have 64."""
Floats = npt.NDArray[np.floating]
F64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How a feature's chance to fire in a request may grow with its tokens: as tokens to one of these powers."""
EXPOSURE_UNIT = 1000
LENGTHS_KEPT = 4096
"""Lengths of requests whose exposure is remembered: 1 MB."""
MARK_UNIT = 1024
MILLION = 10**6
CLIP = 3.0
"""Scales at which a mark is cut: one absurd value is one piece of evidence."""
REQUEST_FIRINGS = 32
"""Firings of a feature in one request that ``w`` counts: a request of one word repeated says it once."""


DRAWN = 16
"""Features of a request of which it is counted that they fire together (`pairs`)."""
COLUMNS = ("n", "w", "z", "az")
TOTALS = ("requests", "whole", "seen", "encoded", "firings", "unexplained", "census", "l0", "sampled")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counts:
    """One block. Columns are ``[F]`` but for ``exposure``, ``[5]``, and what was drawn for pairs, ``[R, 16]``."""

    n: Column
    w: Column
    z: Column
    az: Column
    exposure: I64
    requests: int = 0
    whole: int = 0  # of them, those of which every token was encoded: only these are in the columns
    seen: int = 0  # tokens that were fed
    encoded: int = 0
    firings: int = 0
    unexplained: int = 0  # the census's, in millionths, summed over its tokens
    census: int = 0  # those
    l0: int = 0  # the census's, in millionths, summed over its tokens
    sampled: int = 0  # those; more than ``census`` where a dictionary has no decoder
    drawn: I32 = field(default_factory=lambda: np.zeros((0, DRAWN), np.int32))

    @property
    def features(self) -> int:
        """How many."""
        return len(self.n)

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return sum(getattr(self, name).nbytes for name in (*COLUMNS, "exposure"))

    @property
    def exposures(self) -> F64:
        """``[5]`` sums of tokens to each power."""
        return self.exposure / EXPOSURE_UNIT


def nothing(features: int) -> Counts:
    """Of no request."""
    columns: Any = {name: np.zeros(features, np.int32) for name in COLUMNS}
    return Counts(exposure=np.zeros(len(BETAS), np.int64), **columns)


def merged(left: Counts, right: Counts) -> Counts:
    """Both together. `RecordError` where they are of different dictionaries."""
    if left.features != right.features:
        raise RecordError("counts.features", found=right.features, expected=f"{left.features}, as the others")
    columns: Any = {name: np.add(getattr(left, name), getattr(right, name), dtype=np.int64) for name in COLUMNS}
    totals: Any = {name: getattr(left, name) + getattr(right, name) for name in TOTALS}
    drawn = np.concatenate([left.drawn, right.drawn])
    return Counts(exposure=left.exposure + right.exposure, drawn=drawn, **columns, **totals)


@lru_cache(maxsize=LENGTHS_KEPT)
def exposure_of(tokens: int) -> tuple[int, ...]:
    """A request's part of the exposure, at each power."""
    return tuple(round(EXPOSURE_UNIT * tokens**beta) if tokens else 0 for beta in BETAS)
