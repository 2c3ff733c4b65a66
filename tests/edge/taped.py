"""A sidecar without services that records what it receives, a scene for it, and what came of it, to be compared."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from saewatch.core.batch import Origin, Reason
from saewatch.core.recording import Received, Recording
from saewatch.core.records import StreamBeat
from saewatch.edge import dictionaries
from saewatch.edge.pipeline import Item, Pipeline, SinkQueue
from saewatch.edge.recorder import RecordedSource, Recorder
from saewatch.edge.rpc import messages
from saewatch.edge.rpc.feed import Feed
from saewatch.edge.rpc.filters import Filter
from saewatch.edge.sinks.metrics import MetricsSink
from saewatch.monitor.events import EngineCost, Observed, RequestEnded, Standing, Unreadable
from tests import fakes
from tests.fakes import FakeApi, FakeEngine
from tests.waiting import wait_until

KNOWN = fakes.dictionary()
NAMES = ("client-7", "client-8", "plain", "open")


class Taped:
    """A socket, a pipeline behind it, and a recording of what passes."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.file = folder / "a.frames"
        self.path = str(folder / "s.sock")
        files = dictionaries.files(fakes.write_bundle(folder / "bundle", KNOWN))
        self.queue = SinkQueue("q", lambda: None, bound=100_000)
        self.pipeline = Pipeline(dictionaries={KNOWN.weights_digest: KNOWN}, queues=[self.queue])
        self.recorder = Recorder(
            path=self.file, consumer=self.pipeline, bundles={KNOWN.weights_digest: files}, **options
        )
        self.source = RecordedSource(path=self.path, allowed_users=(), recorder=self.recorder)

    def engine(self, **fields: Any) -> FakeEngine:
        """An engine that connects."""
        return FakeEngine(self.path, KNOWN, **fields)

    def received(self) -> list[Received]:
        """What the file has."""
        with self.file.open("rb") as file:
            return list(Recording(file).received())

    def play(self) -> None:
        """Starts, receives the scene, and stops while its engine is still connected; ``status``: just before that."""
        self.source.start()
        with self.engine() as engine, FakeApi(self.path) as api:
            scene(engine, api)
            with self.engine(engine="b", epoch=7) as other:
                other.ready()
                other.batch([(9, 0, 1)], [(0, 0, 2.0)])  # of a request that nobody knows
                assert other.acked(1)
            engine.beat([StreamBeat(stream=1, seq=9, fed=24, encoded=20, missed={"no_slot": 4})], queue_bytes=77)
            wait_until(lambda: self.pipeline.status().links == 2)
            wait_until(lambda: self.pipeline.status().queues[0] == ("engine-0", 77))
            self.status = self.pipeline.status()
            self.source.stop()


def scene(engine: FakeEngine, api: FakeApi) -> None:
    """Requests labelled, unlabelled, too late and left open; what is lost, computed again, and makes no sense."""
    engine.ready()
    api.label(7)
    api.label(8, traffic_class="canary", tenant="")
    for request in (7, 8):
        engine.start(request)
    engine.start(9, name="plain", prompt_len=2)
    engine.batch([(7, 0, 4), (8, 0, 4)], [(0, 1, 2.0), (3, 2, 0.5), (5, 3, 7.0)])
    engine.batch([(7, 4, 1), (9, 0, 2)], [(0, 0, 1.5), (1, 3, 2.5)], missed=[(8, Reason.NO_SLOT, 3)])
    engine.batch([(7, 2, 2, Origin.RECOMPUTED)], [(1, 1, 9.0)])
    engine.batch([(7, 5, 1)], [(0, 2, 1.0)], seq=6)  # a gap of two
    engine.end(7, fed=6, emitted=3)
    engine.end(9, fed=2, emitted=1)
    engine.end(9, fed=2, emitted=1)  # again: refused
    engine.start(10, name="open")
    engine.batch([(10, 0, 3)], [(2, 3, 1.25)])
    engine.end(8, fed=7, emitted=4)
    api.label(7, outcome="completed", status=200)
    assert engine.acked(7)


def replies(pipeline: Pipeline) -> list[Any]:
    """The records of the scene's requests."""
    return [[messages.record(one) for one in pipeline.records(name)] for name in NAMES]


def told(items: Iterable[Item]) -> list[Any]:
    """What the sinks got, of what a recording decides: blind states and beats depend on when one looks."""
    return [_told(item) for item in items if isinstance(item, Observed | RequestEnded | Unreadable)]


def _told(item: Item) -> Any:
    if isinstance(item, Observed):
        named = [messages.request(one) for one in item.requests]
        spans = item.span_request.tolist(), item.missed_request.tolist()
        return item.batch.digest(), named, spans, sorted(item.newly_fired.tolist()), item.table.digest
    if isinstance(item, RequestEnded):
        return messages.ended(item)
    assert isinstance(item, Unreadable)
    return item.tokens


async def watched(items: Iterable[Item]) -> list[bytes | None]:
    """What WatchFirings sends of them to a subscriber that wants everything."""
    feed = Feed(on_lag=lambda _: None)
    feed.take([item for item in items if isinstance(item, Observed | RequestEnded)])
    feed.flush()
    cursor, readers, found = feed.ring.tail, feed.enter(Filter()), list[bytes | None]()
    while (entry := feed.ring.next(cursor)) is not None:
        found.append(feed.encoded(entry, readers))
        cursor = entry.after
    return found


def metrics(items: Iterable[Item]) -> list[str]:
    """The metrics page after these events, without what the time of looking decides."""
    sink = MetricsSink(faults=dict, queues=list)
    sink.take([item for item in items if isinstance(item, Observed | Unreadable | EngineCost | Standing)])
    return generate_latest(sink.registry).decode().splitlines()
