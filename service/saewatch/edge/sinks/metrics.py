"""What Prometheus scrapes: counters made from batches, since the start of this process.

The engines' own books, which begin with the engine, are in `StatusService.GetStatus`; the two are never mixed in one
series. No label names a request, a tenant or anything else that a client could make up. Features are counted for the
stable dictionary only, and in every request that is not labelled a canary, a shadow or a test; a position that is
computed again is not counted again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.fit import AdapterFit, adapter_fit
from saewatch.core.records import Role, TrafficClass
from saewatch.edge.pipeline import Item, QueueState
from saewatch.edge.sinks import canaries
from saewatch.edge.sinks.alertcounts import AlertCounts
from saewatch.edge.sinks.driftseries import drift_families
from saewatch.edge.sinks.series import PREFIX, Counter
from saewatch.monitor.alert import AlertChanged
from saewatch.monitor.blindness import HINTS
from saewatch.monitor.canary import CanaryState
from saewatch.monitor.events import CLASSES, DriftState, EngineCost, Observed, Standing, Unreadable
from saewatch.monitor.observe import COUNTED
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.silences import SilenceChanged
from saewatch.monitor.tables import StreamIdentity, WatchTable

COMMON = ("model_name", "engine")
LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_OUTCOMES = {Origin.COMPUTED: "encoded", Origin.REUSED: "reused"}
_FITS = tuple(AdapterFit)
TABLES_UNFOLDED = 64

I64 = npt.NDArray[np.int64]


class MetricsSink(Collector):
    """Counts events. ``faults``, ``queues``, what came of ``webhooks`` and the events that are ``pending`` are
    read at each scrape.
    """

    name = "metrics"

    def __init__(
        self,
        *,
        faults: Callable[[], Mapping[str, int]],
        queues: Callable[[], Sequence[QueueState]],
        series: int = limits.SERIES_DEFAULT,
        pending: Callable[[], Iterable[Item]] = tuple,
        policies: Sequence[Policy] = (),
        webhooks: Callable[[], Iterable[tuple[str, Mapping[str, int]]]] = tuple,
        canaries: Callable[[], Sequence[CanaryState]] = tuple,
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self._faults = faults
        self._queues = queues
        self._pending = pending
        self._alerts = AlertCounts(policies, series)
        self._webhooks = webhooks
        self._canaries = canaries
        self._lock = threading.Lock()
        tokens = ("hook_point", "role", "class", "outcome", "reason")
        self._tokens = Counter("tokens", "Tokens seen and missed, by reason.", COMMON + tokens, series)
        self._adapted = Counter(
            "adapter_tokens",
            "Tokens seen of requests through an adapter, by how far the dictionary is known to fit it.",
            (*COMMON, "hook_point", "role", "fit"),
            series,
        )
        feature = (*COMMON, "feature", "category")
        self._firings = Counter(
            "firings", "Firings of a feature; canary, shadow and test requests are left out.", feature, series
        )
        self._requests = Counter(
            "firing_requests",
            "Requests in which a feature fired at least once; canary, shadow and test requests are left out.",
            feature,
            series,
        )
        self._overhead = Counter(
            "overhead_seconds", "What watching cost the engine, by stage.", (*COMMON, "stage"), series
        )
        self._lag = np.zeros(len(LAG_BOUNDS_S) + 1, dtype=np.int64)
        self._lag_sum = 0.0
        self._unfolded: dict[WatchTable, tuple[I64, I64]] = {}
        self._engine_queues: dict[tuple[str, str], int] = {}
        self._blind_seen: set[tuple[str, ...]] = {("", "", "tap", reason) for reason in HINTS}
        self._standing = Standing(streams=(), blind=())
        self._drift: DriftState | None = None
        self._series = series

    # --- counting -------------------------------------------------------------------------------------------------
    def take(self, items: Iterable[Item]) -> None:
        """Takes what the pipeline has; ``items`` is iterated over under the lock."""
        with self._lock:
            for item in items:
                if isinstance(item, Observed):
                    self._observe(item)
                elif isinstance(item, Unreadable):
                    self._add_tokens(item.stream, TrafficClass.UNLABELLED, "missed", Reason.BLIND.label, item.tokens)
                elif isinstance(item, EngineCost):
                    self._cost(item)
                elif isinstance(item, Standing):
                    self._stand(item)
                elif isinstance(item, AlertChanged | SilenceChanged):
                    self._alerts.take(item)
                elif isinstance(item, DriftState):
                    self._drift = item

    def observe_lag(self, seconds: Sequence[float]) -> None:
        """Batches became readable for subscribers ``seconds`` after their step."""
        with self._lock:
            np.add.at(self._lag, np.searchsorted(LAG_BOUNDS_S, seconds), 1)
            self._lag_sum += sum(seconds)

    def _observe(self, item: Observed) -> None:
        batch, stream = item.batch, item.table.stream
        classes = item.traffic_class.astype(np.int64)
        rows = _sums(classes[item.span_request] * len(Origin) + batch.origin, batch.lengths)
        for key, tokens in rows:
            outcome = _OUTCOMES.get(Origin(key % len(Origin)))
            if outcome:
                self._add_tokens(stream, CLASSES[key // len(Origin)], outcome, "", tokens)
        if any(one.adapter for one in item.requests):
            self._add_adapted(item)
        missed = _sums(classes[item.missed_request] * len(Reason) + batch.missed_reason, batch.missed_tokens)
        for key, tokens in missed:
            reason = Reason(key % len(Reason)).label
            self._add_tokens(stream, CLASSES[key // len(Reason)], "missed", reason, tokens)
        if stream.opening.role == Role.STABLE and batch.firings:
            self._add_firings(item)

    def _add_tokens(self, stream: StreamIdentity, traffic_class: str, outcome: str, reason: str, tokens: int) -> None:
        opening = stream.opening
        values = (*_common(stream), opening.hook_point, opening.role, traffic_class, outcome, reason)
        self._tokens.add(values, tokens)

    def _add_adapted(self, item: Observed) -> None:
        batch, stream = item.batch, item.table.stream
        fits = [_FITS.index(adapter_fit(one.adapter, stream.adapters)) for one in item.requests]
        fit = np.array([*fits, _FITS.index(AdapterFit.BASE)])  # of a request that is not known: the last
        fresh = np.where(batch.origin == Origin.RECOMPUTED, 0, batch.lengths)
        for number, tokens in _sums(fit[item.span_request], fresh):
            if _FITS[number] is not AdapterFit.BASE:
                values = (*_common(stream), stream.opening.hook_point, stream.opening.role, _FITS[number])
                self._adapted.add(values, tokens)

    def _add_firings(self, item: Observed) -> None:
        batch, table = item.batch, item.table
        counted = COUNTED[item.traffic_class][item.span_request] & (batch.origin != Origin.RECOMPUTED)
        feature = item.fired.feature
        if not counted.all():
            feature = feature[np.repeat(counted, batch.lengths)[item.fired.row]]
        width = len(table.features)
        if table not in self._unfolded:
            self._fold_if_many()
            self._unfolded[table] = (np.zeros(width, np.int64), np.zeros(width, np.int64))
        firings, requests = self._unfolded[table]
        firings += np.bincount(feature, minlength=width)
        requests += np.bincount(item.newly_fired, minlength=width)

    def _cost(self, item: EngineCost) -> None:
        place = (item.model_name, item.rank)
        self._engine_queues[place] = item.queue_bytes
        for stage, seconds in item.stage_seconds.items():
            self._overhead.add((*place, stage), seconds)

    def _stand(self, standing: Standing) -> None:
        """The queues of engines that are gone go; each beat's cost comes with a standing."""
        self._standing = standing
        present = {_common(state.identity) for state in standing.streams if not state.ended}
        self._engine_queues = {place: size for place, size in self._engine_queues.items() if place in present}

    # --- scraping -------------------------------------------------------------------------------------------------
    def collect(self) -> Iterable[Metric]:
        """Every metric as it stands."""
        self.take(self._pending())
        with self._lock:
            self._fold()
            standing, queues = self._standing, dict(self._engine_queues)
            lag, lag_sum = self._lag.copy(), self._lag_sum
            alerts = list(self._alerts.families())
        counters = (self._tokens, self._adapted, self._firings, self._requests, self._overhead)
        yield from (counter.family() for counter in counters)
        yield from alerts
        yield _deliveries(self._webhooks())
        yield self._blind(standing)
        yield _lag(lag, lag_sum)
        yield from self._queue_families(queues)
        yield from canaries.families(self._canaries())
        yield from drift_families(self._drift, self._series)
        yield _dictionaries(standing)
        yield _counted(
            "series_dropped",
            "Series that a metric's cap kept out.",
            "metric",
            _dropped((*counters, *self._alerts.counters)),
        )
        yield _counted("faults", "What was refused, lost or odd, by kind.", "kind", self._faults())

    def _fold_if_many(self) -> None:
        if len(self._unfolded) >= TABLES_UNFOLDED:
            self._fold()

    def _fold(self) -> None:
        """Counts by the tables' numbers become counts by feature."""
        for table, (firings, requests) in self._unfolded.items():
            for number, feature in enumerate(table.features):  # zeros too: a rate needs its series from the start
                values = (*_common(table.stream), feature.id, feature.category)
                self._firings.add(values, int(firings[number]))
                self._requests.add(values, int(requests[number]))
        self._unfolded.clear()

    def _blind(self, standing: Standing) -> GaugeMetricFamily:
        """1 for what is blind, 0 for what was."""
        now = {(one.model_name, one.rank, one.scope, one.reason) for one in standing.blind}
        if len(self._blind_seen) < limits.SERIES_DEFAULT:
            self._blind_seen |= now
        says = "1 where something is known not to see."
        family = GaugeMetricFamily(f"{PREFIX}blind", says, labels=(*COMMON, "scope", "reason"))
        for values in sorted(self._blind_seen | now):
            family.add_metric(values, float(values in now))
        return family

    def _queue_families(self, engines: Mapping[tuple[str, str], int]) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(f"{PREFIX}queue_bytes", "Bytes that wait.", labels=(*COMMON, "sink"))
        for place, size in engines.items():
            waiting.add_metric((*place, "engine"), size)
        dropped = Counter("dropped", "Events that a sink's full queue did not take.", ("sink", "reason"))
        for queue in self._queues():
            waiting.add_metric(("", "", queue.name), queue.bytes)
            dropped.add((queue.name, "queue_full"), queue.dropped)
        return (waiting, dropped.family())


def _common(stream: StreamIdentity) -> tuple[str, str]:
    return stream.opening.model_name, str(stream.opening.dp_rank)


def _sums(keys: npt.NDArray[np.integer], amounts: npt.NDArray[np.integer]) -> list[tuple[int, int]]:
    """The sum of ``amounts`` for each key that occurs."""
    sums = np.bincount(keys, weights=amounts)
    return [(key, int(sums[key])) for key in np.flatnonzero(sums).tolist()]


def _lag(counts: I64, total: float) -> HistogramMetricFamily:
    bounds = [*map(str, LAG_BOUNDS_S), "+Inf"]
    family = HistogramMetricFamily(f"{PREFIX}lag_seconds", "From an engine step to where subscribers read it.")
    family.add_metric((), list(zip(bounds, np.cumsum(counts).tolist(), strict=True)), total)
    return family


def _dictionaries(standing: Standing) -> InfoMetricFamily:
    names = (*COMMON, "hook_point", "weights", "catalogue", "mode", "ref")
    family = InfoMetricFamily(f"{PREFIX}dictionary", "Versions, to be joined with series.", labels=names)
    for state in standing.streams:
        opening = state.identity.opening
        if not state.ended:
            place = (opening.hook_point, opening.weights_digest, state.identity.catalogue_digest, opening.mode)
            family.add_metric((*_common(state.identity), *place, opening.role), {})
    return family


def _deliveries(webhooks: Iterable[tuple[str, Mapping[str, int]]]) -> Metric:
    counter = Counter(
        "webhook_deliveries", "Alerts that were sent to a webhook, by what came of it.", ("webhook", "outcome")
    )
    for name, outcomes in webhooks:
        for outcome, count in outcomes.items():
            counter.add((name, outcome), count)
    return counter.family()


def _dropped(counters: Iterable[Counter]) -> Mapping[str, int]:
    return {counter.name: counter.dropped for counter in counters}


def _counted(name: str, says: str, label: str, counts: Mapping[str, int]) -> Metric:
    counter = Counter(name, says, (label,))
    for value, count in sorted(counts.items()):
        counter.add((value,), count)
    return counter.family()
