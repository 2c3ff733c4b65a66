"""What does not see, and that it is said."""

from __future__ import annotations

from dataclasses import replace

from saewatch.core.records import StreamBeat, StreamEnd
from saewatch.core.selftest import Check, CheckState, SelfTest
from saewatch.monitor.monitor import Monitor
from tests import fakes
from tests.monitor.stage import ENGINE, SECOND, Stage, standing


def reasons(stage: Stage) -> list[str]:
    stage.tick()
    return [state.reason for state in stage.monitor.status(stage.now).blind]


def test_without_an_engine() -> None:
    assert reasons(Stage()) == ["no_engine"]


def test_with_an_engine_that_beats() -> None:
    stage = Stage().ready()
    assert reasons(stage) == []


def test_an_engine_without_a_stream() -> None:
    stage = Stage()
    stage.beat()
    assert reasons(stage) == ["no_stream"]


def test_no_beat_for_three_seconds() -> None:
    stage = Stage().ready()
    stage.tick(3.0)
    assert reasons(stage) == []
    stage.tick(0.1)
    assert reasons(stage) == ["no_beat"]
    (state,) = stage.monitor.status(stage.now).blind
    since = state.since_ns
    stage.tick(5.0)
    (state,) = stage.monitor.status(stage.now).blind
    assert state.since_ns == since
    stage.beat()
    assert reasons(stage) == []


def test_a_killed_engine_stays_blind() -> None:
    stage = Stage().ready()
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.tick(100.0)
    assert reasons(stage) == ["no_beat", "no_engine"]


def test_an_unknown_dictionary() -> None:
    stage = Stage()
    stage.monitor = Monitor(dictionaries={})
    stage.monitor.connect(ENGINE)
    stage.put(fakes.stream_open(stage.known))
    stage.beat()
    (state,) = stage.monitor.status(stage.now).blind
    assert state.reason == "unknown_dictionary"
    assert stage.known.weights_digest[:19] in state.subject
    assert "dictionaries" in state.hint
    assert stage.faults() == {"unknown_dictionaries": 1}


def test_an_engine_without_a_dictionary_says_itself_why() -> None:
    stage = Stage()
    stage.monitor = Monitor(dictionaries={})
    stage.monitor.connect(ENGINE)
    stage.put(replace(fakes.stream_open(stage.known), weights_digest="", blind="tensor_file_error"))
    (state,) = stage.monitor.status(stage.now).blind
    assert (state.reason, "log" in state.hint) == ("tensor_file_error", True)
    assert stage.faults() == {}


def test_what_the_engine_says_of_itself() -> None:
    stage = Stage()
    stage.put(fakes.stream_open(stage.known, blind="self_test_failed"))
    assert reasons(stage) == ["self_test_failed"]
    stage.beat(StreamBeat(stream=1, seq=0, blind="shipper_fault"))
    assert reasons(stage) == ["shipper_fault"]
    stage.beat()
    assert reasons(stage) == []


def test_a_stream_that_ended() -> None:
    stage = Stage().ready()
    stage.put(StreamEnd(stream=1, reason="fault", final=StreamBeat(stream=1, seq=0)))
    assert reasons(stage) == ["no_stream"]


def test_changes_are_told_once() -> None:
    stage = Stage()
    assert len(standing(stage.tick())) == 1, "no engine"
    assert standing(stage.tick(10.0)) == []
    stage.ready()
    stage.events.clear()
    stage.tick(3.5)
    stage.tick(1.0)
    (told,) = standing(stage.events)
    assert [state.reason for state in told.blind] == ["no_beat"]


def test_one_engine_does_not_cover_for_another() -> None:
    stage = Stage().ready()
    stage.monitor.connect(3)
    stage.put(fakes.stream_open(stage.known, engine="engine-1"), link=3)
    for _ in range(5):
        stage.now += SECOND
        stage.beat()
    (state,) = stage.monitor.status(stage.now).blind
    assert state.subject.startswith("engine-1")


def tell(stage: Stage, **states: str) -> int:
    """A self-test with these checks; how many standings it made."""
    checks = tuple(Check(name=name, state=CheckState(state)) for name, state in states.items())
    _, events = stage.monitor.self_test(ENGINE, SelfTest(stream=1, streams=1, checks=checks), stage.now)
    return len(standing(events))


def test_a_failed_self_test_blinds_its_stream_until_one_passes() -> None:
    stage = Stage().ready()
    assert tell(stage, tap="good", sink="failed") == 1
    (state,) = stage.monitor.status(stage.now).blind
    assert (state.reason, state.scope) == ("self_test_failed", "tap")
    assert "saewatch tap selftest" in state.hint
    stage.beat()
    assert reasons(stage) == ["self_test_failed"], "a beat says nothing of it"
    assert tell(stage, tap="good", sink="good") == 1
    assert reasons(stage) == []


def test_what_a_later_self_test_cannot_verify_stays_failed() -> None:
    stage = Stage().ready()
    tell(stage, sink="failed", encoder="failed")
    tell(stage, sink="unverified", encoder="good")
    assert reasons(stage) == ["self_test_failed"], "an idle engine proves nothing"
    tell(stage, sink="good", encoder="unverified")
    assert reasons(stage) == []


def test_what_was_never_verified_is_not_blind() -> None:
    stage = Stage().ready()
    assert tell(stage, sink="unverified", rows="unverified") == 0
    assert reasons(stage) == []


def test_a_failed_self_test_outlives_the_connection_but_not_the_engine() -> None:
    stage = Stage().ready()
    tell(stage, sink="failed")
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.monitor.connect(ENGINE)
    stage.ready()
    assert reasons(stage) == ["self_test_failed"]
    stage.monitor.disconnect(ENGINE, stage.now)
    stage.monitor.connect(ENGINE)
    stage.put(fakes.stream_open(stage.known, epoch=2000))
    assert reasons(stage) == []
