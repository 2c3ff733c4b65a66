"""The gRPC services on a real port, fed by hand: records go in with ``put``, and `pump` moves them to the feed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from saewatch.core.records import Command, Record
from saewatch.edge.access import LocalAccess
from saewatch.edge.history.sink import HistorySink
from saewatch.edge.pb import (
    alert_pb2_grpc,
    dictionary_pb2_grpc,
    firing_pb2,
    firing_pb2_grpc,
    status_pb2_grpc,
    tap_pb2_grpc,
    verdict_pb2_grpc,
)
from saewatch.edge.pipeline import Pipeline, SinkQueue
from saewatch.edge.rpc.alertfeed import AlertFeed
from saewatch.edge.rpc.alerts import AlertService
from saewatch.edge.rpc.dictionary import DictionaryService
from saewatch.edge.rpc.feed import Feed
from saewatch.edge.rpc.firing import FiringService
from saewatch.edge.rpc.history import HistoryQueries
from saewatch.edge.rpc.server import RpcServer
from saewatch.edge.rpc.status import StatusService
from saewatch.edge.rpc.tap import TapService
from saewatch.edge.rpc.verdicts import VerdictFeed, VerdictService
from saewatch.edge.shelf import Shelf
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.alerts import LimitsOf, uncalibrated
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.tables import KnownDictionary
from tests import fakes

T = TypeVar("T")
Response = firing_pb2.WatchFiringsResponse


class Served:
    """What a test has of the services."""

    def __init__(
        self,
        *,
        known: Sequence[KnownDictionary] = (),
        ring_bytes: int = 2**25,
        subscribers: int = 64,
        access: LocalAccess | None = None,
        history: HistorySink | None = None,
        store: Path | None = None,
        policies: Sequence[Policy] = (),
        limits_of: LimitsOf = uncalibrated,
        alert_bytes: int = 2**20,
    ) -> None:
        self.known = {one.weights_digest: one for one in known or [fakes.dictionary()]}
        self.queue = SinkQueue("grpc", lambda: None)
        written = [history.queue] if history else []
        self.shelf = Shelf(self.known, store=store)
        self.alert_queue = SinkQueue("alerts", lambda: None, wants=(AlertChanged,))
        self.pipeline = Pipeline(
            dictionaries=self.shelf,
            queues=[self.queue, self.alert_queue, *written],
            meet=self.shelf.meet,
            policies=policies,
            limits_of=limits_of,
        )
        self.lags: list[float] = []
        self.feed = Feed(on_lag=self.lags.extend, bound=ring_bytes)
        self.firing = FiringService(
            feed=self.feed,
            pipeline=self.pipeline,
            dictionaries=self.shelf,
            run=7,
            subscribers=subscribers,
            history=HistoryQueries(history.path if history else None).methods(),
        )
        status = StatusService(
            pipeline=self.pipeline, counters=lambda: {"CorruptFrame": 3}, subscribers=lambda: self.firing.subscribers
        )
        self.asked = asyncio.Event()
        self.commands: list[tuple[int, Command]] = []
        self.obey: Callable[[int, Command], None] = lambda link, command: None
        taps = TapService(pipeline=self.pipeline, shelf=self.shelf, send=self._send)
        self.alert_feed = AlertFeed(run=7, bound=alert_bytes)
        self.alerting = AlertService(feed=self.alert_feed, pipeline=self.pipeline, subscribers=subscribers)
        self.verdict_feed = VerdictFeed()
        self.verdicting = VerdictService(feed=self.verdict_feed, pipeline=self.pipeline, streams=subscribers)
        services = (self.firing, DictionaryService(self.shelf), status, taps, self.alerting, self.verdicting)
        self.server = RpcServer(services=services, access=access or LocalAccess())
        self.address = ""
        self.seq = 0

    @property
    def dictionary(self) -> KnownDictionary:
        """The first one."""
        return next(iter(self.known.values()))

    def connect(self, channel: grpc.aio.Channel) -> None:
        """Stubs of every service."""
        self.channel = channel
        self.firings: Any = firing_pb2_grpc.FiringServiceStub(channel)
        self.dictionaries: Any = dictionary_pb2_grpc.DictionaryServiceStub(channel)
        self.statuses: Any = status_pb2_grpc.StatusServiceStub(channel)
        self.alerts: Any = alert_pb2_grpc.AlertServiceStub(channel)
        self.verdicts: Any = verdict_pb2_grpc.VerdictServiceStub(channel)
        self.taps: Any = tap_pb2_grpc.TapServiceStub(channel)

    def put(self, *records: Record) -> None:
        """The engine on link 1 says something."""
        for record in records:
            self.pipeline.receive(1, record)

    def _send(self, link: int, command: Command) -> None:
        """A command leaves for an engine, which does as the test told it."""
        self.commands.append((link, command))
        self.asked.set()
        self.obey(link, command)

    def ready(self) -> None:
        """A stream that is watched."""
        self.pipeline.connect(1)
        self.put(fakes.stream_open(self.dictionary), fakes.watch_set(self.dictionary))

    def batch(self, spans: Sequence[fakes.Span], firings: Sequence[fakes.Firing] = (), **fields: Any) -> None:
        """A batch with the next seq."""
        self.seq += 1
        self.put(fakes.batch(spans, firings, seq=self.seq, **fields))

    def pump(self, *, flush: bool = True) -> None:
        """Moves what the pipeline has to the feed, and out of the gatherer."""
        items = self.queue.take()
        self.feed.take(items)
        self.verdict_feed.take(items)
        self.alert_feed.take(self.alert_queue.take())
        if flush:
            self.feed.flush()

    async def record(self, name: str) -> firing_pb2.GetRequestRecordResponse:
        """GetRequestRecord."""
        answer: firing_pb2.GetRequestRecordResponse = await self.firings.GetRequestRecord(
            firing_pb2.GetRequestRecordRequest(request_id=name)
        )
        return answer

    async def check_health(self) -> None:
        """Fails unless health says SERVING."""
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def in_thread(self, call: Callable[[], T]) -> T:
        """What a client without a loop gets."""
        return await asyncio.to_thread(call)

    async def watch(self, **fields: Any) -> Watch:
        """A subscriber, once it has had its first heartbeat, and after it what stands."""
        call = self.firings.WatchFirings(firing_pb2.WatchFiringsRequest(**fields))
        watch = Watch(call)
        first = await watch.next()
        assert first.WhichOneof("event") == "heartbeat"
        second = await watch.next()
        assert second.WhichOneof("event") == "coverage"
        watch.standing = second.coverage
        return watch


class Watch:
    """One subscriber."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.standing = firing_pb2.Coverage()

    async def next(self) -> Response:
        """The next message."""
        message = await self.call.read()
        assert isinstance(message, Response), "the stream has ended"
        return message

    async def until(self, *events: str) -> list[Response]:
        """Messages up to and with the first of these events, heartbeats and coverage left out."""
        messages = []
        while True:
            message = await self.next()
            kind = message.WhichOneof("event")
            if kind in events or kind not in {"heartbeat", "coverage"}:
                messages.append(message)
            if kind in events:
                return messages

    async def batch(self) -> firing_pb2.FiringBatch:
        """The next batch."""
        return (await self.until("batch"))[-1].batch


async def becomes(holds: Callable[[], object]) -> None:
    """Waits until it is so, however long a busy machine takes for it."""
    for _ in range(12_000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not true after a minute: {holds}")


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Served]:
    """Serves until the block ends."""
    served = Served(**settings)
    port = await served.server.start("127.0.0.1", 0)
    served.address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(served.address) as channel:
        served.connect(channel)
        served.ready()
        try:
            yield served
        finally:
            await served.server.stop(0)
