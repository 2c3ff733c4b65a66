"""The API server's way to the sidecar: one non-blocking socket, which never holds up a request. Stdlib only."""

from __future__ import annotations

import logging
import socket
import time

from saewatch.core.errors import SaewatchError
from saewatch.core.records import RequestLabel
from saewatch.core.wire import encode

logger = logging.getLogger("vllm.saewatch")

RECONNECT_EVERY_S = 1.0


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
