"""How far a subscriber is in each engine's own account of a stream: so a gap is exact though the sidecar was restarted.

An engine adds up what its sidecars acknowledged, over all of them: tokens (rows and losses, recomputed rows once) and
firings. Its first beat to a sidecar says where that one's part begins, the *base*. So the place of an event is the base
and what this sidecar has given since, and a token of an earlier run is answered with the difference: what the engine
told other sidecars and the subscriber was never given. Where that one was given more than the engine has an
acknowledgement for, as after a kill, the engine reports the surplus once more, as missed: *repeated*.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from saewatch.edge.pb import firing_pb2
from saewatch.edge.pipeline import Dropped
from saewatch.edge.rpc import messages
from saewatch.edge.rpc.gather import Gathered
from saewatch.monitor.events import Standing
from saewatch.monitor.tables import StreamIdentity


@dataclass(frozen=True, slots=True)
class Place:
    """A number of tokens and of firings, since the engine opened the stream."""

    tokens: int
    firings: int


Places = Mapping[str, Place]
"""By `name_of` the stream."""
_NOWHERE: Places = {}


@dataclass(slots=True)
class _Stream:
    identity: StreamIdentity
    base: Place
    now: Place


class Account:
    """The streams of this run of the sidecar: their bases, and what was given of each so far."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}  # by the sidecar's number
        self._names: dict[str, int] = {}
        self._places: dict[str, Place] = {}

    @property
    def places(self) -> Places:
        """Where the streams that go on are now; never changed, but replaced."""
        return self._places

    def learn(self, standing: Standing) -> None:
        """A beat came, or a stream ended."""
        for state in standing.streams:
            number = state.identity.number
            if state.base is not None and number not in self._streams:
                base = Place(*state.base)
                self._streams[number] = _Stream(state.identity, base, base)
                self._names[name_of(state.identity)] = number
        known = {state.identity.number for state in standing.streams}
        for number in [one for one in self._streams if one not in known]:
            del self._names[name_of(self._streams.pop(number).identity)]
        ended = {state.identity.number for state in standing.streams if state.ended}
        self._places = {name: self._streams[one].now for name, one in self._names.items() if one not in ended}

    def give(self, item: Gathered | Dropped) -> None:
        """Subscribers get this, or are told that they did not."""
        for number, tokens, firings in _amounts(item):
            stream = self._streams.get(number)
            if stream is not None:
                stream.now = Place(stream.now.tokens + tokens, stream.now.firings + firings)
                self._places = {**self._places, name_of(stream.identity): stream.now}

    @property
    def names(self) -> Collection[str]:
        """Streams whose engines have said where this run's part begins."""
        return self._names

    def base(self, name: str) -> tuple[StreamIdentity, Place]:
        """Which stream that is, and where this run's part of it begins."""
        stream = self._streams[self._names[name]]
        return stream.identity, stream.base


class Owed:
    """What a subscriber that comes from an earlier run is still to be told: the gap of each stream, as it comes back.

    ``places`` are where it was in streams that have not come back yet, ``known`` the names of those that need no word,
    and ``until_s`` is when nobody waits any more, in seconds since 1970; 0: nothing is owed.
    """

    def __init__(self, places: Places = _NOWHERE, *, known: Iterable[str] = (), until_s: int = 0) -> None:
        self.places = dict(places)
        self.until_s = until_s
        self._known = {*known}

    def settle(self, account: Account, passed: Places, now_s: float) -> list[firing_pb2.Gap]:
        """The gaps that can be told now: of streams that are back, and of those that nobody waits for any more.

        ``passed`` is where the subscriber is: a stream is told of when it has got as far as the stream's first beat, or
        a token between the two would know of neither the gap nor the stream.
        """
        gaps = [self._back(account, name) for name in account.names if name in passed or name not in account.places]
        told = [gap for gap in gaps if gap is not None]
        if now_s >= self.until_s:
            told += [firing_pb2.Gap(reason=firing_pb2.GAP_REASON_RESTARTED, unknown=True) for _ in self.places]
            self.places, self.until_s = {}, 0
        return told

    def _back(self, account: Account, name: str) -> firing_pb2.Gap | None:
        if name in self._known:
            return None
        self._known.add(name)
        identity, base = account.base(name)
        if name in self.places:
            return _between(self.places.pop(name), identity, base)
        if not base.tokens:
            return None  # it began in this run
        stream = messages.stream(identity)
        return firing_pb2.Gap(reason=firing_pb2.GAP_REASON_RESTARTED, stream=stream, unknown=True)


def name_of(stream: StreamIdentity) -> str:
    """The same in every run of the sidecar, and another one after a restart of the engine."""
    opening = stream.opening
    said = (opening.engine, opening.epoch, opening.stream, opening.weights_digest, opening.hook_point)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


def _amounts(item: Gathered | Dropped) -> list[tuple[int, int, int]]:
    if isinstance(item, Dropped):
        return [(number, tokens, firings) for number, (tokens, firings) in item.streams.items()]
    batch = item.batch
    return [(item.table.stream.number, batch.fresh_rows + int(batch.missed_tokens.sum()), batch.firings)]


def _between(place: Place, identity: StreamIdentity, base: Place) -> firing_pb2.Gap:
    return firing_pb2.Gap(
        reason=firing_pb2.GAP_REASON_RESTARTED,
        stream=messages.stream(identity),
        tokens=max(base.tokens - place.tokens, 0),
        firings=max(base.firings - place.firings, 0),
        repeated_tokens=max(place.tokens - base.tokens, 0),
    )
