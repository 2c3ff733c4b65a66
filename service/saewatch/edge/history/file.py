"""The history's file: one SQLite database in WAL mode, its schema, and who may write it.

A row for each block, not for each firing; the columns are in `body`, apart, so that looking for blocks reads none of
them. SQLite keeps readers and the one writer out of each other's way, and a killed process leaves whole transactions.
A lock beside the file keeps a second sidecar out: SQLite would let both write, and both would count.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from saewatch.core import limits
from saewatch.core.errors import ConfigError

FIELD = "history.path"
APPLICATION = 0x53414557  # "SAEW"
VERSION = 1
BUSY_S = 2.0
SCHEMA = (
    """CREATE TABLE stream (
        id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, last_block INTEGER NOT NULL)""",
    """CREATE TABLE watched (
        id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, body BLOB NOT NULL, last_block INTEGER NOT NULL)""",
    """CREATE TABLE request (
        id INTEGER PRIMARY KEY AUTOINCREMENT, engine TEXT NOT NULL, epoch INTEGER NOT NULL, engine_id TEXT NOT NULL,
        key TEXT NOT NULL, client_id TEXT NOT NULL, tenant TEXT NOT NULL, traffic_class TEXT NOT NULL,
        conversation TEXT NOT NULL, trace_id TEXT NOT NULL, child INTEGER NOT NULL, prompt_len INTEGER NOT NULL,
        cached INTEGER NOT NULL, adapter TEXT NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
        last_block INTEGER NOT NULL, state INTEGER NOT NULL, fed INTEGER NOT NULL, emitted INTEGER NOT NULL)""",
    "CREATE INDEX request_engine_id ON request (engine_id)",
    "CREATE INDEX request_key ON request (key)",
    "CREATE INDEX request_client_id ON request (client_id)",
    "CREATE INDEX request_conversation ON request (conversation)",
    "CREATE INDEX request_tenant ON request (tenant)",
    "CREATE INDEX request_first ON request (first_ns)",
    "CREATE INDEX request_block ON request (last_block)",
    """CREATE TABLE block (
        id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, watched INTEGER NOT NULL, first_ns INTEGER NOT NULL,
        last_ns INTEGER NOT NULL, written_ns INTEGER NOT NULL, tokens INTEGER NOT NULL, firings INTEGER NOT NULL,
        features BLOB NOT NULL, requests BLOB NOT NULL)""",
    "CREATE INDEX block_first ON block (first_ns)",
    "CREATE INDEX block_last ON block (last_ns)",
    "CREATE TABLE body (block INTEGER PRIMARY KEY, columns BLOB NOT NULL)",
    """CREATE TABLE loss (
        cause TEXT NOT NULL, hour INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
        tokens INTEGER NOT NULL, firings INTEGER NOT NULL, PRIMARY KEY (cause, hour)) WITHOUT ROWID""",
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
)
ADDED = (
    """CREATE TABLE IF NOT EXISTS alert (
        id TEXT PRIMARY KEY, changed_ns INTEGER NOT NULL, message BLOB NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS alert_changed ON alert (changed_ns)",
    """CREATE TABLE IF NOT EXISTS judged (
        policy TEXT NOT NULL, rule TEXT NOT NULL, version INTEGER NOT NULL, right INTEGER NOT NULL,
        wrong INTEGER NOT NULL, changed_ns INTEGER NOT NULL, PRIMARY KEY (policy, rule, version)) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS silence (id TEXT PRIMARY KEY, message BLOB NOT NULL) WITHOUT ROWID",
)
"""Came later. Whoever knows only the others passes over them, so the version is the same."""
FACTS = ("store", "next_block", "removed_until_ns", "longest_ns")
"""A number that tells stores apart; the next block's; up to when blocks were removed; the longest request."""


class Lock:
    """Of one history, for as long as this process has it. Raises `ConfigError` when another one does."""

    def __init__(self, path: Path) -> None:
        self._file = -1
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(f"{path}.lock", flags, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            hint = "Give each sidecar a history.path of its own."
            raise ConfigError(
                FIELD, found=f"{path}, which another one writes", expected="a file of its own", hint=hint
            ) from error
        except OSError as error:
            self.release()
            raise _refused(path, error.strerror) from error

    def release(self) -> None:
        """Lets others have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def open_to_write(path: Path) -> sqlite3.Connection:
    """The history at ``path``, made where there is none. Raises `ConfigError` for a file that is none, or damaged."""
    try:
        # Before SQLite has it open: closing it later would drop SQLite's locks.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _refused(path, error.strerror) from error
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA secure_delete=FAST")  # ON, a distributor's choice, would write all that is removed
        if not _objects(connection) and not _pragma(connection, "application_id"):
            _create(connection)
        _check(path, connection)
        with transaction(connection):
            for statement in ADDED:
                connection.execute(statement)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA journal_size_limit={limits.HISTORY_WAL_BYTES // 2}")
    except (sqlite3.Error, ConfigError) as error:
        if connection is not None:
            connection.close()
        raise error if isinstance(error, ConfigError) else _refused(path, error) from error
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """The history at ``path`` for queries. Raises `sqlite3.Error`."""
    uri = f"file:{quote(str(path))}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back
        yield


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("PRAGMA journal_mode=WAL")
    with transaction(connection):
        for statement in SCHEMA:
            connection.execute(statement)
        values = (secrets.randbits(62), 1, -1, 0)
        connection.executemany("INSERT INTO fact VALUES (?, ?)", zip(FACTS, values, strict=True))
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute(f"PRAGMA application_id={APPLICATION}")


def _check(path: Path, connection: sqlite3.Connection) -> None:
    if _pragma(connection, "application_id") != APPLICATION:
        raise _refused(path, "the database of another program")
    version = _pragma(connection, "user_version")
    if version != VERSION:
        raise _refused(path, f"version {version}", expected=f"version {VERSION}")
    connection.execute("PRAGMA journal_mode=WAL")
    present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    for table in (
        "stream",
        "watched",
        "loss",
        "fact",
        *present.intersection(("alert", "judged", "silence")),
    ):  # the small ones: a check of all takes minutes
        (said,) = connection.execute(f"PRAGMA quick_check({table})").fetchone()
        if said != "ok":
            raise _refused(path, said)
    found = {name for (name,) in connection.execute("SELECT name FROM fact")}
    if found != set(FACTS):
        raise _refused(path, "a history without its facts")


def _objects(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _refused(
    path: Path, found: object, *, expected: str = "a history of saewatch, or a place for a new one"
) -> ConfigError:
    hint = 'Move the file away, name another one, or say `history: {path: ""}` to keep none.'
    return ConfigError(FIELD, found=f"{path}: {found}", expected=expected, hint=hint)
