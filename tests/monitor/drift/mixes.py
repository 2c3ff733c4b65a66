"""Days of requests of several kinds: sources with lengths and habits of their own, whose mix moves from day to day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from benchmarks.drift_costs import invented
from saewatch.monitor.drift.baseline import Baseline
from saewatch.monitor.drift.counts import F64, Indices
from saewatch.monitor.drift.detector import Moved
from saewatch.monitor.drift.evidence import DOWN, UP
from saewatch.monitor.drift.history import DAY_NS
from saewatch.monitor.drift.matched import Matched, matched
from saewatch.monitor.drift.slices import Building, Live, Slices

FEATURES, KINDS, BLOCKS_A_DAY, REQUESTS = 12, 6, 48, 30
"""Blocks of half an hour."""
BLOCK_NS = DAY_NS // BLOCKS_A_DAY
START_DAY, DAYS = 20_000, 28
TOKENS = (30, 100, 400, 100, 400, 2000)
SOURCES = (0, 1, 1, 2, 3, 3)
SESSION = 3
"""Requests of one, which fire alike."""
BURST = 0.3
"""How unlike the sessions of one kind are: log-sd of their rates."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One of them."""

    feature: Indices
    tokens: int
    source: int
    now_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """Kinds of requests, and what each fires."""

    mix: F64  # [6]
    chance: F64  # [6, F]


def world(chance: np.random.Generator) -> World:
    """Some features are of all kinds alike, some of one or two."""
    liked = np.exp(chance.normal(0.0, 1.0, (KINDS, FEATURES)))
    mix = chance.dirichlet(np.full(KINDS, 6.0))
    return World(mix=mix, chance=np.minimum(chance.uniform(0.03, 0.15, FEATURES) * liked, 0.6))


def day(
    of: World,
    chance: np.random.Generator,
    number: int,
    *,
    first: int = 0,
    last: int = BLOCKS_A_DAY,
    grown: Mapping[int, float] | None = None,
    factors: F64 | float = 1.0,
) -> Iterator[Request]:
    """A day's blocks from ``first`` on. ``grown``: kinds that come so many times as often; ``factors`` are of rates."""
    weekend = 0.5 if number % 7 >= 5 else 1.0
    usual = of.mix * np.exp(chance.normal(0.0, 0.12, KINDS)) * np.where(np.arange(KINDS) < 2, weekend, 1.0)
    rates = of.chance * np.exp(chance.normal(0.0, 0.03, FEATURES)) * factors
    for kind, times in (grown or {}).items():
        usual[kind] *= times
    for block in range(first, last):  # those beyond the day's last are of the next one
        hour = 24.0 * block / BLOCKS_A_DAY
        swing = 1.0 + 0.4 * np.cos(2 * np.pi * (hour / 24.0 - np.arange(KINDS) / KINDS))
        weight = usual * swing
        sessions = max(int(chance.poisson(REQUESTS / SESSION * weekend)), 1)
        for kind in chance.choice(KINDS, sessions, p=weight / weight.sum()).tolist():
            own = np.minimum(rates[kind] * np.exp(chance.normal(-(BURST**2) / 2, BURST, FEATURES)), 0.9)
            for fires in chance.random((SESSION, FEATURES)) < own:
                now_ns = number * DAY_NS + block * BLOCK_NS
                yield Request(np.flatnonzero(fires), TOKENS[kind], SOURCES[kind], now_ns)


def known(of: World, chance: np.random.Generator) -> tuple[Baseline, Slices]:
    """Of four weeks."""
    building, n = Building(FEATURES), np.zeros(FEATURES)
    for number in range(START_DAY - DAYS, START_DAY):
        for one in day(of, chance, number):
            building.add(one.feature, tokens=one.tokens, source=one.source, ended_ns=one.now_ns)
            n[one.feature] += 1
    found = building.slices(np.arange(FEATURES))
    return usual(n / found.requests.sum()), found


def usual(level: npt.NDArray[np.floating]) -> Baseline:
    """Of features that fire in so many requests, whatever their length."""
    made = invented(len(level))
    rates = replace(made.n.rates, level=level.astype(np.float32))
    spread, tolerance = (np.full(len(level), one, np.float16) for one in (1.5, 0.15))
    return replace(made, n=replace(made.n, rates=rates, dispersion=spread, tolerance=tolerance))


def alarm(feature: int, effect: float, began: int, count: float = 400.0) -> Moved:
    """As the detector has it, its interval too."""
    reach = float(np.exp(1.96 * np.sqrt(1.5 / count)))
    return Moved(
        kind="feature",
        subject=feature,
        of="n",
        direction=UP if effect > 1.0 else DOWN,
        score=20.0,
        began_block=began,
        opened_ns=1,
        changed_ns=1,
        told=True,
        effect=effect,
        low=effect / reach,
        high=effect * reach,
        tolerance=0.15,
    )


def live(slices: Slices, blocks: Iterable[Sequence[Request]], begin: int = 0) -> Live:
    """What was counted of blocks that are numbered from ``begin`` on."""
    found = Live(slices.feature, FEATURES)
    for number, requests in enumerate(blocks, begin):
        for one in requests:
            found.add(one.feature, tokens=one.tokens, source=one.source, now_ns=one.now_ns)
        found.closed(number)
    return found


# --- trials -----------------------------------------------------------------------------------------------------------
SCENARIOS = ("null", "mix", "content", "both")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """What happened, and what slices said of it."""

    alarms: list[Moved]
    changed: frozenset[int]
    """Features whose rates within slices are others."""
    found: Matched


def trial(of: World, base: Baseline, slices: Slices, chance: np.random.Generator, scenario: str) -> Trial:
    """Usual traffic for a day and some hours, then some hours to a day of the scenario, and the alarms of then."""
    first, number = int(chance.integers(BLOCKS_A_DAY)), START_DAY + int(chance.integers(1, 8))
    length = int(chance.integers(6, BLOCKS_A_DAY))
    times = float(np.exp(chance.uniform(1.0, 2.2))) if scenario in {"mix", "both"} else 1.0
    grown = {int(chance.integers(KINDS)): times}
    factors = np.ones(FEATURES)
    if scenario in {"content", "both"}:
        factors[:4] = np.exp(np.array([1, 1, -1, -1]) * chance.uniform(0.35, 1.5, 4))
    usual = [*day(of, chance, number - 1), *day(of, chance, number, last=first)]
    after = list(day(of, chance, number, first=first, last=first + length, grown=grown, factors=factors))
    blocks = (list(group) for _, group in groupby([*usual, *after], key=lambda one: one.now_ns))
    began = BLOCKS_A_DAY + first
    alarms = list(_alarms(base, after, began, chance if scenario == "null" else None))
    return Trial(
        alarms=alarms,
        changed=frozenset(np.flatnonzero(factors != 1.0).tolist()),
        found=matched(alarms, base, slices, live(slices, blocks)),
    )


def _alarms(base: Baseline, after: Sequence[Request], began: int, liar: np.random.Generator | None) -> Iterator[Moved]:
    """Of features that are four standard deviations off. Where nothing changed there is a ``liar``: all alarm."""
    n = np.zeros(FEATURES)
    for one in after:
        n[one.feature] += 1
    expected = len(after) * base.n.rates.level
    for feature, (count, usual) in enumerate(zip(n.tolist(), expected.tolist(), strict=True)):
        effect = (count + 0.5) / (usual + 0.5)
        if liar is not None and abs(np.log(effect)) < np.log(1.2):
            effect = float(liar.choice([0.75, 1.3]))
        elif liar is None and (abs(count - usual) < 4.0 * np.sqrt(1.5 * usual) or abs(np.log(effect)) < np.log(1.15)):
            continue
        yield alarm(feature, effect, began, count + 0.5)
