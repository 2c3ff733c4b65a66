"""A history's file is one's own, and what is none is refused by name."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from saewatch.core.errors import ConfigError
from saewatch.edge.history.file import FACTS, Lock, open_to_read, open_to_write, transaction


def test_it_is_nobody_elses_business(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = tmp_path / "state" / "saewatch" / "history.db"
        lock = Lock(path)
        open_to_write(path).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    lock.release()


def test_it_is_made_once_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    first = open_to_write(path)
    facts = first.execute("SELECT * FROM fact").fetchall()
    first.close()
    again = open_to_write(path)
    assert again.execute("SELECT * FROM fact").fetchall() == facts
    assert {name for name, _ in facts} == set(FACTS)
    assert again.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert again.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    again.close()


def test_one_writes(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "h.db")
    with pytest.raises(ConfigError, match=r"history\.path: found .*h\.db, which another one writes"):
        Lock(tmp_path / "h.db")
    lock.release()
    Lock(tmp_path / "h.db").release()


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("dear diary, " * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt: file is not a database"):
        open_to_write(text)
    assert text.read_text() == "dear diary, " * 100
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
    before = other.read_bytes()
    with pytest.raises(ConfigError, match=r"other\.db: the database of another program"):
        open_to_write(other)
    assert other.read_bytes() == before


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    connection = open_to_write(path)
    connection.execute("PRAGMA user_version=2")
    connection.close()
    with pytest.raises(ConfigError, match=r"found .*version 2, expected version 1"):
        open_to_write(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    connection = open_to_write(path)
    connection.execute("INSERT INTO loss VALUES ('queue_full', 1, 1, 1, 1, 1)")
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name='loss'").fetchone()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096 * (root - 1) : 4096 * root] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"h\.db: "):
        open_to_write(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="to keep none"):
        Lock(tmp_path / "file" / "h.db")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        open_to_write(tmp_path / "folder")


def test_readers_do_not_write(tmp_path: Path) -> None:
    path = tmp_path / "h #1?.db"
    writer = open_to_write(path)
    reader = open_to_read(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM fact")
    reader.close()
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        open_to_read(tmp_path / "gone.db").execute("SELECT 1 FROM fact")
    writer.close()
    assert not (tmp_path / "gone.db").exists()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    connection = open_to_write(tmp_path / "h.db")

    def fail() -> None:
        with transaction(connection):
            connection.execute("UPDATE fact SET value=7")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not connection.execute("SELECT 1 FROM fact WHERE value=7").fetchall()
    connection.close()
