"""ASGI middleware for vLLM's API server (``--middleware saewatch.engine.middleware.LabelMiddleware``). Stdlib only.

vLLM's worker knows neither the client's headers nor why a request ended. So each request gets a unique key as its
``X-Request-Id`` towards vLLM, which builds its own id around it; the key, the client's own id and the labels that a
trusted hop set go to the sidecar as a `RequestLabel`, once when the request arrives and once when it has ended. The
client gets its own id back.

It never delays, changes or fails a request: the socket does not block, and what does not fit is dropped and counted.
Configured by the environment, since vLLM gives middleware no arguments:

- ``SAEWATCH_SOCKET``: the sidecar's socket; without it the keys are given all the same and no label is sent;
- ``SAEWATCH_TRUST_HEADERS=1``: a gateway in front of vLLM sets or removes ``X-Saewatch-Tenant``, ``-Class`` and
  ``-Conversation``; without it these headers are ignored, because anyone could have set them.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from saewatch.core.errors import SaewatchError
from saewatch.core.records import Outcome, RequestLabel, TrafficClass
from saewatch.core.wire import encode

logger = logging.getLogger("vllm.saewatch")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ID_BYTES = 256
RECONNECT_EVERY_S = 1.0
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class LabelMiddleware:
    """Gives keys and sends labels."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._trusted = os.environ.get("SAEWATCH_TRUST_HEADERS") == "1"
        self._sender = LabelSender(os.environ.get("SAEWATCH_SOCKET", ""))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection; everything but HTTP POST passes by untouched."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        label = label_of(scope["headers"], trusted=self._trusted)
        self._sender.send(label)
        watch = _Answer(label, send)
        scope = {**scope, "headers": _with_header(scope["headers"], b"x-request-id", label.key)}
        try:
            await self._app(scope, watch.receive(receive), watch.send)
        finally:
            self._sender.send(watch.label())


class _Answer:
    """Watches one request's answer go by."""

    def __init__(self, label: RequestLabel, send: Send) -> None:
        self._label = label
        self._send = send
        self._status = 0
        self._complete = False
        self._left = False

    def receive(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            self._left = self._left or message["type"] == "http.disconnect"
            return message

        return watched

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = self._label.client_id or self._label.key
            message = {**message, "headers": _with_header(message.get("headers", []), b"x-request-id", own)}
        left = self._left  # a server takes what comes after it, and sends it to nobody
        try:
            await self._send(message)
        except OSError:  # by the specification from 2.4 on: the client has left
            self._left = True
            raise
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = not left

    def label(self) -> RequestLabel:
        """The label with how it ended. A client may leave after the last byte: then the answer was complete."""
        if self._complete:
            outcome = Outcome.COMPLETED if self._status < 400 else Outcome.ERROR
        else:
            outcome = Outcome.DISCONNECTED if self._left else Outcome.ERROR
        return replace(self._label, outcome=outcome, status=self._status, time_ns=time.time_ns())


class LabelSender:
    """A non-blocking socket to the sidecar; labels that do not go out at once are dropped and counted."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._next_try = 0.0
        self.dropped = 0

    def send(self, label: RequestLabel) -> None:
        """Sends ``label`` if the sidecar takes it now."""
        if not self._path:
            return
        try:
            frame = encode(label)
        except SaewatchError:
            self.dropped += 1
            return
        if not (self._try(frame) or (self._connect() and self._try(frame))):
            self.dropped += 1

    def close(self) -> None:
        """Gives the connection up."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _try(self, frame: bytes) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        return True

    def _connect(self) -> bool:
        if self._socket is not None or time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + RECONNECT_EVERY_S
        candidate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            candidate.connect(self._path)
        except OSError as error:
            candidate.close()
            logger.debug("saewatch: no sidecar at %s: %s", self._path, error)
            return False
        self._socket = candidate
        return True


@dataclass(frozen=True, slots=True)
class _Headers:
    """The first value of each header, made printable and cut to `ID_BYTES`."""

    values: dict[bytes, bytes]

    def text(self, name: bytes) -> str:
        value = self.values.get(name, b"")[:ID_BYTES].decode("latin-1")
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)


def label_of(headers: list[tuple[bytes, bytes]], *, trusted: bool) -> RequestLabel:
    """The label of a request with these headers: tenant, class and conversation only from a trusted hop."""
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        values.setdefault(name.lower(), value)
    found = _Headers(values)
    trace = _TRACE.fullmatch(values.get(b"traceparent", b""))
    traffic_class = found.text(b"x-saewatch-class") if trusted else ""
    return RequestLabel(
        key=f"sw-{uuid.uuid4().hex}",
        client_id=found.text(b"x-request-id"),
        tenant=found.text(b"x-saewatch-tenant") if trusted else "",
        traffic_class=traffic_class if traffic_class in set(TrafficClass) else TrafficClass.LIVE,
        conversation=found.text(b"x-saewatch-conversation") if trusted else "",
        trace_id=trace[1].decode() if trace else "",
        time_ns=time.time_ns(),
    )


def _with_header(headers: list[tuple[bytes, bytes]], name: bytes, value: str) -> list[tuple[bytes, bytes]]:
    kept = [(key, item) for key, item in headers if key.lower() != name]
    return [*kept, (name, value.encode("latin-1", "replace"))]
