"""The sink that writes the history, on a thread of its own: a slow or full disk holds up nothing else.

Once a second what has gathered becomes blocks. While the disk takes none they wait, `limits.HISTORY_PENDING_BYTES` of
them, and are tried again; what comes beyond is counted, and becomes a stored loss as soon as something can be written.
A file that was removed or replaced meanwhile is followed by the one that is there now, or a new one, and what went with
it is a loss too. No fault of the store ends the thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from saewatch.core import limits
from saewatch.core.errors import ConfigError, SaewatchError
from saewatch.edge.history import alerts
from saewatch.edge.history.alerts import Remembered
from saewatch.edge.history.pending import Pending
from saewatch.edge.history.retention import Bounds
from saewatch.edge.history.store import Store
from saewatch.edge.history.writer import Loss
from saewatch.edge.pipeline import Item, SinkQueue

logger = structlog.get_logger(__name__)

PACE_S = 0.05
PACE_ITEMS = 256
"""Between two looks at a queue in which there were fewer."""
WRITE_ERRORS, LOST_TOKENS, LOST_FIRINGS = "history_write_errors", "history_lost_tokens", "history_lost_firings"
LOST_ALERTS = "history_lost_alerts"


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
        self._gone: tuple[int, Loss] | None = None  # what a file held that is no longer there
        self.store: Store | None = None
        self.remembered = Remembered()
        """What an earlier run left, once it was started."""
        self._thread: threading.Thread | None = None

    @property
    def counters(self) -> Mapping[str, int]:
        """What could not be written: each is 0 when all is well."""
        pending = self._pending
        lost = {LOST_TOKENS: pending.lost_tokens, LOST_FIRINGS: pending.lost_firings, LOST_ALERTS: pending.lost_alerts}
        return {WRITE_ERRORS: self._errors, **lost}

    def open(self) -> None:
        """Opens the file. Raises `ConfigError` for one that cannot be used, or is in use."""
        self.store = Store(self.path, self._bounds)

    def start(self) -> None:
        """Opens the file and begins to write. Raises as `open` does."""
        self.open()
        assert self.store is not None, "it was opened"
        try:
            self.remembered = alerts.read(self.store.connection)
        except sqlite3.Error as error:
            self.close()
            raise ConfigError(
                "history.path", found=f"{self.path}: {error}", expected="alerts that can be read"
            ) from error
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
        if self.store is not None:
            self.store.close()
            self.store = None

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
        while not self._ending.is_set():
            self._bell.wait(limits.HISTORY_FLUSH_S)
            self._bell.clear()
            items = self.queue.take()
            self.take(items)
            if time.monotonic() - flushed >= limits.HISTORY_FLUSH_S:
                if self.flush():
                    self._attempt(self._expire)
                flushed = time.monotonic()
            elif self._pending.ready and not self._failing:
                self._attempt(lambda: self._write_blocks(self._present()))
            if len(items) < PACE_ITEMS:
                self._ending.wait(PACE_S)
        self.take(self.queue.take())
        self.flush()

    def _present(self) -> Store:
        """The store that is there now. Raises `ConfigError` where there can be none."""
        if self.store is not None and self.store.stands:
            return self.store
        if self.store is not None:
            self._gone = self.store.contents()
            held = self._gone[1]
            logger.warning(
                "history was removed or replaced",
                path=str(self.path),
                held_tokens=held.tokens,
                held_firings=held.firings,
            )
            self.close()
        self.open()
        assert self.store is not None, "it was opened"
        if self._gone is not None:
            loss = _missing(self._gone, self.store.contents())
            self._gone = None
            if loss.tokens or loss.firings:
                self._pending.lose(loss)
        return self.store

    def _write(self) -> None:
        store, pending = self._present(), self._pending
        self._write_blocks(store)
        if pending.ended:
            with _tried_once(pending.ended.clear):
                store.writer.ends(pending.ended, now_ns=pending.seen_ns or self._clock())
            pending.ended.clear()
        if pending.alerts:
            with _tried_once(pending.alerts.clear):
                pending.lost_alerts += alerts.write(store.connection, list(pending.alerts.values()))
            pending.alerts.clear()
        if pending.silences:
            with _tried_once(pending.silences.clear):
                alerts.write_silences(store.connection, pending.silences.values())
            pending.silences.clear()
        if pending.losses:
            with _tried_once(pending.losses.clear):
                store.writer.lose(pending.losses.values())
            pending.losses.clear()

    def _write_blocks(self, store: Store) -> None:
        pending = self._pending
        while pending.ready:
            group = pending.ready[0]
            with _tried_once(pending.give_up):
                store.retention.make_room(group.nbytes)
                store.writer.block(group.table, group.batches, now_ns=self._clock())
            pending.done()

    def _expire(self) -> None:
        self._present().retention.expire(self._clock())

    def _attempt(self, write: Callable[[], None]) -> bool:
        """False when ``write`` failed, which is counted and logged once."""
        try:
            write()
        except Exception as error:  # whatever the store's fault is, it must not end the thread
            self._errors += 1
            if not self._failing:
                told = error if not isinstance(error, sqlite3.Error | SaewatchError) else None
                logger.warning("history cannot be written", path=str(self.path), error=str(error), exc_info=told)
            self._failing = True
            return False
        if self._failing:
            logger.info("history is written again", path=str(self.path))
        self._failing = False
        return True


def _missing(gone: tuple[int, Loss], found: tuple[int, Loss]) -> Loss:
    """What is not in the store that was ``found`` in the place of the one that is ``gone``, or of its own copy."""
    (number, loss), (other, still) = gone, found
    if number != other:
        return loss
    tokens, firings = max(loss.tokens - still.tokens, 0), max(loss.firings - still.firings, 0)
    return replace(loss, tokens=tokens, firings=firings)


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
