"""Writes what a source receives into a file, in front of the consumer that it is for.

The ingest thread puts each record into a bounded queue and passes it on; a thread of its own turns them into frames
again and writes. What the queue does not take is dropped and counted, and the recording says where. When the file can
take no more (a full disk, `max_bytes`) recording ends, is said to, and nothing else does. The file is new, written in
place and for its owner's eyes only: it is as sensitive as the labels of the requests in it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import structlog

from saewatch import __version__
from saewatch.core import limits
from saewatch.core.batch import Census, FiringBatch, WatchSet
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.marks import MARKS, Happening, RecordingHead
from saewatch.core.recording import Totals, Writer
from saewatch.core.records import Ack, Command, Record
from saewatch.edge.clock import Clock
from saewatch.edge.sources import Consumer, SocketSource

logger = structlog.get_logger(__name__)

FULL = "full"
FAILED = "failed"
CONTROL_BYTES = 512
"""What a control record counts for in the queue; most have 100 to 400 B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """How a recording stands."""

    totals: Totals
    bytes: int
    dropped: int
    duration_ns: int
    ended: str
    """Why it goes on no more: `FULL`, `FAILED`; empty while it does, or when it was closed."""
    problem: str


class Recorder:
    """Stands in front of ``consumer``. ``bundles``: files of dictionaries' bundles, by weights digest and name."""

    def __init__(
        self,
        *,
        path: Path,
        consumer: Consumer,
        bundles: Mapping[str, Mapping[str, bytes]],
        note: str = "",
        max_bytes: int = limits.RECORDING_BYTES,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._path = path
        self._consumer = consumer
        self._bundles = bundles
        self._note = note
        self._max_bytes = max_bytes
        self._clock = clock or Clock()
        self._waiting: deque[tuple[int, int, int, Happening | Record]] = deque()  # lost before it, link, time, what
        self._waiting_bytes = 0
        self._lost = 0  # since the last one that waits
        self._dropped = 0
        self._closing = False
        self._ended = self._problem = ""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="saewatch-recorder", daemon=True)
        self._file: BinaryIO
        self._writer: Writer | None = None

    def start(self) -> None:
        """Makes the file and starts the thread.

        Raises `ConfigError` where there is a file already, and `UnreachableError` when none can be made.
        """
        try:
            self._file = os.fdopen(
                os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb"
            )
            self._writer = Writer(
                self._file, RecordingHead(program=__version__, began_ns=self._clock(), note=self._note)
            )
            for weights, files in self._bundles.items():
                self._writer.sheets(weights, files)
            self._file.flush()
        except FileExistsError as error:
            hint = "A recording is never written over: choose another name."
            raise ConfigError(str(self._path), found=error.strerror, expected="a new file", hint=hint) from error
        except OSError as error:
            expected = "a new file that can be written"
            raise UnreachableError(str(self._path), found=error.strerror, expected=expected) from error
        self._thread.start()

    # --- from the source ------------------------------------------------------------------------------------------
    def connect(self, link: int) -> None:
        """A connection was made."""
        self._offer(link, Happening.CONNECTED)
        self._consumer.connect(link)

    def receive(self, link: int, record: Record) -> None:
        """Keeps a record and passes it on. Raises `RecordError` when the consumer does."""
        if not isinstance(record, MARKS):  # an engine that sends these would forge the recording
            self._offer(link, record)
        self._consumer.receive(link, record)

    def acknowledge(self, link: int, stream: int) -> Ack | None:
        """What has been received of a stream."""
        return self._consumer.acknowledge(link, stream)

    def disconnect(self, link: int) -> None:
        """A connection is gone."""
        self._offer(link, Happening.DISCONNECTED)
        self._consumer.disconnect(link)

    def tick(self) -> None:
        """Time has passed."""
        self._consumer.tick()

    def _offer(self, link: int, what: Happening | Record) -> None:
        size = _size(what)
        with self._changed:
            if self._closing or self._ended:
                return
            if self._waiting_bytes + size > limits.RECORDING_QUEUE_BYTES:
                self._lost += 1
                self._dropped += 1
                return
            self._waiting.append((self._lost, link, self._clock(), what))
            self._waiting_bytes += size
            self._lost = 0
            if len(self._waiting) == 1:
                self._changed.notify()

    # --- for others -----------------------------------------------------------------------------------------------
    def state(self) -> Recorded:
        """How it stands."""
        writer = self._writer
        return Recorded(
            totals=replace(writer.totals) if writer else Totals(),
            bytes=writer.bytes if writer else 0,
            dropped=self._dropped,
            duration_ns=writer.duration_ns if writer else 0,
            ended=self._ended,
            problem=self._problem,
        )

    def close(self) -> None:
        """Takes no more, writes what waits, and then the index. The consumer goes on to get everything."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    # --- the thread -----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        assert self._writer is not None, "made before the thread was started"
        try:
            while self._turn(self._writer):
                pass
            self._writer.close(lost=self._lost)
            self._file.flush()
        except OSError as error:
            self._end(FAILED, error.strerror or str(error))
        except Exception as error:  # the whole task of the thread: a bug in it must not end the sidecar
            logger.exception("recording failed", file=str(self._path))
            self._end(FAILED, type(error).__name__)
        finally:
            with contextlib.suppress(OSError):  # what could not be written above cannot be now
                self._file.close()

    def _turn(self, writer: Writer) -> bool:
        """Writes what waits; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            items, closing = list(self._waiting), self._closing
            self._waiting.clear()
            self._waiting_bytes = 0
        for lost, link, time_ns, what in items:
            if isinstance(what, Happening):
                writer.happens(link, time_ns, what, lost=lost)
            else:
                writer.write(link, time_ns, what, lost=lost)
            if writer.bytes > self._max_bytes - limits.FRAME_BYTES:  # the index takes as much as a frame
                self._end(FULL, f"{self._max_bytes // limits.MIB} MiB are written")
                return False
        self._file.flush()  # so that a reader, and whoever kills us, finds whole frames
        return not closing

    def _end(self, why: str, problem: str) -> None:
        with self._changed:
            self._ended, self._problem = why, problem
            self._waiting.clear()
        logger.warning("recording ended", file=str(self._path), reason=problem)


class RecordedSource:
    """A `SocketSource` whose records also go into a file, under the same surface."""

    def __init__(self, *, path: str, allowed_users: Collection[int], recorder: Recorder) -> None:
        self._recorder = recorder
        self._source = SocketSource(path=path, consumer=recorder, allowed_users=allowed_users)

    def start(self) -> None:
        """Begins to record and to receive. Raises as `Recorder.start` does."""
        self._recorder.start()
        self._source.start()

    def stop(self) -> None:
        """Ends the recording, with every engine still connected, and then the source."""
        self._recorder.close()
        self._source.stop()

    def send(self, link: int, command: Command) -> None:
        """As the source does."""
        self._source.send(link, command)

    @property
    def alive(self) -> bool:
        """Whether the source's thread runs."""
        return self._source.alive

    @property
    def failed(self) -> BaseException | None:
        """What ended it. That the recording has ended is no failure of the source."""
        return self._source.failed

    @property
    def counters(self) -> Mapping[str, int]:
        """Those of the source, and what became of the recording."""
        state = self._recorder.state()
        return {
            **self._source.counters,
            "recording_dropped": state.dropped,
            "recording_failed": int(state.ended == FAILED),
        }


def _size(what: Happening | Record) -> int:
    """Bytes that it takes while it waits, about."""
    if isinstance(what, FiringBatch | WatchSet | Census):
        return CONTROL_BYTES + sum(int(getattr(what, name).nbytes) for name, _, _ in what.COLUMNS)
    return 0 if isinstance(what, Happening) else CONTROL_BYTES
