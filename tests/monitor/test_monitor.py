"""The monitor as a whole: order, reconnects, books and bounds."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from saewatch.core import limits
from saewatch.core.errors import AccessError, RecordError
from saewatch.core.records import Ack, Beat, RequestEnd, RequestStart, Result, StreamBeat
from saewatch.monitor.events import EngineCost, Unreadable
from saewatch.monitor.monitor import Monitor
from saewatch.monitor.requests import RequestTable
from tests import fakes
from tests.monitor.stage import API, ENGINE, Stage, ended, observed, standing


@pytest.mark.parametrize(
    "record", [fakes.batch([(1, 0, 1)]), fakes.watch_set(fakes.dictionary()), RequestEnd(request=1, fed=1, emitted=1)]
)
def test_what_comes_before_its_stream_is_refused(record: object) -> None:
    with pytest.raises(RecordError):
        Stage().put(record)  # type: ignore[arg-type]  # a record of several kinds


def test_an_engine_cannot_speak_for_a_stream_of_another_link() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    with pytest.raises(RecordError):
        stage.batch([(1, 0, 1)], link=3)
    with pytest.raises(RecordError):
        stage.batch([(1, 0, 1)], link=API)


def test_a_connection_that_was_replaced_is_no_longer_heard() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known), fakes.watch_set(stage.known), link=3)
    with pytest.raises(RecordError, match="on this connection"):
        stage.batch([(1, 0, 1)])
    stage.monitor.disconnect(ENGINE, stage.now)
    assert observed(stage.batch([(1, 0, 1)], link=3))


def test_a_link_belongs_to_one_engine() -> None:
    stage = Stage().ready()
    with pytest.raises(RecordError, match="engine-0, as before"):
        stage.put(fakes.stream_open(stage.known, engine="engine-1"))


def test_records_of_the_other_direction_are_refused() -> None:
    with pytest.raises(RecordError, match="on the way"):
        Stage().ready().put(Ack(stream=1, epoch=1, seq=1))


def test_a_slot_beyond_the_watch_set_is_refused_and_its_tokens_are_counted() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    with pytest.raises(RecordError, match="below 4"):
        stage.batch([(7, 0, 2)], [(0, 4, 1.0)])
    assert stage.faults() == {"refused_tokens": 2}
    ack = stage.monitor.acknowledge(ENGINE, 1)
    assert ack is not None
    assert ack.seq == 1, "it was received, and the next ones go on"


def test_the_end_of_a_request_that_is_not_open_is_refused() -> None:
    stage = Stage().ready()
    with pytest.raises(RecordError, match="open request"):
        stage.end(7)


def test_batches_of_an_unknown_dictionary_are_counted_as_tokens() -> None:
    stage = Stage()
    stage.monitor = Monitor(dictionaries={})
    stage.monitor.connect(ENGINE)
    stage.put(fakes.stream_open(stage.known), fakes.watch_set(stage.known))
    (event,) = stage.batch([(7, 0, 5)], [(0, 0, 1.0)])
    assert isinstance(event, Unreadable)
    assert (event.tokens, stage.faults()) == (5, {"unknown_dictionaries": 1, "unreadable_tokens": 5})


def test_a_beat_tells_the_books() -> None:
    stage = Stage().ready()
    (told,) = standing(stage.beat(StreamBeat(stream=1, seq=3, fed=10, encoded=7, missed={"gap": 2}, in_flight=1)))
    assert told.streams[0].books is not None
    assert (told.streams[0].books.fed, told.streams[0].books.imbalance) == (10, 0)


def test_cost_is_what_was_spent_since_the_beat_before() -> None:
    stage = Stage().ready()

    def cost(**seconds: float) -> EngineCost:
        (event,) = (one for one in stage.beat(stage_seconds=seconds, queue_bytes=5) if isinstance(one, EngineCost))
        return event

    assert cost(ship=100.0).stage_seconds == {"ship": 100.0}, "the first beat had no stages"
    assert cost(ship=100.5).stage_seconds == {"ship": 0.5}
    assert cost(ship=101.0, sink=0.25).stage_seconds == {"ship": 0.5, "sink": 0.25}
    assert cost(ship=1.0).stage_seconds["ship"] == 0.0
    assert stage.monitor.status(stage.now).queues == (("engine-0", 5),)


def reconnect(stage: Stage, link: int) -> None:
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.monitor.connect(link)
    stage.put(fakes.stream_open(stage.known), fakes.watch_set(stage.known), link=link)
    stage.beat(link=link)


def test_after_a_reconnect_what_is_not_named_has_ended() -> None:
    stage = Stage().ready()
    for request in (7, 8):
        stage.start(request, name=f"plain-{request}")
    reconnect(stage, 3)
    stage.start(8, name="plain-8", link=3)
    assert ended(stage.events) == []
    (gone,) = ended(stage.beat(link=3))
    assert (gone.identity.engine_id, gone.lost) == ("plain-7", True)
    (event,) = observed(stage.batch([(8, 0, 1)], link=3))
    assert event.requests[0].engine_id == "plain-8"
    assert ended(stage.beat(link=3)) == []


def test_the_requests_of_a_restarted_engine_have_ended() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain-7")
    stage.monitor.connect(3)
    events = stage.put(fakes.stream_open(stage.known, epoch=2000), link=3)
    assert [event.identity.engine_id for event in ended(events)] == ["plain-7"]


def test_the_requests_of_an_engine_that_does_not_come_back_have_ended() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain-7")
    stage.monitor.disconnect(ENGINE, stage.now)
    assert ended(stage.tick(59.0)) == []
    assert [event.lost for event in ended(stage.tick(2.0))] == [True]
    assert ended(stage.tick(60.0)) == []


def test_rates() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    for position in range(10):
        stage.batch([(7, position, 1)], [(0, 0, 1.0), (0, 1, 1.0)])
    stage.tick(1.0)
    rates = stage.monitor.status(stage.now).rates
    assert (rates.tokens_per_second, rates.firings_per_second) == (1.0, 2.0)


def test_ten_thousand_requests_in_bounded_memory() -> None:
    stage = Stage().ready()

    batch = fakes.batch([(1, 0, 8)], [(row, slot, 1.0) for row in range(8) for slot in range(4)])

    def serve(first: int, last: int) -> None:
        for request in range(first, last):
            stage.label(request)
            stage.start(request)
            stage.put(replace(batch, request=np.array([request], dtype=np.uint32), seq=request))
            stage.end(request)
        stage.events.clear()

    serve(1, 10_001)
    tracemalloc.start()
    serve(10_001, 10_501)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    status = stage.monitor.status(stage.now)
    assert (status.open_requests, status.kept_records) == (0, 10_000)
    # As many old records went, which were made before the tracing: what was traced is what is kept of the new ones.
    assert grown < 500 * 12_000, f"{grown / 500:.0f} bytes a kept request"
    (table,) = [one for one in gc.get_objects() if type(one) is RequestTable and one.kept_count == 10_000]
    assert len(vars(table)["_names"]) == 3 * 10_000, "the names of forgotten requests are forgotten"
    assert len(table.roster.waits) <= 2 * limits.REQUESTS_LEAVING, "places are given again"


def blind(stage: Stage) -> list[tuple[str, str]]:
    stage.tick()
    return [(state.reason, state.subject) for state in stage.monitor.status(stage.now).blind]


def test_an_engine_whose_name_another_one_took_is_refused_and_said_to_be_blind() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known, epoch=2000), link=3)
    stage.beat(link=3, epoch=2000)
    said = (
        Beat(engine="engine-0", epoch=1000, time_ns=stage.now),
        RequestStart(request=7, engine_id="plain", prompt_len=1),
        fakes.stream_open(stage.known),
    )
    for record in said:
        with pytest.raises(RecordError, match="`instance`"):
            stage.put(record)
    assert blind(stage) == [("replaced", "engine-0 of 1000")]
    assert stage.monitor.status(stage.now).open_requests == 0
    stage.beat(link=3, epoch=2000)
    stage.monitor.disconnect(ENGINE, stage.now)
    assert blind(stage) == []


def test_two_links_of_one_engine_the_later_one_leaves_and_the_first_one_beats() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    stage.beat(link=3)
    stage.monitor.disconnect(3, stage.now)
    with pytest.raises(RecordError, match="`instance`"):
        stage.beat()
    assert ("replaced", "engine-0 of 1000") in blind(stage)


def test_an_engine_whose_name_is_free_again_is_to_connect_anew_and_is_heard() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known, epoch=2000), link=3)
    stage.monitor.disconnect(3, stage.now)
    stage.tick(30.0)
    with pytest.raises(RecordError):
        stage.beat()
    stage.tick(31.0)
    with pytest.raises(AccessError, match="whose place another took"):
        stage.beat()
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.monitor.connect(4)
    stage.put(fakes.stream_open(stage.known), link=4)
    stage.beat(link=4)
    assert blind(stage) == []
    assert [(state.ended, state.connected) for state in stage.monitor.status(stage.now).streams] == [
        ("", True),
        ("replaced", False),
    ]


def test_an_older_start_of_an_engine_does_not_end_the_streams_of_a_newer_one() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    for expected in ("engine-0 of 1000 or later", "a name of its own"):
        with pytest.raises(RecordError, match=expected):
            stage.put(fakes.stream_open(stage.known, epoch=500), link=3)
    assert [state.ended for state in stage.monitor.status(stage.now).streams] == [""]
    stage.beat()
    assert blind(stage) == [("replaced", "engine-0 of 500")]


def test_an_engine_whose_clock_went_back_is_heard_when_the_one_before_is_forgotten() -> None:
    stage = Stage().ready()
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.tick(61.0)
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known, epoch=500), link=3)
    stage.beat(link=3, epoch=500)
    assert blind(stage) == []


def test_an_older_engine_without_a_stream_cannot_open_one_beside_a_newer_one() -> None:
    stage = Stage()
    stage.beat()
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known, epoch=2000), link=3)
    with pytest.raises(RecordError, match="`instance`"):
        stage.put(fakes.stream_open(stage.known))
    assert [state.identity.opening.epoch for state in stage.monitor.status(stage.now).streams] == [2000]


def test_a_stream_in_whose_place_another_is_no_longer_has_that_place() -> None:
    """It ends later, when all of it was acknowledged: what is to replace the new one must not find both."""
    one, other = fakes.dictionary(), fakes.dictionary(seed=1)
    stage = Stage(one, other).ready()
    stage.put(fakes.stream_open(one, stream=2, role="shadow"))
    stage.put(fakes.stream_open(other, stream=3))
    asked = {"replace": one.weights_digest, "hook_point": "resid_post.3", "role": "stable", "path": "/x"}
    stage.monitor.replaced(1, 3, {**asked, "hook_point": "resid_post.9"})
    assert [found.opening.stream for found in stage.monitor.opened(1)] == [1, 2, 3]
    stage.monitor.replaced(1, 3, asked)
    assert [found.opening.stream for found in stage.monitor.opened(1)] == [2, 3]
    stage.put(fakes.stream_open(one, stream=4))
    stage.monitor.replaced(1, 4, {"replace": other.weights_digest, "hook_point": ""})
    assert [found.opening.stream for found in stage.monitor.opened(1)] == [2, 4], "also without a role"


def test_connected_engines_and_their_links() -> None:
    stage = Stage()
    assert stage.monitor.engines() == {}, "an API server is none"
    stage.ready()
    stage.monitor.connect(5)
    stage.put(fakes.stream_open(stage.known, engine="engine-1"), link=5)
    assert stage.monitor.engines() == {"engine-0": ENGINE, "engine-1": 5}
    stage.monitor.disconnect(ENGINE, stage.now)
    assert stage.monitor.engines() == {"engine-1": 5}


def test_a_result_of_nothing_that_was_asked_is_refused() -> None:
    with pytest.raises(RecordError):
        Stage().ready().put(Result(command=1, good=True))
