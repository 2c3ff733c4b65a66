"""The lock, the queues and what a full one drops."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from saewatch.core.errors import EngineError, RecordError, UnreachableError
from saewatch.core.records import RequestStart, Result
from saewatch.edge.pipeline import Dropped, Pipeline, SinkQueue
from saewatch.monitor.events import Observed, Standing
from tests import fakes
from tests.monitor.stage import Stage


def pipeline(*queues: SinkQueue, now: int = 10**18) -> Pipeline:
    known = fakes.dictionary()
    return Pipeline(dictionaries={known.weights_digest: known}, queues=queues, clock=lambda: now)


def feed(one: Pipeline, batches: int) -> None:
    known = fakes.dictionary()
    one.connect(1)
    for record in (
        fakes.stream_open(known),
        fakes.watch_set(known),
        RequestStart(request=7, engine_id="plain", prompt_len=4),
    ):
        one.receive(1, record)
    for number in range(batches):
        one.receive(1, fakes.batch([(7, number, 2)], [(0, 0, 1.0)], seq=number + 1))


def test_every_sink_gets_everything() -> None:
    queues = [SinkQueue(name, lambda: None) for name in ("a", "b")]
    feed(pipeline(*queues), 3)
    for queue in queues:
        assert [type(item) for item in queue.take()] == [Observed] * 3
        assert queue.take() == []


def test_a_full_queue_drops_the_newest_and_says_so_and_others_do_not() -> None:
    small, large = SinkQueue("small", lambda: None, bound=5), SinkQueue("large", lambda: None)
    feed(pipeline(small, large), 12)
    items = small.take()
    assert [type(item) for item in items] == [Observed] * 5 + [Dropped]
    assert items[-1] == Dropped(events=7, tokens=14, firings=7, streams={1: (14, 7)})
    assert (small.state().dropped, large.state().dropped) == (7, 0)
    assert len(large.take()) == 12
    assert small.take() == []
    assert small.state().dropped == 7, "the total stays"


def test_missed_tokens_count_as_tokens() -> None:
    queue = SinkQueue("q", lambda: None, bound=1)
    stage = Stage().ready()
    stage.start(7, name="plain")
    events = stage.batch([(7, 0, 1)]) + stage.batch([], missed=[(7, 3, 9)])
    queue.put(events)
    assert queue.take()[-1] == Dropped(events=1, tokens=9, firings=0, streams={1: (9, 0)})


def test_the_sink_is_woken_once_for_what_waits() -> None:
    woken = []
    queue = SinkQueue("q", lambda: woken.append(1))
    stage = Stage().ready()
    queue.put(stage.events)
    queue.put(stage.events)
    assert len(woken) == 1
    queue.take()
    queue.put(stage.events)
    assert len(woken) == 2


def test_a_sink_that_takes_many_together_is_woken_when_they_are_there() -> None:
    woken = []
    queue = SinkQueue("q", lambda: woken.append(1), bound=4, wake_at=3)
    stage = Stage().ready()
    for count in (1, 2, 3, 4, 5):
        queue.put(stage.events[-1:])
        assert (len(woken), queue.due) == (int(count >= 3), count >= 3)
    taken = queue.taken()
    assert queue.due, "it is taken when it is looked at"
    assert [type(item) for item in taken][-1] is Dropped
    assert not queue.due


def test_a_sink_gets_what_it_wants() -> None:
    queue = SinkQueue("q", lambda: None, wants=(Standing,))
    stage = Stage().ready()
    stage.start(7, name="plain")
    queue.put([*stage.events, *stage.batch([(7, 0, 1)])])
    found = queue.take()
    assert found
    assert {type(item) for item in found} == {Standing}


def test_bytes_that_wait() -> None:
    queue = SinkQueue("q", lambda: None)
    feed(pipeline(queue), 2)
    assert queue.state().bytes == 2 * 27
    queue.take()
    assert queue.state().bytes == 0


def test_time_passes() -> None:
    queue = SinkQueue("q", lambda: None)
    one = pipeline(queue)
    one.tick()
    (standing,) = queue.take()
    assert isinstance(standing, Standing)
    assert [state.reason for state in standing.blind] == ["no_engine"]
    assert one.queues()[0].name == "q"


def test_a_record_that_makes_no_sense_reaches_the_caller() -> None:
    one = pipeline()
    one.connect(1)
    with pytest.raises(RecordError):
        one.receive(1, fakes.batch([(7, 0, 1)]))
    one.disconnect(1)


def test_readers_and_the_ingest_thread_do_not_meet() -> None:
    one = pipeline()

    def read() -> None:
        for _ in range(200):
            one.status()
            one.records("plain")

    with ThreadPoolExecutor() as readers:
        reading = [readers.submit(read) for _ in range(2)]
        feed(one, 200)
    assert [future.exception() for future in reading] == [None, None]
    assert one.status().streams[0].received_rows == 400


# --- self-tests -------------------------------------------------------------------------------------------------------
def test_an_answer_is_booked_before_who_asked_has_it() -> None:
    queue = SinkQueue("q", lambda: None)
    one = pipeline(queue)
    feed(one, 0)
    asked, new = one.ask("engine-0")
    assert new
    seen: list[str] = []
    asked.answer.add_done_callback(lambda _: seen.append("answered"))
    queue.take()
    one.receive(1, fakes.self_test(failing="rows").result(asked.command.command))
    ((examined,), (standing,)) = asked.answer.result(0).examined, queue.take()
    assert (examined.stream.opening.engine, examined.test.good, seen) == ("engine-0", False, ["answered"])
    assert isinstance(standing, Standing)
    assert [state.reason for state in standing.blind] == ["self_test_failed"]
    assert [state.reason for state in one.status().blind] == ["self_test_failed"]


def test_only_a_connected_engine_can_be_asked() -> None:
    one = pipeline()
    assert one.engines() == []
    feed(one, 0)
    assert one.engines() == ["engine-0"]
    with pytest.raises(UnreachableError, match="engine-7"):
        one.ask("engine-7")
    asked, _ = one.ask("engine-0")
    one.disconnect(1)
    with pytest.raises(UnreachableError, match="engine engine-0: found no connection"):
        asked.answer.result(0)
    with pytest.raises(UnreachableError, match="engine-0"):
        one.ask("engine-0")


def test_a_result_on_another_connection_is_refused_and_changes_nothing() -> None:
    one = pipeline()
    feed(one, 0)
    one.connect(2)
    asked, _ = one.ask("engine-0")
    with pytest.raises(RecordError, match=r"result\.command"):
        one.receive(2, fakes.self_test(failing="rows").result(asked.command.command))
    assert not asked.answer.done()
    assert one.status().streams[0].blind == ""


# --- changes ----------------------------------------------------------------------------------------------------------
def test_the_stream_that_opened_is_found_by_the_engines_number() -> None:
    one = pipeline()
    feed(one, 0)
    asked, _ = one.ask("engine-0", "load", {"replace": "x"})
    assert asked.command.arguments == {"replace": "x"}
    one.receive(1, fakes.stream_open(fakes.dictionary(seed=1), stream=2))
    assert [identity.opening.stream for identity in one.streams()["engine-0"]] == [1, 2]
    one.receive(1, Result(command=asked.command.command, good=True, details={"opened": "2", "slots": "5"}))
    answer = asked.answer.result(0)
    assert answer.opened is one.streams()["engine-0"][1]
    assert answer.slots == 5


def test_a_stream_that_nobody_heard_of_is_none() -> None:
    one = pipeline()
    feed(one, 0)
    asked, _ = one.ask("engine-0", "load", {})
    one.receive(1, Result(command=asked.command.command, good=True, details={"opened": "9"}))
    assert asked.answer.result(0).opened is None


def test_a_change_that_was_not_made_and_one_that_cannot_be_read() -> None:
    one = pipeline()
    feed(one, 0)
    asked, _ = one.ask("engine-0", "off")
    one.receive(1, Result(command=asked.command.command, good=False, message="off: not carried out yet"))
    with pytest.raises(EngineError, match=r"found off: not carried out yet, expected a tap that is off\. Update"):
        asked.answer.result(0)
    asked, _ = one.ask("engine-0", "off")
    with pytest.raises(RecordError, match=r"result\.slots"):
        one.receive(1, Result(command=asked.command.command, good=True, details={"slots": "many"}))
    with pytest.raises(EngineError, match=r"engine engine-0: result\.slots: found 'many'"):
        asked.answer.result(0)


def test_a_self_test_is_not_what_a_change_is_answered_with() -> None:
    one = pipeline()
    feed(one, 0)
    asked, _ = one.ask("engine-0")
    with pytest.raises(EngineError, match="busy with 'self_test'"):
        one.ask("engine-0", "off")
    one.receive(1, Result(command=asked.command.command, good=True))
    with pytest.raises(EngineError, match="found a refusal, expected a self-test"):
        asked.answer.result(0)
