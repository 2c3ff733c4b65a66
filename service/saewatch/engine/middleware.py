"""ASGI middleware for vLLM's API server (``--middleware saewatch.engine.middleware.LabelMiddleware``). Stdlib only.

vLLM's worker knows neither the client's headers nor why a request ended. So each request gets a unique key as its
``X-Request-Id`` towards vLLM, which builds its own id around it; the key, the client's own id and the labels that a
trusted hop set go to the sidecar as a `RequestLabel`, once when the request arrives and once when it has ended. The
client gets its own id back. Where vLLM takes its id from the body instead, the key is put there.

It never delays or fails a request: the socket does not block, and what does not fit is dropped and counted. Configured
by the environment, since vLLM gives middleware no arguments:

- ``SAEWATCH_SOCKET``: the sidecar's socket; without it the keys are given all the same and no label is sent;
- ``SAEWATCH_TRUST_HEADERS=1``: a gateway in front of vLLM sets or removes every header that begins with
  ``X-Saewatch-``: ``-Tenant``, ``-Class``, ``-Conversation`` and ``-Recompute``; without it they are ignored, because
  anyone could have set them;
- ``SAEWATCH_RECOMPUTE_TENANTS``: tenants, with commas between them, or ``*`` for every request.

A request of such a tenant, or with ``X-Saewatch-Recompute: 1``, reads nothing from vLLM's prefix cache, so that all of
its prompt goes through the model and is watched: its body gets a new ``cache_salt``. The salt replaces one that the
client gave, and isolates as well as that one: nobody knows it, and no other request has it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any

from saewatch.core.records import Outcome, RequestLabel, TrafficClass
from saewatch.engine.labels import LabelSender
from saewatch.engine.splice import Splice

logger = logging.getLogger("vllm.saewatch")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

ID_BYTES = 256
RECOMPUTE = b"x-saewatch-recompute"
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_TRACE = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

SALTED = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/responses",
    "/v1/messages",
    "/inference/v1/generate",
    "/generative_scoring",
    "/v1/systemone",
    "/invocations",
)
"""Where vLLM takes a ``cache_salt``; there may be a path of the deployment's before it."""
ID_IN_BODY = "/v1/responses"
"""Where vLLM takes its id from the body, and never from the header."""


class LabelMiddleware:
    """Gives keys, sends labels, and salts what is to be computed anew."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._trusted = os.environ.get("SAEWATCH_TRUST_HEADERS") == "1"
        self._sender = LabelSender(os.environ.get("SAEWATCH_SOCKET", ""))
        named = os.environ.get("SAEWATCH_RECOMPUTE_TENANTS", "").split(",")
        self._recomputed = frozenset(filter(None, map(str.strip, named)))
        self.unsalted = 0  # requests that were to be computed anew, and passed as they were
        if self._recomputed - {"*"} and not self._trusted:
            logger.warning("saewatch: SAEWATCH_RECOMPUTE_TENANTS without SAEWATCH_TRUST_HEADERS=1: no tenant is known")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection; everything but HTTP POST passes by untouched."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers, path = scope["headers"], scope["path"]
        label = label_of(headers, trusted=self._trusted)
        asked = self._recompute(headers, label.tenant)
        splice = Splice(members_of(path, label.key, recompute=asked))
        if splice.members:  # as if it came in chunks
            headers = [header for header in headers if header[0].lower() != b"content-length"]
        answer = _Answer(label, send, splice, asked=asked)
        self._sender.send(label)
        try:
            given = {**scope, "headers": _with_header(headers, b"x-request-id", label.key)}
            await self._app(given, answer.receive(receive), answer.send)
        finally:
            self._sender.send(answer.label())
            if asked and not answer.salted:
                self._count(path)

    def _recompute(self, headers: Headers, tenant: str) -> bool:
        asked = self._trusted and _by_name(headers).get(RECOMPUTE) == b"1"
        return asked or bool(self._recomputed & {tenant, "*"})

    def _count(self, path: str) -> None:
        if not self.unsalted:
            logger.warning("saewatch: not computed anew, and only counted from now on: a request to %.99r", path)
        self.unsalted += 1


class _Answer:
    """Watches one request go by, and its answer."""

    def __init__(self, label: RequestLabel, send: Send, splice: Splice, *, asked: bool) -> None:
        self._label = label
        self._send = send
        self._splice = splice
        self._asked = asked
        self._status = 0
        self._complete = False
        self._left = False

    @property
    def salted(self) -> bool:
        """Whether its body went on with a salt of ours."""
        return "cache_salt" in self._splice.members and self._splice.done

    def receive(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            self._left = self._left or message["type"] == "http.disconnect"
            return self._splice.passes(message)

        return watched

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": self._headers(message.get("headers", []))}
        left = self._left  # a server takes what comes after it, and sends it to nobody
        try:
            await self._send(message)
        except OSError:  # by the specification from 2.4 on: the client has left
            self._left = True
            raise
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = not left

    def _headers(self, headers: Headers) -> Headers:
        headers = _with_header(headers, b"x-request-id", self._label.client_id or self._label.key)
        if self._asked:
            headers = _with_header(headers, RECOMPUTE, "1" if self.salted else "0")
        return headers

    def label(self) -> RequestLabel:
        """The label with how it ended. A client may leave after the last byte: then the answer was complete."""
        if self._complete:
            outcome = Outcome.COMPLETED if self._status < 400 else Outcome.ERROR
        else:
            outcome = Outcome.DISCONNECTED if self._left else Outcome.ERROR
        return replace(self._label, outcome=outcome, status=self._status, time_ns=time.time_ns())


def label_of(headers: Headers, *, trusted: bool) -> RequestLabel:
    """The label of a request with these headers: tenant, class and conversation only from a trusted hop.

    Of several headers with one name the client's own first one counts, and of those of a trusted hop the last: a hop
    that adds its header to those that came, where it should replace them, adds it at the end.
    """
    own = _by_name(headers[::-1])
    hop = _by_name(headers) if trusted else {}
    trace = _TRACE.fullmatch(own.get(b"traceparent", b""))
    traffic_class = _text(hop, b"x-saewatch-class")
    return RequestLabel(
        key=f"sw-{uuid.uuid4().hex}",
        client_id=_text(own, b"x-request-id"),
        tenant=_text(hop, b"x-saewatch-tenant"),
        traffic_class=traffic_class if traffic_class in set(TrafficClass) else TrafficClass.LIVE,
        conversation=_text(hop, b"x-saewatch-conversation"),
        trace_id=trace[1].decode() if trace else "",
        time_ns=time.time_ns(),
    )


def members_of(path: str, key: str, *, recompute: bool) -> dict[str, str]:
    """What the body of a request to ``path`` gets: members of a JSON object, none for most requests."""
    members = {"request_id": f"resp_{key}"} if path.endswith(ID_IN_BODY) else {}
    if recompute and path.endswith(SALTED):
        members["cache_salt"] = secrets.token_hex(16)
    return members


def _by_name(headers: Headers) -> dict[bytes, bytes]:
    """The last value of each header."""
    return {name.lower(): value for name, value in headers}


def _text(values: dict[bytes, bytes], name: bytes) -> str:
    """A header's value, made printable and cut to `ID_BYTES`."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", values.get(name, b"")[:ID_BYTES].decode("latin-1"))


def _with_header(headers: Headers, name: bytes, value: str) -> Headers:
    kept = [(key, item) for key, item in headers if key.lower() != name]
    return [*kept, (name, value.encode("latin-1", "replace"))]
