"""What a watch does, without a clock, a socket or a thread: both clients drive this one machine.

    connect:   `request` says what to ask for      ─▶ each message: `take` gives the events in it, `hand` each one out
    it breaks: `lost` says how long to wait        ─▶ connect

The resume token moves when an event is handed out, not when its message arrives: whoever begins with it again gets
every event behind the last one that was handed out, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random, SystemRandom
from typing import Any, Generic, Protocol, TypeVar

from saewatch.client import decode
from saewatch.client.events import Disconnected, Event, Reconnected, Totals
from saewatch.client.failures import may_pass, retry_after_s, told
from saewatch.client.filters import chosen
from saewatch.client.tables import Table
from saewatch.core.backoff import MAX_S, Backoff
from saewatch.core.errors import SaewatchError, UnreachableError
from saewatch.edge.pb import firing_pb2, firing_pb2_grpc

SILENCE_S = 5.0
"""Without a message for this long the connection is given up: five heartbeats of the sidecar."""


E_co = TypeVar("E_co", covariant=True)


class Watched(Protocol[E_co]):
    """What both clients drive: a watch of firings, of alerts, or of verdicts."""

    resume_token: str
    totals: Totals
    reconnect: Reconnect

    def call(self, channel: Any) -> Any:
        """The call on a channel."""

    def take(self, message: Any, now_s: float) -> Sequence[E_co]:
        """The events of a message, to be handed out."""

    def hand(self, event: Any) -> E_co:
        """The same event, from now on behind the resume token."""

    def lost(self, error: Any, now_s: float, *, silent: bool = False) -> Disconnected:
        """How long to wait after the connection broke."""

    def broken(self, down: Disconnected) -> Sequence[E_co]:
        """What is handed out for that."""

    def close(self) -> None:
        """There is no call any more, and none to come."""


class Watching(Generic[E_co]):
    """What both clients hand out for a subscription, however they wait for its events."""

    def __init__(self, session: Watched[E_co]) -> None:
        self._session = session

    @property
    def resume_token(self) -> str:
        """A watch that begins with it goes on behind the last event of this one."""
        return self._session.resume_token

    @property
    def totals(self) -> Totals:
        """What was handed out so far."""
        return self._session.totals

    @property
    def connected(self) -> bool:
        """Whether there is a connection on which the sidecar has said something; without one nothing was heard."""
        return self._session.reconnect.connected


class Reconnect:
    """When to connect again, and when to give up. The arguments are those of `Session`."""

    def __init__(self, *, address: str, give_up_after_s: float | None = None, random: Random | None = None) -> None:
        self.address = address
        self.draining = ""
        """Why the sidecar said that it stops, on this connection."""
        self._give_up_after_s = give_up_after_s
        self._backoff = Backoff(random or SystemRandom())
        self._up_s: float | None = None
        """When the connection gave its first message; None while there is none."""
        self._down_s: float | None = None
        """When the last connection was lost."""

    @property
    def connected(self) -> bool:
        """Whether the connection gave a message, and is not lost."""
        return self._up_s is not None

    def lost(self, error: Any, now_s: float, *, silent: bool, resume_token: str) -> Disconnected:
        """How long to wait after the connection broke; ``error`` is gRPC's, or None where the stream just ended.

        Raises `SaewatchError` where asking again cannot help, and `UnreachableError` when it is time to give up.
        """
        if error is not None and not silent and not may_pass(error):
            raise told(self.address, error)
        if self._up_s is not None and now_s - self._up_s >= MAX_S:
            self._backoff.reset()  # not at once: a sidecar that accepts and breaks is no reason to hurry
        self._up_s = None
        self._down_s = now_s if self._down_s is None else self._down_s
        reason = self._reason(error, silent=silent)
        wait_s = self._backoff.wait_s() + (retry_after_s(error) if error is not None else 0.0)
        if self._give_up_after_s is not None and now_s + wait_s - self._down_s > self._give_up_after_s:
            raise self._given_up(reason)
        attempts = self._backoff.attempts
        return Disconnected(resume_token=resume_token, reason=str(reason), attempt=attempts, retry_s=wait_s)

    def back(self, now_s: float, resume_token: str) -> list[Reconnected]:
        """A message has come: what that means after a time without one."""
        if self._up_s is not None:
            return []
        self._up_s = now_s
        if self._down_s is None:
            return []
        down_s, self._down_s = now_s - self._down_s, None
        return [Reconnected(resume_token=resume_token, attempts=self._backoff.attempts, down_s=down_s)]

    def _reason(self, error: Any, *, silent: bool) -> SaewatchError:
        found = ""
        if silent:
            found = "nothing, not even a heartbeat"
        elif self.draining:
            found = f"a sidecar that stops: {self.draining}"
        elif error is None:
            found = "the end of the stream"
        return UnreachableError(self.address, found=found, expected="events") if found else told(self.address, error)

    def _given_up(self, reason: SaewatchError) -> UnreachableError:
        found = f"no connection in {self._give_up_after_s:g} s"
        return UnreachableError(
            self.address, found=found, expected="a sidecar", hint=f"The last attempt said: {reason}"
        )


class Session:
    """One watch. Times are of any clock that only goes forward, in seconds.

    Args:
        address: of the sidecar, for messages.
        wanted: the filter.
        resume_token: where to begin; empty: now.
        heartbeats: whether they are handed out too.
        give_up_after_s: without a connection for this long the watch ends with `UnreachableError`; None: never.
        random: for the waits between attempts.
    """

    def __init__(
        self,
        *,
        address: str,
        wanted: firing_pb2.FiringFilter,
        resume_token: str = "",
        heartbeats: bool = False,
        give_up_after_s: float | None = None,
        random: Random | None = None,
    ) -> None:
        self.address = address
        self.resume_token = resume_token
        """Behind the last event that was handed out."""
        self.totals = Totals()
        self._wanted = wanted
        self._chosen = chosen(wanted)
        self._heartbeats = heartbeats
        self.reconnect = Reconnect(address=address, give_up_after_s=give_up_after_s, random=random)
        self._tables: dict[int, Table] = {}

    def request(self) -> firing_pb2.WatchFiringsRequest:
        """What to ask for on a new connection. Tables do not outlive one: another sidecar numbers them anew."""
        self._tables.clear()
        self.reconnect.draining = ""
        return firing_pb2.WatchFiringsRequest(filter=self._wanted, resume_token=self.resume_token)

    def call(self, channel: Any) -> Any:
        """The call on a channel."""
        return firing_pb2_grpc.FiringServiceStub(channel).WatchFirings(self.request())

    def take(self, message: firing_pb2.WatchFiringsResponse, now_s: float) -> Sequence[Event]:
        """The events of a message, to be handed out. Raises `RecordError` for what no sidecar should send."""
        back: list[Event] = [*self.reconnect.back(now_s, self.resume_token)]
        event = self._event(message)
        if event is not None:
            return [*back, event]
        self.resume_token = message.resume_token or self.resume_token  # nothing of it waits to be handed out
        return back

    def hand(self, event: Event) -> Event:
        """The same event, from now on behind the resume token."""
        self.resume_token = event.resume_token or self.resume_token
        self.totals.add(event)
        return event

    def lost(self, error: Any, now_s: float, *, silent: bool = False) -> Disconnected:
        """As `Reconnect.lost`."""
        return self.reconnect.lost(error, now_s, silent=silent, resume_token=self.resume_token)

    def broken(self, down: Disconnected) -> Sequence[Event]:
        """That it is so."""
        return [down]

    def close(self) -> None:
        """It holds nothing."""

    def _event(self, message: firing_pb2.WatchFiringsResponse) -> Event | None:
        kind, token = message.WhichOneof("event"), message.resume_token
        if kind == "batch":
            return decode.firings(message.batch, self._tables, token)
        if kind == "coverage":
            return decode.coverage(message.coverage, token)
        if kind == "gap":
            return decode.gap(message.gap, token)
        if kind == "ended":
            return decode.ended(message.ended, token)
        if kind == "heartbeat" and self._heartbeats:
            return decode.heartbeat(message.heartbeat, token)
        if kind == "table":
            self._tables[message.table.number] = decode.feature_table(message.table, self._chosen)
        elif kind == "drain":
            self.reconnect.draining = message.drain.reason or "it did not say why"
        elif kind is None:
            self.totals.unknown_events += 1
        return None
