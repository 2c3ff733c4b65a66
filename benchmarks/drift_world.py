"""Traffic whose dependence, seasons and heavy tails are like those of serving, for measuring detectors of drift.

Topics mix over the day and the week; sessions have a few requests and fire a feature in bursts; some features move from
day to day for no reason (*volatile* ones). Nothing in it was measured on real traffic: it is a model, with every number
here. What the sidecar's reducer would have counted, block by block, is what comes out of it.

A session's count of a feature is negative binomial, drawn as what it is a sum of: a Poisson number of bursts with
logarithmic sizes (Quenouille 1949). A pair of session and feature without a burst costs one exponential number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from saewatch.monitor.drift.counts import BETAS, CLIP, EXPOSURE_UNIT, MARK_UNIT, REQUEST_FIRINGS

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOPICS = 16
BLOCKS_A_DAY = 144
VALUE_BINS = 64
VALUE_SPAN = 4.0
"""Request values are kept in bins of (value - centre) / scale from -4 to 4, for the methods that compare values."""
DAY_MEMORY, MIX_MEMORY = 0.7, 0.6
VOLATILE_SD, ORDINARY_SD = 0.25, 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """What does not change: features and topics."""

    rate: F64  # [F] firings a token
    gain: F32  # [16, F] of a topic on a feature's rate
    shape: F64  # [F] of a burst; small ones make long bursts
    mean: F64  # [F] of the log-value
    sd: F64  # [F]
    within: F64  # [F] share of the variance that a session has in common
    volatile: npt.NDArray[np.bool_]  # [F]
    centre: F64  # [F] as the data sheet says them, not quite the mean
    scale: F64  # [F]
    mix: F64  # [16]
    length: F64  # [16] median tokens of a request
    swing: F64  # [16]
    phase: F64  # [16]
    weekend: F64  # [16]
    unexplained: F64  # [16]

    @property
    def features(self) -> int:
        """How many."""
        return len(self.rate)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """What is done to a week, from its first block on."""

    rate: F64 | float = 1.0  # [F] times the rate
    shape: F64 | float = 1.0  # [F] times the burst's shape: with the rate's factor, prevalence changes
    shift: F64 | float = 0.0  # [F] on the log-value
    spread: F64 | float = 1.0  # [F] times its sd
    surge: tuple[int, float] | None = None  # a topic's weight, times


NOTHING = Change()


@dataclass(slots=True, kw_only=True, eq=False)
class Week:
    """Counts of each block, ``[T, F]``, and of requests' values of each day."""

    n: npt.NDArray[np.int32]
    w: npt.NDArray[np.int32]
    z: npt.NDArray[np.int32]
    az: npt.NDArray[np.int32]
    exposure: Ints  # [T, 5]
    requests: Ints  # [T]
    encoded: Ints  # [T]
    firings: Ints  # [T]
    unexplained: F64  # [T] mean over tokens
    values: npt.NDArray[np.int32]  # [days, F, 64]
    sessions: Ints = field(default_factory=lambda: np.zeros(0, np.int64))


def world(seed: int, features: int) -> World:
    """Features and topics of a world."""
    chance = np.random.default_rng(seed)
    mix = chance.dirichlet(np.full(TOPICS, 4.0))
    rate = 10.0 ** chance.uniform(-6.0, -2.0, features)
    mean, sd = chance.normal(1.0, 0.5, features), chance.uniform(0.4, 0.9, features)
    return World(
        rate=rate,
        gain=_gains(chance, mix, features),
        shape=chance.uniform(0.15, 0.6, features) * np.minimum(1.0, rate / 5e-3),
        mean=mean,
        sd=sd,
        within=chance.uniform(0.2, 0.6, features),
        volatile=chance.random(features) < 0.1,
        centre=mean + chance.normal(0.0, 0.1, features),
        scale=0.8 * sd * np.exp(chance.normal(0.0, 0.1, features)),
        mix=mix,
        length=np.exp(chance.uniform(np.log(80.0), np.log(350.0), TOPICS)),
        swing=chance.uniform(0.0, 0.8, TOPICS),
        phase=chance.uniform(0.0, 24.0, TOPICS),
        weekend=chance.normal(0.0, 0.5, TOPICS),
        unexplained=chance.uniform(0.12, 0.25, TOPICS),
    )


def _gains(chance: np.random.Generator, mix: F64, features: int) -> F32:
    """Some features hardly know topics, some prefer a few, some have one; each is 1 on average over the mix."""
    kind = chance.random(features)
    gain = np.exp(chance.normal(0.0, 0.2, (features, TOPICS)))
    some = (kind >= 0.3) & (kind < 0.8)
    gain[some] = TOPICS * chance.dirichlet(np.full(TOPICS, 0.5), int(some.sum())) + 0.02
    one = kind >= 0.8
    gain[one] = 0.1
    gain[one, chance.integers(0, TOPICS, int(one.sum()))] = 14.4
    gain /= (gain @ mix)[:, None]
    found: F32 = np.ascontiguousarray(gain.T, dtype=np.float32)
    return found


def week(
    of: World,
    seed: int,
    *,
    change: Change = NOTHING,
    days: int = 7,
    blocks_a_day: int = BLOCKS_A_DAY,
    each: Callable[[int, Fired], None] = lambda _, __: None,
) -> Week:
    """``days`` of traffic from a Monday's midnight on, of a seed of its own. ``each`` is told of blocks' firings."""
    chance = np.random.default_rng(seed)
    moods = _moods(of, chance, days)
    mixes = np.zeros((days, TOPICS))
    for day in range(days):
        before = mixes[day - 1] if day else np.zeros(TOPICS)
        mixes[day] = MIX_MEMORY * before + chance.normal(0.0, 0.12, TOPICS)
    blocks = days * blocks_a_day
    made = _empty(of.features, blocks, days)
    for number in range(blocks):
        day, hour = number // blocks_a_day, (number % blocks_a_day) * 24.0 / blocks_a_day
        weekend = day % 7 >= 5
        weights = _weights(of, hour, mixes[day], change, weekend=weekend)
        traffic = _Traffic(of, chance, weights, _level(hour, weekend=weekend))
        rate = of.rate * np.exp(moods[day]) * change.rate
        fired = Fired(of, change, chance, traffic, rate.astype(np.float32))
        each(number, fired)
        _count(of, fired, traffic, made, number)
        _keep_values(fired, made.values[day])
    return made


def _empty(features: int, blocks: int, days: int) -> Week:
    table: Any = {name: np.zeros((blocks, features), np.int32) for name in ("n", "w", "z", "az")}
    columns: Any = {name: np.zeros(blocks, np.int64) for name in ("requests", "encoded", "firings", "sessions")}
    return Week(
        **table,
        **columns,
        exposure=np.zeros((blocks, len(BETAS)), np.int64),
        unexplained=np.zeros(blocks),
        values=np.zeros((days, features, VALUE_BINS), np.int32),
    )


def _moods(of: World, chance: np.random.Generator, days: int) -> F64:
    """Log-rate of each day and feature, of mean 1 in the rate."""
    sd = np.where(of.volatile, VOLATILE_SD, ORDINARY_SD)
    found = np.zeros((days, of.features))
    found[0] = chance.normal(0.0, 1.0, of.features)
    for day in range(1, days):
        fresh = chance.normal(0.0, np.sqrt(1.0 - DAY_MEMORY**2), of.features)
        found[day] = DAY_MEMORY * found[day - 1] + fresh
    moods: F64 = sd * found - sd**2 / 2.0
    return moods


def _weights(of: World, hour: float, daily: F64, change: Change, *, weekend: bool) -> F64:
    """Of the topics, at a time of a day."""
    swing = of.swing * np.cos(2 * np.pi * (hour - of.phase) / 24.0)
    weight: F64 = np.exp(np.log(of.mix) + swing + of.weekend * weekend + daily)
    if change.surge is not None:
        weight[change.surge[0]] *= change.surge[1]
    return weight


def _level(hour: float, *, weekend: bool) -> float:
    """Sessions that are to be expected of a block."""
    return float(100.0 * (1.0 + 0.6 * np.cos(2 * np.pi * (hour - 15.0) / 24.0)) * (0.65 if weekend else 1.0))


class _Traffic:
    """The sessions of one block: their topics, and their requests with lengths."""

    def __init__(self, of: World, chance: np.random.Generator, weight: F64, level: float) -> None:
        now = np.cumsum(weight / weight.sum())
        count = max(5, int(chance.poisson(level * np.exp(chance.normal(0.0, 0.05)))))
        first, second = _topics(chance, now, count), _topics(chance, np.cumsum(of.mix), count)
        share = chance.beta(6.0, 2.0, count)
        requests = chance.geometric(0.4, count)
        requests = np.where(chance.random(count) < 0.01, chance.integers(10, 41, count), requests)
        if chance.random() < 0.03:  # a batch job
            topic = _topics(chance, now, 1)
            first, second = np.append(first, topic), np.append(second, topic)
            share, requests = np.append(share, 1.0), np.append(requests, chance.integers(50, 201))
        self.first, self.second, self.share = first, second, share
        self.requests = requests.astype(np.int64)
        mean = of.length[first] * np.exp(chance.normal(0.0, 0.6, len(first)))
        owner = np.repeat(np.arange(len(first)), self.requests)
        drawn = mean[owner] * np.exp(chance.normal(0.0, 0.5, len(owner)))
        self.lengths = np.clip(np.rint(drawn), 8, 4096).astype(np.int64)
        self.tokens = np.bincount(owner, weights=self.lengths, minlength=len(first))
        explained = (share * of.unexplained[first] + (1 - share) * of.unexplained[second])[owner]
        lost = explained * np.exp(chance.normal(0.0, 0.15, len(owner)))
        self.unexplained = float((lost * self.lengths).sum() / self.lengths.sum())


def _topics(chance: np.random.Generator, cumulative: F64, count: int) -> Ints:
    found: Ints = np.minimum(np.searchsorted(cumulative, chance.random(count)), TOPICS - 1)
    return found


class Fired:
    """What a block's sessions fired: an entry for each request in which a feature did."""

    def __init__(self, of: World, change: Change, chance: np.random.Generator, traffic: _Traffic, rate: F32) -> None:
        shape = np.broadcast_to(of.shape * change.shape, rate.shape)
        session, feature, count = _counts(of.gain * rate, shape, chance, traffic)
        self.firings, self.requests = int(count.sum()), len(traffic.lengths)
        self.session = np.repeat(np.arange(len(traffic.requests)), traffic.requests)  # of each request
        pair, self.fired, place = _scattered(chance, count, traffic.requests[session])
        self.request = (np.cumsum(traffic.requests) - traffic.requests)[session[pair]] + place  # of the block
        self.feature = whose = feature[pair]
        common = chance.standard_normal(len(feature), dtype=np.float32) * np.sqrt(of.within)[feature]
        own = np.sqrt((1 - of.within)[whose] / self.fired)
        u = common[pair] + chance.standard_normal(len(pair), dtype=np.float32) * own
        heavy = chance.random(len(pair), dtype=np.float32) < 0.02
        u[heavy] += chance.exponential(1.5, int(heavy.sum()))
        sd, mean = of.sd * change.spread, of.mean + change.shift
        self.mark = (mean[whose] + sd[whose] * u - of.centre[whose]) / of.scale[whose]


def _count(of: World, fired: Fired, traffic: _Traffic, made: Week, number: int) -> None:
    """As the sidecar's reducer would."""
    made.sessions[number] = len(traffic.first)
    made.requests[number] = len(traffic.lengths)
    made.encoded[number] = traffic.lengths.sum()
    made.exposure[number] = [int(np.rint(EXPOSURE_UNIT * traffic.lengths**beta).sum()) for beta in BETAS]
    made.unexplained[number] = traffic.unexplained
    made.firings[number] = fired.firings
    q, whose, size = np.rint(MARK_UNIT * np.clip(fired.mark, -CLIP, CLIP)), fired.feature, of.features
    made.n[number] = np.bincount(whose, minlength=size)
    made.w[number] = np.bincount(whose, np.minimum(fired.fired, REQUEST_FIRINGS), size)
    made.z[number] = np.rint(np.bincount(whose, q, size))
    made.az[number] = np.rint(np.bincount(whose, np.abs(q), size))


def _keep_values(fired: Fired, values: npt.NDArray[np.int32]) -> None:
    bins = np.clip((fired.mark + VALUE_SPAN) * (VALUE_BINS / (2 * VALUE_SPAN)), 0, VALUE_BINS - 1).astype(np.int64)
    values += np.bincount(fired.feature * VALUE_BINS + bins, minlength=values.size).reshape(values.shape)


def _counts(rates: F32, shapes: F64, chance: np.random.Generator, traffic: _Traffic) -> tuple[Ints, Ints, Ints]:
    """Pairs of session and feature that fire, and how often."""
    weight = np.zeros((len(traffic.first), TOPICS), np.float32)
    each = np.arange(len(weight))
    weight[each, traffic.first] = traffic.share.astype(np.float32)
    weight[each, traffic.second] += (1 - traffic.share).astype(np.float32)
    expected = ((weight * traffic.tokens[:, None].astype(np.float32)) @ rates).ravel()
    arrival = chance.standard_exponential(len(expected), dtype=np.float32)
    pair = np.flatnonzero(arrival < expected)  # bursts are fewer than firings
    mean = expected[pair].astype(np.float64)
    shape = shapes[pair % rates.shape[1]]
    bursts = shape * np.log1p(mean / shape)
    first = arrival[pair]
    fires = np.flatnonzero(first < bursts)
    session, feature = np.divmod(pair[fires], rates.shape[1])
    mean, shape = mean[fires], shape[fires]
    more = chance.poisson(bursts[fires] - first[fires])
    several = np.repeat(np.arange(len(mean)), 1 + more)
    size = chance.logseries((mean / (mean + shape))[several])
    count = np.bincount(several, size, len(mean))
    return session, feature, np.minimum(count, traffic.tokens[session]).astype(np.int64)


def _scattered(chance: np.random.Generator, count: Ints, requests: Ints) -> tuple[Ints, Ints, Ints]:
    """Each firing on any of its session's requests: pairs again for each request that fires, with its firings.

    And which of the session's requests it is.
    """
    start = np.concatenate([[0], np.cumsum(requests)])
    place = np.repeat(start[:-1], count)
    place += (chance.random(len(place), dtype=np.float32) * np.repeat(requests, count)).astype(np.int64)
    cells = np.bincount(place, minlength=int(start[-1]))
    fired = np.flatnonzero(cells > 0)
    pair = np.repeat(np.arange(len(count)), requests)[fired]
    return pair, cells[fired], fired - start[pair]
