"""Is drift put down to the right cause? Ten scenarios on simulated traffic, and the panel by itself.

A world of 2,048 features with a topic that the baseline hardly knows, a baseline of three weeks, and trials of two days
each. How a panel reacts to a change of the model is an *input* here: a feature whose rate changes by q loses a share
1 - q of its firings on the fixed prompts, or gains as many; values have 0.5 % of independent noise. So this shows that
the table of causes is consistent, and not that real models behave so: the engine's cells are for that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.drift_trial import START_NS, blocks, detector, fitted
from benchmarks.drift_weeks import Size, Weeks, dense
from benchmarks.drift_world import NOTHING, TOPICS, World, week
from saewatch.monitor.drift import panel
from saewatch.monitor.drift.attribution import BOTH, CANNOT_TELL, DICTIONARY, MODEL, TRAFFIC, Attribution, attributed
from saewatch.monitor.drift.causes import NOT_RUN, STANDS_NS
from saewatch.monitor.drift.detector import BUDGET
from saewatch.monitor.drift.fit import Fitted
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.panel import Golden, Replay, Round, golden, judged

F64 = npt.NDArray[np.float64]
Fired = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], F64]
"""Positions, features and values."""
FULL = Size(
    name="causes",
    features=2048,
    blocks_a_day=144,
    baseline=(2100, 2101, 2102),
    null=(),
    drift=(),
    surge=(),
    dense=(),
    seed=5,
)
QUICK = replace(FULL, name="quick-causes", features=400, blocks_a_day=16)
NOVEL, RARE, WEIGHT = TOPICS - 1, 1e-6, 0.15
"""A topic, its weight while nothing changes, and what it then has."""
DAYS, TRIALS = 2, 20
PROMPTS, TOKENS = 128, 64
NOISE, DENSE_NOISE = 0.005, 0.03
NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is done to the traffic and to the model, and which causes are right or at least not wrong."""

    right: str
    topic: tuple[int, float] | None = None
    model: Callable[[World, np.random.Generator], F64] | None = None  # factors of the rates
    noise: float = NOISE
    dead: bool = False  # the panel is not read
    short: tuple[str, ...] = ()  # incomplete, and not wrong


def tuned(of: World, chance: np.random.Generator) -> F64:
    """5 % of the features, by half of a natural logarithm."""
    moved = chance.random(of.features) < 0.05
    return np.where(moved, np.exp(chance.normal(0.0, 0.5, of.features)), 1.0)


def lightly(of: World, chance: np.random.Generator) -> F64:
    """1 % of them, by a quarter down."""
    return np.where(chance.random(of.features) < 0.01, 0.74, 1.0)


def quantised(of: World, chance: np.random.Generator) -> F64:
    """All of them a little."""
    return np.asarray(dense(of, int(chance.integers(2**31))).rate)


def elsewhere(of: World, chance: np.random.Generator) -> F64:
    """Each has another one's rate: the dictionary reads what it was not made for."""
    return np.asarray(chance.permutation(of.rate) / of.rate)


SURGE, FRESH = (3, 4.0), (NOVEL, WEIGHT / RARE)
SCENARIOS: Mapping[str, Scenario] = {
    "nothing": Scenario(right=NONE),
    "topic": Scenario(right=TRAFFIC, topic=SURGE, short=(NONE, CANNOT_TELL)),
    "novel-topic": Scenario(right=TRAFFIC, topic=FRESH, short=(NONE, CANNOT_TELL)),
    "tuned": Scenario(right=MODEL, model=tuned, short=(NONE,)),
    "tuned-lightly": Scenario(right=MODEL, model=lightly, short=(NONE, panel.NUMERICS)),
    "quantised": Scenario(right=MODEL, model=quantised, noise=DENSE_NOISE, short=(NONE, panel.NUMERICS)),
    "dictionary": Scenario(right=DICTIONARY, model=elsewhere),
    "tuned-and-topic": Scenario(right=BOTH, model=tuned, topic=SURGE, short=(MODEL, NONE)),
    "topic-unread": Scenario(right=CANNOT_TELL, topic=SURGE, dead=True, short=(NONE,)),
    "tuned-unread": Scenario(right=CANNOT_TELL, model=tuned, dead=True, short=(NONE,)),
}


class Ground:
    """The world, its baseline, and its panel."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.weeks, self.trials = Weeks(QUICK if quick else FULL, folder), 2 if quick else TRIALS
        mix = self.weeks.world.mix.copy()
        mix[NOVEL] = RARE
        self.weeks.world = replace(self.weeks.world, mix=mix / mix.sum())

    @property
    def world(self) -> World:
        """Its features and topics."""
        return self.weeks.world

    @cached_property
    def fitted(self) -> Fitted:
        """The baseline."""
        return fitted(self.weeks, self.weeks.size.baseline)

    @cached_property
    def panel(self) -> Panel:
        """The fixed prompts."""
        return Panel(self.world)


class Panel:
    """What fixed prompts fire in a world, and what a replay of them shows of a change."""

    def __init__(self, of: World, *, prompts: int = PROMPTS, seed: int = 7) -> None:
        chance, self._of = np.random.default_rng(seed), of
        self._topic = chance.choice(TOPICS, prompts, p=of.mix)
        self._fired = [self._drawn(chance, of.rate * of.gain[topic]) for topic in self._topic]
        runs = [self.replay(chance) for _ in range(panel.REPLAYS)]
        self.golden: Golden = golden(runs, of.features)

    def replay(
        self, chance: np.random.Generator, *, rates: F64 | None = None, values: F64 | None = None, noise: float = NOISE
    ) -> list[Replay]:
        """One round: ``rates`` and ``values`` times those of the world, by feature."""
        made = []
        for topic, fired in zip(self._topic, self._fired, strict=True):
            position, feature, value = fired if rates is None else self._changed(chance, topic, fired, rates)
            times = np.exp(chance.normal(0.0, noise, len(value))) * (1.0 if values is None else values[feature])
            made.append(Replay.of(position, feature, (value * times).astype(np.float32), TOKENS))
        return made

    def _changed(self, chance: np.random.Generator, topic: int, fired: Fired, rates: F64) -> Fired:
        """Fewer of the firings of features whose rate falls, and more of those whose rate grows."""
        kept = chance.random(len(fired[1])) < rates[fired[1]]
        more = self._drawn(chance, self._of.rate * self._of.gain[topic] * np.maximum(rates - 1.0, 0.0))
        position, feature, value = (np.concatenate([one[kept], new]) for one, new in zip(fired, more, strict=True))
        return position, feature, value

    def _drawn(self, chance: np.random.Generator, rate: F64) -> Fired:
        """Which features fire on which of a prompt's tokens, and how high."""
        count = chance.poisson(np.minimum(rate, 0.5) * TOKENS)
        feature = np.repeat(np.arange(len(rate)), count)
        value = np.exp(chance.normal(self._of.mean[feature], self._of.sd[feature]))
        return chance.integers(0, TOKENS, len(feature)), feature, value


def trials(ground: Ground, name: str) -> dict[str, Any]:
    """A scenario, again and again with other seeds."""
    scenario = SCENARIOS[name]
    first = 10_000 * (1 + list(SCENARIOS).index(name))
    told = [_trial(ground, scenario, first + number) for number in range(ground.trials)]
    for number, one in enumerate(told):
        print(f"causes: {name} {number}: {one}", file=sys.stderr, flush=True)
    right = sum(one["told"] == scenario.right for one in told)
    causes = [one["told"] for one in told]
    return {
        "scenario": name,
        "trials": len(told),
        "right": right,
        "wrong": sum(bool(one["wrong"]) for one in told),
        "told": {cause: causes.count(cause) for cause in sorted(set(causes))},
        "features_alarmed_median": float(np.median([one["features"] for one in told])),
        "features_alarmed_max": max(one["features"] for one in told),
    }


def _trial(ground: Ground, scenario: Scenario, seed: int) -> dict[str, Any]:
    """What was told last, and whether anything that was told was wrong."""
    of, chance = ground.world, np.random.default_rng(seed)
    rates = scenario.model(of, chance) if scenario.model else None
    change = replace(NOTHING, surge=scenario.topic, rate=1.0 if rates is None else rates)
    watch = detector(ground.fitted, BUDGET)
    exercised = ground.panel.golden.exercised
    features, told = set[int](), list[str]()

    def read() -> Round | None:
        if scenario.dead:
            return None
        run = ground.panel.replay(chance, rates=rates, noise=scenario.noise)
        return judged(ground.panel.golden, run)

    def tell(cause: Attribution | None) -> None:
        if cause is not None:
            told.append(cause.cause)

    tell(attributed((), read(), exercised))
    size = ground.weeks.size
    made = week(of, seed, change=change, days=DAYS, blocks_a_day=size.blocks_a_day)
    for number, counts in enumerate(blocks(made)):
        now_ns = START_NS + number * DAY_NS // size.blocks_a_day
        step = watch.step(counts, now_ns)
        if step.moved:
            features |= {one.subject for one in step.moved if one.kind == "feature"}
            standing = [one for one in watch.open() if now_ns - one.changed_ns < STANDS_NS]
            tell(attributed(standing, read(), exercised, NOT_RUN if scenario.dead else ""))
    allowed = {scenario.right, *scenario.short}
    last = told[-1] if told else NONE
    return {"told": last, "features": len(features), "wrong": sorted({last, *told} - allowed)}


def by_itself(ground: Ground) -> dict[str, Any]:
    """The panel where nothing has changed, and where one feature has (D18)."""
    times, of, chance = 10 * ground.trials, ground.panel, np.random.default_rng(18)
    exercised = np.flatnonzero(of.golden.exercised)
    flagged = sum(judged(of.golden, of.replay(chance)).state in _FLAGS for _ in range(times))
    named = sum(bool(judged(of.golden, of.replay(chance)).moved) for _ in range(times))
    found = {"null": times, "null_flagged": flagged, "null_named": named, "exercised": len(exercised)}
    for factor in (0.8, 0.9):
        located = 0
        for _ in range(times):
            feature = int(chance.choice(exercised))
            values = np.ones(ground.world.features)
            values[feature] = factor
            said = judged(of.golden, of.replay(chance, values=values))
            located += any(one.feature == feature and one.high < 1.0 for one in said.moved[:1])
        found[f"located_at_{factor:g}".replace(".", "_")] = located
    return found


_FLAGS = {panel.CHANGED, panel.COLLAPSED}


def facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of all scenarios that were run."""
    found: dict[str, float] = {}
    scenarios = [row for row in rows if "scenario" in row]
    for row in scenarios:
        found[f"{row['scenario'].replace('-', '_')}_correct"] = row["right"]
    if scenarios:
        found |= {
            "simulated_correct": sum(row["right"] for row in scenarios),
            "simulated_total": sum(row["trials"] for row in scenarios),
            "simulated_wrong": sum(row["wrong"] for row in scenarios),
        }
    for row in (row for row in rows if row["cell"] == "panel"):
        names = ("null", "null_flagged", "null_named", "exercised", "located_at_0_8", "located_at_0_9")
        found |= {f"panel_{name}": row[name] for name in names}
    return found
