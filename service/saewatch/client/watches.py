"""What watches from one thread and is closed from another: events of one subscription, over all its connections.

gRPC's blocking iterator cannot wait for a time, so each watch has one thread beside it, which ends a call that says
nothing while somebody waits for it, and sleeps otherwise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from saewatch.client.alerts import AlertEvent
from saewatch.client.events import Event
from saewatch.client.session import Watched, Watching
from saewatch.client.verdicts import VerdictSession
from saewatch.edge.pb import verdict_pb2

E = TypeVar("E")


class _Watching(Watching[E]):
    """Events of one subscription. Iterate over it once, from one thread; `close` may come from another."""

    def __init__(self, session: Watched[E], channel: grpc.Channel, silence_s: float) -> None:
        super().__init__(session)
        self._line = _Line(silence_s)
        # A generator that does not know this object: when the last reference to it goes, so does the call.
        self._events = _events(session, channel, self._line)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> E:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends it: whoever waits for an event gets the end of the iteration."""
        self._line.close()


class Watch(_Watching[Event]):
    """Firings and what belongs to them."""


class AlertWatch(_Watching[AlertEvent]):
    """Changes of alerts."""


class Verdicts(_Watching[verdict_pb2.Verdict]):
    """Verdicts on the requests that are followed, each with the name that it was followed by.

    Iterate over it in one thread; any other may follow and leave requests, and close it. When the connection breaks,
    each request that has not ended is told as unknown; on the next connection all are followed again.
    """

    def __init__(self, session: VerdictSession, channel: grpc.Channel, silence_s: float) -> None:
        super().__init__(session, channel, silence_s)
        self._followed = session

    def follow(self, *names: str) -> None:
        """Follows requests, by the client's id, the key or the engine's id; they need not have begun."""
        self._followed.follow(*names)

    def leave(self, *names: str) -> None:
        """Follows them no longer."""
        self._followed.leave(*names)


def _events(session: Watched[E], channel: grpc.Channel, line: _Line) -> Iterator[E]:
    threading.Thread(target=line.listen, name="saewatch-silence", daemon=True).start()
    try:
        while not line.closed.is_set():
            broken: grpc.RpcError | None = None
            try:
                for message in line.messages(session.call(channel)):
                    for event in session.take(message, time.monotonic()):
                        yield session.hand(event)
            except grpc.RpcError as error:
                broken = error
            if line.closed.is_set():
                return
            down = session.lost(broken, time.monotonic(), silent=line.silent)
            for event in session.broken(down):
                yield session.hand(event)
            line.closed.wait(down.retry_s)
    finally:
        session.close()
        line.close()


class _Line:
    """The call that a watch listens to, as its other threads see it."""

    def __init__(self, silence_s: float) -> None:
        self.closed = threading.Event()
        self.silent = False
        """The last call was ended because it said nothing."""
        self._silence_s = silence_s
        self._lock = threading.Lock()
        self._call: Any = None
        self._waits_since: float | None = None

    def messages(self, call: Any) -> Iterator[Any]:
        """Its messages; the time that the reader takes for one is no silence."""
        self.silent = False
        with self._lock:
            self._call = call
        if self.closed.is_set():
            call.cancel()
        while True:
            self._waits_since = time.monotonic()
            try:
                message = next(call)
            except StopIteration:
                return
            finally:
                self._waits_since = None
            yield message

    def listen(self) -> None:
        """Ends calls that say nothing, until the watch is closed."""
        while not self.closed.wait(self._silence_s / 4):
            since = self._waits_since
            if since is not None and time.monotonic() - since > self._silence_s:
                self.silent = True
                self._cancel()

    def close(self) -> None:
        """Ends the call and the watch."""
        self.closed.set()
        self._cancel()

    def _cancel(self) -> None:
        with self._lock:
            if self._call is not None:
                self._call.cancel()
