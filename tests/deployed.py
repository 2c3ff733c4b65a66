"""Days of a small deployment: groups of requests of a fake engine, at times of their own, to count and to record."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from saewatch.core.batch import F32, Census
from saewatch.core.marks import Happening, RecordingHead
from saewatch.core.recording import Writer
from saewatch.core.records import Record, RequestEnd, RequestLabel, RequestStart
from saewatch.edge import baselines, dictionaries
from saewatch.monitor import observe
from saewatch.monitor.drift.build import Builder, Told
from saewatch.monitor.drift.counts import Indices
from saewatch.monitor.drift.fit import Fitted
from saewatch.monitor.drift.known import About, KnownBaseline
from saewatch.monitor.drift.panel import KnownPanel
from saewatch.monitor.drift.reducer import summed
from saewatch.monitor.drift.slices import source_of
from saewatch.monitor.tables import StreamIdentity, join
from tests import fakes

FEATURES = 12
KNOWN = fakes.dictionary([fakes.feature(f"demo{n:02}.l1", latents=(n,)) for n in range(FEATURES)])
CHANCES = np.linspace(0.1, 0.6, FEATURES)
GROUP, GROUPS_A_DAY, GROUP_NS = 60, 8, 3 * 3600 * 10**9
TOKENS = 20
DAY_NS = 24 * 3600 * 10**9
START_NS = 1000 * DAY_NS
STREAM = StreamIdentity(number=1, opening=fakes.stream_open(KNOWN), dictionary=KNOWN)
ABOUT = About.of(join([fakes.watch_set(KNOWN)], number=1, stream=STREAM), "demo")
LATENTS = 30
"""Of which a census tells half in each part."""
FIRES = np.array([0, 2, 10, 30], np.uint64)
"""On so many of 100 sampled tokens each latent fires, in turn."""
SHOP, OTHER = "shop", "other"
SOLD = {4: 2.5}
"""What the shop's requests fire more often."""
Fired = tuple[Indices, F32]  # slots and values


def fired(chance: np.random.Generator, factors: Mapping[int, float]) -> Fired:
    """What a request fires; some features some times as often."""
    rate = CHANCES * [factors.get(number, 1.0) for number in range(FEATURES)]
    slots = np.flatnonzero(chance.random(FEATURES) < rate)
    return slots, np.exp(chance.normal(0.5, 0.3, len(slots))).astype(np.float32)


def times(days: int, start_ns: int = START_NS) -> Iterator[int]:
    """When each group comes."""
    for group in range(days * GROUPS_A_DAY):
        yield start_ns + group * GROUP_NS


def asked(chance: np.random.Generator, shop: float) -> tuple[str, Mapping[int, float]]:
    """Whose request it is, and how much more often it fires some features."""
    return (SHOP, SOLD) if chance.random() < shop else (OTHER, {})


@lru_cache(maxsize=4)
def baseline(days: int = 28, shop: float = 0.0) -> KnownBaseline:
    """What is usual here. ``shop``: share of requests that are the shop's; 0: no request has a tenant."""
    builder, chance, who = Builder(FEATURES), np.random.default_rng(1), np.random.default_rng(2)
    for now_ns in times(days, START_NS - days * DAY_NS):
        for first in (0, 15):
            part = census(now_ns, float(chance.normal(20.0, 0.2)), first=first)
            builder.census(observe.sampled(part, STREAM)[0])
        for number in range(GROUP):
            tenant, factors = asked(who, shop) if shop else ("", {})
            feature, count, mean = summed(*fired(chance, factors))
            ended, source = now_ns + number * 10**9, source_of(tenant)
            builder.add(
                Told(feature=feature, count=count, mean=mean, tokens=TOKENS, key=ended, ended_ns=ended, source=source)
            )
    names = tuple(one.id for one in KNOWN.catalogue.features)
    return KnownBaseline(about=ABOUT, features=names, fitted=builder.fitted(), digest="sha256:" + "0" * 64)


def written(folder: Path, *, fitted: Fitted | None = None, panel: KnownPanel | None = None) -> Path:
    """The folder of `baseline`, or of another fit of the same."""
    known = baseline()
    of = fitted or known.fitted
    baselines.write(folder, of, baselines.attested(of, known.about, known.features, {}, panel), panel)
    return folder


def request(number: int, one: Fired, now_ns: int, *, label: str = "", tenant: str = "") -> list[Record]:
    """A request, from its start to its end. The first token is excluded, as it is everywhere."""
    slots, values = one
    place = np.sort(np.random.default_rng(number).integers(0, TOKENS, len(slots)))
    firings = [(int(row), int(slot), float(value)) for row, slot, value in zip(place, slots, values, strict=True)]
    name = fakes.engine_id(number) if label else f"r{number}"
    told = RequestLabel(key=fakes.key(number), traffic_class=label or "live", tenant=tenant)
    labels: list[Record] = [told] if label else []
    return [
        *labels,
        RequestStart(request=number, engine_id=name, prompt_len=TOKENS),
        fakes.batch([(number, 0, TOKENS)], sorted(firings), seq=number, time_ns=now_ns),
        RequestEnd(request=number, fed=TOKENS, emitted=1),
    ]


def census(
    now_ns: int, l0: float, *, unexplained: float = 0.2, first: int = 0, fires: Mapping[int, int] | None = None
) -> Census:
    """A part of one; some latents fire on another number of its tokens."""
    count = np.resize(FIRES, LATENTS)
    for latent, tokens in (fires or {}).items():
        count[latent] = tokens
    return Census(
        stream=fakes.stream_open(KNOWN).stream,
        time_ns=now_ns,
        tokens=100,
        latents=LATENTS,
        first=first,
        l0_mean=l0,
        squared_error=10.0 * unexplained,
        squared_total=10.0,
        total=np.zeros(15),
        count=count[first : first + 15],
    )


def recording(
    path: Path,
    days: int,
    *,
    factors: Mapping[int, float] | None = None,
    start_ns: int = START_NS,
    seed: int = 2,
    tenant: str = "",
) -> Path:
    """Of some days. Requests of a ``tenant`` have labels."""
    out, chance = io.BytesIO(), np.random.default_rng(seed)
    writer = Writer(out, RecordingHead(program="0.1.0", began_ns=start_ns))
    writer.happens(1, 1, Happening.CONNECTED)
    writer.write(1, 1, fakes.stream_open(KNOWN))
    writer.write(1, 1, fakes.watch_set(KNOWN))
    number = 0
    for now_ns in times(days, start_ns):
        for _ in range(GROUP):
            number += 1
            told = fired(chance, factors or {})
            for record in request(number, told, now_ns, label="live" if tenant else "", tenant=tenant):
                writer.write(1, max(now_ns - start_ns, 1), record)
    writer.close()
    path.write_bytes(out.getvalue())
    return path


def bundle(folder: Path) -> Path:
    """Of the dictionary."""
    path = fakes.write_bundle(folder, KNOWN)
    assert dictionaries.load_one(path).weights_digest == KNOWN.weights_digest
    return path
