"""The sink that writes the history, on a thread of its own: a slow or full disk holds up nothing else.

Once a second what has gathered becomes blocks. While the disk takes none they wait, `limits.HISTORY_PENDING_BYTES` of
them, and are tried again; what comes beyond is counted, and becomes a stored loss as soon as something can be written.
No fault of the store ends the thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from saewatch.core import limits
from saewatch.edge.history.file import Lock, open_to_write
from saewatch.edge.history.pending import Pending
from saewatch.edge.history.retention import Bounds, Retention
from saewatch.edge.history.writer import Writer
from saewatch.edge.pipeline import Item, SinkQueue

logger = structlog.get_logger(__name__)

PACE_S = 0.05
PACE_ITEMS = 256
"""Between two looks at a queue in which there were fewer."""
IDLE_S = 10.0
"""Between two looks for what is too old while nothing comes."""
WRITE_ERRORS, LOST_TOKENS, LOST_FIRINGS = "history_write_errors", "history_lost_tokens", "history_lost_firings"


class HistorySink:
    """Writes to the file at ``path`` what comes through `queue`, from `start` to `stop`."""

    name = "history"

    def __init__(self, path: Path, bounds: Bounds, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._bell = threading.Event()
        self.queue = SinkQueue(self.name, self._bell.set)
        self._errors = 0
        self._bounds = bounds
        self._clock = clock
        self._ending = threading.Event()
        self._pending = Pending()
        self._failing = False
        self._thread: threading.Thread | None = None

    @property
    def counters(self) -> Mapping[str, int]:
        """What could not be written: each is 0 when all is well."""
        pending = self._pending
        return {WRITE_ERRORS: self._errors, LOST_TOKENS: pending.lost_tokens, LOST_FIRINGS: pending.lost_firings}

    def open(self) -> None:
        """Opens the file. Raises `ConfigError` for one that cannot be used, or is in use."""
        self._lock = Lock(self.path)
        try:
            self._connection = open_to_write(self.path)
            self._retention = Retention(self._connection, self.path, self._bounds)
        except BaseException:  # whatever it was, the file may be another's from here on
            self._lock.release()
            raise
        self._writer = Writer(self._connection)

    def start(self) -> None:
        """Opens the file and begins to write. Raises as `open` does."""
        self.open()
        self._thread = threading.Thread(target=self._run, name="saewatch-history", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Writes what has come, once, and closes the file; also when `start` did not get far."""
        if self._thread is None:
            return
        self._ending.set()
        self._bell.set()
        self._thread.join()
        self._thread = None
        self.close()

    def close(self) -> None:
        """Closes the file; what is not written is lost."""
        self._connection.close()
        self._lock.release()

    def take(self, items: Sequence[Item]) -> None:
        """Takes what the pipeline has."""
        now_ns = self._clock()
        for item in items:
            self._pending.add(item, now_ns=now_ns)

    def flush(self) -> bool:
        """Writes all that has gathered; False when the disk did not take it."""
        self._pending.close()
        return self._attempt(self._write)

    # --- the thread -----------------------------------------------------------------------------------------------
    def _run(self) -> None:
        flushed = time.monotonic()
        more = True
        while not self._ending.is_set():
            self._bell.wait(limits.HISTORY_FLUSH_S if more or self._pending.waits else IDLE_S)
            self._bell.clear()
            items = self.queue.take()
            self.take(items)
            if time.monotonic() - flushed >= limits.HISTORY_FLUSH_S:
                more = self.flush() and self._attempt(self._expire)
                flushed = time.monotonic()
            elif self._pending.ready and not self._failing:
                self._attempt(self._write_blocks)
            if len(items) < PACE_ITEMS:
                self._ending.wait(PACE_S)
        self.take(self.queue.take())
        self.flush()

    def _write(self) -> bool:
        self._write_blocks()
        pending = self._pending
        if pending.ended:
            with _tried_once(pending.ended.clear):
                self._writer.ends(pending.ended, now_ns=pending.seen_ns or self._clock())
            pending.ended.clear()
        if pending.losses:
            with _tried_once(pending.losses.clear):
                self._writer.lose(pending.losses.values())
            pending.losses.clear()
        return True

    def _write_blocks(self) -> bool:
        pending = self._pending
        while pending.ready:
            group = pending.ready[0]
            with _tried_once(pending.give_up):
                self._retention.make_room(group.nbytes)
                self._writer.block(group.table, group.batches, now_ns=self._clock())
            pending.done()
        return True

    def _expire(self) -> bool:
        return self._retention.expire(self._clock())

    def _attempt(self, write: Callable[[], bool]) -> bool:
        """What ``write`` gives; False when it failed, which is counted and logged once."""
        try:
            found = write()
        except Exception as error:  # whatever the store's fault is, it must not end the thread
            self._errors += 1
            if not self._failing:
                told = error if not isinstance(error, sqlite3.Error) else None
                logger.warning("history cannot be written", path=str(self.path), error=str(error), exc_info=told)
            self._failing = True
            return False
        if self._failing:
            logger.info("history is written again", path=str(self.path))
        self._failing = False
        return found


@contextlib.contextmanager
def _tried_once(give_up: Callable[[], None]) -> Iterator[None]:
    """A full or busy disk may take later what it does not take now; after any other fault it would fail again."""
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except Exception:  # a damaged file, or a bug of ours
        give_up()
        raise
