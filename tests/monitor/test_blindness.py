"""What does not see, and that it is said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

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


# --- engines that come and go under names that nobody gave them -------------------------------------------------------
@dataclass
class Fleet:
    """Engines that beat each second, until they are killed or stopped."""

    stage: Stage = field(default_factory=Stage)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(10))
    links: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)

    def start(self, name: str, *, model: str = "demo-model", epoch: int = 0) -> None:
        """It begins now, and connects; with an ``epoch`` it has been away."""
        self.links[name] = next(self.numbers)
        self.epochs[name] = epoch or self.stage.now
        self.stage.monitor.connect(self.links[name])
        opening = fakes.stream_open(self.stage.known, engine=name, epoch=self.epochs[name], model_name=model)
        self.stage.put(opening, link=self.links[name])

    def kill(self, name: str) -> None:
        self.stage.monitor.disconnect(self.links.pop(name), self.stage.now)

    def stop(self, name: str) -> None:
        end = StreamEnd(stream=1, reason="shutdown", final=StreamBeat(stream=1, seq=0))
        self.stage.put(end, link=self.links[name])
        self.kill(name)

    def live(self, seconds: int) -> None:
        for _ in range(seconds):
            self.stage.now += SECOND
            for name, link in self.links.items():
                self.stage.beat(link=link, engine=name, epoch=self.epochs[name])
            self.stage.tick()

    def blind(self) -> list[str]:
        """Engines that are not heard."""
        assert set(reasons(self.stage)) <= {"no_beat"}
        return [state.subject.split()[0] for state in self.stage.monitor.status(self.stage.now).blind]

    def ended(self) -> dict[str, str]:
        """Why streams ended; empty: they have not."""
        return {
            state.identity.opening.engine: state.ended for state in self.stage.monitor.status(self.stage.now).streams
        }


def fleet(*names: str) -> Fleet:
    """Engines that have been there for a while."""
    one = Fleet()
    for name in names:
        one.start(name)
    one.live(10)
    assert one.blind() == []
    return one


def test_an_engine_that_is_killed_and_started_again_under_another_name_is_missed_for_a_minute() -> None:
    one = fleet("a:1")
    one.kill("a:1")
    one.live(20)
    one.start("a:2")
    one.live(40)
    assert (one.blind(), one.ended()) == (["a:1"], {"a:1": "", "a:2": ""})
    one.stage.events.clear()
    one.live(1)
    assert (one.blind(), one.ended()) == ([], {"a:1": "lost", "a:2": ""})
    told = standing(one.stage.events)[-1]
    assert [(state.identity.opening.engine, state.ended) for state in told.streams] == [("a:1", "lost"), ("a:2", "")]
    assert told.streams[0].books is not None, "what it had told stays in the books"
    one.live(3600)
    assert one.blind() == []


def test_an_engine_that_comes_when_another_has_been_lost_for_long_has_its_place_at_once() -> None:
    one = fleet("a:1")
    one.kill("a:1")
    one.stage.tick(3600.0)
    one.start("a:2")
    assert one.blind() == []


def test_an_engine_that_was_there_before_has_nobodys_place() -> None:
    one = fleet("a:1", "b:1")
    one.kill("a:1")
    one.live(3600)
    assert one.blind() == ["a:1"]


def test_an_engine_whose_tap_fell_silent_has_its_place_as_long_as_it_is_connected() -> None:
    one = fleet("a:1", "b:1")
    one.links.pop("a:1")  # which stays open
    one.live(20)
    one.start("c:1")
    one.live(3600)
    assert one.blind() == ["a:1"]


def test_an_engine_of_another_model_has_not_its_place() -> None:
    one = fleet("a:1")
    one.kill("a:1")
    one.live(1)
    one.start("b:1", model="another")
    one.live(3600)
    assert one.blind() == ["a:1"]


def test_a_start_that_failed_before_the_model_was_known_has_the_place_for_the_time_being() -> None:
    one = fleet("a:1")
    for name, model in (("a:2", ""), ("a:3", "demo-model")):
        one.kill(f"a:{len(one.epochs)}")
        one.live(20)
        one.start(name, model=model)
    one.live(100)
    assert (one.blind(), one.ended()) == ([], {"a:1": "lost", "a:2": "lost", "a:3": ""})


def test_an_engine_has_one_place_that_of_the_one_that_left_last() -> None:
    one = fleet("a:1", "b:1")
    one.kill("a:1")
    one.live(3600)
    one.kill("b:1")
    one.live(5)
    one.start("b:2")
    one.live(3600)
    assert one.blind() == ["a:1"], "that is the one which nobody started again"
    one.start("a:2")
    assert one.blind() == []


def test_engines_that_are_lost_together_are_replaced_one_by_one() -> None:
    one = fleet("a:1", "b:1", "c:1")
    for name in ("a:1", "b:1", "c:1"):
        one.kill(name)
    one.live(30)
    one.start("d:1")
    one.start("e:1")
    one.live(60)
    assert len(one.blind()) == 1
    one.start("f:1")
    assert one.blind() == []


def test_an_engine_that_is_killed_time_and_again_leaves_nobody_behind() -> None:
    one = fleet("a:1")
    for number in range(1, 9):
        one.kill(f"a:{number}")
        one.live(7)
        one.start(f"a:{number + 1}")
        one.live(12)
    one.live(61)
    assert one.blind() == []
    assert set(one.ended().values()) == {"lost", ""}
    one.kill("a:9")
    one.live(3600)
    assert [state.reason for state in one.stage.monitor.status(one.stage.now).blind] == ["no_beat", "no_engine"]


def test_an_engine_that_was_stopped_in_order_leaves_a_place_too() -> None:
    """Or its restart would hide another one that nobody started again."""
    one = fleet("a:1", "b:1")
    one.kill("a:1")
    one.live(100)
    one.stop("b:1")
    one.live(20)
    one.start("b:2")
    one.live(100)
    assert (one.blind(), one.ended()) == (["a:1"], {"a:1": "", "b:1": "shutdown", "b:2": ""})


def test_an_engine_with_a_name_of_its_own_has_its_own_place() -> None:
    one = fleet("a", "b")
    one.kill("b")
    one.live(5)
    one.kill("a")
    one.live(100)
    one.start("b")
    one.live(100)
    assert one.blind() == ["a"]


def test_a_lost_engine_that_comes_back_opens_again_and_its_place_is_not_anothers_any_more() -> None:
    one = fleet("a:1", "b:1")
    one.kill("b:1")
    one.live(5)
    one.kill("a:1")
    one.live(5)
    one.start("c:1")
    one.live(100)
    assert one.ended() == {"a:1": "lost", "b:1": "", "c:1": ""}
    one.start("a:1", epoch=one.epochs["a:1"])
    one.live(1)
    assert (one.blind(), one.ended()) == ([], {"a:1": "", "b:1": "lost", "c:1": ""})
    one.kill("a:1")
    one.live(3600)
    assert one.blind() == ["a:1"], "nobody came for it since then"
