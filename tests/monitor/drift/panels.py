"""Panels of a small dictionary: what fixed prompts fire, with the noise of serving, and with changes planted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from saewatch.core.batch import F32
from saewatch.core.records import Record, RequestEnd, RequestLabel, RequestStart
from saewatch.monitor.drift.counts import Indices
from saewatch.monitor.drift.panel import Golden, KnownPanel, Replay, golden
from saewatch.monitor.drift.replays import client_id
from tests import fakes

FEATURES, PROMPTS, TOKENS, RUNS = 12, 32, 24, 20
NOISE = 0.005
NAMES = tuple(f"{number:016x}" for number in range(PROMPTS))


def prompts(seed: int = 3) -> list[tuple[Indices, Indices, F32]]:
    """Positions, features and values of each prompt, without noise. The last feature never fires."""
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(PROMPTS):
        fires = np.argwhere(chance.random((TOKENS, FEATURES - 1)) < 0.15)
        found.append((fires[:, 0], fires[:, 1], np.exp(chance.normal(0.5, 0.4, len(fires))).astype(np.float32)))
    return found


def replayed(
    chance: np.random.Generator,
    *,
    noise: float = NOISE,
    factors: Mapping[int, float] | None = None,
    gone: float = 0.0,
    lost: Mapping[int, float] | None = None,
    new: Mapping[int, float] | None = None,
    tokens: int = TOKENS,
) -> list[Replay]:
    """One round. ``factors`` on values by feature; a share of all firings ``gone``, and by feature of its own ``lost``;
    ``new``, by feature, of the tokens on which it did not fire.
    """
    made = []
    for position, feature, value in prompts():
        times = np.array([(factors or {}).get(int(one), 1.0) for one in feature])
        seen: F32 = (value * times * np.exp(chance.normal(0.0, noise, len(value)))).astype(np.float32)
        kept = chance.random(len(seen)) >= np.array([max(gone, (lost or {}).get(int(one), 0.0)) for one in feature])
        fired = [(position[kept], feature[kept], seen[kept])]
        for one, share in (new or {}).items():
            places = np.setdiff1d(np.flatnonzero(chance.random(TOKENS) < share), position[feature == one])
            fired.append((places, np.full(len(places), one), np.ones(len(places), np.float32)))
        where, which, height = (np.concatenate(side) for side in zip(*fired, strict=True))
        made.append(Replay.of(where, which, height, tokens))
    return made


def runs(noise: float = NOISE, count: int = RUNS, lost: Mapping[int, float] | None = None) -> list[list[Replay]]:
    """Golden ones."""
    chance = np.random.default_rng(0)
    return [replayed(chance, noise=noise, lost=lost) for _ in range(count)]


def a_golden(noise: float = NOISE, lost: Mapping[int, float] | None = None) -> Golden:
    """Of them."""
    return golden(runs(noise, lost=lost), FEATURES)


def known(noise: float = NOISE) -> KnownPanel:
    """As a baseline has it."""
    return KnownPanel(prompts=NAMES, golden=a_golden(noise))


def requests(run: Sequence[Replay], first: int, now_ns: int, names: Sequence[str] = NAMES) -> Iterator[Record]:
    """A round as an engine tells of it; requests are numbered from ``first`` on."""
    for number, (name, one) in enumerate(zip(names, run, strict=True), start=first):
        fired = zip(one.position.tolist(), one.feature.tolist(), one.value.tolist(), strict=True)
        yield RequestLabel(key=fakes.key(number), client_id=client_id(name, str(number)), traffic_class="canary")
        yield RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=one.tokens)
        yield fakes.batch([(number, 0, one.tokens)], list(fired), seq=number, time_ns=now_ns)
        yield RequestEnd(request=number, fed=one.tokens, emitted=1)
