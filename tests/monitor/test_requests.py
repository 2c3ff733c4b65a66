"""Requests, their labels, and what is kept."""

from __future__ import annotations

import pytest

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.core.records import TrafficClass
from tests import fakes
from tests.monitor.stage import SECOND, Stage, ended, firings_of, observed


def test_a_label_before_its_request() -> None:
    stage = Stage().ready()
    stage.label(7, traffic_class="canary", conversation="c1", trace_id="t1")
    stage.start(7)
    (event,) = observed(stage.batch([(7, 0, 4)], [(1, 0, 2.0)]))
    (identity,) = event.requests
    assert (identity.client_id, identity.tenant, identity.traffic_class) == ("client-7", "acme", TrafficClass.CANARY)
    assert (identity.key, identity.conversation, identity.trace_id) == (fakes.key(7), "c1", "t1")
    assert (identity.engine_id, identity.prompt_len) == (fakes.engine_id(7), 4)


def test_an_id_without_a_key_is_unlabelled_at_once() -> None:
    stage = Stage().ready()
    stage.start(7, name="cmpl-of-somebody")
    (event,) = observed(stage.batch([(7, 0, 4)]))
    assert event.requests[0].traffic_class == TrafficClass.UNLABELLED


def test_batches_wait_for_a_late_label_in_order_and_others_do_not() -> None:
    stage = Stage().ready()
    stage.label(8)
    stage.start(7)
    stage.start(8)
    (first,) = observed(stage.batch([(7, 0, 4), (8, 0, 2)], [(0, 0, 1.0), (5, 1, 2.0)], missed=[(7, Reason.GAP, 3)]))
    assert firings_of(first) == {(fakes.engine_id(8), 1, 1, 2.0)}
    assert not len(first.batch.missed_request)
    assert observed(stage.batch([(7, 4, 1)], [(0, 2, 3.0)])) == []
    assert stage.end(7) == [], "its end comes after its batches"
    stage.now += SECOND // 2
    events = stage.label(7)
    held = observed(events)
    assert [firings_of(event) for event in held] == [
        {(fakes.engine_id(7), 0, 0, 1.0)},
        {(fakes.engine_id(7), 4, 2, 3.0)},
    ]
    assert held[0].batch.missed_tokens.tolist() == [3]
    assert [event.identity.client_id for event in ended(events)] == ["client-7"]
    assert events[-1] is ended(events)[0]
    assert stage.faults() == {}


def test_a_label_that_does_not_come_in_time() -> None:
    stage = Stage().ready()
    stage.start(7)
    stage.batch([(7, 0, 4)], [(0, 2, 1.0)])
    assert observed(stage.tick(0.9)) == []
    (event,) = observed(stage.tick(0.1))
    assert event.requests[0].traffic_class == TrafficClass.UNLABELLED
    stage.label(7)
    (event,) = observed(stage.batch([(7, 4, 1)]))
    assert event.requests[0].traffic_class == TrafficClass.UNLABELLED, "one request, one series"
    assert stage.faults() == {"labels_missing": 1, "labels_late": 1}
    (record,) = stage.monitor.records("client-7")
    assert record.label is not None
    assert (record.label.tenant, record.traffic_class) == ("acme", "unlabelled")


def test_held_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HELD_BYTES", 2_000)
    stage = Stage().ready()
    for request in range(1, 41):
        stage.start(request)
    for request in range(1, 41):
        stage.batch([(request, 0, 8)], [(row, 0, 1.0) for row in range(8)])
    early = [event.requests[0].key for event in observed(stage.events)]
    assert early == [fakes.key(number) for number in range(1, len(early) + 1)], "the oldest first"
    assert 20 <= len(early) < 40
    stage.tick(1.0)
    assert len(observed(stage.events)) == 40, "nothing is lost"


def test_a_number_given_anew_is_another_request() -> None:
    stage = Stage().ready()
    stage.label(1)
    stage.label(2)
    stage.start(9, name=fakes.engine_id(1))
    (gone,) = ended(stage.start(9, name=fakes.engine_id(2)))
    assert (gone.identity.client_id, gone.lost) == ("client-1", True)
    (event,) = observed(stage.batch([(9, 0, 1)]))
    assert event.requests[0].client_id == "client-2"


def test_a_request_is_found_by_each_of_its_names() -> None:
    stage = Stage().ready()
    stage.label(7)
    stage.start(7)
    for name in (fakes.key(7), fakes.engine_id(7), "client-7"):
        assert len(stage.monitor.records(name)) == 1, name
    assert stage.monitor.records("nobody") == []


def test_a_client_that_uses_anothers_key_as_its_id_gets_nothing_of_it() -> None:
    stage = Stage().ready()
    stage.label(8, client_id=fakes.key(7), tenant="mallory")
    stage.start(8)
    stage.label(7)
    stage.start(7)
    (event,) = observed(stage.batch([(7, 0, 1), (8, 0, 1)]))
    assert [event.requests[index].tenant for index in event.span_request] == ["acme", "mallory"]
    stage.label(7, outcome="completed")
    found = {
        record.start.request: record.label.outcome for record in stage.monitor.records(fakes.key(7)) if record.label
    }
    assert found == {7: "completed", 8: ""}


def test_several_answers_share_a_key() -> None:
    stage = Stage().ready()
    stage.label(7)
    stage.start(1, name=f"0_cmpl-{fakes.key(7)}-0")
    stage.start(2, name=f"1_cmpl-{fakes.key(7)}-0")
    assert [record.start.request for record in stage.monitor.records("client-7")] == [2, 1], "latest first"


def test_how_it_ended_comes_from_the_api_server() -> None:
    stage = Stage().ready()
    stage.label(7)
    stage.start(7)
    stage.end(7, fed=9, emitted=6)
    stage.label(7, outcome="disconnected", status=200)
    (record,) = stage.monitor.records(fakes.key(7))
    assert record.end is not None
    assert record.label is not None
    assert (record.end.fed, record.end.emitted, record.label.outcome) == (9, 6, "disconnected")


def test_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORDS_KEPT", 100)
    stage = Stage().ready()
    for request in range(1, 301):
        stage.label(request)
        stage.start(request)
        stage.batch([(request, 0, 1)], [(0, 0, 1.0)])
        stage.end(request)
    assert stage.monitor.status(stage.now).kept_records == 100
    assert stage.monitor.records("client-200") == []
    assert len(stage.monitor.records("client-201")) == 1


def test_records_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORD_BYTES", 36 * 50)
    stage = Stage().ready()
    for request in range(1, 301):
        stage.start(request, name=f"plain-{request}")
        stage.batch([(request, 0, 1)], [(0, 2, 1.0)])
        stage.end(request)
    assert stage.monitor.status(stage.now).kept_records == 50


def test_labels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LABELS_KEPT", 10)
    stage = Stage().ready()
    for request in range(1, 31):
        stage.label(request)
    stage.start(20)
    stage.start(21)
    (event,) = observed(stage.batch([(20, 0, 1), (21, 0, 1)]))
    assert [one.client_id for one in event.requests] == ["client-21"], "20 waits: its label was the oldest"


def test_open_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPEN_REQUESTS", 10)
    stage = Stage().ready()
    for request in range(1, 31):
        stage.start(request, name=f"plain-{request}")
    assert stage.monitor.status(stage.now).open_requests == 10
    assert [event.identity.engine_id for event in ended(stage.events)][-1] == "plain-20"
    assert stage.faults() == {"requests_lost": 20}
