"""Blocks are found by time in either direction, and one that is damaged or gone is told and left out."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.edge.history import firings
from saewatch.edge.history.firings import Place
from saewatch.edge.history.reading import Reader, Snapshot, Span, Stopped, cut, merged
from saewatch.edge.history.wanted import Wanted
from saewatch.edge.history.writer import Cause
from tests.edge.history.kept import MS, T0, Kept, kept

S = 10**9


def some_blocks(one: Kept, *times_ms: int) -> None:
    """A block at each time, whose two steps are a second apart."""
    one.ready()
    one.start(7, tenant="acme")
    for position, time_ms in enumerate(times_ms):
        for late in (0, 1000):
            one.batch([(7, position, 1)], [(0, 0, 1.0 + position)], time_ns=T0 + (time_ms + late) * MS)
        assert one.flush()


def found(one: Kept, span: Span) -> list[int]:
    with one.reader() as reader:
        return [header.id for header in reader.headers(span, reader.snapshot(None, None))]


def test_blocks_come_by_where_they_begin(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        some_blocks(one, 3000, 0, 500, 10_000)
        assert found(one, Span.of(T0, T0 + 60 * S)) == [2, 3, 1, 4]
        assert found(one, Span.of(T0, T0 + 60 * S, descending=True)) == [4, 1, 3, 2]
        assert found(one, Span.of(T0 + S, T0 + 3 * S)) == [2, 3]
        assert found(one, Span.of(T0 + S + 1, T0 + 3 * S + 1)) == [3, 1]
        assert found(one, Span.of(T0 + S, T0 + 3 * S, descending=True)) == [3, 2]
        assert found(one, Span.of(T0 + 5 * S, T0 + 9 * S)) == []


def test_many_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saewatch.edge.history.reading.HEADERS", 3)
    with kept(tmp_path / "h.db") as one:
        some_blocks(one, *([100] * 7), 0, 200)
        assert found(one, Span.of(T0, T0 + 60 * S)) == [8, 1, 2, 3, 4, 5, 6, 7, 9]
        assert found(one, Span.of(T0, T0 + 60 * S, descending=True)) == [9, 7, 6, 5, 4, 3, 2, 1, 8]


def test_a_snapshot_stays(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        with one.reader() as reader:
            assert reader.snapshot(None, None) == Snapshot(start_ns=0, end_ns=1, last_block=0, last_request=0)
            assert reader.kept_since_ns() is None
        some_blocks(one, 0)
        with one.reader() as reader:
            before = reader.snapshot(None, None)
        assert before == Snapshot(start_ns=T0, end_ns=T0 + S + 1, last_block=1, last_request=1)
        one.batch([(7, 9, 1)], time_ns=T0)
        one.flush()
        with one.reader() as reader:
            assert len(list(reader.headers(Span.of(T0, T0 + S), before))) == 1
            assert reader.snapshot(9 * S, 5 * S).end_ns == 9 * S


@pytest.mark.parametrize("column", ["requests", "columns"])
def test_a_damaged_block_is_told_and_left_out(tmp_path: Path, column: str) -> None:
    with kept(tmp_path / "h.db") as one:
        some_blocks(one, 0, 5000, 10_000)
        table = {"requests": "block WHERE id", "columns": "body WHERE block"}[column]
        with one.store.connection as connection:
            ((data,),) = connection.execute(f"SELECT {column} FROM {table}=2").fetchall()
            broken = bytes([*data[:-1], data[-1] ^ 1])
            connection.execute(f"UPDATE {table.split()[0]} SET {column}=? WHERE {table.split()[2]}=2", (broken,))
        with one.reader() as reader:
            snapshot = reader.snapshot(None, None)
            span = Span.of(snapshot.start_ns, snapshot.end_ns)
            page = firings.page(reader, snapshot, span, Place.before(span.low), 100)
            assert [row.value for row in page.rows] == [1.0, 1.0, 3.0, 3.0]
            (loss,) = reader.losses(snapshot)
            assert (loss.cause, loss.tokens, loss.firings) == (Cause.DAMAGED, 2, 2)
            assert (loss.first_ns, loss.last_ns) == (T0 + 5 * S, T0 + 6 * S)


def test_a_page_that_has_done_its_share_says_where_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept(tmp_path / "h.db") as one:
        some_blocks(one, *(3000 * number for number in range(6)))
        monkeypatch.setattr(limits, "QUERY_BLOCKS", 2)
        with one.reader(feature_ids=frozenset({"threat.p1"})) as reader:
            snapshot = reader.snapshot(None, None)
            span = Span.of(snapshot.start_ns, snapshot.end_ns)
            page = firings.page(reader, snapshot, span, Place.before(span.low), 100)
        assert (page.rows, page.following) == ([], Place.before(T0 + 6 * S))
        assert (page.covered.end_ns, page.covered.seen) == (T0 + 6 * S, 4)


def test_a_page_always_gets_further_even_without_time(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        some_blocks(one, *([0] * 5), 3000)
        ticks = iter(range(10**6))
        places = [Place.before(T0)]
        while len(places) < 10:
            with Reader(one.path, wanted=Wanted(), clock=lambda: 1000.0 * next(ticks)) as reader:
                snapshot = reader.snapshot(None, None)
                span = Span.of(snapshot.start_ns, snapshot.end_ns)
                page = firings.page(reader, snapshot, span, places[-1], 100)
            if page.following is None:
                break
            assert page.following > places[-1]
            places.append(page.following)
        assert len(places) == 2


def test_few_chosen_requests_narrow_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        for number in range(1, 6):
            one.start(number, client_id=f"client-{number % 2}")
            one.now_ns = T0 + number * 60 * S
            one.batch([(number, 0, 1)])
            one.flush()
        with one.reader(request_ids=frozenset({"client-0"})) as reader:
            snapshot = reader.snapshot(None, None)
            whole = Span.of(snapshot.start_ns, snapshot.end_ns)
            assert [header.id for header in reader.wanted_headers(whole, snapshot)] == [2, 4]
            back = Span.of(snapshot.start_ns, snapshot.end_ns, descending=True)
            assert [header.id for header in reader.wanted_headers(back, snapshot)] == [4, 2]
            monkeypatch.setattr(limits, "QUERY_REQUESTS", 1)
            assert len(list(reader.wanted_headers(whole, snapshot))) == 5


def test_nobody_waits_any_more(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        stop = threading.Event()
        with Reader(one.path, wanted=Wanted(), stop=stop) as reader:
            reader.fact("store")
            stop.set()
            with pytest.raises(Stopped):
                reader.fact("store")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
def test_a_span_knows_its_times_in_either_direction(start_ns: int, length: int, down: bool) -> None:
    span = Span.of(start_ns, start_ns + length, descending=down)
    assert (span.start_ns, span.end_ns, span.high - span.low) == (start_ns, start_ns + length, length)


def test_parts_are_far_apart_and_in_the_spans_order() -> None:
    far = 10 * limits.HISTORY_BLOCK_NS
    times = [(3 * far, 3 * far + 5), (10, 20), (15, 30), (31, 40), (9 * far, 9 * far + 1)]
    parts = merged(Span.of(12, 5 * far), times)
    assert [(part.start_ns, part.end_ns) for part in parts] == [(12, 40), (3 * far, 3 * far + 5)]
    back = merged(Span.of(12, 5 * far, descending=True), times)
    assert [(part.start_ns, part.end_ns) for part in back] == [(3 * far, 3 * far + 5), (12, 40)]
    assert merged(Span.of(50, 60), times) == []
    assert cut(Span(0, 10), Span(20, 30)) == Span(20, 20)
