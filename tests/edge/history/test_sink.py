"""The sink writes on a thread of its own, and nothing that happens to its disk ends it or goes uncounted."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.core.records import RequestStart
from saewatch.edge.history import firings
from saewatch.edge.history.firings import Place
from saewatch.edge.history.reading import Reader, Span
from saewatch.edge.history.sink import HistorySink
from saewatch.edge.history.wanted import Wanted
from saewatch.edge.pipeline import Pipeline
from tests import fakes
from tests.edge.history.kept import FOREVER, MIB, MS, T0, kept
from tests.sidecar import ENVIRONMENT, ROOT
from tests.waiting import wait_until


class Live:
    """A sink with its thread, and one stream of one request."""

    def __init__(self, path: Path) -> None:
        known = fakes.dictionary()
        self.sink = HistorySink(path, FOREVER)
        self.sink.start()
        self.pipeline = Pipeline(dictionaries={known.weights_digest: known}, queues=[self.sink.queue])
        self.pipeline.connect(1)
        for record in (fakes.stream_open(known), fakes.watch_set(known)):
            self.pipeline.receive(1, record)
        self.pipeline.receive(1, RequestStart(request=7, engine_id="plain", prompt_len=4))
        self.seq = 0

    def step(self, time_ns: int = 0) -> None:
        """A row with two firings."""
        self.seq += 1
        spans: list[fakes.Span] = [(7, self.seq, 1)]
        batch = fakes.batch(spans, [(0, 0, 1.0), (0, 2, self.seq)], seq=self.seq, time_ns=time_ns or T0 + self.seq)
        self.pipeline.receive(1, batch)


def stored(path: Path) -> list[float]:
    """Values of threat.l1 that are stored, page by page."""
    wanted, values, after = Wanted(feature_ids=frozenset({"threat.l1"})), list[float](), None
    with Reader(path, wanted=wanted) as reader:
        snapshot = reader.snapshot(None, None)
    span = Span.of(snapshot.start_ns, snapshot.end_ns)
    after = Place.before(span.low)
    while after is not None:
        with Reader(path, wanted=wanted) as reader:
            page = firings.page(reader, snapshot, span, after, 1000)
        values += [row.value for row in page.rows]
        after = page.following
    return values


def test_what_came_is_there_within_a_second_and_after_the_end(
    tmp_path: Path, threads_left: Callable[[], list[str]]
) -> None:
    live = Live(tmp_path / "h.db")
    for _ in range(3):
        live.step()
    wait_until(lambda: stored(live.sink.path) == [1.0, 2.0, 3.0])
    live.step()
    live.sink.stop()
    assert stored(live.sink.path) == [1.0, 2.0, 3.0, 4.0]
    assert set(live.sink.counters.values()) == {0}
    assert "saewatch-history" not in threads_left()
    live.sink.stop()


def test_readers_see_whole_blocks_while_it_writes(tmp_path: Path) -> None:
    live = Live(tmp_path / "h.db")
    seen: list[int] = []
    end = time.monotonic() + 60
    while len(set(seen)) < 3 and time.monotonic() < end:
        for _ in range(20):
            live.step()
        found = stored(live.sink.path)
        assert found == [float(number) for number in range(1, len(found) + 1)]
        seen.append(len(found))
    live.sink.stop()
    assert len(set(seen)) > 2
    assert len(stored(live.sink.path)) == live.seq


def test_a_second_one_is_refused_and_leaves_the_first_alone(tmp_path: Path) -> None:
    live = Live(tmp_path / "h.db")
    with pytest.raises(ConfigError, match="which another one writes"):
        HistorySink(live.sink.path, FOREVER).start()
    live.step()
    live.sink.stop()
    assert stored(live.sink.path) == [1.0]


def test_one_that_did_not_start_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "h.db").write_text("dear diary, " * 100)
    sink = HistorySink(tmp_path / "h.db", FOREVER)
    with pytest.raises(ConfigError):
        sink.start()
    sink.stop()
    (tmp_path / "h.db").unlink()
    Live(tmp_path / "h.db").sink.stop()


def test_a_locked_file_is_tried_again(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.store.connection.execute("PRAGMA busy_timeout=10")
        one.ready()
        one.start(7)
        other = sqlite3.connect(one.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        one.batch([(7, 0, 1)], [(0, 0, 1.0)])
        with structlog.testing.capture_logs() as logs:
            assert not one.flush()
            one.batch([(7, 1, 1)], [(0, 0, 1.0)])
            one.end(7)
            assert not one.flush()
            other.execute("ROLLBACK")
            other.close()
            assert one.flush()
        assert [line["event"] for line in logs] == ["history cannot be written", "history is written again"]
        assert one.sink.counters == {
            "history_write_errors": 2,
            "history_lost_tokens": 0,
            "history_lost_firings": 0,
            "history_lost_alerts": 0,
        }
        assert one.rows("SELECT count(*), sum(firings) FROM block") == [(2, 2)]
        assert one.rows("SELECT state FROM request") == [(1,)]


def test_a_full_disk_loses_what_it_says_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_PENDING_BYTES", 4 * MIB)
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        connection = one.store.connection
        connection.execute("PRAGMA max_page_count=300").fetchall()
        for step in range(30):
            one.now_ns += MS
            one.batch([(7, step, 20_000)], [(n // 4, n % 4, 2.0 + n) for n in range(80_000)])
            one.flush()
        lost = one.sink.counters["history_lost_firings"]
        assert lost > 0
        connection.execute("PRAGMA max_page_count=100000").fetchall()
        assert one.flush()
        ((written,),) = one.rows("SELECT sum(firings) FROM block")
        assert written + lost == 30 * 80_000
        assert one.rows("SELECT cause, sum(firings) FROM loss") == [("not_written", lost)]


def remove(path: Path) -> None:
    """All of its files."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def test_a_removed_file_is_a_loss_and_a_new_one_follows(tmp_path: Path) -> None:
    live = Live(tmp_path / "h.db")
    with structlog.testing.capture_logs() as logs:
        live.step()
        live.step()
        wait_until(lambda: stored(live.sink.path) == [1.0, 2.0])
        remove(live.sink.path)
        live.step()
        wait_until(live.sink.path.exists)
        live.step()
        live.sink.stop()
    kept_values, lost = stored(live.sink.path), live.sink.counters["history_lost_firings"]
    assert kept_values[-1] == 4.0
    assert 2 * len(kept_values) + lost == 8, "what is not there is counted, and nothing twice"
    assert live.sink.counters["history_lost_tokens"] == lost // 2 >= 2
    with sqlite3.connect(live.sink.path) as connection:
        found = connection.execute("SELECT cause, tokens, firings FROM loss").fetchall()
    connection.close()
    assert found == [("damaged", lost // 2, lost)]
    assert [line["event"] for line in logs] == ["history was removed or replaced"]


def test_a_removal_just_before_the_end_is_noticed(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        one.batch([(7, 0, 1)], [(0, 0, 1.0)])
        assert one.flush()
        remove(one.path)
        one.batch([(7, 1, 1)], [(0, 0, 2.0)])
        assert one.flush()
        assert one.rows("SELECT sum(firings) FROM block") == [(1,)]
        assert one.rows("SELECT cause, tokens, firings FROM loss") == [("damaged", 1, 1)]


def test_a_history_in_its_place_is_gone_on_with(tmp_path: Path) -> None:
    with kept(tmp_path / "other.db") as other:
        other.ready()
        other.start(7)
        other.batch([(7, 0, 1)], [(0, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0)])
        assert other.flush()
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        one.batch([(7, 0, 1)], [(0, 0, 1.0)])
        assert one.flush()
        (tmp_path / "other.db").rename(one.path)
        one.batch([(7, 1, 1)], [(0, 0, 1.0)])
        assert one.flush()
        assert one.rows("SELECT sum(firings) FROM block") == [(4,)]
        assert one.sink.counters["history_lost_firings"] == 1


@pytest.mark.parametrize("name", ["-wal", ".lock"])
def test_what_is_still_there_is_no_loss(tmp_path: Path, name: str) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        for position in range(2):
            one.batch([(7, position, 1)], [(0, 0, 1.0)])
            assert one.flush()
            (tmp_path / f"h.db{name}").unlink()
        assert one.flush()
        assert one.rows("SELECT sum(firings) FROM block") == [(2,)]
        assert set(one.sink.counters.values()) == {0}


def test_while_there_can_be_none_everything_waits(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        one.batch([(7, 0, 1)], [(0, 0, 1.0)])
        assert one.flush()
        remove(one.path)
        one.path.write_text("dear diary, " * 100)
        one.batch([(7, 1, 1)], [(0, 0, 1.0)])
        with structlog.testing.capture_logs() as logs:
            assert [one.flush(), one.flush()] == [False, False]
            assert one.path.read_text().startswith("dear diary")
            one.path.unlink()
            assert one.flush()
        events = ["history was removed or replaced", "history cannot be written", "history is written again"]
        assert [line["event"] for line in logs] == events
        assert one.rows("SELECT sum(firings) FROM block") == [(1,)]
        assert one.rows("SELECT cause, firings FROM loss") == [("damaged", 1)]
        assert one.sink.counters["history_write_errors"] == 2


def test_a_fault_of_ours_costs_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        one.batch([(7, 0, 1)], [(0, 0, 1.0), (0, 1, 1.0)])
        with monkeypatch.context() as broken:
            broken.setattr("saewatch.edge.history.writer.block_of", lambda *_: 1 / 0)
            assert not one.flush()
        one.batch([(7, 1, 1)], [(0, 0, 1.0)])
        assert one.flush()
        assert one.rows("SELECT sum(firings) FROM block") == [(1,)]
        assert one.rows("SELECT cause, tokens, firings FROM loss") == [("not_written", 1, 2)]


WRITER = """
import sys, time
from pathlib import Path
from tests.edge.history.test_sink import Live
live = Live(Path(sys.argv[1]))
while True:
    for _ in range(50):
        live.step()
    print(live.seq, flush=True)
    time.sleep(0.01)
"""


def test_a_killed_writer_leaves_whole_blocks(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    for delay_s in (1.3, 2.45):
        words = [sys.executable, "-c", WRITER, str(path)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env=ENVIRONMENT, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: bool(stored(path)))
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = stored(path)
        assert found
        sink = HistorySink(path, FOREVER)
        sink.open()
        assert stored(path) == found, "nothing came or went by opening it"
        sink.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            ((bare,),) = connection.execute("SELECT count(*) FROM block WHERE id NOT IN (SELECT block FROM body)")
        connection.close()
        assert bare == 0


BOUNDED = """
import resource, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests.edge.history.test_sink import Live
live = Live(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))  # an empty history has 111 kB
end, left = time.monotonic() + 40, 20
while left and time.monotonic() < end:  # until the limit has bitten, and somewhat longer
    for _ in range(300):
        live.step()
    time.sleep(0.02)
    left -= live.sink.counters["history_write_errors"] > 0
errors = live.sink.counters["history_write_errors"]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
time.sleep(2.5)
live.sink.stop()
print(errors, live.seq, live.sink.counters["history_lost_firings"])
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    words = [sys.executable, "-c", BOUNDED, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, check=True, timeout=60)
    errors, steps, lost = map(int, done.stdout.splitlines()[-1].split())
    with sqlite3.connect(path) as connection:
        ((written,),) = connection.execute("SELECT sum(firings) FROM block")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert errors > 0, "the limit bit"
    assert written + lost == 2 * steps


def test_what_it_costs(tmp_path: Path) -> None:
    """At 16 firings a token, 64 requests and 50 steps a second; printed, since it is no promise."""
    many = fakes.feature("many.g1", latents=tuple(range(20)))
    steps: list[Any] = [(row, slot, 1.0) for row in range(64) for slot in range(16)]
    with kept(tmp_path / "h.db", known=[fakes.dictionary([many])]) as one:
        one.ready()
        for request in range(1, 65):
            one.start(request)
        cpu, firings_written = 0.0, 0
        for step in range(500):
            one.batch([(request, step, 1) for request in range(1, 65)], steps)
            one.now_ns += 20 * MS
            if step % 50 == 49:
                began = time.process_time()
                assert one.flush()
                cpu += time.process_time() - began
                firings_written += 50 * len(steps)
        size = sum(file.stat().st_size for file in tmp_path.glob("h.db*"))
        print(f"{cpu / firings_written * 1e9:.0f} ns of CPU and {size / firings_written:.1f} bytes for each firing")
