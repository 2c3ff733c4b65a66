"""What is written explains itself, once, and outlives the sidecar that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.core.records import RequestStart
from saewatch.edge.history.retention import Bounds
from saewatch.edge.history.writer import HOUR_NS, Cause, State
from tests import fakes
from tests.edge.history.kept import MIB, MS, T0, kept

REQUESTS = "SELECT engine_id, tenant, traffic_class, state, fed, first_ns, last_ns FROM request ORDER BY id"


def test_a_restart_adds_no_stream_table_or_request(tmp_path: Path) -> None:
    for run in range(3):
        with kept(tmp_path / "h.db") as one:
            one.ready()
            one.start(7, tenant="acme")
            one.now_ns = T0 + run * 10**9
            one.batch([(7, run, 1)], [(0, 0, 1.0)])
            one.flush()
            counts = [one.rows(f"SELECT count(*) FROM {table}")[0][0] for table in ("stream", "watched", "request")]
            assert counts == [1, 1, 1]
            assert one.rows("SELECT count(*) FROM block") == [(run + 1,)]
    with kept(tmp_path / "h.db") as one:
        ((_, tenant, _, state, _, first, last),) = one.rows(REQUESTS)
        assert (tenant, state, first, last) == ("acme", State.OPEN, T0, T0 + 2 * 10**9)


def test_another_start_of_the_engine_has_other_requests(tmp_path: Path) -> None:
    for epoch in (1000, 1001):
        with kept(tmp_path / "h.db") as one:
            one.ready(epoch=epoch)
            one.start(7)
            one.batch([(7, 0, 1)])
            one.flush()
    with kept(tmp_path / "h.db") as one:
        assert one.rows("SELECT epoch, engine_id FROM request") == [(1000, "plain-7"), (1001, "plain-7")]


def test_a_name_used_again_after_its_end_is_another_request(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        for _ in range(2):
            one.start(7)
            one.batch([(7, 0, 1)])
            one.end(7, fed=9)
            one.flush()
        assert [(row[0], row[3], row[4]) for row in one.rows(REQUESTS)] == [("plain-7", State.ENDED, 9)] * 2


def test_a_label_that_the_sidecar_before_knew_stays(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7, tenant="acme", conversation="c")
        one.batch([(7, 0, 1)])
        one.flush()
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.put(one_start())  # its label was told to the sidecar before
        one.now_ns += 2 * 10**9
        one.pipeline.tick()
        one.batch([(7, 1, 1)])
        one.flush()
        ((_, tenant, traffic_class, *_),) = one.rows(REQUESTS)
        assert (tenant, traffic_class) == ("acme", "live")


def one_start() -> Any:
    return RequestStart(request=7, engine_id=fakes.engine_id(7), prompt_len=4)


def test_a_label_that_comes_with_the_next_sidecar_is_kept(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.put(one_start())
        one.now_ns += 2 * 10**9
        one.pipeline.tick()
        one.batch([(7, 0, 1)])
        one.flush()
        assert [row[1:3] for row in one.rows(REQUESTS)] == [("", "unlabelled")]
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7, tenant="acme")
        one.batch([(7, 1, 1)])
        one.flush()
        assert [row[1:3] for row in one.rows(REQUESTS)] == [("acme", "live")]


def test_a_request_that_only_ended_is_there(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        one.end(7, fed=100)
        one.flush()
        assert [row[3:] for row in one.rows(REQUESTS)] == [(State.ENDED, 100, T0, T0)]


def test_a_request_that_retention_removed_comes_back(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db", bounds=Bounds(keep_ns=HOUR_NS, max_bytes=64 * MIB)) as one:
        one.ready()
        one.start(7, tenant="acme")
        one.batch([(7, 0, 1)])
        one.flush()
        one.now_ns += 2 * HOUR_NS
        one.expire()
        assert one.rows(REQUESTS) == []
        one.batch([(7, 1, 1)])
        one.flush()
        assert [row[:2] for row in one.rows(REQUESTS)] == [(one_start().engine_id, "acme")]


def test_losses_of_a_cause_and_hour_are_one(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        for cause, at in (
            (Cause.QUEUE_FULL, 5),
            (Cause.QUEUE_FULL, 9),
            (Cause.QUEUE_FULL, HOUR_NS),
            (Cause.DAMAGED, 7),
        ):
            one.lose(cause, at, tokens=2)
        assert one.rows("SELECT * FROM loss ORDER BY cause, hour") == [
            ("damaged", 0, 7, 7, 2, 1),
            ("queue_full", 0, 5, 9, 4, 2),
            ("queue_full", 1, HOUR_NS, HOUR_NS, 2, 1),
        ]


def test_losses_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_LOSSES", 3)
    with kept(tmp_path / "h.db") as one:
        for hour in range(9):
            one.lose(Cause.QUEUE_FULL, hour * HOUR_NS, tokens=1)
        assert one.rows("SELECT hour FROM loss ORDER BY hour") == [(6,), (7,), (8,)]


def test_what_was_missed_has_its_request_too(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db") as one:
        one.ready()
        one.start(7)
        one.batch([], missed=[(7, Reason.BLIND, 5)])
        one.now_ns += 20 * MS
        one.batch([], missed=[(0, Reason.GAP, 5)])
        one.flush()
        assert [row[0] for row in one.rows(REQUESTS)] == ["plain-7"]
        assert one.rows("SELECT tokens, firings FROM block") == [(10, 0)]
