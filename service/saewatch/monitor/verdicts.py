"""Verdicts on requests, made from the events that go out: alerts, batches, ends, and what is blind.

The book is fed in the order of the events, in which the alerts of a batch come before it. So a verdict that covers a
token has every alert of that token in it. Only what is asked for is put into words; what is kept of a request is how
far each stream has come, and its alerts.

    flagged   a rule that asks for a flag was active in it         the first of these that holds
    unknown   something is missing, blind, or judged by no rule
    elevated  another rule was active in it, or one is pending
    clear     all that is covered was judged, and nothing of this

An alert in shadow does not count. One under a silence or beyond its rule's rate does: these spare people, and say
nothing about the request.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from saewatch.core import limits
from saewatch.core.batch import Origin
from saewatch.core.catalogue import SEVERITIES
from saewatch.core.records import Role
from saewatch.monitor.alert import SHADOW, Alert, AlertChanged
from saewatch.monitor.events import CLASSES, BlindState, Event, Observed, RequestEnded, Standing
from saewatch.monitor.identity import Identity
from saewatch.monitor.observe import COUNTED
from saewatch.monitor.policy.machine import ACTIVE, PENDING
from saewatch.monitor.tables import StreamIdentity, WatchTable
from saewatch.monitor.unjudged import NO_RULE
from saewatch.monitor.verdict import CLEAR, ELEVATED, FLAGGED, NOT_SEEN, UNKNOWN, Progress, Span, Verdict

NOTHING_YET = "nothing of it was judged yet"
NOT_CONNECTED = "its engine is not connected"
LOST = "its engine was lost before it told the end"
_CONVERSATION = "conversation "
_COUNTED = {str(name): bool(COUNTED[number]) for number, name in enumerate(CLASSES)}


@dataclass(slots=True, eq=False)
class _Sequence:
    """Of one stream: where batches were lost. Not every batch comes here, so a jump alone says nothing."""

    gaps: int
    seq: int = 0
    lost: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=16))
    """Behind the first and up to the second seq."""

    def come(self, seq: int, gaps: Callable[[], int]) -> None:
        """A batch has come."""
        if seq > self.seq + 1 and (now := gaps()) != self.gaps:
            self.lost.append((self.seq, seq))
            self.gaps = now
        self.seq = max(self.seq, seq)

    def between(self, first: int, last: int) -> bool:
        """Whether one may have been lost behind the first and up to the last."""
        return any(first < high and last > low for low, high in self.lost)


@dataclass(slots=True, eq=False)
class _Request:
    identity: Identity
    version: int = 0
    progress: dict[int, Progress] = field(default_factory=dict)
    """By the stream's number."""
    because: dict[int, str] = field(default_factory=dict)
    """By the stream's number, why it concludes nothing."""
    alerts: dict[str, Alert] = field(default_factory=dict)
    """That count: active now or before, and pending ones."""
    flagged: bool = False
    final: Verdict | None = None


class Verdicts:
    """What is known of every request that is running, and of the last ones that have ended.

    ``because``: why rules conclude nothing from their silence on a request (see `unjudged`). ``streams_of``: the open
    streams of an engine. ``read``: the features that rules read. ``gaps_of``: jumps in a stream's sequence so far.
    """

    def __init__(
        self,
        because: Callable[[WatchTable, Identity], str],
        streams_of: Callable[[str], Iterable[StreamIdentity]],
        read: Callable[[], frozenset[str]],
        gaps_of: Callable[[int], int],
    ) -> None:
        self._because, self._streams_of, self._read, self._gaps_of = because, streams_of, read, gaps_of
        self._sequences: OrderedDict[int, _Sequence] = OrderedDict()
        self._requests: OrderedDict[Identity, _Request] = OrderedDict()
        self._names: defaultdict[str, dict[Identity, None]] = defaultdict(dict)
        self._conversations: OrderedDict[tuple[str, str], dict[str, Alert]] = OrderedDict()
        self._blind: dict[int, str] = {}
        self._blind_features: tuple[str, ...] = ()
        self._idle: set[int] = set()  # streams to which no rule applies
        self._version = 1
        self._all_changed = 1

    # --- what happens ---------------------------------------------------------------------------------------------
    def follow(self, events: Iterable[Event]) -> None:
        """Takes events in the order in which they go out."""
        for event in events:
            self._version += 1
            if isinstance(event, Observed):
                self._observe(event)
            elif isinstance(event, AlertChanged):
                self._alert(event.alert)
            elif isinstance(event, RequestEnded):
                self._end(event)
            elif isinstance(event, Standing):
                self._stand(event)

    def _observe(self, event: Observed) -> None:
        stream = event.table.stream
        if stream.opening.role != Role.STABLE or stream.dictionary is None:
            return
        batch, spans, missed = (
            event.batch,
            defaultdict[int, list[Span]](list),
            defaultdict[int, list[tuple[int, int]]](list),
        )
        again = (batch.origin == Origin.RECOMPUTED).tolist()
        rows = zip(event.span_request.tolist(), batch.position.tolist(), batch.lengths.tolist(), again, strict=True)
        for number, first, tokens, before in rows:
            spans[number].append((first, tokens, before))
        columns = (event.missed_request, batch.missed_reason, batch.missed_tokens)
        for number, reason, tokens in zip(*(column.tolist() for column in columns), strict=True):
            missed[number].append((reason, tokens))
        sequence = self._sequence(stream.number)
        sequence.come(batch.seq, lambda: self._gaps_of(stream.number))
        for number in spans.keys() | missed.keys():
            if number >= 0:
                found = self._of(event.requests[number])
                if stream.number not in found.because:
                    self._begin(found, event.table, batch.seq)
                progress = found.progress[stream.number]
                lost = sequence.between(progress.seq, batch.seq) if sequence.lost else False
                progress.add(spans.get(number, ()), missed.get(number, ()), lost=lost)
                progress.seq = batch.seq

    def _sequence(self, number: int) -> _Sequence:
        if number not in self._sequences:
            self._sequences[number] = _Sequence(self._gaps_of(number))
            if len(self._sequences) > limits.STREAMS_KEPT:
                self._sequences.popitem(last=False)
        return self._sequences[number]

    def _begin(self, request: _Request, table: WatchTable, seq: int) -> None:
        number = table.stream.number
        why = request.because[number] = self._because(table, request.identity)
        request.progress[number] = Progress(seq=seq)
        (self._idle.add if why == NO_RULE else self._idle.discard)(number)

    def _alert(self, alert: Alert) -> None:
        if alert.identity is None or alert.held_back == SHADOW:
            return
        if alert.subject.startswith(_CONVERSATION):
            self._converse(alert, (alert.identity.tenant, alert.identity.conversation))
        request = self._of(alert.identity)
        known = request.alerts.get(alert.id)
        if alert.state in {ACTIVE, PENDING} or (known is not None and known.state == ACTIVE):
            request.alerts[alert.id] = alert
        elif known is not None and known.state == PENDING:
            del request.alerts[alert.id]
        request.flagged |= alert.state == ACTIVE and alert.action == "flag"

    def _converse(self, alert: Alert, key: tuple[str, str]) -> None:
        """An alert about a conversation is one of every request in it, as long as it lasts."""
        known = self._conversations.setdefault(key, {})
        if alert.state in {ACTIVE, PENDING}:
            known[alert.id] = alert
        else:
            known.pop(alert.id, None)
        if not known:
            del self._conversations[key]
        while len(self._conversations) > limits.VERDICT_REQUESTS:
            self._conversations.popitem(last=False)
        self._all_changed = self._version

    def _end(self, event: RequestEnded) -> None:
        request = self._requests.get(event.identity)
        if request is None:
            return
        if not event.lost:
            for progress in request.progress.values():
                progress.close(event.fed)
        request.version = self._version
        request.final = self._verdict("", request, lost=event.lost)
        request.progress.clear()

    def _stand(self, standing: Standing) -> None:
        blind = {one.identity.number: one.blind or "it has ended" for one in standing.streams if one.blind or one.ended}
        features = tuple(sorted(self._features_of(one for one in standing.blind if one.scope == "feature")))
        if (blind, features) != (self._blind, self._blind_features):
            self._blind, self._blind_features, self._all_changed = blind, features, self._version

    def _features_of(self, states: Iterable[BlindState]) -> Iterator[str]:
        """Blind features that rules read."""
        read: frozenset[str] | None = None
        for one in states:
            read = self._read() if read is None else read
            yield from (word for word in one.subject.split() if word in read)

    def _of(self, identity: Identity) -> _Request:
        found = self._requests.get(identity)
        if found is None:
            found = self._requests[identity] = _Request(identity)
            for name in _names(identity):
                self._names[name][identity] = None
            while len(self._requests) > limits.VERDICT_REQUESTS:
                self._forget(self._requests.popitem(last=False)[0])
        found.version = self._version
        return found

    def _forget(self, identity: Identity) -> None:
        for name in _names(identity):
            self._names[name].pop(identity, None)
            if not self._names[name]:
                del self._names[name]

    # --- what is asked --------------------------------------------------------------------------------------------
    def newer(self, names: Mapping[str, int]) -> list[Verdict]:
        """Verdicts on the requests of these names that changed after the version given with each; -1: never told."""
        found: list[Verdict] = []
        for name, told in names.items():
            requests = [self._requests[one] for one in self._names.get(name, ())]
            if not requests and told != 0:
                found.append(
                    Verdict(name=name, version=0, identity=None, state=UNKNOWN, reason=NOT_SEEN, covered_through=-1)
                )
            for one in requests:
                version = one.version if one.final else max(one.version, self._all_changed)
                if version > told:
                    found.append(self._verdict(name, one))
        return found

    def _verdict(self, name: str, request: _Request, *, lost: bool = False) -> Verdict:
        if request.final is not None:
            state, reason, covered = request.final.state, request.final.reason, request.final.covered_through
            alerts, missed = request.final.alerts, request.final.missed
        else:
            alerts = self._alerts_of(request)
            covered, why = self._covered(request)
            state, reason = self._state(request, alerts, LOST if lost else why)
            missed = sum((one.missed for one in request.progress.values()), Counter[str]())
        return Verdict(
            name=name,
            version=self._version,
            identity=request.identity,
            state=state,
            reason=reason,
            covered_through=covered,
            ended=request.final is not None or lost,
            alerts=alerts,
            missed=missed,
        )

    def _alerts_of(self, request: _Request) -> tuple[Alert, ...]:
        """The gravest first."""
        one = request.identity
        shared = self._conversations.get((one.tenant, one.conversation), {}) if one.conversation else {}
        found = sorted({**request.alerts, **shared}.values(), key=_gravity)
        return tuple(found[: limits.VERDICT_ALERTS])

    def _state(self, request: _Request, alerts: Sequence[Alert], why: str) -> tuple[str, str]:
        flags = [one for one in alerts if one.action == "flag" and one.state == ACTIVE]
        if request.flagged or flags:
            named = flags or [one for one in alerts if one.action == "flag"]
            return FLAGGED, f"{_named(named)} was active"
        if why:
            return UNKNOWN, why
        if alerts:
            pending = all(one.state == PENDING for one in alerts)
            return ELEVATED, f"{_named(alerts)} {'is pending' if pending else 'was active, and asks for no flag'}"
        return CLEAR, "all that is covered was judged, and no rule holds"

    def _covered(self, request: _Request) -> tuple[int, str]:
        """The last covered position in every stream that rules read, and why more cannot be said; empty: it can."""
        identity = request.identity
        if not _COUNTED[identity.traffic_class]:
            return -1, f"{identity.traffic_class} requests are not judged"
        points: defaultdict[str, list[StreamIdentity]] = defaultdict(list)
        for stream in self._streams_of(identity.engine):
            if stream.opening.role == Role.STABLE and stream.dictionary is not None:
                points[stream.opening.hook_point].append(stream)
        ends: list[int] = []
        whys: list[str] = []
        for point, streams in points.items():
            seen = [one.number for one in streams if one.number in request.progress]
            if not seen and all(one.number in self._idle for one in streams):
                continue
            if not seen:
                ends.append(0)
                whys.append(f"{point}: {NOTHING_YET}")
                continue
            number = max(seen, key=lambda one: request.progress[one].through)  # of several ranks one has the request
            if request.because[number] == NO_RULE:
                continue
            progress = request.progress[number]
            ends.append(progress.through)
            whys += [f"{point}: {why}" for why in self._whys(request, number, progress)]
        if not points:
            left = [one.through for at, one in request.progress.items() if request.because[at] != NO_RULE]
            return min(left, default=0) - 1, NOT_CONNECTED
        if not ends:
            return -1, NO_RULE
        whys += [f"{name} is blind" for name in self._blind_features]
        return min(ends) - 1, "; ".join(whys)

    def _whys(self, request: _Request, number: int, progress: Progress) -> Iterator[str]:
        if request.because[number]:
            yield request.because[number]
        if not progress.whole:
            yield progress.shortfall()
        elif not progress.through:
            yield NOTHING_YET
        if number in self._blind:
            yield f"blind: {self._blind[number]}"


def _names(identity: Identity) -> set[str]:
    return {identity.key, identity.engine_id, identity.client_id} - {""}


def _gravity(alert: Alert) -> tuple[bool, bool, int, str]:
    return alert.action != "flag", alert.state != ACTIVE, -SEVERITIES.index(alert.severity), alert.id


def _named(alerts: Sequence[Alert]) -> str:
    return ", ".join(dict.fromkeys(f"{one.policy}/{one.rule}" for one in alerts)) or "a rule"
