"""Verdicts on running requests, for both clients: a machine like `Session`, with one call for many requests.

While there is no connection every verdict is unknown: each request that is followed and has not ended is told so, once
for each time. On a new connection the same names are followed again, and the sidecar tells how each stands.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from queue import SimpleQueue
from random import Random
from typing import Any, Protocol, Self

from saewatch.client.events import Disconnected, Totals
from saewatch.client.session import Reconnect
from saewatch.core import limits
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import verdict_pb2, verdict_pb2_grpc

Request = verdict_pb2.WatchVerdictRequest
UNKNOWN = verdict_pb2.VERDICT_STATE_UNKNOWN


class Said(Protocol):
    """What is said on one call; gRPC goes over it."""

    def put(self, request: Request | None, /) -> None:
        """Says more; None: nothing more."""


class SaidInThreads:
    """For gRPC's own thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Request | None] = SimpleQueue()

    def put(self, request: Request | None, /) -> None:
        """As `Said.put`."""
        self._queue.put(request)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Request:
        request = self._queue.get()
        if request is None:
            raise StopIteration
        return request


class SaidInLoop:
    """For a task of the loop."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Request | None] = asyncio.Queue()

    def put(self, request: Request | None, /) -> None:
        """As `Said.put`."""
        self._queue.put_nowait(request)

    async def __aiter__(self) -> AsyncIterator[Request]:
        while (request := await self._queue.get()) is not None:
            yield request


class VerdictSession:
    """One watch of verdicts. ``said`` makes what a call says; the other arguments are those of `Session`."""

    def __init__(
        self,
        *,
        address: str,
        said: Callable[[], Said],
        give_up_after_s: float | None = None,
        random: Random | None = None,
    ) -> None:
        self.resume_token = ""
        """Always empty: how a request stands is asked anew."""
        self.totals = Totals()
        self._new_said = said
        self._said: Said | None = None
        self._told: dict[str, dict[str, verdict_pb2.Verdict]] = {}
        """By the name that is followed and the request's key, what was told last."""
        self._lock = threading.Lock()
        self.reconnect = Reconnect(address=address, give_up_after_s=give_up_after_s, random=random)

    def follow(self, *names: str) -> None:
        """Follows requests, now and after each break. Raises `SaewatchError` for too many."""
        with self._lock:
            count = len(self._told.keys() | {*names})
            if count > limits.VERDICT_NAMES:
                expected = f"at most {limits.VERDICT_NAMES}"
                hint = "Leave those that have ended."
                raise SaewatchError("follow", found=f"{count} requests", expected=expected, hint=hint)
            self._told |= {name: {} for name in names}
            self._say(Request(follow=names))

    def leave(self, *names: str) -> None:
        """Follows them no longer."""
        with self._lock:
            for name in names:
                self._told.pop(name, None)
            self._say(Request(leave=names))

    def call(self, channel: Any) -> Any:
        """The call on a channel. Requests that have ended are not followed again: their verdict was the last."""
        with self._lock:
            self._say(None)
            self.reconnect.draining = ""
            self._told = {name: told for name, told in self._told.items() if not _ended(told)}
            self._said = self._new_said()
            if self._told:
                self._say(Request(follow=self._told))
            return verdict_pb2_grpc.VerdictServiceStub(channel).WatchVerdict(self._said)

    def take(self, message: verdict_pb2.WatchVerdictResponse, now_s: float) -> Sequence[verdict_pb2.Verdict]:
        """The verdicts of a message."""
        self.reconnect.back(now_s, self.resume_token)
        if message.drain:
            self.reconnect.draining = "it ends every stream"
        with self._lock:
            for one in message.verdicts:
                if one.name in self._told:
                    self._told[one.name].pop("", None)
                    self._told[one.name][one.request.key] = one
        return message.verdicts

    def hand(self, event: verdict_pb2.Verdict) -> verdict_pb2.Verdict:
        """The same."""
        return event

    def lost(self, error: Any, now_s: float, *, silent: bool = False) -> Disconnected:
        """As `Reconnect.lost`."""
        return self.reconnect.lost(error, now_s, silent=silent, resume_token=self.resume_token)

    def broken(self, down: Disconnected) -> Sequence[verdict_pb2.Verdict]:
        """What is unknown now and was not before."""
        found: list[verdict_pb2.Verdict] = []
        with self._lock:
            for name, told in self._told.items():
                now = {key: _unknown(name, down, one) for key, one in told.items() if _may_change(one)}
                now |= {} if told else {"": _unknown(name, down)}
                self._told[name] = {**told, **now}
                found += now.values()
        return found

    def close(self) -> None:
        """Nothing more is said, or gRPC's thread would wait for it."""
        with self._lock:
            self._say(None)
            self._said = None

    def _say(self, request: Request | None) -> None:
        """On the call that there is; without one it is said with the next."""
        if self._said is not None:
            self._said.put(request)


_NO_CONNECTION = "there is no connection to the sidecar"


def _ended(told: dict[str, verdict_pb2.Verdict]) -> bool:
    """Whether all requests of a name have."""
    return bool(told) and all(one.ended for one in told.values())


def _may_change(before: verdict_pb2.Verdict) -> bool:
    return not before.ended and not before.reason.startswith(_NO_CONNECTION)


def _unknown(name: str, down: Disconnected, before: verdict_pb2.Verdict | None = None) -> verdict_pb2.Verdict:
    """In the place of the last verdict; nothing of it is covered."""
    found = verdict_pb2.Verdict(
        name=name, state=UNKNOWN, reason=f"{_NO_CONNECTION}, which is asked again: {down.reason}", claim="correlational"
    )
    if before is not None and before.HasField("request"):
        found.request.CopyFrom(before.request)
    return found
