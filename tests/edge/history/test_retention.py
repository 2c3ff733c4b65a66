"""The history keeps within its age and its size, oldest out first, and says what is gone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.core.batch import FiringBatch
from saewatch.edge.history.retention import Bounds
from saewatch.edge.history.writer import HOUR_NS
from tests import fakes
from tests.edge.history.kept import MIB, MS, T0, Kept, kept

DAY = Bounds(keep_ns=24 * HOUR_NS, max_bytes=64 * MIB)


@cache
def block_of(firings: int, requests: int) -> FiringBatch:
    rows = max(firings // 4 // requests, 1)
    columns = [(n // 4, n % 4, 2.0) for n in range(min(firings, 4 * rows * requests))]
    return fakes.batch([(number + 1, 0, rows) for number in range(requests)], columns)


def fill(one: Kept, blocks: int, *, firings: int = 4, requests: int = 1, step_ns: int = MS) -> None:
    """Blocks of random values, each with requests of its own."""
    template = block_of(firings, requests)
    for _ in range(blocks):
        numbers = range(len(one.started) + 1, len(one.started) + requests + 1)
        for number in numbers:
            one.start(number, tenant="acme", client_id="c" * 250)
        values = np.random.default_rng(numbers[0]).random(len(template.value), np.float32) + 2
        one.send(replace(template, time_ns=0, request=np.array(numbers, np.uint32), value=values))
        for number in numbers:
            one.end(number)
        assert one.flush()
        one.now_ns += step_ns


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob("h.db*"))


def test_by_age_since_it_was_written(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db", bounds=DAY) as one:
        one.ready()
        fill(one, 30, step_ns=HOUR_NS)
        one.batch([(99, 0, 1)], time_ns=5)  # a clock that is wrong
        one.flush()
        one.expire()
        left = one.rows("SELECT id FROM block ORDER BY id")
        assert left == [(number,) for number in range(7, 32)]
        assert one.rows("SELECT count(*) FROM body") == [(25,)]
        assert one.rows("SELECT engine_id FROM request ORDER BY id LIMIT 1")[0][0].startswith("chatcmpl")
        assert one.rows("SELECT count(*) FROM request") == [(24,)]
        assert one.rows("SELECT sum(tokens), sum(firings) FROM loss WHERE cause='retention'") == [(6, 24)]
        with one.reader() as reader:
            assert reader.kept_since_ns() == T0 + 5 * HOUR_NS + 1


def test_nothing_that_is_young_enough_goes(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db", bounds=DAY) as one:
        one.ready()
        fill(one, 5)
        one.expire()
        assert one.rows("SELECT count(*) FROM block") == [(5,)]
        assert one.rows("SELECT count(*) FROM loss") == [(0,)]
        with one.reader() as reader:
            assert reader.kept_since_ns() == T0


def test_much_goes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_REMOVED_BLOCKS", 4)
    with kept(tmp_path / "h.db", bounds=DAY) as one:
        one.ready()
        fill(one, 10)
        one.now_ns += 2 * DAY.keep_ns
        retention = one.store.retention
        assert [retention.expire(one.now_ns) for _ in range(4)] == [True, True, False, False]
        assert one.rows("SELECT count(*) FROM block") == [(0,)]
        assert one.rows("SELECT count(*) FROM watched") == [(0,)]


def test_by_size_with_the_write_ahead_log(tmp_path: Path) -> None:
    bounds = Bounds(keep_ns=DAY.keep_ns, max_bytes=limits.HISTORY_MIB_MIN * MIB)
    with kept(tmp_path / "h.db", bounds=bounds) as one:
        one.ready()
        largest = 0
        for _ in range(120):
            fill(one, 1, firings=80_000)
            largest = max(largest, on_disk(one.path))
        assert 0.6 * bounds.max_bytes < largest <= bounds.max_bytes
        ((first, last, count),) = one.rows("SELECT min(id), max(id), count(*) FROM block")
        assert (last, last - first + 1) == (120, count)
        assert first > 30
        ((tokens, firings),) = one.rows("SELECT sum(tokens), sum(firings) FROM loss")
        assert (tokens, firings) == (20_000 * (first - 1), 80_000 * (first - 1))


def test_sqlite_itself_knows_the_bound(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db", bounds=DAY) as one:
        found = one.store.connection.execute("PRAGMA max_page_count").fetchone()
        assert found == ((DAY.max_bytes - limits.HISTORY_WAL_BYTES) // 4096,)


def test_many_requests_count_too(tmp_path: Path) -> None:
    bounds = Bounds(keep_ns=DAY.keep_ns, max_bytes=limits.HISTORY_MIB_MIN * MIB)
    with kept(tmp_path / "h.db", bounds=bounds) as one:
        one.ready()
        for _ in range(60):
            fill(one, 1, requests=700)
            assert on_disk(one.path) <= bounds.max_bytes
        ((count, oldest),) = one.rows("SELECT count(*), min(last_block) FROM request")
        assert 0 < count < 42_000
        assert one.rows("SELECT min(id) FROM block") == [(oldest,)]


def test_a_smaller_bound_gives_the_disk_back(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        fill(one, 30, firings=400_000)
        assert on_disk(one.path) > 40 * MIB
    bounds = Bounds(keep_ns=DAY.keep_ns, max_bytes=limits.HISTORY_MIB_MIN * MIB)
    with kept(tmp_path / "h.db", bounds=bounds) as one:
        one.ready()
        fill(one, 2)
        assert on_disk(one.path) <= bounds.max_bytes
        assert one.rows("SELECT max(id) FROM block") == [(32,)]


def test_what_age_removes_is_given_back(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db", bounds=DAY) as one:
        one.ready()
        fill(one, 20, firings=160_000)
        before = on_disk(one.path)
        one.now_ns += 2 * DAY.keep_ns
        for _ in range(40):
            one.expire()
        fill(one, 1)
    assert on_disk(one.path) < before / 3


def test_a_reader_that_holds_the_log_stops_writing_before_it_grows(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db", bounds=DAY) as one:
        one.ready()
        with one.reader() as reader:
            cursor = reader._connection.execute("SELECT 1 FROM fact UNION ALL SELECT 2 FROM fact")  # noqa: SLF001 - held open
            cursor.fetchone()
            one.store.connection.execute("PRAGMA busy_timeout=10")
            good = True
            for _ in range(40):
                one.start(1)
                one.batch([(1, 0, 20_000)], [(n // 4, n % 4, 2.0 + n) for n in range(80_000)])
                good = one.flush() and good
            assert not good
            assert Path(f"{one.path}-wal").stat().st_size <= 1.25 * limits.HISTORY_WAL_BYTES
            assert one.sink.counters["history_write_errors"] > 0
            cursor.close()
        assert one.flush()
        written = one.rows("SELECT sum(firings) FROM block")[0][0]
        lost = one.sink.counters["history_lost_firings"]
        assert written + lost == 40 * 80_000
