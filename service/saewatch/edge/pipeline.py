"""From the ingest thread to the sinks: the monitor behind a lock, and a bounded queue in front of each sink.

The thread never waits for a sink. What a full queue does not take is dropped, newest first, and counted in events,
tokens and firings; the sink gets the count in the place of what it missed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from saewatch.core import limits, selftest
from saewatch.core.errors import RecordError, UnreachableError
from saewatch.core.records import Ack, Record, Result, StreamOpen
from saewatch.edge.clock import Clock
from saewatch.edge.commands import SELF_TEST, Asked, Commands, Examined
from saewatch.edge.drifting import Drifting
from saewatch.monitor.alert import Alert, Coverage
from saewatch.monitor.alerts import Alerts, LimitsOf, uncalibrated
from saewatch.monitor.canary import Canaries
from saewatch.monitor.compared import Comparison
from saewatch.monitor.drift.known import KnownBaseline
from saewatch.monitor.events import Event, Observed, Standing
from saewatch.monitor.identity import Identity
from saewatch.monitor.monitor import Monitor, Status
from saewatch.monitor.policy.resolve import Programme
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.record import RequestRecord, seen_of
from saewatch.monitor.tables import KnownDictionary, StreamIdentity
from saewatch.monitor.verdict import Verdict
from saewatch.monitor.verdicts import Verdicts


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a sink did not get."""

    events: int
    tokens: int
    firings: int
    streams: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """By the stream's number: tokens, recomputed rows not among them, and firings."""


Item = Event | Dropped
Told = TypeVar("Told")
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class QueueState:
    """How a sink's queue stands."""

    name: str
    bytes: int
    dropped: int
    waiting: int = 0  # events


class SinkQueue:
    """Events of the types that one sink ``wants``, until it takes them.

    ``wake`` is called, from the ingest thread, when the ``wake_at``-th one arrives.
    """

    def __init__(
        self,
        name: str,
        wake: Callable[[], None],
        bound: int = limits.SINK_QUEUE_BATCHES,
        *,
        wake_at: int = 1,
        wants: tuple[type[Any], ...] = (object,),
    ) -> None:
        self.name = name
        self._wake = wake
        self._bound = bound
        self._wake_at = wake_at
        self._wants = wants
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._missed = Dropped(0, 0, 0)
        self._dropped = 0

    def put(self, events: Sequence[Event]) -> None:
        """Called by the ingest thread; never waits."""
        with self._lock:
            before = len(self._items)
            for event in events:
                if not isinstance(event, self._wants):
                    continue
                if len(self._items) < self._bound:
                    self._keep(event)
                else:
                    self._drop(event)
            due = before < self._wake_at <= len(self._items)
        if due:
            self._wake()

    @property
    def due(self) -> bool:
        """Whether enough waits for the sink to be woken."""
        return len(self._items) >= self._wake_at

    def take(self) -> list[Item]:
        """Everything that waits, and at its end what was dropped."""
        with self._lock:
            items = list(self._items)
            if self._missed.events:
                items.append(self._missed)
            self._items.clear()
            self._missed = Dropped(0, 0, 0)
            self._bytes = 0
        return items

    def taken(self) -> Iterator[Item]:
        """As `take`, once it is iterated over: a sink with a lock of its own takes inside it, and in order."""
        yield from self.take()

    def state(self) -> QueueState:
        """How it stands."""
        with self._lock:
            return QueueState(self.name, self._bytes, self._dropped, len(self._items))

    def _keep(self, event: Event) -> None:
        self._items.append(event)
        if isinstance(event, Observed):
            self._bytes += event.batch.nbytes

    def _drop(self, event: Event) -> None:
        self._dropped += 1
        before = self._missed
        if not isinstance(event, Observed):
            self._missed = replace(before, events=before.events + 1)
            return
        batch, number = event.batch, event.table.stream.number
        missed = int(batch.missed_tokens.sum())
        tokens, firings = before.streams.get(number, (0, 0))
        self._missed = Dropped(
            events=before.events + 1,
            tokens=before.tokens + batch.rows + missed,
            firings=before.firings + batch.firings,
            streams={**before.streams, number: (tokens + batch.fresh_rows + missed, firings + batch.firings)},
        )


class Pipeline:
    """The consumer of the source, and what services ask for the state of things."""

    def __init__(
        self,
        *,
        dictionaries: Mapping[str, KnownDictionary],
        queues: Sequence[SinkQueue] = (),
        clock: Callable[[], int] | None = None,
        meet: Callable[[str], None] = lambda _: None,
        policies: Sequence[Policy] = (),
        limits_of: LimitsOf = uncalibrated,
        baselines: Sequence[KnownBaseline] = (),
        canaries: Callable[[int], Canaries] | None = None,
    ) -> None:
        self._meet = meet  # told of the weights of each stream that opens, before it does
        self._monitor = Monitor(dictionaries=dictionaries)
        self._alerts = Alerts(policies, limits_of, self._seen)
        self._verdicts = Verdicts(self._alerts.unjudged_because, self._streams_of, self._read, self._gaps_of)
        self._drift = Drifting(baselines, self._monitor.records, self._alerts.take)
        self._queues = tuple(queues)
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._commands = Commands()
        self._still = False  # at the last tick nothing changed
        self._canaries = canaries(self._clock()) if canaries else None

    # --- from the source ------------------------------------------------------------------------------------------
    def connect(self, link: int) -> None:
        """A connection was made."""
        with self._lock:
            self._monitor.connect(link)

    def receive(self, link: int, record: Record) -> None:
        """Observes a record and hands on what it came to. Raises `RecordError` when it makes no sense."""
        if isinstance(record, StreamOpen):
            self._meet(record.weights_digest)
        with self._lock:
            if isinstance(record, Result):
                events = self._answer(link, record)
            else:
                events = self._monitor.receive(link, record, self._clock())
            events = self._judged(events)
        self._hand_on(events)

    def retell(self, link: int, result: Result) -> None:
        """Observes a self-test that was asked for when this was recorded. Raises `RecordError` when it makes none."""
        test = selftest.read(result)
        if test is not None:
            with self._lock:
                _, events = self._monitor.self_test(link, test, self._clock())
                events = self._judged(events)
            self._hand_on(events)

    def relabel(self, known: KnownDictionary) -> None:
        """``known`` explains its weights from here on, also in streams that are open."""
        with self._lock:
            events = self._judged(self._monitor.relabel(known, self._clock()))
        self._hand_on(events)

    def acknowledge(self, link: int, stream: int) -> Ack | None:
        """What has been received of a stream."""
        with self._lock:
            return self._monitor.acknowledge(link, stream)

    def disconnect(self, link: int) -> None:
        """A connection is gone."""
        with self._lock:
            self._monitor.disconnect(link, self._clock())
            self._commands.disconnect(link)

    def tick(self) -> None:
        """Time has passed."""
        with self._lock:
            now_ns = self._clock()
            events = self._judged(self._monitor.tick(now_ns))
            over = [*self._alerts.tick(now_ns), *self._drift.tick(now_ns)]
            self._verdicts.follow(over)
            self._still = not (events or over)
        self._hand_on([*events, *over])

    def due_ns(self) -> float:
        """After a tick: when time alone changes something next, at the earliest; infinity: never.

        Always, while each tick still changes something, and beside what has times of its own.
        """
        with self._lock:
            talking = any(rule.subject == "conversation" for policy in self._alerts.policies for rule in policy.rules)
            known = self._still and self._canaries is None and self._drift.idle and not talking
            return min(self._monitor.due_ns(self._clock()), self._alerts.silences.due_ns) if known else 0

    def _judged(self, events: Sequence[Event]) -> list[Event]:
        """The events with the alerts that follow from them, and verdicts as they are then."""
        now_ns = self._clock()
        found = self._alerts.follow(self._canaried(events, now_ns), now_ns)
        if self._alerts.policies:
            self._verdicts.follow(found)
        return self._drift.follow(found, now_ns)

    def _canaried(self, events: Sequence[Event], now_ns: int) -> list[Event]:
        """Features that canaries find blind join what is blind."""
        found = list(events)
        if self._canaries is None:
            return found
        if self._canaries.follow(found, now_ns):
            found.append(self._monitor.standing(now_ns))
        blind = self._canaries.blind
        return [replace(one, blind=one.blind + blind) if isinstance(one, Standing) else one for one in found]

    def _answer(self, link: int, result: Result) -> list[Event]:
        """A result of what was asked on this link; any other one makes no sense."""
        asked = self._commands.find(link, result)
        try:
            test = selftest.read(result) if asked.command.verb == SELF_TEST else None
            if test is not None:
                identity, events = self._monitor.self_test(link, test, self._clock())
                self._commands.take(asked, Examined(identity, test))
                return events
            if result.good and asked.command.verb != SELF_TEST:
                number = result.details.get("opened", "")
                streams = (one for one in self._monitor.opened(link) if str(one.opening.stream) == number)
                opened = next(streams, None)
                if opened is not None:
                    self._monitor.replaced(link, opened.opening.stream, asked.command.arguments)
                self._commands.settle(asked, result.details, opened)
            else:
                self._commands.refuse(asked, result.message)
        except RecordError as error:
            self._commands.refuse(asked, str(error))
            raise
        return []

    def _streams_of(self, engine: str) -> Sequence[StreamIdentity]:
        link = self._monitor.engines().get(engine)
        return () if link is None else self._monitor.opened(link)

    def _gaps_of(self, stream: int) -> int:
        states = self._monitor.standing(self._clock()).streams
        return next((one.seq_gaps for one in states if one.identity.number == stream), 0)

    def _read(self) -> frozenset[str]:
        """Features that rules read which act."""
        return frozenset(
            name
            for programme, _ in self._alerts.programmes()
            for rule in programme.rules
            if not rule.shadow
            for atom in rule.atoms
            for name in programme.atoms[atom].features
        )

    def _seen(self, identity: Identity, stream: int, names: Collection[str]) -> tuple[Coverage, Mapping[str, int]]:
        return seen_of(self._monitor.records(identity.engine_id), identity, stream, names)

    def _hand_on(self, events: Sequence[Event]) -> None:
        if events:
            for queue in self._queues:
                queue.put(events)

    # --- for the services -----------------------------------------------------------------------------------------
    def status(self) -> Status:
        """The state of things."""
        with self._lock:
            found = self._drift.status(self._monitor.status(self._clock()))
            blind = self._canaries.blind if self._canaries else ()
            return replace(found, blind=found.blind + blind, counters={**found.counters, **self._alerts.faults})

    def canary(self, tell: Callable[[Canaries, int], Told]) -> Told:
        """What ``tell`` says to the canaries, or asks them, and when. Only where there are some."""
        assert self._canaries is not None, "whoever has none does not ask"
        with self._lock:
            return tell(self._canaries, self._clock())

    def comparisons(self) -> list[Comparison]:
        """Shadow dictionaries beside the stable ones."""
        with self._lock:
            return self._monitor.comparisons(self._clock())

    def tell_alerts(self, tell: Callable[[Alerts, int], tuple[Told, Sequence[Event]]]) -> Told:
        """What ``tell`` says to the alerts, or asks them, and when; the events that it gives go out."""
        with self._lock:
            told, events = tell(self._alerts, self._clock())
        self._hand_on(events)
        return told

    def policies(self) -> tuple[Sequence[Policy], Sequence[tuple[Programme, StreamIdentity]]]:
        """Those of the configuration, and what each comes to on every dictionary that was met."""
        with self._lock:
            return self._alerts.policies, list(self._alerts.programmes())

    def alert_counters(self) -> Mapping[str, int]:
        """Each is 0 when all is well."""
        with self._lock:
            forgotten = self._alerts.counters["alerts_forgotten"]
            return {"unjudged_requests": self._alerts.unjudged, "alerts_forgotten": forgotten}

    def alert(self, name: str) -> Alert:
        """The alert of that id. Raises `RecordError` for one that is not known."""
        with self._lock:
            return self._alerts.alert(name)

    def alerts(self) -> list[Alert]:
        """Those that are kept, the latest change last."""
        with self._lock:
            return self._alerts.all()

    def verdicts(self, names: Mapping[str, int]) -> list[Verdict]:
        """Verdicts on the requests of these names that changed after the version given with each; -1: never told."""
        with self._lock:
            return self._verdicts.newer(names)

    def records(self, name: str) -> list[RequestRecord]:
        """The records of the requests of that name."""
        with self._lock:
            return self._monitor.records(name)

    def engines(self) -> list[str]:
        """The connected ones."""
        with self._lock:
            return sorted(self._monitor.engines())

    def streams(self) -> Mapping[str, Sequence[StreamIdentity]]:
        """The open streams of each connected engine."""
        with self._lock:
            return {engine: self._monitor.opened(link) for engine, link in sorted(self._monitor.engines().items())}

    def ask(self, engine: str, verb: str = SELF_TEST, arguments: Mapping[str, str] = _NOTHING) -> tuple[Asked, bool]:
        """Asks ``engine`` to do ``verb``: what to wait for until `give_up`, and whether its command is to be sent.

        Raises `UnreachableError` when it is not connected, `EngineError` while it carries out something else.
        """
        with self._lock:
            link = self._monitor.engines().get(engine)
            if link is None:
                raise UnreachableError(f"engine {engine}", found="no connection", expected="a connected engine")
            return self._commands.ask(engine, link, verb, arguments)

    def give_up(self, asked: Asked) -> None:
        """The answer is there, or nobody waits for it any more."""
        with self._lock:
            self._commands.give_up(asked)

    def queues(self) -> list[QueueState]:
        """The sinks' queues."""
        return [queue.state() for queue in self._queues]
