"""The requests of a recording, one after the other as they ended, each with everything that fired on it.

A replay without services: the same pipeline as beside an engine, as fast as it goes, so a request is what the sidecar
would have said of it. Memory is that of the requests that are open at a time. A request is told only where all of it
is known: its end was recorded, every token that was fed was seen or excluded, and under one watch set. The others are
counted by why they are left out: a score of half a request is none. Rules are judged on such a one all the same, as
beside an engine, so whoever asks about alerts may have them too, and those that have not ended with what came so far.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saewatch.core import limits
from saewatch.core.aggregate import Firings, Flags, Requests
from saewatch.core.batch import F32, I32, U16, Origin, Reason
from saewatch.core.recording import Recording
from saewatch.edge.pipeline import Dropped, Item, Pipeline, SinkQueue
from saewatch.edge.replay import RecordedClock, ReplaySource
from saewatch.monitor.alert import Alert, AlertChanged
from saewatch.monitor.alerts import LimitsOf, uncalibrated
from saewatch.monitor.events import UNKNOWN, Observed, RequestEnded, Sampled
from saewatch.monitor.identity import Identity
from saewatch.monitor.policy.machine import ACTIVE, PENDING
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.tables import KnownDictionary, WatchTable

ENDED, CUT, OPEN = "ended", "lost", "open"
"""How a request ended: as the engine told; with the engine, which told nothing; not yet, when the recording ends."""
LOST = "their end was not recorded"
UNSEEN = "nothing of them was seen in this stream"
INCOMPLETE = "not every token was seen"
CHANGED = "what is watched changed meanwhile"
LONG = "they are too long"
WAIT_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedRequest:
    """One request under one watch set. Firings are in any order; several of a feature on one token are told apart."""

    identity: Identity
    table: WatchTable
    seen: Flags  # [fed] False: excluded
    position: I32  # [K]
    feature: I32  # [K] of the table
    slot: U16  # [K]
    value: F32  # [K]
    ended_ns: int  # the time of the last step in which something of it was seen
    missed: Mapping[str, int]
    """Tokens that were fed and not seen, by reason; of a request that is whole only those that are excluded."""
    reused: int = 0
    """Of the tokens that were seen: not computed, but stored before."""
    alerts: tuple[Alert, ...] = ()
    """Of the policies, each change while it was open."""
    end: str = ENDED
    """`CUT` and `OPEN` are told only to who asks for them: what was fed is then what is known of."""

    def columns(self) -> tuple[Requests, Firings]:
        """As `core.aggregate` makes scores of them."""
        requests = Requests.of([len(self.seen)], [self.identity.prompt_len], self.seen)
        firings = Firings(
            request=np.zeros(len(self.position), np.int64),
            position=self.position.astype(np.int64),
            feature=self.feature.astype(np.int64),
            unit=self.table.units(self.feature, self.slot),
            value=self.value,
        )
        return requests, firings


class RecordedRequests:
    """Those of ``recording`` in streams of the dictionary ``known``. To be gone over once.

    ``policies`` are judged as beside an engine, with these limits. Where not ``whole``, requests of which some tokens
    were not seen are told too; where ``unfinished``, those whose end was not recorded, too. ``on_progress`` gets the
    recorded seconds from time to time, ``on_census`` each census. What ends the replay passes through.
    """

    def __init__(
        self,
        recording: Recording,
        known: KnownDictionary,
        *,
        policies: Sequence[Policy] = (),
        limits_of: LimitsOf = uncalibrated,
        whole: bool = True,
        unfinished: bool = False,
        on_progress: Callable[[float], None] = lambda _: None,
        on_census: Callable[[Sampled], None] = lambda _: None,
    ) -> None:
        self._known, self._whole, self._unfinished = known, whole, unfinished
        self._on_progress, self._on_census = on_progress, on_census
        self._arrived = threading.Event()
        clock = RecordedClock(recording.began_ns)
        self._queue = SinkQueue("requests", self._arrived.set, wants=(Observed, RequestEnded, AlertChanged, Sampled))
        self._pipeline = Pipeline(
            dictionaries={known.weights_digest: known},
            queues=[self._queue],
            clock=clock,
            policies=policies,
            limits_of=limits_of,
        )
        self._source = ReplaySource(recording=recording, pipeline=self._pipeline, clock=clock, speed=0.0)
        self._open: dict[Identity, _Open] = {}
        self.left_out: Counter[str] = Counter()
        """Requests that are not told, by why."""
        self.finished: Counter[str] = Counter()
        """Requests whose end was recorded, told or left out, by traffic class."""
        self.fed: Counter[str] = Counter()
        """Their tokens."""
        self.seen: Counter[str] = Counter()
        """Of these, those that were seen: computed or reused."""
        self.missed: dict[str, Counter[str]] = {}
        """The others by reason, as far as it was told."""
        self.tables: dict[int, WatchTable] = {}
        """Watch sets under which something was seen, by their number."""
        self.weights: Counter[str] = Counter()
        """Streams of the recording by their weights digest, once it was gone over."""

    def __iter__(self) -> Iterator[RecordedRequest]:
        """In the order in which they ended; those that have not, last."""
        self._source.start()
        try:
            while not self._source.progress.ended:
                self._arrived.wait(WAIT_S)
                self._arrived.clear()
                self._on_progress(self._source.progress.seconds)
                yield from self._taken(self._queue.taken())
            yield from self._taken(self._queue.taken())
        finally:
            self._source.stop()
        if self._source.failed is not None:
            raise self._source.failed
        for identity, one in self._open.items():
            yield from self._told(identity, one, OPEN)
        self._open.clear()
        self.left_out += Counter()  # without what is 0
        self.weights.update(one.identity.opening.weights_digest for one in self._pipeline.status().streams)

    def _taken(self, items: Iterable[Item]) -> Iterator[RecordedRequest]:
        for item in items:
            assert not isinstance(item, Dropped), "a replay waits for its sinks"
            if isinstance(item, AlertChanged):
                self._alerted(item.alert)
            elif isinstance(item, Sampled):
                if item.stream.opening.weights_digest == self._known.weights_digest:
                    self._on_census(item)
            elif isinstance(item, Observed) and item.table.stream.opening.weights_digest == self._known.weights_digest:
                self._add(item)
            elif isinstance(item, RequestEnded):
                yield from self._ended(item)

    def _alerted(self, alert: Alert) -> None:
        """Keeps it with its request. What is blind has none, and a conversation may end after its requests."""
        if alert.identity is not None and (alert.identity in self._open or alert.state in {PENDING, ACTIVE}):
            self._open.setdefault(alert.identity, _Open()).alerts.append(alert)

    def _add(self, item: Observed) -> None:
        batch = item.batch
        self.tables.setdefault(item.table.number, item.table)
        for identity in item.requests:
            one = self._open.setdefault(identity, _Open())
            one.tables.add(item.table.number)
            one.last_ns = max(one.last_ns, batch.time_ns)
        _, position_of_row = batch.row_positions()
        fired = item.fired
        position, value, slot = position_of_row[fired.row], batch.value[fired.firing], batch.slot[fired.firing]
        first = np.searchsorted(fired.row, batch.span_start)
        for span, request in enumerate(item.span_request.tolist()):
            if request != UNKNOWN:
                start = int(batch.position[span])
                part = slice(first[span], first[span + 1])
                one = self._open[item.requests[request]]
                one.span(start, start + int(batch.lengths[span]), again=batch.origin[span] == Origin.RECOMPUTED)
                one.reused += int(batch.lengths[span]) * (batch.origin[span] == Origin.REUSED)
                one.fired.append((position[part], fired.feature[part], slot[part], value[part]))
        for missed, request in enumerate(item.missed_request.tolist()):
            if request != UNKNOWN:
                reason = Reason(int(batch.missed_reason[missed])).label
                self._open[item.requests[request]].missed[reason] += int(batch.missed_tokens[missed])

    def _ended(self, item: RequestEnded) -> Iterator[RecordedRequest]:
        found = self._open.pop(item.identity, None)
        if not item.lost:
            self.finished[item.identity.traffic_class] += 1
            self.fed[item.identity.traffic_class] += item.fed
            self.seen[item.identity.traffic_class] += found.seen if found else 0
            self.missed.setdefault(item.identity.traffic_class, Counter()).update(found.missed if found else {})
        if found is None:
            self.left_out[LOST if item.lost else UNSEEN] += 1
        else:
            yield from self._told(item.identity, found, CUT if item.lost else ENDED, item.fed)

    def _told(self, identity: Identity, found: _Open, end: str, fed: int = 0) -> Iterator[RecordedRequest]:
        """The request, or nothing: why is counted."""
        fed = fed if end == ENDED else found.reach
        why = "" if end == ENDED or self._unfinished else LOST
        why = why or found.refusal(fed, whole=self._whole)
        if why:
            self.left_out[why] += 1
            return
        (number,) = found.tables
        position, feature, slot, value = found.columns()
        yield RecordedRequest(
            identity=identity,
            table=self.tables[number],
            seen=found.flags(fed),
            position=position,
            feature=feature,
            slot=slot,
            value=value,
            ended_ns=found.last_ns,
            missed=dict(found.missed),
            reused=int(found.reused),
            alerts=tuple(found.alerts),
            end=end,
        )


Columns = tuple[I32, I32, U16, F32]
"""Position, feature, slot and value."""


@dataclass(slots=True)
class _Open:
    """What is known of a request so far."""

    tables: set[int] = field(default_factory=set)
    spans: list[tuple[int, int]] = field(default_factory=list)  # each position once
    missed: Counter[str] = field(default_factory=Counter)
    fired: list[Columns] = field(default_factory=list)
    last_ns: int = 0
    reused: int = 0
    alerts: list[Alert] = field(default_factory=list)

    def span(self, start: int, stop: int, *, again: bool) -> None:
        """Positions were seen; those that are computed again lose what they gave before."""
        if again:
            self.fired = [_outside(columns, start, stop) for columns in self.fired]
        else:
            self.spans.append((start, stop))

    @property
    def seen(self) -> int:
        """Tokens, each once."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def reach(self) -> int:
        """How many tokens were fed at least."""
        return max([self.seen + self.missed.total(), *(stop for _, stop in self.spans)])

    def refusal(self, fed: int, *, whole: bool) -> str:
        """Why it cannot be told; empty where it can."""
        seen = self.seen
        excluded = self.missed[Reason.EXCLUDED.label]
        if len(self.tables) != 1:
            return CHANGED if self.tables else UNSEEN
        if whole and (self.missed.total() > excluded or seen + excluded != fed):
            return INCOMPLETE
        if fed > limits.RECORDED_REQUEST_TOKENS:
            return LONG
        inside = all(stop <= fed for _, stop in self.spans)
        return "" if inside and int(self.flags(fed).sum()) == seen else INCOMPLETE

    def flags(self, fed: int) -> Flags:
        """Which positions were seen, ``[fed]``."""
        found = np.zeros(fed, np.bool_)
        for start, stop in self.spans:
            found[start:stop] = True
        return found

    def columns(self) -> Columns:
        """Everything that fired."""
        return (
            np.concatenate([np.zeros(0, np.int32), *(one[0] for one in self.fired)]),
            np.concatenate([np.zeros(0, np.int32), *(one[1] for one in self.fired)]),
            np.concatenate([np.zeros(0, np.uint16), *(one[2] for one in self.fired)]),
            np.concatenate([np.zeros(0, np.float32), *(one[3] for one in self.fired)]),
        )


def _outside(columns: Columns, start: int, stop: int) -> Columns:
    kept: npt.NDArray[np.bool_] = (columns[0] < start) | (columns[0] >= stop)
    return columns[0][kept], columns[1][kept], columns[2][kept], columns[3][kept]
