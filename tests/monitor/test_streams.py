"""Streams: sequence, watch sets, reconnects and restarts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.errors import RecordError
from saewatch.core.records import StreamBeat, StreamEnd
from saewatch.monitor.events import StreamState
from saewatch.monitor.streams import code_of
from tests import fakes
from tests.monitor.stage import API, ENGINE, Stage, observed


def states(stage: Stage) -> list[StreamState]:
    return list(stage.monitor.status(stage.now).streams)


def test_a_jump_in_the_sequence_is_counted_once() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    stage.batch([(7, 0, 1)])
    stage.batch([(7, 3, 1)], seq=4)
    stage.batch([(7, 4, 1)])
    (state,) = states(stage)
    assert (state.seq_gaps, state.received_seq, state.received_rows) == (1, 5, 3)
    assert stage.faults() == {"seq_gaps": 1}


def test_other_labels_hold_from_the_next_batch_on_and_a_request_counts_once() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    stage.batch([(7, 0, 1)], [(0, 2, 1.0)])
    better = [replace(feature, label="better") for feature in reversed(fakes.FEATURES)]
    known = fakes.dictionary(better)
    assert known.weights_digest == stage.known.weights_digest
    stage.monitor.relabel(known, stage.now)
    stage.batch([(7, 1, 1)], [(0, 2, 1.0)])
    before, after = observed(stage.events)
    labels = [{one.table.features[number].label for number in one.fired.feature} for one in (before, after)]
    assert labels == [{"label of threat.l1"}, {"better"}]
    assert [len(one.newly_fired) for one in (before, after)] == [1, 0], "it had fired in this request"
    assert before.table.number < after.table.number
    assert before.table.stream.number == after.table.stream.number
    (state,) = states(stage)
    assert (state.identity.catalogue_digest, state.received_rows) == (known.catalogue_digest, 2)
    (record,) = stage.monitor.records("plain")
    assert [int(tally.sums().count.sum()) for _, tally in record.tallies] == [1, 1]


def test_labels_of_weights_that_nobody_knew_make_them_readable() -> None:
    known = fakes.dictionary()
    stage = Stage(fakes.dictionary(seed=1))
    stage.put(fakes.stream_open(known), fakes.watch_set(known))
    stage.start(7, name="plain")
    stage.batch([(7, 0, 1)], [(0, 2, 1.0)])
    assert [state.blind for state in states(stage)] == ["unknown_dictionary"]
    stage.monitor.relabel(known, stage.now)
    assert [state.blind for state in states(stage)] == [""]
    stage.batch([(7, 1, 1)], [(0, 2, 1.0)])
    (one,) = observed(stage.events)
    assert len(one.fired.feature) == 1


def test_a_batch_that_comes_again_is_dropped() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    stage.batch([(7, 0, 3)], [(0, 0, 1.0)])
    assert stage.batch([(7, 0, 3)], [(0, 0, 1.0)], seq=1) == []
    (state,) = states(stage)
    assert (state.duplicates, state.received_rows, state.received_firings) == (1, 3, 1)


def test_an_acknowledgement_outlives_the_connection_but_not_the_epoch() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    stage.batch([(7, 0, 1)], seq=41)
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known), link=3)
    ack = stage.monitor.acknowledge(3, 1)
    assert ack is not None
    assert (ack.seq, ack.epoch) == (41, 1000)
    stage.monitor.connect(4)
    stage.put(fakes.stream_open(stage.known, epoch=2000), link=4)
    ack = stage.monitor.acknowledge(4, 1)
    assert ack is not None
    assert (ack.seq, ack.epoch) == (0, 2000)


def test_nothing_is_acknowledged_of_a_stream_that_is_not_there() -> None:
    stage = Stage()
    assert stage.monitor.acknowledge(ENGINE, 1) is None
    stage.ready()
    assert stage.monitor.acknowledge(ENGINE, 9) is None


def test_a_watch_set_that_is_told_again_keeps_its_number() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    (before,) = observed(stage.batch([(7, 0, 1)]))
    stage.put(fakes.watch_set(stage.known))
    (after,) = observed(stage.batch([(7, 1, 1)]))
    assert after.table is before.table


def test_a_watch_set_may_change_between_two_steps() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    (before,) = observed(stage.batch([(7, 0, 1)]))
    stage.put(fakes.watch_set(stage.known, watch=2))
    (late,) = observed(stage.batch([(7, 1, 1)]))
    (after,) = observed(stage.batch([(7, 2, 1)], watch=2))
    assert late.table is before.table
    assert after.table.number != before.table.number


def test_a_watch_set_is_of_use_when_its_last_part_has_come() -> None:
    stage = Stage()
    whole = fakes.watch_set(stage.known)
    halves = [
        replace(whole, first=first, row=whole.row[part], floor=whole.floor[part], kind=whole.kind[part])
        for first, part in ((0, slice(0, 2)), (2, slice(2, 4)))
    ]
    stage.put(fakes.stream_open(stage.known), halves[0])
    stage.start(7, name="plain")
    with pytest.raises(RecordError, match=r"firing_batch\.watch"):
        stage.batch([(7, 0, 1)])
    stage.put(halves[0], halves[1])  # from the beginning: the first half was told twice
    (event,) = observed(stage.batch([(7, 1, 1)]))
    assert event.table.slots == 4
    assert stage.faults() == {"refused_tokens": 1}


def test_watch_sets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WATCH_SETS_KEPT", 3)
    stage = Stage().ready()
    stage.start(7, name="plain")
    for watch in range(2, 6):
        stage.put(fakes.watch_set(stage.known, watch=watch))
    assert observed(stage.batch([(7, 0, 1)], watch=3))
    with pytest.raises(RecordError, match=r"firing_batch\.watch"):
        stage.batch([(7, 1, 1)], watch=2)


def test_recomputed_rows_are_not_received_again() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    stage.batch([(7, 0, 4), (7, 0, 3, Origin.RECOMPUTED), (7, 4, 2, Origin.REUSED)], missed=[(7, Reason.GAP, 9)])
    (state,) = states(stage)
    assert (state.received_rows, state.received_missed) == (6, 9)


def test_parts_without_end_are_refused() -> None:
    stage = Stage()
    stage.put(fakes.stream_open(stage.known))
    part = replace(fakes.watch_set(stage.known), total=100)
    for watch in range(limits.WATCH_SETS_KEPT):
        stage.put(replace(part, watch=watch))
    with pytest.raises(RecordError, match="without end"):
        stage.put(replace(part, watch=99))


def test_another_dictionary_under_the_same_number_is_another_stream() -> None:
    stage = Stage().ready()
    stage.put(fakes.stream_open(stage.known, mode="thresholded"))
    (state,) = states(stage)
    assert (state.identity.opening.mode, state.identity.number, state.received_seq) == ("thresholded", 2, 0)


def test_a_restarted_engine_ends_the_streams_of_the_one_before() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known, epoch=2000), link=3)
    assert [state.ended for state in states(stage)] == ["replaced", ""]


def test_two_engines_have_streams_of_the_same_number() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known, engine="engine-1"), fakes.watch_set(stage.known), link=3)
    for link, name in ((ENGINE, "one"), (3, "two")):
        stage.start(7, name=name, link=link)
    stage.batch([(7, 0, 2)], seq=1)
    stage.batch([(7, 0, 5)], seq=1, link=3)
    assert [(state.identity.opening.engine, state.received_rows) for state in states(stage)] == [
        ("engine-0", 2),
        ("engine-1", 5),
    ]
    assert [event.requests[0].engine_id for event in observed(stage.events)] == ["one", "two"]


def test_a_stream_ends_with_its_final_books() -> None:
    stage = Stage().ready()
    stage.put(StreamEnd(stream=1, reason="sleep", final=StreamBeat(stream=1, seq=3, fed=10, encoded=10)))
    (state,) = states(stage)
    assert (state.ended, state.books and state.books.fed, state.connected) == ("sleep", 10, False)
    with pytest.raises(RecordError, match="opened on this connection"):
        stage.batch([(7, 0, 1)])
    stage.put(fakes.stream_open(stage.known))
    assert [state.ended for state in states(stage)] == [""]


def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAMS_KEPT", 5)
    stage = Stage()
    for number in range(20):
        stage.put(fakes.stream_open(stage.known, stream=number))
    assert [state.identity.opening.stream for state in states(stage)] == [15, 16, 17, 18, 19]


@pytest.mark.parametrize(
    ("said", "word"),
    [("self_test_failed", "self_test_failed"), ("CUDA error: out of memory", "reported"), ("x" * 99, "reported")],
)
def test_what_an_engine_says_becomes_one_word(said: str, word: str) -> None:
    assert code_of(said) == word


def test_a_self_test_belongs_to_a_stream_of_its_connection() -> None:
    stage = Stage().ready()
    identity, _ = stage.monitor.self_test(ENGINE, fakes.self_test(), stage.now)
    assert identity.opening.hook_point == "resid_post.3"
    for link, stream in ((ENGINE, 2), (API, 1)):
        with pytest.raises(RecordError, match=r"self_test\.stream"):
            stage.monitor.self_test(link, fakes.self_test(stream=stream, failing="sink"), stage.now)
    assert [state.blind for state in states(stage)] == [""]


def test_a_stream_that_its_engine_does_not_have_any_more_has_ended() -> None:
    stage = Stage().ready()
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known, stream=2), link=3)
    stage.beat(StreamBeat(stream=2, seq=0), link=3)
    assert [(state.ended, state.connected) for state in states(stage)] == [("replaced", False), ("", True)]
    stage.tick(10)
    stage.beat(StreamBeat(stream=2, seq=0), link=3)
    assert [state.blind for state in states(stage)] == ["", ""]


def test_a_stream_that_its_engine_still_has_goes_on() -> None:
    stage = Stage().ready()
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.monitor.connect(3)
    stage.beat(StreamBeat(stream=1, seq=0), link=3)
    stage.put(fakes.stream_open(stage.known), link=3)
    assert [(state.ended, state.connected) for state in states(stage)] == [("", True)]


def test_a_self_test_while_the_tap_was_off_says_nothing_once_it_is_on() -> None:
    stage = Stage().ready()
    stage.beat(StreamBeat(stream=1, seq=0, blind="off"))
    stage.monitor.self_test(ENGINE, fakes.self_test(failing="tap"), stage.now)
    assert states(stage)[0].blind == "off"
    stage.beat(StreamBeat(stream=1, seq=0))
    assert states(stage)[0].blind == ""
    stage.beat(StreamBeat(stream=1, seq=0, blind="off"))
    stage.monitor.self_test(ENGINE, fakes.self_test(failing="sink"), stage.now)
    stage.beat(StreamBeat(stream=1, seq=0))
    assert states(stage)[0].blind == "self_test_failed", "what else was wrong may still be"
