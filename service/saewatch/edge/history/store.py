"""The history's file while it is open: its lock, the one connection that writes, and whether it is still in its place.

A file that was removed or replaced goes on taking what is written to it, and nobody will ever read that. So its place
is compared with the open one, and the write-ahead log and the lock with theirs: SQLite would join a stranger with our
log, and a second sidecar would get a lock of its own.
"""

from __future__ import annotations

from pathlib import Path

from saewatch.edge.history.file import Lock, open_to_write
from saewatch.edge.history.retention import Bounds, Retention
from saewatch.edge.history.writer import Cause, Loss, Writer

Inode = tuple[int, int]
DATABASE, LOG, SHARED, LOCK = "", "-wal", "-shm", ".lock"


class Store:
    """The history at ``path``. Raises `ConfigError` for a file that cannot be used, or is in use."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path = path
        self._lock = Lock(path)
        try:
            self.connection = open_to_write(path)
            self.retention = Retention(self.connection, path, bounds)
        except BaseException:  # whatever it was, the file may be another's from here on
            self._lock.release()
            raise
        self.writer = Writer(self.connection)
        self._opened = self._present()

    @property
    def stands(self) -> bool:
        """Whether the files are those that were opened."""
        return self._present() == self._opened

    def contents(self) -> tuple[int, Loss]:
        """Which store it is, and all that it holds, as a loss. Raises `sqlite3.Error`."""
        (number,) = self.connection.execute("SELECT value FROM fact WHERE name='store'").fetchone()
        sums = "SELECT min(first_ns), max(last_ns), sum(tokens), sum(firings) FROM block"
        first_ns, last_ns, tokens, firings = (found or 0 for found in self.connection.execute(sums).fetchone())
        return number, Loss(cause=Cause.DAMAGED, first_ns=first_ns, last_ns=last_ns, tokens=tokens, firings=firings)

    def close(self) -> None:
        """Closes it. What belongs to a file that is no longer there goes too."""
        self.connection.close()
        self._lock.release()
        if _inode(self._path, DATABASE) != self._opened[DATABASE]:
            for name in (LOG, SHARED):
                if (ours := self._opened[name]) is not None and _inode(self._path, name) == ours:
                    Path(f"{self._path}{name}").unlink(missing_ok=True)

    def _present(self) -> dict[str, Inode | None]:
        return {name: _inode(self._path, name) for name in (DATABASE, LOG, SHARED, LOCK)}


def _inode(path: Path, name: str) -> Inode | None:
    """Which file is there now; None for none."""
    try:
        found = Path(f"{path}{name}").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
