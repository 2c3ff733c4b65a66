"""Who waits for which engine's answer, and what else may come."""

from __future__ import annotations

from typing import Any

import pytest

from saewatch.core.errors import EngineError, RecordError, UnreachableError
from saewatch.core.records import Result
from saewatch.core.wire import encode
from saewatch.edge.commands import LOAD, OFF, SELF_TEST, WATCH, Asked, Commands, Examined
from saewatch.monitor.tables import StreamIdentity
from tests import fakes

STREAM = StreamIdentity(number=1, opening=fakes.stream_open(fakes.dictionary()), dictionary=None)


def examined(stream: int = 1, streams: int = 1) -> Examined:
    return Examined(STREAM, fakes.self_test(stream=stream, streams=streams))


def ask(commands: Commands, engine: str = "a", link: int = 7, verb: str = SELF_TEST, **more: str) -> tuple[Asked, bool]:
    return commands.ask(engine, link, verb, more)


def test_an_answer_is_whole_with_its_last_part() -> None:
    commands = Commands()
    asked, new = ask(commands)
    assert (new, asked.link, asked.command.verb) == (True, 7, "self_test")
    for number in (3, 1, 3):
        commands.take(asked, examined(number, 3))
        assert not asked.answer.done(), "one part twice is one part"
    commands.take(asked, examined(2, 3))
    assert [one.test.stream for one in asked.answer.result(0).examined] == [1, 2, 3]


def test_who_asks_meanwhile_waits_for_the_same_answer() -> None:
    commands = Commands()
    first, _ = ask(commands)
    second, new = ask(commands)
    assert (second, new) == (first, False)
    commands.give_up(first)
    assert not first.answer.cancel(), "one that gives up does not take it from the others"
    assert commands.find(7, Result(command=first.command.command, good=True)) is first
    commands.give_up(second)
    again, new = ask(commands)
    assert new
    assert again.command.command > first.command.command


def test_each_connection_has_its_own() -> None:
    commands = Commands()
    (left, _), (right, new) = ask(commands), ask(commands, "b", 8)
    assert new
    assert commands.find(8, Result(command=right.command.command, good=True)) is right
    with pytest.raises(RecordError, match=r"result\.command"):
        commands.find(8, Result(command=left.command.command, good=True))


def test_two_sidecars_number_their_commands_apart() -> None:
    (left, _), (right, _) = ask(Commands()), ask(Commands())
    assert abs(left.command.command - right.command.command) > 1000, "once in two million runs they lie so near"
    encode(right.command)


def test_what_nobody_waits_for_is_refused() -> None:
    commands = Commands()
    with pytest.raises(RecordError, match=r"result\.command"):
        commands.find(7, Result(command=1, good=True))
    asked, _ = ask(commands)
    with pytest.raises(RecordError, match=r"result\.command"):
        commands.find(7, Result(command=asked.command.command + 1, good=True))
    commands.give_up(asked)
    with pytest.raises(RecordError, match=r"result\.command"):
        commands.find(7, Result(command=asked.command.command, good=True))


def test_an_engine_that_goes_answers_no_more() -> None:
    commands = Commands()
    (gone, _), (stays, _) = ask(commands), ask(commands, "b", 8)
    commands.disconnect(7)
    commands.disconnect(99)
    with pytest.raises(UnreachableError, match="engine a: found no connection"):
        gone.answer.result(0)
    assert not stays.answer.done()


@pytest.mark.parametrize(("why", "says"), [("self_test: not carried out yet", "carried out yet"), ("", "a refusal")])
def test_an_engine_that_refuses_says_why(why: str, says: str) -> None:
    commands = Commands()
    asked, _ = ask(commands)
    commands.refuse(asked, why)
    with pytest.raises(EngineError, match=f"engine a: found .*{says}, expected a self-test. Update"):
        asked.answer.result(0)


def test_giving_up_an_old_one_leaves_the_new_one() -> None:
    commands = Commands()
    old, _ = ask(commands)
    commands.take(old, examined())
    new, _ = ask(commands)
    commands.give_up(old)
    assert commands.find(7, Result(command=new.command.command, good=True)) is new


# --- what changes an engine -------------------------------------------------------------------------------------------
def test_what_is_in_force_is_told_to_everybody_who_asked_for_it() -> None:
    commands = Commands()
    asked, _ = ask(commands, verb=WATCH, weights="w", watch='["a.l1"]')
    second, new = ask(commands, verb=WATCH, watch='["a.l1"]', weights="w")
    assert (second, new) == (asked, False)
    commands.settle(asked, {"weights": "w", "watch": "d", "slots": "3"}, None)
    answer = asked.answer.result(0)
    assert (answer.weights, answer.watch, answer.slots, answer.opened, answer.examined) == ("w", "d", 3, None, ())


@pytest.mark.parametrize(("verb", "more"), [(OFF, {}), (WATCH, {"watch": '["b.l1"]'}), (SELF_TEST, {})])
def test_something_else_is_refused_meanwhile(verb: str, more: dict[str, Any]) -> None:
    commands = Commands()
    asked, _ = ask(commands, verb=WATCH, watch='["a.l1"]')
    with pytest.raises(EngineError, match=r"engine a: found busy with 'watch', which .* Try again"):
        ask(commands, verb=verb, **more)
    assert ask(commands, "b", 8, verb, **more)[1], "another engine is not"
    commands.give_up(asked)
    assert ask(commands, verb=verb, **more)[1], "nobody waits for the first one any more"


def test_an_engines_own_words_come_through() -> None:
    commands = Commands()
    asked, _ = ask(commands, verb=LOAD)
    commands.refuse(asked, "dictionary.slots: found 70, expected at most 64. Watch fewer features.")
    with pytest.raises(EngineError) as caught:
        asked.answer.result(0)
    error = caught.value
    assert (error.subject, error.found, error.expected) == ("engine a: dictionary.slots", "70", "at most 64")
    assert error.hint == "Watch fewer features."


def test_details_that_make_no_sense_settle_nothing() -> None:
    commands = Commands()
    asked, _ = ask(commands, verb=OFF)
    with pytest.raises(RecordError, match=r"result\.slots: found '-1'"):
        commands.settle(asked, {"slots": "-1"}, None)
    assert not asked.answer.done()
