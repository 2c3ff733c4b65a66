"""`FakeServer`: a fake sidecar on a real loopback port, whose connections can be cut and which can be restarted."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc

from saewatch.client.fake.refusal import Refusal
from saewatch.client.fake.services import handlers
from saewatch.client.fake.state import State
from saewatch.core.errors import ConfigError, SaewatchError

CALLS = 64
"""At a time: each takes a thread."""
PORT_WAIT_S = 5.0
"""For a port that this server just gave up to be free again."""
REUSE = (("grpc.so_reuseport", 0),)  # or a second server would share the port without a word


class FakeServer(State):
    """Serves from its making to `stop`, or as a context; the other arguments are those of `State`.

    Args:
        listen: where; port 0 takes any free one.
        state: arguments of `State`.
    """

    def __init__(self, listen: str = "127.0.0.1:0", **state: Any) -> None:
        super().__init__(**state)
        self.address = listen
        """Host and port."""
        self._server: grpc.Server | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Serves on the port that it has. Raises `ConfigError` when something else does."""
        end = time.monotonic() + PORT_WAIT_S
        while self._server is None:
            self._calls = ThreadPoolExecutor(CALLS, thread_name_prefix="saewatch-fake")
            server = grpc.server(self._calls, options=REUSE)
            server.add_generic_rpc_handlers(handlers(self))
            try:
                port = server.add_insecure_port(self.address)
            except RuntimeError as error:
                server.stop(None)
                if time.monotonic() > end:
                    raise ConfigError("listen", found=self.address, expected="an address that is free") from error
                time.sleep(0.05)
                continue
            self.address = f"{self.address.rpartition(':')[0]}:{port}"
            server.start()
            self._server = server

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
        self.log.next_run()
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
