"""A sidecar on a real socket that does as a test tells it: acknowledge or not, stop reading, hang up, talk nonsense."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from saewatch.core import limits
from saewatch.core.batch import FiringBatch, Origin
from saewatch.core.records import Ack, Beat, Record, StreamOpen
from saewatch.core.wire import decode, encode

T = TypeVar("T")


class FakeSidecar:
    """Listens on ``path`` in a thread of its own until `close`.

    Args:
        path: of the socket.
        acks: whether it acknowledges batches. The first acknowledgement, with the last number it has, always comes.
        silent: whether not even the first acknowledgement comes.
        last: the numbers that it has, by stream; those of a sidecar that starts anew are none.
    """

    def __init__(
        self, path: Path, *, acks: bool = True, silent: bool = False, last: dict[int, int] | None = None
    ) -> None:
        self.acks = acks
        self.silent = silent
        self.last: dict[int, int] = {} if last is None else last
        self.connections: list[list[Record]] = []
        self.reading = threading.Event()
        self.reading.set()
        self._path = path
        self._open: socket.socket | None = None
        self._closing = False
        self._wake_read, self._wake_write = os.pipe()
        self._lock = threading.Lock()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def records(self) -> list[Record]:
        """Everything that arrived, in order."""
        return [record for connection in self.connections for record in connection]

    def of(self, kind: type[T]) -> list[T]:
        """The records of one kind."""
        return [record for record in self.records if isinstance(record, kind)]

    def say(self, data: bytes) -> None:
        """Sends ``data`` to the engine, whatever it is."""
        assert self._open is not None
        self._open.send(data)

    def hang_up(self) -> None:
        """Ends the connection and goes on listening."""
        with self._lock:
            if self._open is not None:
                self._open.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Dies: what it has not read is lost."""
        self._closing = True
        self.reading.set()
        os.write(self._wake_write, b".")
        self._thread.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        while not self._closing:
            ready, _, _ = select.select([self._listener.fileno(), self._wake_read], [], [])
            if self._listener.fileno() in ready and not self._closing:
                connection, _ = self._listener.accept()
                with connection:
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open = connection
        records: list[Record] = []
        self.connections.append(records)
        with contextlib.suppress(OSError):
            while not self._closing:
                self.reading.wait()
                ready, _, _ = select.select([connection.fileno(), self._wake_read], [], [])
                if connection.fileno() not in ready or not self.reading.is_set():
                    continue
                data = connection.recv(2 * limits.FRAME_BYTES)
                if not data:
                    break
                records.append(decode(data))
                self._answer(connection, records[-1])
        with self._lock:
            self._open = None

    def _answer(self, connection: socket.socket, record: Record) -> None:
        if isinstance(record, StreamOpen) and not self.silent:
            connection.send(encode(Ack(stream=record.stream, epoch=record.epoch, seq=self.last.get(record.stream, 0))))
        elif isinstance(record, FiringBatch):
            self.last[record.stream] = record.seq
            if self.acks and not self.silent:
                opening = next(item for item in self.records if isinstance(item, StreamOpen))
                connection.send(encode(Ack(stream=record.stream, epoch=opening.epoch, seq=record.seq)))


def told(records: Sequence[Record], stream: int, *, upto: int = 2**63) -> int:
    """Tokens that batches of ``stream`` account for: rows that are not recomputed, and missed ones."""
    total = 0
    for record in records:
        if isinstance(record, FiringBatch) and record.stream == stream and record.seq <= upto:
            total += int(np.diff(record.span_start)[record.origin != Origin.RECOMPUTED].sum())
            total += int(record.missed_tokens.sum())
    return total


def last_beat(records: Sequence[Record]) -> Beat | None:
    """The newest beat."""
    return next((record for record in reversed(records) if isinstance(record, Beat)), None)
