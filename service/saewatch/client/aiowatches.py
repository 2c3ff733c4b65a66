"""What watches in an asyncio loop: events of one subscription, over all its connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from saewatch.client.alerts import AlertEvent
from saewatch.client.events import Event
from saewatch.client.session import Watched, Watching
from saewatch.client.verdicts import VerdictSession
from saewatch.edge.pb import verdict_pb2

E = TypeVar("E")


class _AsyncWatching(Watching[E]):
    """Events of one subscription. Iterate over it once; another task of the loop may close it."""

    def __init__(self, session: Watched[E], channel: grpc.aio.Channel, silence_s: float) -> None:
        super().__init__(session)
        self._line = _Line(silence_s)
        self._events = _events(session, channel, self._line)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        return await anext(self._events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends it: whoever waits for an event gets the end of the iteration."""
        self._line.close()


class AsyncWatch(_AsyncWatching[Event]):
    """Firings and what belongs to them."""


class AsyncAlertWatch(_AsyncWatching[AlertEvent]):
    """Changes of alerts."""


class AsyncVerdicts(_AsyncWatching[verdict_pb2.Verdict]):
    """Verdicts on the requests that are followed, as `Verdicts` tells them."""

    def __init__(self, session: VerdictSession, channel: grpc.aio.Channel, silence_s: float) -> None:
        super().__init__(session, channel, silence_s)
        self._followed = session

    async def follow(self, *names: str) -> None:
        """Follows requests, by the client's id, the key or the engine's id; they need not have begun."""
        self._followed.follow(*names)

    async def leave(self, *names: str) -> None:
        """Follows them no longer."""
        self._followed.leave(*names)


async def _events(session: Watched[E], channel: grpc.aio.Channel, line: _Line) -> AsyncGenerator[E, None]:
    try:
        while not line.closed.is_set():
            broken: grpc.RpcError | None = None
            line.opened(session.call(channel))
            try:
                while (message := await line.message()) is not None:
                    for event in session.take(message, time.monotonic()):
                        yield session.hand(event)
            except grpc.RpcError as error:
                broken = error
            if line.closed.is_set():
                return
            down = session.lost(broken, time.monotonic(), silent=line.silent)
            for event in session.broken(down):
                yield session.hand(event)
            await line.wait(down.retry_s)
    finally:
        session.close()
        line.close()


class _Line:
    """The call that a watch listens to, as other tasks see it."""

    def __init__(self, silence_s: float) -> None:
        self.closed = asyncio.Event()
        self.silent = False
        """The last call was ended because it said nothing."""
        self._silence_s = silence_s
        self._call: Any = None

    def opened(self, call: Any) -> None:
        """A new call."""
        self._call = call
        self.silent = False

    async def message(self) -> Any:
        """The next message; None at the end of the stream, and of the watch."""
        try:
            async with asyncio.timeout(self._silence_s):
                found = await self._call.read()
        except TimeoutError:
            self.silent = True
            return None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.closed.is_set() and task is not None and not task.cancelling():
                return None  # the call was cancelled, not the task that waits for it
            raise
        return None if found is grpc.aio.EOF else found

    async def wait(self, seconds: float) -> None:
        """For a time, or until the watch is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closed.wait()

    def close(self) -> None:
        """Ends the call and the watch."""
        self.closed.set()
        if self._call is not None:
            self._call.cancel()
