"""How often features are to be expected in a block, given how much was encoded in it and what its traffic was.

    mu = level * exposure^beta * clip(1 + loadings . state, 0.1, 10)

The traffic's state is a point in at most 16 dimensions that the frequent features show together, whatever moves them:
the time of day, the weekend, topics that come and go. Its axes are those in which these features' counts vary most
(principal components of their standardised counts), found once and stored, never found again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift.counts import BETAS, F64, Indices
from saewatch.monitor.drift.history import History, Table

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]

AXES = 16
FREQUENT = 4000
"""Features at most that show the traffic's state."""
SHOWN_BY = 10
"""Frequent features, and blocks, that there are for each axis."""
BROAD = 5.0
"""Features that an axis is shown by at least (1 / sum of its loadings to the fourth): one that a single feature
shows would explain that feature's drift away."""
FREQUENT_MIN = 50
"""Fewer frequent features show no state: what one of them does would be taken for the traffic's."""
FREQUENT_COUNT = 2.0
"""Counts a block that make a feature one of them."""
LOADED_COUNT = 1.5
"""Counts a block at which a feature's loadings say how large loadings are."""
STEP_MAX = 6.0
FACTOR_MIN, FACTOR_MAX = 0.1, 10.0
RIDGE = {"n": 1.2, "w": 8.0}
"""Dispersion that the shrinkage of loadings reckons with."""
PART = 256
"""Blocks that are worked on at a time: memory stays that of the counts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axes:
    """What the state is read from."""

    feature: Indices  # [P]
    level: F32  # [P] of n
    beta: U8  # [P]
    direction: F32  # [P, K]

    def state(self, n: Table, exposure: F64) -> F32:
        """``[..., K]`` of counts ``[..., F]`` and exposures ``[..., 5]``."""
        expected = np.maximum(self.level * exposure[..., self.beta], 1e-9)
        step = (n[..., self.feature] - expected) / np.sqrt(expected)
        found: F32 = np.clip(step, -STEP_MAX, STEP_MAX).astype(np.float32) @ self.direction
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rates:
    """One stream's features: how often each is to be expected."""

    level: F32  # [F]
    beta: U8  # [F] index into BETAS
    loading: I8  # [F, K] in units of `unit`
    unit: F32  # [K]

    def expected(self, exposure: F64, state: F32) -> F32:
        """``[F]`` of a block. Not by BLAS, whose threads would spin beside the engine for a millisecond of work."""
        factor = 1.0 + np.einsum("fk,k->f", self.loading, self.unit * state)
        base = self.level * exposure.astype(np.float32)[self.beta]
        found: F32 = base * np.clip(factor, np.float32(FACTOR_MIN), np.float32(FACTOR_MAX))
        return found

    def all_expected(self, exposure: F64, states: F32) -> Iterator[tuple[slice, F32]]:
        """``[t, F]`` of a part of the blocks after the other."""
        loading = np.ascontiguousarray((self.loading * self.unit).T)
        for start in range(0, len(exposure), PART):
            part = slice(start, start + PART)
            found = 1.0 + states[part] @ loading
            np.clip(found, FACTOR_MIN, FACTOR_MAX, out=found)
            found *= exposure[part].astype(np.float32)[:, self.beta]
            found *= self.level
            yield part, found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traffic:
    """The state's axes, and both streams."""

    axes: Axes
    n: Rates
    w: Rates


def fit(history: History) -> Traffic:
    """Levels, axes and loadings of these blocks."""
    level_n, beta_n = levels(history.n, history.exposure)
    level_w, beta_w = levels(history.w, history.exposure)
    axes = _axes(history, level_n, beta_n)
    states = axes.state(history.n, history.exposure)
    n = _loaded(history.n, history.exposure, (level_n, beta_n), states, RIDGE["n"])
    return Traffic(axes=axes, n=n, w=_loaded(history.w, history.exposure, (level_w, beta_w), states, RIDGE["w"]))


def groups(total: npt.NDArray[np.number]) -> Indices:
    """``[F]`` features of like rates, some 500 together."""
    count = int(np.clip(len(total) // 500, min(4, len(total)), 20))
    rank = np.empty(len(total), np.intp)
    rank[np.argsort(total, kind="stable")] = np.arange(len(total))
    found: Indices = rank * count // len(total)
    return found


def levels(counts: Table, exposure: F64) -> tuple[F32, U8]:
    """Level and exponent: of each group's total the exponent with the smallest Poisson deviance."""
    total = counts.sum(axis=0, dtype=np.int64)
    group = groups(total)
    member = np.equal.outer(group, np.arange(group.max() + 1)).astype(np.float32)
    series = np.concatenate([counts[at : at + PART].astype(np.float32) @ member for at in range(0, len(counts), PART)])
    deviance = np.stack([_deviance(series, exposure[:, beta]) for beta in range(len(BETAS))])
    beta = deviance.argmin(axis=0).astype(np.uint8)[group]
    level = (total + 0.5) / np.maximum(exposure.sum(axis=0)[beta], 1e-9)
    return level.astype(np.float32), beta


def _deviance(series: F32, exposure: F64) -> F64:
    expected = np.maximum(exposure[:, None] * (series.sum(axis=0) + 0.5) / exposure.sum(), 1e-9)
    terms = np.where(series > 0, series * np.log(np.maximum(series, 1e-9) / expected), 0.0) - (series - expected)
    found: F64 = 2.0 * terms.sum(axis=0)
    return found


def _axes(history: History, level: F32, beta: U8) -> Axes:
    mean = history.n.mean(axis=0)
    often = np.argsort(-mean, kind="stable")[:FREQUENT]
    often = np.sort(often[mean[often] >= FREQUENT_COUNT])
    count = min(AXES, len(often) // SHOWN_BY, history.blocks // SHOWN_BY) if len(often) >= FREQUENT_MIN else 0
    bare = Axes(feature=often, level=level[often], beta=beta[often], direction=np.eye(len(often), dtype=np.float32))
    steps = bare.state(history.n, history.exposure)
    return Axes(feature=often, level=level[often], beta=beta[often], direction=_directions(steps, count))


def _directions(steps: F32, count: int) -> F32:
    """``[P, K]`` by subspace iteration (Halko, Martinsson, Tropp 2011): ``steps @ them`` has unit second moments."""
    if not count:
        return np.zeros((steps.shape[1], 0), np.float32)
    wide = min(count + 8, *steps.shape)
    basis = np.random.default_rng(0).normal(size=(steps.shape[1], wide)).astype(np.float32)
    for _ in range(12):
        basis, _ = np.linalg.qr(steps.T @ (steps @ basis))
    _, size, turn = np.linalg.svd(steps @ basis, full_matrices=False)
    axes = basis @ turn.T
    broad = np.flatnonzero(1.0 / np.maximum((axes**4).sum(axis=0), 1e-9) >= BROAD)[:count]
    found: F32 = (axes[:, broad] / np.maximum(size[broad], 1e-9) * np.sqrt(len(steps))).astype(np.float32)
    return found


def _loaded(counts: Table, exposure: F64, known: tuple[F32, U8], states: F32, ridge: float) -> Rates:
    """Loadings by regression of what is above the level on the state, shrunk as much as they are uncertain."""
    level, beta = known
    moved = np.zeros((counts.shape[1], states.shape[1]))
    for at in range(0, len(counts), PART):
        moved += counts[at : at + PART].astype(np.float32).T @ states[at : at + PART]
    moved -= level[:, None] * (exposure.T @ states)[beta]
    weight = level * exposure.sum(axis=0)[beta]
    certain = weight > LOADED_COUNT * len(counts)
    if not certain.any():
        certain = weight >= np.sort(weight)[-min(50, len(weight))]
    raw = moved[certain] / weight[certain, None]
    spread = np.maximum((raw**2 - ridge / weight[certain, None]).mean(axis=0), 1e-4)
    loading = moved / (weight[:, None] + ridge / spread)
    unit = np.maximum(np.abs(loading).max(axis=0, initial=0.0), 1e-9) / 127.0
    return Rates(level=level, beta=beta, loading=np.rint(loading / unit).astype(np.int8), unit=unit.astype(np.float32))
