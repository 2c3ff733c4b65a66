"""A server behind the middleware, and the sidecar that its labels go to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from saewatch.core.records import RequestLabel
from saewatch.core.wire import decode
from saewatch.engine.middleware import SALTED, LabelMiddleware
from tests.waiting import wait_until

TRUSTED = {
    "X-Saewatch-Tenant": "acme",
    "X-Saewatch-Class": "canary",
    "X-Saewatch-Conversation": "c-1",
    "traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
}


class App:
    """What stands in vLLM's place, and what its handlers saw."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []
        self.go_on = asyncio.Event()
        self.produced: list[int] = []
        self.bodies: list[bytes] = []
        self.lengths: list[str | None] = []
        routes = [
            Route("/echo", self.echo, methods=["GET", "POST"]),
            Route("/stream", self.stream, methods=["POST"]),
            Route("/deaf", self.deaf, methods=["POST"]),
            Route("/raise", self.fail, methods=["POST"]),
            Route("/refuse", self.refuse, methods=["POST"]),
            Route("/own", self.own, methods=["POST"]),
            Route("/unread/v1/completions", self.refuse, methods=["POST"]),
            *(Route(path, self.generate, methods=["POST"]) for path in ("/prefix/v1/completions", *SALTED)),
        ]
        self.app = LabelMiddleware(Starlette(routes=routes))
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def echo(self, request: Request) -> Response:
        self.ids.append(request.headers.getlist("x-request-id"))
        return PlainTextResponse(await request.body())

    async def generate(self, request: Request) -> Response:
        """Parses the body, as vLLM does, and answers with what it found."""
        self.ids.append(request.headers.getlist("x-request-id"))
        self.lengths.append(request.headers.get("content-length"))
        self.bodies.append(await request.body())
        try:
            return JSONResponse(json.loads(self.bodies[-1]))
        except ValueError:
            return PlainTextResponse("not JSON", status_code=400)

    async def stream(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(3):
                self.produced.append(number)
                yield b"chunk %d\n" % number
                await self.go_on.wait()

        self.ids.append(request.headers.getlist("x-request-id"))
        return StreamingResponse(chunks())

    async def deaf(self, request: Request) -> Response:
        """Answers after the client has left, and hears that it has, as vLLM's handlers do."""
        await request.body()
        self.produced.append(0)
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return JSONResponse(None)

    async def fail(self, request: Request) -> Response:
        raise RuntimeError("a fault of the application")

    async def refuse(self, request: Request) -> Response:
        return PlainTextResponse("no", status_code=400)

    async def own(self, request: Request) -> Response:
        """Sends the header itself, as vLLM does with --enable-request-id-headers."""
        return PlainTextResponse("", headers={"X-Request-Id": request.headers["x-request-id"]})


@contextlib.asynccontextmanager
async def serving(app: App, *, http: Any = "auto") -> AsyncIterator[App]:
    """``http``: uvicorn's protocol, ``h11`` or ``httptools``."""
    server = uvicorn.Server(uvicorn.Config(app.app, port=0, log_level="critical", lifespan="off", http=http))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    app.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield app
    finally:
        app.go_on.set()
        server.should_exit = True
        await task
        app.app._sender.close()  # noqa: SLF001 - in a server it lives as long as the process


class Listener:
    """A socket that keeps the labels that arrive."""

    def __init__(self, path: Path) -> None:
        self.labels: list[RequestLabel] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                while data := connection.recv(200_000):
                    record = decode(data)
                    assert isinstance(record, RequestLabel)
                    self.labels.append(record)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    async def outcome(self, count: int = 2) -> RequestLabel:
        """The last of ``count`` labels."""
        await asyncio.to_thread(wait_until, lambda: len(self.labels) >= count)
        return self.labels[count - 1]


async def post(app: App, path: str, headers: Any = None, content: Any = b"body") -> httpx.Response:
    """``content``: bytes, or an asynchronous iterator of them, which go out as chunks."""
    async with httpx.AsyncClient() as client:
        return await client.post(app.url(path), headers=headers, content=content)
