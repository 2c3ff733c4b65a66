"""The bounded queue in front of the socket, and the socket. Neither ever blocks.

A batch that does not fit is refused, and its caller counts it. Control records may exceed the bound by
`limits.CONTROL_BYTES`: a batch must not arrive before the record that explains its numbers. When even that is used up
the connection is given up, since a new one begins with everything that is open.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque

from saewatch.core import limits
from saewatch.core.errors import FrameError, UnreachableError
from saewatch.core.records import Record
from saewatch.core.wire import decode

RECEIVED_PER_TURN = 1024
"""Frames that are read before the next step has its turn, however many a sidecar sends."""


def reached(path: str) -> socket.socket | None:
    """A socket that is connected to the sidecar and never blocks; None: nobody listens, or no descriptor is free."""
    try:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError:
        return None
    try:
        found.connect(path)
    except OSError:
        found.close()
        return None
    return found


class Outbox:
    """Frames that wait for a connected socket."""

    def __init__(self, *, path: str, bound: int) -> None:
        self._path = path
        self._bound = bound
        self._frames: deque[bytes] = deque()
        self._socket: socket.socket | None = None
        self.bytes = 0
        self.connection = 0
        """Counts connections: numbers of one mean nothing on the next."""
        self.bad_frames = 0

    @property
    def connected(self) -> bool:
        """Whether a sidecar is there, as far as the kernel knows."""
        return self._socket is not None

    @property
    def waiting(self) -> bool:
        """Whether a frame waits for the socket."""
        return bool(self._frames)

    @property
    def room(self) -> int:
        """Bytes of batches that would be taken now."""
        return self._bound - self.bytes

    def fileno(self) -> int:
        """The socket's descriptor, -1 without one."""
        return self._socket.fileno() if self._socket else -1

    def connect(self) -> bool:
        """One attempt; False when nobody is `reached`."""
        candidate = reached(self._path)
        if candidate is None:
            return False
        # A frame plus the kernel's bookkeeping must fit, whatever the host's default is.
        with contextlib.suppress(OSError):
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * limits.FRAME_BYTES)
        self._socket = candidate
        self.connection += 1
        return True

    def close(self) -> None:
        """Gives the connection up; what waited is dropped."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._frames.clear()
        self.bytes = 0

    def put_batch(self, frames: list[bytes]) -> bool:
        """Queues all frames of a batch, or none."""
        size = sum(map(len, frames))
        if self._socket is None or self.bytes + size > self._bound:
            return False
        self._frames.extend(frames)
        self.bytes += size
        return True

    def put_control(self, frame: bytes) -> bool:
        """Queues a control record; False when the sidecar has not read for so long that the connection is to go."""
        if self._socket is None or self.bytes + len(frame) > self._bound + limits.CONTROL_BYTES:
            return False
        self._frames.append(frame)
        self.bytes += len(frame)
        return True

    def flush(self) -> None:
        """Sends what the kernel takes. Raises `UnreachableError` when the connection is gone."""
        while self._frames and self._socket is not None:
            try:
                self._socket.send(self._frames[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                raise UnreachableError("sidecar", found=error.strerror, expected="an open connection") from error
            self.bytes -= len(self._frames.popleft())

    def receive(self) -> list[Record]:
        """What has arrived. Raises `UnreachableError` at the connection's end; bad frames are counted.

        What came before the end is given first: an acknowledgement may be the sidecar's last word.
        """
        records: list[Record] = []
        gone = None
        for _ in range(RECEIVED_PER_TURN if self._socket is not None else 0):
            try:
                data = self._socket.recv(limits.FRAME_BYTES, socket.MSG_DONTWAIT) if self._socket else b""
            except BlockingIOError:
                break
            except OSError as error:  # a reset is reported once, before what arrived until then
                gone = error.strerror
                continue
            if not data:
                gone = gone or "the end of the connection"
                break
            try:
                records.append(decode(data))
            except FrameError:
                self.bad_frames += 1
        if gone and not records:
            raise UnreachableError("sidecar", found=gone, expected="an open connection")
        return records
