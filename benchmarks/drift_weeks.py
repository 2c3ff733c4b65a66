"""The weeks that detectors of drift are measured on: which there are, what was done to them, and where they are kept.

A week of 6,000 features is half a minute's work and 100 MB. Each lies in a folder of its own once it is whole, so that
a run that was ended goes on where it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.drift_world import NOTHING, Change, Week, World, week, world

VERSION = 1
"""Of the simulator: to be raised when a week of a seed would come out otherwise."""
CELL_FEATURES = 20
NEAR = np.log10(1.15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is simulated."""

    name: str
    features: int
    blocks_a_day: int
    baseline: tuple[int, ...]
    null: tuple[int, ...]
    drift: tuple[int, ...]
    surge: tuple[int, ...]
    dense: tuple[int, ...]
    seed: int = 1
    cell_features: int = CELL_FEATURES


FULL = Size(
    name="full",
    features=6000,
    blocks_a_day=144,
    baseline=(1100, 1101, 1200, 1201),
    null=tuple(range(1202, 1212)),
    drift=(1300, 1301),
    surge=(1400,),
    dense=(1500,),
)
QUICK = Size(
    name="quick",
    features=400,
    blocks_a_day=16,
    baseline=(1100, 1101, 1200, 1201),
    null=(1202, 1203),
    drift=(1300,),
    surge=(1400,),
    dense=(1500,),
    cell_features=2,
)
SHORT_DAYS = 3
"""Days of the surge and of the dense drift."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What is done to the features of a cell."""

    kind: str
    rate: float  # of the features that it is done to
    factor: float

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.kind} x{self.factor:g} @{self.rate:.0e}".replace("e-0", "e-")


EFFECTS = (
    *(Effect("prevalence", 1e-3, one) for one in (1.5, 2.0, 5.0, 0.5, 0.0)),
    *(Effect("prevalence", 1e-4, one) for one in (1.5, 2.0, 5.0, 0.0)),
    *(Effect("prevalence", 1e-5, one) for one in (2.0, 5.0, 0.0)),
    Effect("intensity", 1e-3, 2.0),
    Effect("intensity", 1e-4, 5.0),
    Effect("activation", 1e-3, 1.35),
    Effect("activation", 1e-4, 2.0),
    Effect("activation sd", 1e-3, 1.5),
)


def chosen(of: World, size: Size) -> Mapping[Effect, npt.NDArray[np.intp]]:
    """For each effect the ordinary features that it is done to, no feature twice."""
    chance = np.random.default_rng(of.features)
    found, taken = {}, of.volatile.copy()
    for effect in EFFECTS:
        near = np.flatnonzero((np.abs(np.log10(of.rate / effect.rate)) < NEAR) & ~taken)
        picked = np.sort(chance.permutation(near)[: size.cell_features])
        taken[picked] = True
        found[effect] = picked
    return found


def drifted(of: World, size: Size) -> Change:
    """Every effect at once, each on its own features."""
    rate, shape = np.ones(of.features), np.ones(of.features)
    shift, spread = np.zeros(of.features), np.ones(of.features)
    for effect, picked in chosen(of, size).items():
        if effect.kind in {"prevalence", "intensity"}:
            rate[picked] = effect.factor
        if effect.kind == "prevalence":
            shape[picked] = max(effect.factor, 1e-9)
        if effect.kind == "activation":
            shift[picked] = np.log(effect.factor)
        if effect.kind == "activation sd":
            spread[picked] = effect.factor
    return Change(rate=rate, shape=shape, shift=shift, spread=spread)


def dense(of: World, seed: int) -> Change:
    """Everything moves a little, as after a change of numerics."""
    chance = np.random.default_rng(seed)
    rate = np.exp(chance.normal(-0.02, 0.10, of.features))
    return Change(rate=rate, shift=chance.normal(-0.01, 0.03, of.features))


SURGE = Change(surge=(3, 4.0))


class Weeks:
    """Those of a size, simulated when they are asked for first."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.size = size
        self.world = world(size.seed, size.features)
        self._folder = folder / f"{size.name}-{VERSION}-{size.features}x{size.blocks_a_day}"

    def has(self, seed: int) -> bool:
        """Whether a week is there."""
        return (self._folder / str(seed)).exists()

    def get(self, seed: int) -> Week:
        """One week."""
        place = self._folder / str(seed)
        if not self.has(seed):
            change, days = self._change(seed)
            _save(week(self.world, seed, change=change, days=days, blocks_a_day=self.size.blocks_a_day), place)
        return _load(place)

    def keep(self, seed: int, made: Week) -> None:
        """A week of these that was simulated elsewhere."""
        if not self.has(seed):
            _save(made, self._folder / str(seed))

    def all(self) -> Sequence[int]:
        """Seeds of every week."""
        size = self.size
        return [*size.baseline, *size.null, *size.drift, *size.surge, *size.dense]

    def _change(self, seed: int) -> tuple[Change, int]:
        size = self.size
        if seed in size.drift:
            return drifted(self.world, size), 7
        if seed in size.surge:
            return SURGE, SHORT_DAYS
        if seed in size.dense:
            return dense(self.world, seed), SHORT_DAYS
        return NOTHING, 7


def _save(made: Week, place: Path) -> None:
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for one in fields(Week):
        np.save(partial / f"{one.name}.npy", getattr(made, one.name))
    partial.rename(place)


def _load(place: Path) -> Week:
    return Week(**{one.name: np.load(place / f"{one.name}.npy", mmap_mode="r") for one in fields(Week)})
