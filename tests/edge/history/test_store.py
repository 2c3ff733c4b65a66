"""A store knows whether its files are still in their place, and leaves nothing of its own beside a stranger's."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from saewatch.core.errors import ConfigError
from saewatch.edge.history.store import Store
from tests.edge.history.kept import FOREVER, T0, kept


@pytest.mark.parametrize("name", ["", "-wal", "-shm", ".lock"])
def test_each_file_is_missed(tmp_path: Path, name: str) -> None:
    Store(tmp_path / "h.db", FOREVER).close()
    store = Store(tmp_path / "h.db", FOREVER)
    stands = [store.stands]
    store.connection.execute("INSERT INTO loss VALUES ('queue_full', 1, 1, 1, 1, 1)")
    stands.append(store.stands)
    (tmp_path / f"h.db{name}").unlink()
    assert [*stands, store.stands] == [True, True, False]
    store.close()


def test_another_file_in_its_place_is_noticed_and_not_given_our_log(tmp_path: Path) -> None:
    other = Store(tmp_path / "other.db", FOREVER)
    other.connection.execute("INSERT INTO loss VALUES ('queue_full', 1, 1, 1, 7, 7)")
    other.close()
    store = Store(tmp_path / "h.db", FOREVER)
    store.connection.execute("INSERT INTO loss VALUES ('queue_full', 1, 1, 1, 1, 1)")
    (tmp_path / "other.db").rename(tmp_path / "h.db")
    assert not store.stands
    store.close()
    with sqlite3.connect(tmp_path / "h.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT tokens FROM loss").fetchall() == [(7,)]
    connection.close()


def test_what_it_holds(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        number, nothing = one.store.contents()
        assert (nothing.tokens, nothing.firings) == (0, 0)
        one.ready()
        one.start(7)
        for position in range(3):
            one.now_ns = T0 + position
            one.batch([(7, position, 1)], [(0, 0, 1.0), (0, 1, 1.0)])
        one.flush()
        again, all_of_it = one.store.contents()
        assert again == number
        assert (all_of_it.tokens, all_of_it.firings, all_of_it.first_ns, all_of_it.last_ns) == (3, 6, T0, T0 + 2)


def test_one_that_is_refused_lets_go_of_its_lock(tmp_path: Path) -> None:
    (tmp_path / "h.db").write_text("dear diary, " * 100)
    for _ in range(2):
        with pytest.raises(ConfigError, match="file is not a database"):
            Store(tmp_path / "h.db", FOREVER)
