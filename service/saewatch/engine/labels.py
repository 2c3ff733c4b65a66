"""The API server's way to the sidecar: one non-blocking socket, which never holds up a request. Stdlib only.

The kernel takes some hundred labels (those of a second, on a busy server) while the sidecar reads something else. What
it does not take waits here, in order and up to a bound, and goes out when the event loop says that there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque

from saewatch.core import limits
from saewatch.core.errors import SaewatchError
from saewatch.core.records import RequestLabel
from saewatch.core.wire import encode
from saewatch.engine.outbox import reached

logger = logging.getLogger("vllm.saewatch")

RECONNECT_EVERY_S = 1.0


class LabelSender:
    """A non-blocking socket to the sidecar; labels that find no sidecar or no room are dropped and counted."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._next_try = 0.0
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # that tells when there is room
        self._faulty = False
        self.dropped = 0

    def send(self, label: RequestLabel) -> None:
        """Sends ``label`` behind those that wait, now or when the sidecar takes it. Raises nothing: a client waits."""
        if not self._path:
            return
        try:
            self._send(label)
        except Exception:  # fail open: whatever goes wrong in here, the request is served
            self.dropped += 1
            if not self._faulty:
                logger.exception("saewatch: a label could not be sent; from now on such labels are only counted")
            self._faulty = True

    def _send(self, label: RequestLabel) -> None:
        try:
            frame = encode(label)
        except SaewatchError:
            self.dropped += 1
            return
        self._flush()
        if not self._waiting and (self._try(frame) or (self._connect() and self._try(frame))):
            return
        if self._socket is None or self._bytes + len(frame) > limits.LABELS_WAITING_BYTES:
            self.dropped += 1
            return
        self._waiting.append(frame)
        self._bytes += len(frame)
        self._wait()

    def close(self) -> None:
        """Gives the connection up; what waited is dropped."""
        if self._socket is not None:
            if self._loop is not None:
                self._loop.remove_writer(self._socket.fileno())
                self._loop = None
            self._socket.close()
        self._socket = None
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._bytes = 0

    def _wait(self) -> None:
        """Has the event loop say when there is room; without one the next label looks."""
        if self._loop is None and self._socket is not None:
            with contextlib.suppress(RuntimeError):  # called outside of a loop
                self._loop = asyncio.get_running_loop()
                self._loop.add_writer(self._socket.fileno(), self._flush)

    def _flush(self) -> None:
        while self._waiting and self._try(self._waiting[0]):
            self._bytes -= len(self._waiting.popleft())
        if not self._waiting and self._loop is not None and self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())
            self._loop = None

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
        self._socket = reached(self._path)
        return self._socket is not None
