"""The socket source: one thread that reads every engine and API server of this sidecar, and acknowledges.

A connection is read up to `limits.DRAIN_FRAMES` frames before the next one's turn. What comes is decoded, given to the
consumer, and acknowledged after that: once for each stream that opens, at once, and then cumulatively at every
`limits.ACK_FRAMES` batches or `limits.ACK_INTERVAL_NS`. An engine books what was not acknowledged when it connects
again, so before a new connection is read everything that older ones left in the kernel is. Commands come from other
threads through a queue; what a peer does not take at once waits for it.

Nothing that arrives can stop the thread: frames that are none are counted by class, and a connection is closed after
`limits.BAD_FRAMES_IN_A_ROW` of them; records that make no sense where they come are refused and counted.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from saewatch.core import limits
from saewatch.core.batch import FiringBatch
from saewatch.core.errors import AccessError, CorruptFrame, FrameError, RecordError, SaewatchError
from saewatch.core.records import Ack, Command, Record, StreamOpen
from saewatch.core.wire import decode, encode
from saewatch.edge.listener import Listener

logger = structlog.get_logger(__name__)

TICK_S = 0.1
FAULTS = (
    "CorruptFrame",
    "OversizedFrame",
    "TruncatedFrame",
    "VersionMismatch",
    "accept_failed",
    "closed_for_bad_frames",
    "commands_dropped",
    "consumer_fault",
    "foreign_user",
    "refused_record",
    "too_many_connections",
)
"""What is counted: each is 0 when all is well."""


class OversizedFrame(CorruptFrame):
    """A datagram that is longer than any frame; the kernel has cut it."""


class Consumer(Protocol):
    """What takes the records."""

    def connect(self, link: int) -> None:
        """A connection was made."""

    def receive(self, link: int, record: Record) -> None:
        """Takes one; raises `RecordError` when it makes no sense, `AccessError` when the peer has to connect anew."""

    def acknowledge(self, link: int, stream: int) -> Ack | None:
        """What has been received of a stream."""

    def disconnect(self, link: int) -> None:
        """A connection is gone."""

    def tick(self) -> None:
        """Time has passed."""


@dataclass(slots=True, eq=False)
class Connection:
    """One engine or API server."""

    link: int
    socket: socket.socket
    bad_in_a_row: int = 0
    told: set[str] = field(default_factory=set)  # error classes that were logged
    due: dict[int, int] = field(default_factory=dict)  # streams to acknowledge, to batches since
    due_since: float = 0.0
    commands: deque[Command] = field(default_factory=deque)  # that are to be sent

    @property
    def closed(self) -> bool:
        """Whether we have closed it."""
        return self.socket.fileno() < 0


class SocketSource:
    """Listens on ``path`` and feeds ``consumer`` from a thread of its own."""

    def __init__(self, *, path: str, consumer: Consumer, allowed_users: Collection[int] = ()) -> None:
        ours = {0, os.geteuid()}
        self._allowed = ours.union(allowed_users)
        self._listener = Listener(path, mode=0o600 if self._allowed == ours else 0o666)
        self._listening = True
        self._consumer = consumer
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.settimeout(0)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._outgoing: deque[tuple[int, Command]] = deque()
        self._connections: dict[int, Connection] = {}
        self._links = 0
        self._buffer = bytearray(limits.FRAME_BYTES)
        self._next_tick = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="saewatch-ingest", daemon=True)
        self.counters: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
        """What was refused: bad frames by class, records that made no sense, connections that were turned away."""
        self.failed: BaseException | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def send(self, link: int, command: Command) -> None:
        """Called from any thread: the connection gets ``command`` when it takes it, unless it goes before that."""
        self._outgoing.append((link, command))
        self._rouse()

    def _rouse(self) -> None:
        with contextlib.suppress(OSError):  # full: it is roused already; closed: there is nobody to rouse
            self._waker.send(b"\0")

    def stop(self) -> None:
        """Stops the thread, closes every connection and removes the socket's file."""
        self._stopping = True
        self._rouse()
        if self._thread.ident is not None:
            self._thread.join()
        self._close_all()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:  # the thread's end must be seen: it makes the sidecar exit
            self.failed = error
            logger.exception("ingest failed")

    def _turn(self) -> None:
        waiting = any(connection.due for connection in self._connections.values())
        ready = self._selector.select(limits.ACK_INTERVAL_NS / 1e9 if waiting else TICK_S)
        for key, _ in ready:
            connection = self._connections.get(key.fd)
            if connection is not None:
                self._drain(connection, limits.DRAIN_FRAMES)
            elif key.fd == self._listener.fileno():
                self._accept()
            elif key.fd == self._wake.fileno():
                self._wake.recv(4096)
        self._sort_out()
        now = time.monotonic()
        for connection in list(self._connections.values()):
            self._acknowledge(connection, now)
            self._command(connection)
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._listen()
            self._consumer.tick()

    # --- connections ----------------------------------------------------------------------------------------------
    def _accept(self) -> None:
        for connection in list(self._connections.values()):
            self._drain(connection, limits.BACKLOG_FRAMES)
        try:
            accepted = self._listener.accept(self._allowed)
        except AccessError as error:
            self._refuse("foreign_user", error)
            return
        except OSError as error:  # no descriptor is free: who waits goes on waiting, without a turn of the thread each
            self._refuse("accept_failed", AccessError("connection", found=error.strerror, expected="room for one"))
            self._selector.unregister(self._listener)
            self._listening = False  # until the next tick
            return
        if accepted is None:
            return
        if len(self._connections) >= limits.CONNECTIONS:
            accepted.close()
            self._refuse(
                "too_many_connections",
                AccessError("connections", found=len(self._connections) + 1, expected=f"at most {limits.CONNECTIONS}"),
            )
            return
        self._links += 1
        self._connections[accepted.fileno()] = Connection(self._links, accepted)
        self._selector.register(accepted, selectors.EVENT_READ)
        self._consumer.connect(self._links)

    def _listen(self) -> None:
        if not self._listening:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._listening = True

    def _refuse(self, what: str, error: SaewatchError) -> None:
        self.counters[what] += 1
        if self.counters[what] == 1:
            logger.warning("connection refused", reason=str(error))

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._consumer.disconnect(connection.link)

    def _close_all(self) -> None:
        for connection in list(self._connections.values()):
            self._send(connection, list(connection.due))  # or the engine would book as lost what was observed
            self._close(connection)
        self._selector.close()
        self._listener.close()
        self._wake.close()
        self._waker.close()

    # --- reading --------------------------------------------------------------------------------------------------
    def _drain(self, connection: Connection, frames: int) -> None:
        """Reads what is there, at most ``frames``."""
        for _ in range(frames):
            try:
                frame = self._read(connection)
            except FrameError as error:
                self._bad(connection, error)
            else:
                if frame is None:
                    return
                if not frame:
                    self._close(connection)
                    return
                self._frame(connection, frame)
                if connection.closed:
                    return
            if connection.bad_in_a_row >= limits.BAD_FRAMES_IN_A_ROW:
                logger.warning("connection closed", link=connection.link, reason="nothing but bad frames")
                self.counters["closed_for_bad_frames"] += 1
                self._close(connection)
                return

    def _read(self, connection: Connection) -> bytes | None:
        """One datagram; None when there is none, empty at the end.

        A peer that closes with acknowledgements unread leaves an error before its last datagrams: they come after it.
        """
        for _ in range(2):
            try:
                size, _, flags, _ = connection.socket.recvmsg_into([self._buffer], 0, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue
            except OSError:
                return b""
            if flags & socket.MSG_TRUNC:
                raise OversizedFrame("datagram", found="a longer one", expected=f"at most {limits.FRAME_BYTES} bytes")
            return bytes(memoryview(self._buffer)[:size])
        return b""

    def _frame(self, connection: Connection, data: bytes) -> None:
        try:
            record = decode(data)
        except FrameError as error:
            self._bad(connection, error)
            return
        connection.bad_in_a_row = 0
        try:
            self._consumer.receive(connection.link, record)
        except RecordError as error:
            self._count(connection, "refused_record", error)
        except AccessError as error:
            logger.info("connection closed", link=connection.link, reason=str(error))
            self._close(connection)
            return
        except Exception:  # one record's whole task: a bug that it meets must not end the watching of every engine
            self.counters["consumer_fault"] += 1
            logger.exception("connection closed", link=connection.link, record=type(record).__name__)
            self._close(connection)
            return
        if isinstance(record, StreamOpen):
            self._send(connection, [record.stream])
        elif isinstance(record, FiringBatch):
            if not connection.due:
                connection.due_since = time.monotonic()
            connection.due[record.stream] = connection.due.get(record.stream, 0) + 1

    def _bad(self, connection: Connection, error: FrameError) -> None:
        connection.bad_in_a_row += 1
        self._count(connection, type(error).__name__, error)

    def _count(self, connection: Connection, what: str, error: SaewatchError) -> None:
        self.counters[what] += 1
        if what not in connection.told:
            connection.told.add(what)
            logger.warning("not accepted", link=connection.link, what=what, reason=str(error))

    # --- commanding -----------------------------------------------------------------------------------------------
    def _sort_out(self) -> None:
        """Gives what is to be sent to its connections; those that are gone were told to the consumer."""
        links = {connection.link: connection for connection in self._connections.values()} if self._outgoing else {}
        while self._outgoing:
            link, command = self._outgoing.popleft()
            connection = links.get(link)
            if connection is None:
                continue
            if len(connection.commands) < limits.COMMANDS_WAITING:
                connection.commands.append(command)
            else:
                self.counters["commands_dropped"] += 1

    def _command(self, connection: Connection) -> None:
        while connection.commands and self._put(connection, connection.commands[0]):
            connection.commands.popleft()

    # --- acknowledging --------------------------------------------------------------------------------------------
    def _acknowledge(self, connection: Connection, now: float) -> None:
        """Sends what is due; on a peer that does not read, it stays due."""
        late = now - connection.due_since >= limits.ACK_INTERVAL_NS / 1e9
        if connection.due and (late or sum(connection.due.values()) >= limits.ACK_FRAMES):
            connection.due_since = now
            if self._send(connection, list(connection.due)):
                connection.due.clear()

    def _send(self, connection: Connection, streams: list[int]) -> bool:
        for stream in streams:
            ack = self._consumer.acknowledge(connection.link, stream)
            if ack is None:
                continue
            if not self._put(connection, ack):
                connection.due.setdefault(stream, 0)
                return False
        return True

    def _put(self, connection: Connection, record: Ack | Command) -> bool:
        """Sends a record; False when the peer does not take it now."""
        try:
            connection.socket.send(encode(record), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            pass  # gone: the end will be read
        return True
