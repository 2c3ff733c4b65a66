"""Keeps the history within its age and its size: oldest blocks out first, in the order in which they were written.

Age is since the store got a block, not since the engine's step: a clock that is wrong, or a recording of last month,
would empty the store otherwise. Size is the file's and its write-ahead log's. The file's share is `max_page_count` to
SQLite, so that it cannot be exceeded even by a mistake here; room is made before a block is written, and what was
removed is a loss that queries tell.
"""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from saewatch.core import limits
from saewatch.edge.history.file import transaction
from saewatch.edge.history.writer import Cause, Loss, book

SPARE_PAGES = 256
"""For indexes, requests and what SQLite needs beside a block."""
VACUUM_PAGES = 256
REMOVED_FOR_ROOM = 4
"""Blocks at a time: a small history holds few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is kept."""

    keep_ns: int
    max_bytes: int


class Retention:
    """Over the connection that writes. Its methods raise `sqlite3.Error`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, bounds: Bounds) -> None:
        self._connection = connection
        self._wal = Path(f"{path}-wal")
        self._bounds = bounds
        self._page_bytes = self._pragma("page_size")
        self._pages_max = (bounds.max_bytes - limits.HISTORY_WAL_BYTES) // self._page_bytes
        self._bound_pages()

    def expire(self, now_ns: int) -> bool:
        """Removes some of what is too old; True when there may be more."""
        removed = self._remove(limits.HISTORY_REMOVED_BLOCKS, written_before_ns=now_ns - self._bounds.keep_ns)
        if self._pragma("freelist_count") > max(self._pragma("page_count") // 4, SPARE_PAGES):
            self._vacuum()
        return removed == limits.HISTORY_REMOVED_BLOCKS

    def make_room(self, size: int) -> None:
        """Removes what has to go before ``size`` bytes are written. Raises `sqlite3.Error` when it cannot."""
        if self._wal_bytes() + 2 * size > limits.HISTORY_WAL_BYTES:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if self._wal_bytes() > limits.HISTORY_WAL_BYTES // 2:
                raise sqlite3.OperationalError("a reader holds the write-ahead log")
        needed = size // self._page_bytes + SPARE_PAGES
        while self._used() + needed > self._pages_max and self._remove(REMOVED_FOR_ROOM):
            pass
        while self._pragma("page_count") > self._pages_max and self._pragma("freelist_count"):
            self._vacuum()  # it was made with a larger bound

    def _remove(self, count: int, *, written_before_ns: int | None = None) -> int:
        """Removes the oldest ``count`` blocks, if they are old enough, and what only they named; says how many."""
        oldest = self._connection.execute(
            "SELECT written_ns, id, first_ns, last_ns, tokens, firings FROM block ORDER BY id LIMIT ?", (count,)
        )
        rows = list(itertools.takewhile(lambda row: written_before_ns is None or row[0] < written_before_ns, oldest))
        if not rows:
            return 0
        with transaction(self._connection):
            for table, column in _BY_BLOCK:
                self._connection.execute(f"DELETE FROM {table} WHERE {column} <= ?", (rows[-1][1],))
            until = max(row[3] for row in rows)
            self._connection.execute("UPDATE fact SET value=max(value, ?) WHERE name='removed_until_ns'", (until,))
            names = ("first_ns", "last_ns", "tokens", "firings")
            book(
                self._connection,
                [Loss(cause=Cause.RETENTION, **dict(zip(names, row[2:], strict=True))) for row in rows],
            )
        return len(rows)

    def _vacuum(self) -> None:
        # It gives a page back at each step, and `execute` takes one step only.
        self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        self._bound_pages()

    def _bound_pages(self) -> None:
        self._connection.execute(f"PRAGMA max_page_count={self._pages_max}").fetchall()

    def _used(self) -> int:
        return self._pragma("page_count") - self._pragma("freelist_count")

    def _wal_bytes(self) -> int:
        return self._wal.stat().st_size if self._wal.exists() else 0

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])


_BY_BLOCK = (
    ("body", "block"),
    ("block", "id"),
    ("request", "last_block"),
    ("stream", "last_block"),
    ("watched", "last_block"),
)
