"""Requests out of a recording: those of which everything is known, with what fired; the others counted by why."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saewatch.core import aggregate, limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.marks import RecordingHead
from saewatch.core.recording import Recording, Writer
from saewatch.core.records import Record, RequestEnd, RequestStart
from saewatch.edge import dictionaries
from saewatch.edge.requests import (
    CHANGED,
    CUT,
    ENDED,
    INCOMPLETE,
    LONG,
    LOST,
    OPEN,
    UNSEEN,
    RecordedRequest,
    RecordedRequests,
)
from saewatch.monitor.policy.rule import read as read_policy
from tests import fakes
from tests.edge.taped import KNOWN, Taped

DEMO = Path(__file__).resolve().parents[2] / "recordings" / "demo.frames"
BUNDLE = Path(__file__).resolve().parents[2] / "dictionaries" / "smollm2-135m-it.resid_post.14"


def recording(*records: Record) -> Recording:
    """Of one engine that opens its stream and watches everything."""
    file = io.BytesIO()
    writer = Writer(file, RecordingHead(program="test", began_ns=1))
    opened = (fakes.stream_open(KNOWN), fakes.watch_set(KNOWN), fakes.beat())
    for number, record in enumerate([*opened, *records]):
        writer.write(1, number * 1_000_000, record)
    writer.close()
    return Recording(file)


def read(*records: Record) -> tuple[Mapping[str, RecordedRequest], Mapping[str, int]]:
    """The requests by their engine's id, and why others were left out."""
    found = RecordedRequests(recording(*records), KNOWN)
    told = {one.identity.engine_id: one for one in found}
    return told, dict(found.left_out)


def request(number: int, fed: int, *batches: Any, prompt_len: int = 3) -> list[Record]:
    start = RequestStart(request=number, engine_id=f"r{number}", prompt_len=prompt_len)
    return [start, *batches, RequestEnd(request=number, fed=fed, emitted=max(fed - prompt_len + 1, 0))]


def test_a_request_in_several_batches() -> None:
    told, left_out = read(
        *request(
            5,
            5,
            fakes.batch([(5, 1, 2)], [(0, 0, 2.0), (0, 1, 3.0), (1, 2, 7.0)], missed=[(5, Reason.EXCLUDED, 1)]),
            fakes.batch([(5, 3, 2)], [(1, 3, 4.0)], seq=2),
        )
    )
    assert left_out == {}
    (one,) = told.values()
    assert one.seen.tolist() == [False, True, True, True, True]
    assert sorted(zip(one.position.tolist(), one.slot.tolist(), one.value.tolist(), strict=True)) == [
        (1, 0, 2.0),
        (1, 1, 3.0),
        (2, 2, 7.0),
        (4, 3, 4.0),
    ]
    scores = aggregate.scores(one.table.features, *one.columns())[:, 0]
    assert scores.tolist() == [3.0, 7.0, 4.0], "the largest of a group, then a latent and a direction"


def test_a_position_that_is_computed_again_has_what_it_gave_last() -> None:
    told, _ = read(
        *request(
            5,
            3,
            fakes.batch([(5, 0, 3)], [(0, 2, 1.0), (1, 2, 2.0), (2, 2, 3.0)]),
            fakes.batch([(5, 1, 2, Origin.RECOMPUTED)], [(0, 2, 9.0)], seq=2),
        )
    )
    (one,) = told.values()
    assert sorted(zip(one.position.tolist(), one.value.tolist(), strict=True)) == [(0, 1.0), (1, 9.0)]


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (request(5, 4, fakes.batch([(5, 0, 3)])), INCOMPLETE),
        (request(5, 3, fakes.batch([(5, 0, 2)], missed=[(5, Reason.NO_SLOT, 1)])), INCOMPLETE),
        (request(5, 3, fakes.batch([(5, 1, 3)])), INCOMPLETE),
        (request(5, 4, fakes.batch([(5, 0, 2)]), fakes.batch([(5, 1, 2)], seq=2)), INCOMPLETE),
        (request(5, 3), UNSEEN),
        (request(5, 3, fakes.batch([(5, 0, 3)]))[:-1], LOST),
        (
            request(
                5,
                4,
                fakes.batch([(5, 0, 3)]),
                fakes.watch_set(KNOWN, watch=2),
                fakes.batch([(5, 3, 1)], seq=2, watch=2),
            ),
            CHANGED,
        ),
    ],
)
def test_what_is_left_out(records: list[Record], why: str) -> None:
    told, left_out = read(*records, *request(6, 2, fakes.batch([(6, 0, 2)], [(1, 2, 2.5)], seq=9)))
    assert list(told) == ["r6"]
    assert left_out == {why: 1}


POLICY = read_policy(
    {"policy": "p", "rules": [{"id": "a", "severity": "low", "when": {"feature": "threat.l1", "above": 1.0}}]}, "p.yaml"
)


def test_requests_come_with_their_alerts_and_without_a_policy_with_none() -> None:
    records = request(5, 4, fakes.batch([(5, 0, 4)], [(1, 2, 7.0)]))
    [one] = RecordedRequests(recording(*records), KNOWN, policies=[POLICY])
    assert [(alert.state, alert.position) for alert in one.alerts] == [("active", 1), ("resolved", 4)]
    [one] = RecordedRequests(recording(*records), KNOWN)
    assert one.alerts == ()


def test_requests_that_were_not_wholly_seen_are_told_where_they_are_asked_for() -> None:
    records = request(5, 6, fakes.batch([(5, 0, 4)], [(1, 2, 7.0)], missed=[(5, Reason.NO_SLOT, 2)]))
    assert list(RecordedRequests(recording(*records), KNOWN)) == []
    [one] = RecordedRequests(recording(*records), KNOWN, policies=[POLICY], whole=False)
    assert (one.missed, int(one.seen.sum()), len(one.seen)) == ({"no_slot": 2}, 4, 6)
    assert [alert.state for alert in one.alerts] == ["active", "resolved"]


def test_a_request_that_has_not_ended_is_told_where_it_is_asked_for() -> None:
    batch = fakes.batch([(5, 1, 3)], [(1, 2, 7.0)], missed=[(5, Reason.EXCLUDED, 1), (5, Reason.NO_SLOT, 2)])
    records = [*request(5, 9, batch)[:-1], *request(6, 2, fakes.batch([(6, 0, 2)], seq=2))]
    found = RecordedRequests(recording(*records), KNOWN, policies=[POLICY], whole=False, unfinished=True)
    told = {one.identity.engine_id: one for one in found}
    assert {name: one.end for name, one in told.items()} == {"r6": ENDED, "r5": OPEN}, "it comes last"
    assert (len(told["r5"].seen), int(told["r5"].seen.sum())) == (6, 3), "so many were fed at least"
    assert [alert.state for alert in told["r5"].alerts] == ["active"]
    assert found.left_out == {}
    assert found.finished == {"unlabelled": 1}, "only what has ended is counted as such"


def test_a_request_that_was_lost_with_its_engine_is_told_as_such() -> None:
    again: list[Record] = [fakes.beat(), fakes.beat()]  # of an engine that does not name it any more
    file = io.BytesIO()
    writer = Writer(file, RecordingHead(program="test", began_ns=1))
    batch = fakes.batch([(5, 0, 3)], [(1, 2, 7.0)])
    for number, record in enumerate([fakes.stream_open(KNOWN), fakes.watch_set(KNOWN), *request(5, 9, batch)[:-1]]):
        writer.write(1, number * 1_000_000, record)
    came: list[Record] = [fakes.stream_open(KNOWN), fakes.watch_set(KNOWN), *again]
    for number, record in enumerate(came, 100):
        writer.write(2, number * 1_000_000, record)
    writer.close()
    found = RecordedRequests(Recording(file), KNOWN, whole=False, unfinished=True)
    assert [(one.end, len(one.seen)) for one in found] == [(CUT, 3)]


def test_a_request_without_end_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORDED_REQUEST_TOKENS", 3)
    assert read(*request(5, 4, fakes.batch([(5, 0, 4)])))[1] == {LONG: 1}
    huge = fakes.batch([(5, 0, 3)], missed=[(5, Reason.EXCLUDED, limits.POSITION_MAX - 3)])
    assert read(*request(5, limits.POSITION_MAX, huge))[1] == {LONG: 1}


def test_a_scene_with_everything_that_happens(tmp_path: Path) -> None:
    """8 missed tokens, and 10 stayed open: 7 and 9 are whole."""
    taped = Taped(tmp_path)
    taped.play()
    with taped.file.open("rb") as file:
        found = RecordedRequests(Recording(file), KNOWN)
        told = [one.identity.engine_id for one in found]
    assert sorted(told) == [fakes.engine_id(7), "plain"]
    assert found.left_out == {INCOMPLETE: 1, LOST: 1}
    assert set(found.weights) == {KNOWN.weights_digest}


def test_the_demo_s_recording_agrees_with_the_sidecar_s_records() -> None:
    """Every firing that the file holds of a whole request is told, once."""
    known = dictionaries.load_one(BUNDLE)
    with DEMO.open("rb") as file:
        read_back = RecordedRequests(Recording(file), known)
        told = list(read_back)
        pipeline = read_back._pipeline  # noqa: SLF001 - the very monitor that the requests came from
        for one in told:
            (record,) = pipeline.records(one.identity.engine_id)
            ((_, tally),) = [pair for pair in record.tallies if pair[0].stream.number == one.table.stream.number]
            sums = tally.sums()
            assert sums.count.sum() == len(one.position)
            assert tally.prompt_tokens + tally.answer_tokens == int(one.seen.sum())
    assert len(told) > 10
    assert sum(len(one.position) for one in told) > 100
    assert all(np.isfinite(one.value).all() for one in told)


def test_another_dictionary_has_no_requests_here() -> None:
    other = fakes.dictionary(seed=1)
    found = RecordedRequests(recording(*request(5, 3, fakes.batch([(5, 0, 3)]))), other)
    assert list(found) == []
    assert set(found.weights) == {KNOWN.weights_digest}
