"""The panel: fixed prompts that are read again and again. What they fire differs only where more than traffic does.

Live counts cannot tell another model from other traffic. On a prompt that is fixed, token by token, the traffic is held
still: what its firings came to when all was well (the *golden* replays, on the same build, batching and load) is what
they come to now, but for the noise that these replays showed.

Two replays of a prompt are alike by J = sum min(v, v') / sum max(v, v') over tokens and features: 1 where they are the
same, 0 where nothing is. The panel has *changed* where its prompts' J, each in units of its own noise, is further down
than the golden replays' scatter allows, and by enough to matter; it has *collapsed* where most of it is gone. Which
features moved is asked of each by itself: the median of ln(v / v0) over its golden firings. One that is far off changes
the panel too: a light fine-tune may move a few features, and J by next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from saewatch.core.errors import ConfigError
from saewatch.monitor.diff.tails import Z95, student
from saewatch.monitor.drift.counts import F64, I64
from saewatch.monitor.drift.effect import RATIO_MIN, Effect, Ratios
from saewatch.monitor.drift.flips import Flips, flipped
from saewatch.monitor.drift.spread import F32, Flags

CLEAN, NUMERICS, CHANGED, COLLAPSED = "clean", "numerics", "changed", "collapsed"
STATES = (CLEAN, NUMERICS, CHANGED, COLLAPSED)
VALUES, FIRINGS = "panel", "panel_firings"
"""What of a feature may move there: how high it fires on the same tokens, and on how many of them."""
REPLAYS = 20
"""Golden ones: their scatter is known to a sixth."""
PROMPTS_MIN, PROMPTS_MAX = 16, 1024
"""Fewer do not average their noise; more are a load."""
TOKENS_MAX = 4096
"""Of a prompt: the panel is read within each period."""
ENTRIES_MAX = 2**20
"""Tokens times features that fire in the golden replays: 16 MiB as they are kept, and 84 MiB while they are fitted."""
STEADY_MIN = 0.8
"""Mean J of golden replays: below it they are not alike, and nothing can be compared with them."""
MATERIAL = 0.002
"""A fall of mean J that is no more than this is one of numerics."""
COLLAPSE = 0.6
REACH = 6.0
"""Standard deviations of the golden replays' own score, times sqrt(1 + 1/20) for their mean is estimated too."""
OVERLAP_SD_MIN, SCORE_SD_MIN = 1e-4, 0.05
"""Replays that are equal to the bit would make noise of any size a change."""
FIRINGS_MIN = 5
"""Golden firings of a feature that the panel has something to say of."""
LEVEL = 0.01
"""Chance that a panel on which nothing moved names any feature, by Bonferroni."""
MOVE_MIN = 0.02
"""Of the median log-ratio: a smaller move is not worth a name."""
APART_LEVEL = 1e-6
"""The same for a feature that changes the panel by itself: less than once in years of rounds."""
APART_MIN = {VALUES: float(np.log(1.15)), FIRINGS: float(np.log(1.1))}
"""What it moved by at least. Where firings are counted an interval is wider than one of values."""
NOISE_MIN = 1e-3
POOLED = 10.0
"""Replays' worth of all features' noise that each feature's own is shrunk to."""
LOG_MAX = float(np.log(10.0))
"""Where a log-ratio is cut: a firing that is gone counts as a tenth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """What one prompt fired, once: each token and feature once. ``[K]`` each, ordered."""

    position: I64
    feature: I64
    value: F32
    tokens: int

    @classmethod
    def of(cls, position: npt.NDArray[np.integer], feature: npt.NDArray[np.integer], value: F32, tokens: int) -> Replay:
        """Of firings in any order; of several of a feature on a token the strongest counts."""
        order = np.lexsort((-np.abs(value), feature, position))
        place, whose = position[order].astype(np.int64), feature[order].astype(np.int64)
        first = np.ones(len(order), np.bool_)
        first[1:] = (place[1:] != place[:-1]) | (whose[1:] != whose[:-1])
        return cls(position=place[first], feature=whose[first], value=value[order][first], tokens=tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Golden:
    """What the panel fires when all is well. ``[E]`` of a token and a feature, ``[P]`` of a prompt, ``[F]``."""

    prompt: I64  # [E]
    position: I64  # [E]
    feature: I64  # [E]
    value: F32  # [E] mean of the replays
    steady: Flags  # [E] it fired in most of them
    tokens: I64  # [P]
    overlap: F64  # [P] mean J of a replay with the others
    scatter: F64  # [P] its standard deviation
    noise: F64  # [F] standard deviation of the median log-ratio; NaN: too few firings
    usual: F64  # [F] its mean
    flips: Flips  # of all replays together
    score_sd: float
    replays: int

    @property
    def exercised(self) -> Flags:
        """``[F]`` features that the panel has something to say of."""
        return np.isfinite(self.noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What the panel said when all of it was replayed."""

    state: str
    overlap: float  # mean J
    usual: float  # the same of the golden replays
    score: float  # in standard deviations of theirs; below 0: less alike
    moved: tuple[Effect, ...]  # what moved most first
    apart: int = 0  # features of these that change the panel by themselves


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownPanel:
    """What a baseline has of its panel."""

    prompts: tuple[str, ...]  # by the digests of their texts, in the order of the golden replays
    golden: Golden


def golden(runs: Sequence[Sequence[Replay]], features: int) -> Golden:
    """Of ``runs``: replays of each prompt, in the same order. `ConfigError` for what nothing can be compared with."""
    _check(runs)
    tokens = np.array([one.tokens for one in runs[0]], np.int64)
    keys = [_keys(run, features) for run in runs]
    entries = np.unique(np.concatenate([key for key, _ in keys]))
    if len(entries) > ENTRIES_MAX:
        raise ConfigError("panel", found=f"{len(entries)} firings", expected=f"at most {ENTRIES_MAX}: fewer prompts")
    values = np.zeros((len(runs), len(entries)), np.float32)
    for row, (key, value) in zip(values, keys, strict=True):
        row[np.searchsorted(entries, key)] = value
    prompt, place = np.divmod(entries, TOKENS_MAX * features)
    position, feature = np.divmod(place, features)
    total, steady = values.sum(axis=0), (values != 0).mean(axis=0) > 0.5
    others = [(total - one) / (len(runs) - 1) for one in values]
    overlaps = np.array([_overlap(a, b, prompt, len(tokens)) for a, b in zip(values, others, strict=True)])
    if overlaps.mean() < STEADY_MIN:
        hint = "Were its replays served by one build, and are its prompts the same in each?"
        found = f"replays that are alike by {overlaps.mean():.2f}"
        raise ConfigError("panel", found=found, expected=f"at least {STEADY_MIN}", hint=hint)
    scatter = np.maximum(overlaps.std(axis=0, ddof=1), OVERLAP_SD_MIN)
    scores = ((overlaps - overlaps.mean(axis=0)) / scatter).mean(axis=1)
    logs = [_medians(a[steady], b[steady], feature[steady], features) for a, b in zip(values, others, strict=True)]
    usual, noise = _noise(np.array(logs), np.bincount(feature[steady], minlength=features))
    return Golden(
        prompt=prompt,
        position=position,
        feature=feature,
        value=total / np.float32(len(runs)),
        steady=steady,
        tokens=tokens,
        overlap=overlaps.mean(axis=0),
        scatter=scatter,
        noise=noise,
        usual=usual,
        flips=reduce(add, (Flips.of(one, steady, feature, features) for one in values)),
        score_sd=max(float(scores.std(ddof=1)), SCORE_SD_MIN),
        replays=len(runs),
    )


def judged(of: Golden, run: Sequence[Replay]) -> Round:
    """One round of all prompts, in their order, beside the golden replays."""
    features = len(of.noise)
    known = (of.prompt * TOKENS_MAX + of.position) * features + of.feature
    key, value = _keys(run, features)
    entries = np.union1d(known, key)
    before, now = np.zeros(len(entries), np.float32), np.zeros(len(entries), np.float32)
    place = np.searchsorted(entries, known)
    before[place] = of.value
    now[np.searchsorted(entries, key)] = value
    overlap = _overlap(now, before, entries // (TOKENS_MAX * features), len(of.tokens))
    score = float(((overlap - of.overlap) / of.scatter).mean())
    usual, found = float(of.overlap.mean()), float(overlap.mean())
    significant = score < -REACH * of.score_sd * _widened(of)
    material = usual - found > MATERIAL
    steady = of.steady
    medians = _medians(now[place][steady], of.value[steady], of.feature[steady], features)
    held = np.zeros(len(entries), np.bool_)
    held[place] = steady
    moved, apart = _moved(of, medians, Flips.of(now, held, entries % features, features))
    changed = (significant and material) or apart > 0
    return Round(
        state=COLLAPSED if found < COLLAPSE else CHANGED if changed else NUMERICS if significant else CLEAN,
        overlap=found,
        usual=usual,
        score=score / of.score_sd,
        moved=moved,
        apart=apart,
    )


def _check(runs: Sequence[Sequence[Replay]]) -> None:
    if len(runs) < REPLAYS:
        raise ConfigError("panel", found=f"{len(runs)} replays of each prompt", expected=f"at least {REPLAYS}")
    if not PROMPTS_MIN <= len(runs[0]) <= PROMPTS_MAX:
        raise ConfigError("panel", found=f"{len(runs[0])} prompts", expected=f"{PROMPTS_MIN} to {PROMPTS_MAX}")
    for number, prompt in enumerate(zip(*runs, strict=True)):
        lengths = {one.tokens for one in prompt}
        if len(lengths) > 1 or not 0 < max(lengths) <= TOKENS_MAX:
            found = f"prompt {number + 1} with {' and '.join(map(str, sorted(lengths)))} tokens"
            raise ConfigError("panel", found=found, expected=f"the same prompt each time, of at most {TOKENS_MAX}")


def _keys(run: Sequence[Replay], features: int) -> tuple[I64, F32]:
    """One number for each prompt, token and feature, and its value."""
    keys = [(number * TOKENS_MAX + one.position) * features + one.feature for number, one in enumerate(run)]
    return np.concatenate(keys), np.concatenate([one.value for one in run])


def _overlap(left: F32, right: F32, prompt: I64, prompts: int) -> F64:
    """J of each prompt; 1 where neither fires. Values of unlike signs have nothing in common."""
    a, b = np.abs(left, dtype=np.float64), np.abs(right, dtype=np.float64)
    alike = left * right >= 0
    low = np.bincount(prompt, np.where(alike, np.minimum(a, b), 0.0), prompts)
    high = np.bincount(prompt, np.where(alike, np.maximum(a, b), a + b), prompts)
    return np.where(high > 0, low / np.where(high > 0, high, 1.0), 1.0)


def _medians(now: F32, before: F32, feature: I64, features: int) -> F64:
    """``[F]`` medians of ln(now / before); NaN of a feature with fewer than `FIRINGS_MIN`."""
    ratio = np.where(now * before > 0, np.abs(now, dtype=np.float64) / np.maximum(np.abs(before), 1e-30), 0.0)
    logs = np.clip(np.log(np.maximum(ratio, 1e-30)), -LOG_MAX, LOG_MAX)
    order = np.lexsort((logs, feature))
    count = np.bincount(feature, minlength=features)
    start = np.cumsum(count) - count
    some = np.flatnonzero(count >= FIRINGS_MIN)
    found = np.full(features, np.nan)
    middle = (start[some] + (count[some] - 1) // 2, start[some] + count[some] // 2)
    found[some] = (logs[order[middle[0]]] + logs[order[middle[1]]]) / 2.0
    return found


def _noise(logs: F64, count: I64) -> tuple[F64, F64]:
    """Mean and standard deviation of golden medians ``[R, F]``, shrunk to what features of as many firings have."""
    runs, some = len(logs), count >= FIRINGS_MIN
    usual, noise = np.full(len(count), np.nan), np.full(len(count), np.nan)
    if some.any():
        usual[some] = logs[:, some].mean(axis=0)
        own = logs[:, some].var(axis=0, ddof=1)
        pooled = float((own * count[some]).mean()) / count[some]
        shrunk = ((runs - 1) * own + POOLED * pooled) / (runs - 1 + POOLED)
        noise[some] = np.sqrt(np.maximum(shrunk, NOISE_MIN**2))
    return usual, noise


def _moved(of: Golden, medians: F64, flips: Flips) -> tuple[tuple[Effect, ...], int]:
    """Features that moved, and how many of them change the panel by themselves."""
    some = np.flatnonzero(of.exercised)
    steady = np.bincount(of.feature[of.steady], minlength=len(of.noise))
    sides = {VALUES: _values(of, medians, some), FIRINGS: flipped(flips, of.flips, of.replays, steady, some)}
    moved, apart = dict[int, Effect](), set[int]()
    for name, tested in sides.items():
        chance, least = tested.chance * len(some) * len(sides), tested.least
        named = (chance < LEVEL) & (np.abs(np.log(np.maximum(tested.effect, RATIO_MIN))) > MOVE_MIN)
        apart.update(some[(chance < APART_LEVEL) & (least > APART_MIN[name])].tolist())
        columns = (some, tested.effect, tested.low, tested.high)
        for feature, *ratio in zip(*(one[named].tolist() for one in columns), strict=True):
            found = Effect(feature, name, *ratio)
            moved[feature] = max(moved.get(feature, found), found, key=lambda one: one.least)
    return tuple(sorted(moved.values(), key=lambda one: -one.least)), len(apart)


def _values(of: Golden, medians: F64, some: I64) -> Ratios:
    """How many times as high the features ``some`` fire."""
    off = medians[some] - of.usual[some]
    spread = of.noise[some] * _widened(of)
    chance = student(off / spread, np.full(len(some), of.replays - 1 + POOLED))
    effect, low, high = np.exp(off + np.outer([0.0, -Z95, Z95], spread))
    return Ratios(effect=effect, low=low, high=high, chance=chance)


def _widened(of: Golden) -> float:
    """The golden mean is estimated too."""
    return float(np.sqrt(1.0 + 1.0 / of.replays))
