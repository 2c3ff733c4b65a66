"""The whole dictionary, by its census: how often each latent fires on sampled tokens, watched by `rules` alone.

There are too many latents, with too few sampled tokens, for a bet on each. But a latent that is never seen again, or
fires on everything, is one whether somebody watches it or not, and many of them at once say that the dictionary does
not fit any more. How much more than chance its counts vary is measured on the baseline's own periods: Pearson's
chi-square over its degrees of freedom, (c - r t)^2 / (r t) on average, where c of t tokens fire at a rate r.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saewatch.monitor.drift.counts import F64, I64
from saewatch.monitor.drift.spread import F32
from saewatch.monitor.events import Sampled

PERIODS_MIN = 20
"""With fewer nothing is known of how counts vary, and no latent is watched."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latents:
    """What is usual of each, ``[latents]``; ``[0]`` for a baseline without a census."""

    rate: F32  # share of tokens on which it fires
    dispersion: F32  # of its counts, over that of tokens which have nothing to do with each other; 1 at least

    @property
    def known(self) -> bool:
        """Whether there is anything to compare with."""
        return len(self.rate) > 0


def nothing() -> Latents:
    """Of a baseline that no census was taken for."""
    return Latents(rate=np.zeros(0, np.float32), dispersion=np.zeros(0, np.float32))


class LatentCounts:
    """Of the censuses since the last `close`; a census comes in parts, each of some latents."""

    def __init__(self) -> None:
        self.tokens = 0
        self._count = np.zeros(0, np.int64)

    def add(self, one: Sampled) -> None:
        """One more part. One of another number of latents begins anew: it is another dictionary's."""
        if len(self._count) != one.latents:
            self._count, self.tokens = np.zeros(one.latents, np.int64), 0
        self._count[one.first : one.first + len(one.count)] += one.count.astype(np.int64)
        self.tokens += 0 if one.first else one.tokens

    def close(self) -> tuple[I64, int]:
        """Tokens on which each fired, and how many there were."""
        found = self._count, self.tokens
        self._count, self.tokens = np.zeros_like(self._count), 0
        return found


class LatentSums:
    """Of a baseline's periods."""

    def __init__(self) -> None:
        self._count = self._square = np.zeros(0)
        self._tokens, self._periods = 0, 0

    def add(self, count: I64, tokens: int) -> None:
        """A period; one without tokens says nothing."""
        if not tokens:
            return
        if len(self._count) != len(count):
            self._count, self._square, self._tokens, self._periods = np.zeros(len(count)), np.zeros(len(count)), 0, 0
        self._count += count
        self._square += np.square(count, dtype=np.float64) / tokens
        self._tokens += tokens
        self._periods += 1

    def latents(self) -> Latents:
        """What is usual."""
        if self._periods < PERIODS_MIN:
            return nothing()
        rate: F64 = self._count / self._tokens
        chi: F64 = self._square / np.maximum(rate, 1e-300) - self._count
        dispersion = np.where(rate > 0.0, chi / (self._periods - 1), 1.0)
        return Latents(rate=rate.astype(np.float32), dispersion=np.maximum(dispersion, 1.0).astype(np.float32))
