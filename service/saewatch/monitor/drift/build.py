"""From requests to a baseline: marks' scales from the first of them, blocks of all, and the fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.monitor.drift import history
from saewatch.monitor.drift.baseline import share
from saewatch.monitor.drift.blocks import Blocks
from saewatch.monitor.drift.counts import F64, I64, Counts, Indices
from saewatch.monitor.drift.fit import Fitted, fit
from saewatch.monitor.drift.latents import LatentCounts, LatentSums
from saewatch.monitor.drift.slices import NO_TENANT, Building
from saewatch.monitor.events import Sampled

SCALE_MIN = 0.05
PRIOR = 20.0
"""Requests' worth of all features' mean that a rare feature's centre and scale have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Told:
    """One whole request."""

    feature: Indices
    count: I64
    mean: F64
    tokens: int
    key: int  # of `pairs.key_of`
    ended_ns: int
    source: int = NO_TENANT  # of `slices.source_of`


class Builder:
    """Of ``features``. Requests come in the order in which they ended."""

    def __init__(self, features: int) -> None:
        self._features = features
        self._first: list[Told | Sampled] = []
        self._blocks: Blocks | None = None
        self._closed: list[tuple[int, Counts]] = []
        self._looked, self._latents = LatentCounts(), LatentSums()
        self._now_ns = 0
        self.centre = self.scale = np.zeros(0, np.float32)
        self.requests = 0
        self.slices = Building(features)

    def add(self, one: Told) -> None:
        """One more. `ConfigError` for more than are held."""
        self.requests += 1
        self.slices.add(one.feature, tokens=one.tokens, source=one.source, ended_ns=one.ended_ns)
        if self._blocks is not None:
            self._count(self._blocks, one)
            return
        self._first.append(one)
        if self.requests >= limits.BASELINE_FIRST:
            self._begin()

    def census(self, one: Sampled) -> None:
        """A part of one. It belongs to the block that is open."""
        self._looked.add(one)
        if self._blocks is None:
            self._first.append(replace(one, count=one.count[:0]))  # it is counted
        else:
            self._blocks.census(one)

    def fitted(self, *, partial: int = 0, progress: Callable[[str], None] = lambda _: None) -> Fitted:
        """The baseline. ``partial`` requests were not whole. `ConfigError` for too few requests, or of many kinds."""
        if self._blocks is None:
            self._begin()
        assert self._blocks is not None
        if self._blocks.requests >= limits.DRIFT_BLOCK_REQUESTS_MIN:
            self._close(self._blocks)
        if not self._closed:
            found = f"{self.requests} whole requests"
            raise ConfigError(
                "baseline", found=found, expected=f"at least {limits.DRIFT_BLOCK_REQUESTS_MIN} in a block"
            )
        blocks, drawn = history.history(self._closed), [one.drawn for _, one in self._closed]
        made = fit(blocks, centre=self.centre, scale=self.scale, drawn=drawn, progress=progress)
        whole = share(self.requests, self.requests + partial)
        return replace(
            made,
            baseline=replace(made.baseline, whole_share=whole),
            latents=self._latents.latents(),
            slices=self.slices.slices(made.baseline.axes.feature),
        )

    def _begin(self) -> None:
        """Centres and scales need not be accurate: they are what marks are counted in."""
        total, square, count = np.zeros(self._features), np.zeros(self._features), np.zeros(self._features)
        for one in (each for each in self._first if isinstance(each, Told)):
            total[one.feature] += one.mean
            square[one.feature] += one.mean**2
            count[one.feature] += 1
        everything = max(count.sum(), 1.0)
        middle, wide = total.sum() / everything, square.sum() / everything
        centre = (total + PRIOR * middle) / (count + PRIOR)
        spread = np.sqrt(np.maximum((square + PRIOR * wide) / (count + PRIOR) - centre**2, SCALE_MIN**2))
        self.centre, self.scale = (one.astype(np.float16).astype(np.float32) for one in (centre, spread))  # as kept
        self._blocks = Blocks(self.centre, self.scale)
        first, self._first = self._first, []
        for each in first:
            if isinstance(each, Told):
                self._count(self._blocks, each)
            else:
                self._blocks.census(each)

    def _count(self, blocks: Blocks, one: Told) -> None:
        self._now_ns = max(self._now_ns, one.ended_ns)
        if blocks.due(self._now_ns):
            self._close(blocks)
        blocks.add(one.feature, one.count, one.mean, tokens=one.tokens, key=one.key, now_ns=self._now_ns)

    def _close(self, blocks: Blocks) -> None:
        counts = blocks.close()
        self._latents.add(*self._looked.close())
        if counts.requests < limits.DRIFT_BLOCK_REQUESTS_MIN:
            return  # as detectors do
        self._closed.append((self._now_ns, counts))
        cells = len(self._closed) * self._features
        if cells > limits.BASELINE_CELLS:
            found = f"{len(self._closed)} blocks of {self._features} features"
            raise ConfigError("baseline", found=found, expected=f"at most {limits.BASELINE_CELLS} counts")
