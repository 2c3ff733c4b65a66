"""The pages for machines: `/metrics`, `/healthz`, `/readyz`, and an index at `/`.

`/healthz` says that the process is alive and its ingest thread runs. `/readyz` says that something is watched and
nothing is blind: 503 with the reasons otherwise. Metrics are rendered on a thread, so that a scrape of a thousand
series does not hold up the streams, and one at a time. Connections have no bound but descriptors, since idle ones would
make `/healthz` say 503; one that does not ask anything is closed after `REQUEST_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from saewatch import __version__
from saewatch.core.errors import ConfigError
from saewatch.monitor.monitor import Status

REQUEST_S = 5.0
"""For a connection's first request to come whole."""


def pages(
    *,
    registry: CollectorRegistry,
    status: Callable[[], Status],
    alive: Callable[[], bool],
    addresses: Callable[[], Mapping[str, str]],
) -> Starlette:
    """The application."""
    rendering = asyncio.Lock()

    async def metrics(request: Request) -> Response:
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        async with rendering:
            page = await asyncio.to_thread(encoder, registry)
        return Response(page, headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        good = alive()
        return JSONResponse({"alive": good}, status_code=200 if good else 503)

    async def readyz(_: Request) -> Response:
        found = await asyncio.to_thread(status)
        blind = [
            {"scope": one.scope, "reason": one.reason, "subject": one.subject, "hint": one.hint} for one in found.blind
        ]
        ready = not blind and alive()
        return JSONResponse({"ready": ready, "blind": blind}, status_code=200 if ready else 503)

    async def index(_: Request) -> Response:
        return JSONResponse({"saewatch": __version__, **addresses()})

    return Starlette(
        routes=[
            Route("/", index),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )


class WebServer:
    """uvicorn inside our own loop, without its signals."""

    def __init__(self, app: Starlette) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            http=_Http,
            ws="none",  # nothing here speaks it, and its library would be loaded at each start
            server_header=False,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[Any] | None = None

    async def start(self, host: str, port: int) -> int:
        """Binds and serves; the port that was bound. Raises `ConfigError` when it cannot be."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()  # now: uvicorn does it later, when nobody would hear that the port is taken
        except OSError as error:
            listener.close()
            hint = "Is another program on it? Port 0 takes any free one."
            raise ConfigError(
                "web.listen", found=f"{host}:{port}: {error.strerror}", expected="an address that is free", hint=hint
            ) from error
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Ends open requests and stops."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task


class _Http(H11Protocol):
    """uvicorn waits for ever for the first request of a connection; its keep-alive timeout is for those after it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.loop.call_later(REQUEST_S, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None:
            self.transport.close()  # type: ignore[unreachable]  # None at first, whatever uvicorn's annotation says


class _Server(uvicorn.Server):
    """The program owns the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none."""
        yield
