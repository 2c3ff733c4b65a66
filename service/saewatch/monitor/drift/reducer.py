"""Adds up requests as they end. Arithmetic on one request's arrays costs more than the numbers in it: some are kept and
counted together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from saewatch.core.errors import RecordError
from saewatch.monitor.drift import pairs
from saewatch.monitor.drift.counts import (
    BETAS,
    CLIP,
    COLUMNS,
    DRAWN,
    F64,
    I32,
    I64,
    MARK_UNIT,
    MILLION,
    REQUEST_FIRINGS,
    TOTALS,
    Counts,
    Floats,
    Indices,
    exposure_of,
)

REQUESTS_KEPT = 64
"""Requests that are counted together: enough that numpy's calls are shared out, and at most some hundred kB."""
PAIR_REQUESTS = 1024
"""Requests of a block of which pairs are looked at: 48 bytes each, 198 MB in four weeks that are fitted to."""


class Reducer:
    """Of a block after the other. ``centre`` and ``scale`` ``[F]`` are those of the marks."""

    def __init__(self, centre: Floats, scale: Floats) -> None:
        if centre.shape != scale.shape or not (np.isfinite(centre).all() and (scale > 0).all()):
            raise RecordError("marks", found="centres or scales that are no numbers", expected="finite, scales above 0")
        self._centre, self._inverse = centre, 1.0 / scale
        self._kept: list[tuple[Indices, I64, F64, int]] = []
        self._exposure: list[int] = []
        self._totals: dict[str, int] = {}
        self._begin()

    @property
    def requests(self) -> int:
        """In the block so far."""
        return self._totals["requests"]

    def add(self, feature: Indices, count: I64, mean: F64, *, seen: int, encoded: int, key: int) -> None:
        """One request: its features, ascending, each once, with their firings and mean log-values.

        ``encoded`` of its tokens ``seen``; ``key``: of `pairs.key_of`. Raises `RecordError` for a value that is no
        number; then nothing of the request is counted.
        """
        assert 0 <= encoded <= seen, "a token is encoded once"
        if not math.isfinite(mean.dot(mean)):
            raise RecordError("request.log_values", found="a value that is no number", expected="finite values")
        self._kept.append((feature, count, mean, key))
        self._exposure = [a + b for a, b in zip(self._exposure, exposure_of(encoded), strict=True)]
        totals = self._totals
        totals["requests"] += 1
        totals["whole"] += encoded == seen
        totals["seen"] += seen
        totals["encoded"] += encoded
        if len(self._kept) >= REQUESTS_KEPT:
            self._count()

    def partial(self) -> None:
        """A request of which not everything was seen: it counts as one, and says nothing."""
        self._totals["requests"] += 1

    def census(self, *, l0: float, unexplained: float, tokens: int) -> None:
        """Of sampled tokens: latents that fire on one, and the share of unexplained variance, NaN where not known."""
        self._totals["l0"] += round(MILLION * l0 * tokens)
        self._totals["sampled"] += tokens
        if math.isfinite(unexplained):
            self._totals["unexplained"] += round(MILLION * unexplained * tokens)
            self._totals["census"] += tokens

    def close(self) -> Counts:
        """The block; the next one begins."""
        self._count()
        columns: Any = dict(zip(COLUMNS, self._columns, strict=True))
        totals: Any = self._totals
        drawn = np.concatenate([np.zeros((0, DRAWN), np.int32), *self._drawn])
        found = Counts(exposure=np.array(self._exposure, np.int64), drawn=drawn, **columns, **totals)
        self._begin()
        return found

    def _begin(self) -> None:
        self._columns = np.zeros((len(COLUMNS), len(self._centre)), np.int32)
        self._exposure = [0] * len(BETAS)
        self._totals = dict.fromkeys(TOTALS, 0)
        self._drawn: list[I32] = []
        self._drawn_rows = 0

    def _count(self) -> None:
        """Those that were kept."""
        kept, self._kept = self._kept, []
        if not kept:
            return
        features, counts, means, keys = (list(one) for one in zip(*kept, strict=True))
        feature, count = np.concatenate(features), np.concatenate(counts)
        mark = (np.concatenate(means) - self._centre[feature]) * self._inverse[feature]
        self._draw(features, mark, keys)
        steps = np.rint(MARK_UNIT * np.minimum(np.maximum(mark, -CLIP), CLIP))
        self._totals["firings"] += int(count.sum())
        weights = (None, np.minimum(count, REQUEST_FIRINGS), steps, np.abs(steps))
        size = self._columns.shape[1]
        self._columns += np.array([np.bincount(feature, one, size) for one in weights]).astype(np.int32)

    def _draw(self, features: list[Indices], mark: F64, keys: list[int]) -> None:
        """Pairs are of the first requests of a block: `PAIR_REQUESTS` at most."""
        strong, of, at = list[Indices](), list[int](), 0
        for feature, key in zip(features, keys, strict=True):
            if len(feature) > 1 and self._drawn_rows < PAIR_REQUESTS:
                strong.append(pairs.strongest(feature, mark[at : at + len(feature)]))
                of.append(key)
                self._drawn_rows += 1
            at += len(feature)
        if strong:
            self._drawn.append(pairs.drawn(strong, of))


def summed(feature: Indices, value: npt.NDArray[np.float32]) -> tuple[Indices, I64, F64]:
    """A request's firings as `Reducer.add` takes them: each feature once, its firings, and the mean of log(1 + v).

    The log-value is -log(1 - v) below zero, where probes may fire.
    """
    times = np.bincount(feature)
    found = times.nonzero()[0]
    count = times[found]
    size = np.copysign(np.log1p(np.abs(value, dtype=np.float64)), value)
    return found, count, np.bincount(feature, size)[found] / count
