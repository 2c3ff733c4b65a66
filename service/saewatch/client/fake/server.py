"""`FakeServer`: a fake sidecar on a real loopback port, whose connections can be cut and which can be restarted."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc

from saewatch.client.fake.refusal import Refusal
from saewatch.client.fake.services import handlers
from saewatch.client.fake.state import State
from saewatch.core.errors import SaewatchError, UnreachableError

CALLS = 64
"""At a time: each takes a thread."""
PORT_WAIT_S = 5.0
"""For a port that this server gave up to be free again."""
REUSE = (("grpc.so_reuseport", 0),)  # or a second server would share the port without a word


class FakeServer(State):
    """Serves from its making to `stop`, or as a context; the other arguments are those of `State`.

    Args:
        listen: host:port; port 0 takes any free one.
        state: arguments of `State`.
    """

    def __init__(self, listen: str = "127.0.0.1:0", **state: Any) -> None:
        super().__init__(**state)
        self.address = listen
        """Host and port."""
        self._server: grpc.Server | None = None
        self._had_it = False
        """The port was ours before."""
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Serves on the port that it has. Raises `UnreachableError` when something else does."""
        if self._server is not None:
            return
        self._await_port()
        self._calls = ThreadPoolExecutor(CALLS, thread_name_prefix="saewatch-fake")
        server = grpc.server(self._calls, options=REUSE)
        server.add_generic_rpc_handlers(handlers(self))
        try:
            port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise self._refused("an address that gRPC cannot take") from error
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        server.start()
        self._server, self._had_it = server, True

    def _await_port(self) -> None:
        """Until nobody else has the port. gRPC itself would tell standard error of each attempt, at length."""
        host, _, port = self.address.rpartition(":")
        end = time.monotonic() + (PORT_WAIT_S if self._had_it else 0.0)
        while True:
            try:
                family, kind, *_, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
                with socket.socket(family, kind) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(place)
            except OSError as error:
                if time.monotonic() > end:
                    raise self._refused(error.strerror or str(error)) from error
                time.sleep(0.05)
            else:
                return

    def _refused(self, found: str) -> UnreachableError:
        hint = "Is another program on it? Port 0 takes any free one."
        return UnreachableError(self.address, found=found, expected="an address that is free", hint=hint)

    def stop(self) -> None:
        """Breaks every connection; the events, and the port, are kept for `start`."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None
            self._calls.shutdown()

    def cut(self) -> None:
        """Breaks every connection, and serves on."""
        self.stop()
        self.start()

    def restart(self) -> None:
        """A new run: no events, new numbers of the stream and its table, and tokens of the old run get a gap."""
        self.stop()
        self.begin_again()
        self.start()

    def refuse(
        self,
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
        *,
        subject: str = "filter",
        found: object = "nothing good",
        expected: object = "something else",
        hint: str = "",
        retry_s: float = 0.0,
        times: int = 1,
    ) -> None:
        """The next watches, ``times`` of them, are refused."""
        error = SaewatchError(subject, found=found, expected=expected, hint=hint)
        self.refusals += [Refusal(code, error, retry_s)] * times
