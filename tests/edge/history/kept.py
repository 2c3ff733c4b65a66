"""A history that is written by hand, and a random life of two engines with everything that it came to, told plainly."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saewatch.core.batch import FiringBatch, Reason, SlotKind
from saewatch.core.records import Record, RequestEnd, RequestLabel, RequestStart
from saewatch.edge.history.reading import Reader
from saewatch.edge.history.retention import Bounds
from saewatch.edge.history.sink import HistorySink
from saewatch.edge.history.store import Store
from saewatch.edge.history.wanted import Wanted
from saewatch.edge.history.writer import Cause, Loss
from saewatch.edge.pipeline import Pipeline
from saewatch.monitor.tables import KnownDictionary
from tests import fakes

MIB = 2**20
T0 = 1_700_000_000 * 10**9
MS = 10**6
FOREVER = Bounds(keep_ns=10**18, max_bytes=256 * MIB)
FEATURES = (
    fakes.feature("animals.g1", latents=(1, 2), category="x.animals"),
    fakes.feature("threat.g1", latents=(2, 3), category="vcr", floor=1.0),
    fakes.feature("threat.l1", latents=(3,), category="vcr", floor=0.5),
    fakes.feature("threat.p1", direction=0, category="vcr"),
)


class Kept:
    """A sink without its thread, and the pipeline in front of it. Engine ``n`` speaks on link ``n + 1``."""

    def __init__(self, path: Path, *, known: Sequence[KnownDictionary] = (), bounds: Bounds = FOREVER) -> None:
        self.path = path
        self.known = list(known) or [fakes.dictionary(FEATURES)]
        self.now_ns = T0
        self.sink = HistorySink(path, bounds, clock=lambda: self.now_ns)
        self.sink.open()
        self.pipeline = Pipeline(
            dictionaries={one.weights_digest: one for one in self.known},
            queues=[self.sink.queue],
            clock=lambda: self.now_ns,
        )
        self.seq: dict[tuple[int, int], int] = {}
        self.started: list[int] = []

    @property
    def store(self) -> Store:
        """What its thread would write to."""
        assert self.sink.store is not None
        return self.sink.store

    def put(self, *records: Record, link: int = 1) -> None:
        """An engine says something."""
        for record in records:
            self.pipeline.receive(link, record)

    def ready(self, *, link: int = 1, engine: str = "engine-0", epoch: int = 1000) -> None:
        """A stream for each dictionary."""
        self.pipeline.connect(link)
        for stream, one in enumerate(self.known, 1):
            names = {"engine": engine, "epoch": epoch, "hook_point": f"resid_post.{stream}"}
            self.put(fakes.stream_open(one, stream=stream, **names), fakes.watch_set(one, stream=stream), link=link)

    def start(self, number: int, *, link: int = 1, prompt_len: int = 4, **label: Any) -> None:
        """A request begins, with a label where something is said of it."""
        self.started.append(number)
        if label:
            self.put(RequestLabel(key=fakes.key(number), **label), link=link)
        name = fakes.engine_id(number) if label else f"plain-{number}"
        self.put(RequestStart(request=number, engine_id=name, prompt_len=prompt_len), link=link)

    def end(self, number: int, *, fed: int = 4, emitted: int = 1, link: int = 1) -> None:
        """It ends."""
        self.put(RequestEnd(request=number, fed=fed, emitted=emitted), link=link)

    def batch(
        self, spans: Sequence[fakes.Span], firings: Sequence[fakes.Firing] = (), *, link: int = 1, **fields: Any
    ) -> None:
        """A step, at `now_ns` unless it says otherwise."""
        self.send(fakes.batch(spans, firings, **{"time_ns": self.now_ns, **fields}), link=link)

    def send(self, batch: FiringBatch, *, link: int = 1) -> None:
        """A step that is a batch already, with the next seq."""
        place = (link, batch.stream)
        self.seq[place] = self.seq.get(place, 0) + 1
        self.put(replace(batch, seq=self.seq[place], time_ns=batch.time_ns or self.now_ns), link=link)

    def flush(self) -> bool:
        """What has come becomes blocks."""
        self.sink.take(self.sink.queue.take())
        return self.sink.flush()

    def expire(self) -> None:
        """What is too old goes."""
        while self.store.retention.expire(self.now_ns):
            pass

    def lose(self, cause: Cause, at_ns: int, *, tokens: int) -> None:
        """A loss with one firing is written."""
        loss = Loss(cause=cause, first_ns=at_ns, last_ns=at_ns, tokens=tokens, firings=1)
        self.store.writer.lose([loss])

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What a statement finds."""
        with self.reader() as reader:
            return reader.rows(statement)

    def reader(self, **wanted: Any) -> Reader:
        """A look into it."""
        return Reader(self.path, wanted=Wanted(**wanted))


@contextmanager
def kept(path: Path, **settings: Any) -> Iterator[Kept]:
    """A history that is closed again."""
    one = Kept(path, **settings)
    try:
        yield one
    finally:
        one.sink.close()


# --- a life, and what it came to --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Who:
    """A request."""

    number: int
    link: int
    engine_id: str
    client_id: str = ""
    key: str = ""
    tenant: str = ""
    traffic_class: str = "unlabelled"
    conversation: str = ""
    prompt_len: int = 4


@dataclass(frozen=True)
class Fed:
    """Tokens of one request, of one stream, at one time; ``reason`` None: they were seen."""

    time_ns: int
    who: Who | None
    stream: int
    link: int
    tokens: int
    reason: int | None
    again: bool = False


@dataclass(frozen=True)
class Fired:
    """One feature at one position."""

    time_ns: int
    who: Who | None
    stream: int
    link: int
    feature: str
    category: str
    value: float
    position: int
    origin: int
    unit: int


class Life:
    """What happened."""

    def __init__(self) -> None:
        self.fed: list[Fed] = []
        self.fired: list[Fired] = []
        self.who: list[Who] = []
        self.running: dict[int, list[Who]] = {1: [], 2: []}


def live(one: Kept, *, seed: int, steps: int = 150, rest: float = 0.1) -> Life:
    """A random life of two engines with two dictionaries each, written in blocks of random length."""
    dice, life = random.Random(seed), Life()
    running = life.running
    positions: dict[Who, int] = {}
    for link in running:
        one.ready(link=link, engine=f"engine-{link - 1}")
    for _ in range(steps):
        one.now_ns += dice.randint(0, 300) * MS
        link = dice.choice([1, 2])
        if dice.random() < 0.5 and len(running[link]) < 5:
            running[link].append(_begin(one, life, dice, link))
        for stream in (1, 2):
            _step(one, life, dice, (stream, link), positions)
        if running[link] and dice.random() < 0.3:
            gone = running[link].pop(0)
            one.end(gone.number, link=link)
        if dice.random() < rest:
            one.flush()
    one.flush()
    return life


def _begin(one: Kept, life: Life, dice: random.Random, link: int) -> Who:
    number = len(life.who) + 1
    if dice.random() < 0.3:
        one.start(number, link=link)
        who = Who(number, link, f"plain-{number}")
    else:
        label: dict[str, Any] = {
            "client_id": f"client-{dice.randint(1, 9)}",
            "tenant": dice.choice(["", "acme", "umbrella"]),
            "traffic_class": dice.choice(["live", "test"]),
            "conversation": dice.choice(["", "c1", "c2", "c3"]),
        }
        one.start(number, link=link, **label)
        who = Who(number, link, fakes.engine_id(number), key=fakes.key(number), **label)
    life.who.append(who)
    return who


def _step(one: Kept, life: Life, dice: random.Random, place: tuple[int, int], positions: dict[Who, int]) -> None:
    """A step of one stream of one engine."""
    stream, link = place
    time_ns = one.now_ns - dice.randint(0, 50) * MS
    spans: list[fakes.Span] = []
    missed: list[fakes.Missed] = []
    rows: list[tuple[Who | None, int, int]] = []
    for who in [*life.running[link], None]:
        if dice.random() < (0.3 if who else 0.9):
            continue
        at, tokens = positions.get(who, 0) if who else 0, dice.randint(1, 4)
        origin = dice.choice([0, 0, 0, 2, 1])
        at = max(at - 2, 0) if origin == 1 else at
        spans.append((who.number if who else 999, at, tokens, origin))
        rows += [(who, at + step, origin) for step in range(tokens)]
        life.fed.append(Fed(time_ns, who, stream, link, tokens, None, origin == 1))
        if who and stream == 2:
            positions[who] = at + tokens
        if dice.random() < 0.3:
            reason = dice.choice(list(Reason))
            missed.append((who.number if who else 0, reason, tokens))
            life.fed.append(Fed(time_ns, who, stream, link, tokens, int(reason)))
    firings: list[fakes.Firing] = []
    for row, (who, position, origin) in enumerate(rows):
        for slot, (kind, unit, floor) in enumerate(fakes.slots_of(one.known[stream - 1])):
            if dice.random() < 0.3:
                value = float(np.float32(floor + dice.random() * 2 + 0.01))
                firings.append((row, slot, value))
                life.fired += [
                    Fired(time_ns, who, stream, link, name, category, value, position, origin, unit)
                    for name, category in _features(kind, unit, value)
                ]
    if spans or missed:
        one.batch(spans, firings, link=link, stream=stream, missed=missed, time_ns=time_ns)


def _features(kind: SlotKind, unit: int, value: float) -> list[tuple[str, str]]:
    """Ids and categories of the features that fire with a unit."""
    reads = {one: one.latents if kind == SlotKind.LATENT else (one.direction,) for one in FEATURES}
    return [(one.id, one.category) for one, units in reads.items() if unit in units and value > one.floor]
