"""The composition root: the only place that knows every class, and the life of the sidecar from start to end.

One event loop (gRPC, web, sinks) and one ingest thread. SIGTERM or SIGINT: health says NOT_SERVING, subscribers are
told to come back elsewhere, what was received is still delivered, and the socket's file is removed; at most 10 seconds.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from saewatch import __version__
from saewatch.config import Canaries as CanariesSection
from saewatch.config import Config, History, read_policies
from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.core.records import Command
from saewatch.edge import baselines, canaries, dictionaries, policies, webhooks
from saewatch.edge.access import LocalAccess, require_loopback
from saewatch.edge.history.retention import Bounds
from saewatch.edge.history.sink import HistorySink
from saewatch.edge.history.writer import HOUR_NS
from saewatch.edge.pipeline import Item, Pipeline, SinkQueue
from saewatch.edge.prober import Prober
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
from saewatch.edge.sinks.metrics import MetricsSink
from saewatch.edge.sinks.statelog import StateLog
from saewatch.edge.sinks.webhook import WebhookSink
from saewatch.edge.sources import SocketSource
from saewatch.edge.web import WebServer, pages
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.canary import Canaries, Canary, CanaryState
from saewatch.monitor.drift.causes import PERIOD_NS_MAX
from saewatch.monitor.events import Observed, RequestEnded, Standing
from saewatch.monitor.tables import KnownDictionary

logger = structlog.get_logger(__name__)

DRAIN_S = 2.0
"""For subscribers to leave by themselves."""
GRACE_S = 2.0
"""For open calls after that."""
WATCH_S = 0.5
METRICS_AT_ONCE = 64
"""Events that wait before the metrics take them, unless a scrape comes first: together they cost half."""


class Sink(Protocol):
    """What is fed from a queue."""

    name: str

    def take(self, items: Iterable[Item]) -> None:
        """Takes what waits."""


class Source(Protocol):
    """What feeds the pipeline, from a thread of its own."""

    @property
    def alive(self) -> bool:
        """Whether it feeds, or could."""

    @property
    def failed(self) -> BaseException | None:
        """What ended it, if it should not have ended."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What it refused."""

    def start(self) -> None:
        """Begins."""

    def stop(self) -> None:
        """Ends, having given everything on."""

    def send(self, link: int, command: Command) -> None:
        """Gives a command to an engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the sidecar can be reached."""

    socket: str  # empty where engines cannot
    grpc: str
    web: str

    def named(self) -> Mapping[str, str]:
        """For people and programs."""
        return {
            **({"socket": self.socket} if self.socket else {}),
            "grpc": self.grpc,
            "web": self.web,
            "metrics": f"{self.web}/metrics",
            "health": f"{self.web}/healthz",
            "ready": f"{self.web}/readyz",
        }


class App:
    """One sidecar. Raises `ConfigError` or `ManifestError` from its constructor and from `start`.

    Without ``source`` it listens on the configured socket. ``known``: dictionaries beside the configured ones, which
    have precedence. ``clock``: a replay's, by which its records are timed; it sends no canaries.
    """

    def __init__(
        self,
        config: Config,
        *,
        source: Callable[[Pipeline], Source] | None = None,
        known: Mapping[str, KnownDictionary] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._config = config
        self._grpc_at = split_listen("grpc.listen", config.grpc.listen)
        self._web_at = split_listen("web.listen", config.web.listen)
        configured = {**(known or {}), **dictionaries.load(Path(one) for one in config.dictionaries)}
        shelf = Shelf(configured, store=Path(config.store) if config.store else None)
        self._webhooks = [WebhookSink(one) for one in webhooks.load(config.webhooks)]
        queues = self._make_queues()
        self._bells = {queue.name: asyncio.Event() for queue in queues}
        self._rung = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._history = _history(config.history)
        loaded = policies.checked(read_policies(config.policies), configured.values(), _today())
        written = [self._history.queue] if self._history else []
        probes = canaries.configured(config.canaries.file, shelf.within_reach()) if clock is None else ()
        self._pipeline = Pipeline(
            dictionaries=shelf,
            queues=[*queues, *written],
            clock=clock,
            meet=shelf.meet,
            policies=loaded,
            baselines=baselines.load(config.baselines),
            limits_of=policies.limits_of(_today),
            canaries=_judging(probes, config.canaries.period_s * 10**9),
        )
        self._prober = _prober(config.canaries, probes, self._pipeline)
        self._make_source = source or self._listening
        self._source: Source | None = None
        self._metrics = MetricsSink(
            faults=self._faults,
            queues=self._pipeline.queues,
            series=config.limits.series,
            pending=queues[0].taken,
            policies=loaded,
            webhooks=lambda: [(one.webhook.name, one.outcomes) for one in self._webhooks],
            canaries=self._canary_states if probes else tuple,
        )
        bound, lag_clock = config.limits.replay_mib * limits.MIB, clock or time.time_ns
        run = secrets.randbits(63)
        feed, alert_feed = Feed(on_lag=self._metrics.observe_lag, bound=bound, clock=lag_clock), AlertFeed(run=run)
        self._firing = FiringService(
            feed=feed,
            pipeline=self._pipeline,
            dictionaries=shelf,
            run=run,
            subscribers=config.grpc.subscribers,
            history=HistoryQueries(self._history.path if self._history else None).methods(),
        )
        status = StatusService(
            pipeline=self._pipeline,
            counters=self._edge_faults,
            subscribers=lambda: self._firing.subscribers,
            clock=lag_clock,
        )
        verdict_feed = VerdictFeed()
        self._verdicts = VerdictService(feed=verdict_feed, pipeline=self._pipeline)
        self._alerts = AlertService(feed=alert_feed, pipeline=self._pipeline, subscribers=config.grpc.subscribers)
        sinks: list[Sink] = [self._metrics, feed, StateLog(), alert_feed, verdict_feed, *self._webhooks]
        self._sinks = list(zip(sinks, queues, strict=True))
        taps = TapService(pipeline=self._pipeline, shelf=shelf, send=self._command)
        self._services = (self._firing, DictionaryService(shelf), status, taps, self._alerts, self._verdicts)
        self._tasks: list[asyncio.Task[None]] = []
        self.addresses: Addresses | None = None

    def _make_queues(self) -> list[SinkQueue]:
        """One in front of each sink, in the order of the sinks."""
        changes = (AlertChanged,)
        return [
            SinkQueue("metrics", self._wake, wake_at=METRICS_AT_ONCE),
            SinkQueue("grpc", self._wake),
            SinkQueue("log", self._wake, wants=StateLog.wants),
            SinkQueue("alerts", self._wake, wants=changes),
            SinkQueue("verdicts", self._wake, wants=(Observed, RequestEnded, AlertChanged, Standing)),
            *(SinkQueue(one.name, self._wake, wants=changes) for one in self._webhooks),
        ]

    async def start(self) -> Addresses:
        """Binds everything and begins to receive."""
        self._loop = asyncio.get_running_loop()
        self._rpc = RpcServer(services=self._services, access=LocalAccess())
        self._web = WebServer(
            pages(
                registry=self._metrics.registry,
                status=self._pipeline.status,
                alive=lambda: self._source is not None and self._source.alive,
                addresses=lambda: self.addresses.named() if self.addresses else {},
            )
        )
        self._source = self._make_source(self._pipeline)
        self._tasks = [asyncio.create_task(self._feed(sink, queue)) for sink, queue in self._sinks]
        for webhook in self._webhooks:
            webhook.start()
        if self._history:
            self._history.start()
            kept = self._history.remembered
            self._pipeline.tell_alerts(kept.give)
        self._pipeline.tick()  # nothing is ready before it was looked at
        grpc_port = await self._rpc.start(*self._grpc_at)
        web_port = await self._web.start(*self._web_at)
        self._source.start()
        if self._prober:
            self._prober.start()
        self.addresses = Addresses(
            socket=self._config.socket,
            grpc=_joined(self._grpc_at[0], grpc_port),
            web=f"http://{_joined(self._web_at[0], web_port)}",
        )
        logger.info("serving", version=__version__, **self.addresses.named())
        return self.addresses

    async def stop(self) -> None:
        """Leaves in order; also when `start` did not get far."""
        if self._source is None:
            return
        if self._prober:
            await asyncio.to_thread(self._prober.stop)
        await self._rpc.leave()
        await asyncio.to_thread(self._source.stop)
        if self._history:
            await asyncio.to_thread(self._history.stop)
        for (sink, queue), task in zip(self._sinks, self._tasks, strict=True):
            if not task.done():  # a sink that has failed would fail again
                sink.take(queue.taken())
        self._firing.drain("shutdown")
        self._alerts.drain("shutdown")
        self._verdicts.drain()
        await asyncio.gather(self._firing.left(DRAIN_S), *(one.stop(DRAIN_S) for one in self._webhooks))
        await self._rpc.stop(GRACE_S)
        await self._web.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        logger.info("stopped")

    async def failed(self) -> BaseException:
        """Waits for a part of the sidecar to fail: then the whole is to end."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self._source is not None and self._source.failed is not None:
                return self._source.failed
            for task in self._tasks:
                if task.done() and not task.cancelled():
                    return task.exception() or RuntimeError("a sink ended")

    def _listening(self, pipeline: Pipeline) -> Source:
        config = self._config
        return SocketSource(path=config.socket, consumer=pipeline, allowed_users=config.allowed_users)

    async def _feed(self, sink: Sink, queue: SinkQueue) -> None:
        bell = self._bells[queue.name]
        while True:
            await bell.wait()
            bell.clear()
            sink.take(queue.taken())

    def _wake(self) -> None:
        """Called by the ingest thread: one call for all sinks, since each wakes the loop."""
        if self._loop is not None and not self._rung:
            self._rung = True
            self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._rung = False
        for _, queue in self._sinks:
            if queue.due:
                self._bells[queue.name].set()

    def _command(self, link: int, command: Command) -> None:
        if self._source is not None:
            self._source.send(link, command)

    def _canary_states(self) -> Sequence[CanaryState]:
        return self._pipeline.canary(lambda canaries, _: canaries.states())

    def _edge_faults(self) -> Mapping[str, int]:
        written = self._history.counters if self._history else {}
        judged = self._pipeline.alert_counters()
        return {**self._source.counters, **self._rpc.counters, **written, **judged} if self._source else {}

    def _faults(self) -> Mapping[str, int]:
        return {**self._edge_faults(), **self._pipeline.status().counters}


async def serve(
    config: Config,
    *,
    on_start: Callable[[Addresses], None],
    ending: asyncio.Event | None = None,
    source: Callable[[Pipeline], Source] | None = None,
    known: Mapping[str, KnownDictionary] | None = None,
    clock: Callable[[], int] | None = None,
) -> None:
    """Runs a sidecar until SIGTERM, SIGINT, ``ending`` or the failure of one of its parts, which is raised."""
    app = App(config, source=source, known=known, clock=clock)
    ending = ending or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    try:
        on_start(await app.start())
        asked, broken = asyncio.create_task(ending.wait()), asyncio.create_task(app.failed())
        await asyncio.wait((asked, broken), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if broken.done():
            raise broken.result()
        broken.cancel()
    finally:
        await app.stop()


def _today() -> dt.date:
    return dt.datetime.now(tz=dt.UTC).date()


def write_addresses(path: Path, addresses: Addresses) -> None:
    """Writes the addresses as JSON; a reader sees the whole file or none."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps({"pid": os.getpid(), **addresses.named()}, indent=2) + "\n")
    partial.replace(path)


def split_listen(field: str, listen: str) -> tuple[str, int]:
    """Host and port. Raises `ConfigError` for an address that others can reach."""
    host, _, port = listen.rpartition(":")
    require_loopback(field, host)
    return host.strip("[]"), int(port)


def _judging(probes: Sequence[Canary], period_ns: int) -> Callable[[int], Canaries] | None:
    """What judges canaries, made when time begins; None without any."""
    return (lambda now_ns: Canaries(probes, period_ns, now_ns)) if probes else None


def _history(config: History) -> HistorySink | None:
    if not config.path:
        return None
    bounds = Bounds(keep_ns=config.keep_hours * HOUR_NS, max_bytes=config.max_mib * limits.MIB)
    return HistorySink(Path(config.path), bounds)


def _prober(config: CanariesSection, probes: Sequence[Canary], pipeline: Pipeline) -> Prober | None:
    """Only where there is an engine beside the sidecar: a replay has none, and no canaries."""
    if config.panel and not config.file:
        hint = "Canaries show that the engine trusts the sidecar's headers, without which the panel counts as traffic."
        raise ConfigError("canaries.panel", found="a panel alone", expected="`canaries.file` beside it", hint=hint)
    if config.panel and config.period_s * 10**9 > PERIOD_NS_MAX:
        expected = f"at most {PERIOD_NS_MAX // 10**9}, where there is a panel"
        raise ConfigError("canaries.period_s", found=str(config.period_s), expected=expected)
    if not probes:
        return None
    panel = canaries.load_panel(Path(config.panel)) if config.panel else ()
    period_s, priority = config.period_s, config.priority
    return Prober(
        probes, panel=panel, pipeline=pipeline, url=config.url, model=config.model, period_s=period_s, priority=priority
    )


def check_canaries(config: CanariesSection, known: Iterable[KnownDictionary]) -> None:
    """Refuses, with `ConfigError` or `UnreachableError`, canaries and a panel that a start would refuse."""
    _prober(config, canaries.configured(config.file, known), Pipeline(dictionaries={}, queues=[]))


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
