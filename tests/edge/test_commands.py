"""Who waits for which engine's answer, and what else may come."""

from __future__ import annotations

import pytest

from saewatch.core.errors import EngineError, RecordError, UnreachableError
from saewatch.core.records import Result
from saewatch.edge.commands import Commands, Examined
from saewatch.monitor.tables import StreamIdentity
from tests import fakes

STREAM = StreamIdentity(number=1, opening=fakes.stream_open(fakes.dictionary()), dictionary=None)


def examined(stream: int = 1, streams: int = 1) -> Examined:
    return Examined(STREAM, fakes.self_test(stream=stream, streams=streams))


def test_an_answer_is_whole_with_its_last_part() -> None:
    commands = Commands()
    asked, new = commands.ask("a", 7)
    assert (new, asked.link, asked.command.verb) == (True, 7, "self_test")
    for number in (3, 1, 3):
        commands.take(asked, examined(number, 3))
        assert not asked.answer.done(), "one part twice is one part"
    commands.take(asked, examined(2, 3))
    assert [one.test.stream for one in asked.answer.result(0)] == [1, 2, 3]


def test_who_asks_meanwhile_waits_for_the_same_answer() -> None:
    commands = Commands()
    first, _ = commands.ask("a", 7)
    second, new = commands.ask("a", 7)
    assert (second, new) == (first, False)
    commands.give_up(first)
    assert not first.answer.cancel(), "one that gives up does not take it from the others"
    assert commands.find(7, Result(command=first.command.command, good=True)) is first
    commands.give_up(second)
    again, new = commands.ask("a", 7)
    assert new
    assert again.command.command > first.command.command


def test_each_connection_has_its_own() -> None:
    commands = Commands()
    (left, _), (right, new) = commands.ask("a", 7), commands.ask("b", 8)
    assert new
    assert commands.find(8, Result(command=right.command.command, good=True)) is right
    with pytest.raises(RecordError, match=r"result\.command"):
        commands.find(8, Result(command=left.command.command, good=True))


def test_what_nobody_waits_for_is_refused() -> None:
    commands = Commands()
    with pytest.raises(RecordError, match=r"result\.command"):
        commands.find(7, Result(command=1, good=True))
    asked, _ = commands.ask("a", 7)
    with pytest.raises(RecordError, match=r"result\.command"):
        commands.find(7, Result(command=asked.command.command + 1, good=True))
    commands.give_up(asked)
    with pytest.raises(RecordError, match=r"result\.command"):
        commands.find(7, Result(command=asked.command.command, good=True))


def test_an_engine_that_goes_answers_no_more() -> None:
    commands = Commands()
    (gone, _), (stays, _) = commands.ask("a", 7), commands.ask("b", 8)
    commands.disconnect(7)
    commands.disconnect(99)
    with pytest.raises(UnreachableError, match="engine a: found no connection"):
        gone.answer.result(0)
    assert not stays.answer.done()


@pytest.mark.parametrize(("why", "says"), [("self_test: not carried out yet", "carried out yet"), ("", "a refusal")])
def test_an_engine_that_refuses_says_why(why: str, says: str) -> None:
    commands = Commands()
    asked, _ = commands.ask("a", 7)
    commands.refuse(asked, why)
    with pytest.raises(EngineError, match=f"engine a: found .*{says}, expected a self-test. Update"):
        asked.answer.result(0)


def test_giving_up_an_old_one_leaves_the_new_one() -> None:
    commands = Commands()
    old, _ = commands.ask("a", 7)
    commands.take(old, examined())
    new, _ = commands.ask("a", 7)
    commands.give_up(old)
    assert commands.find(7, Result(command=new.command.command, good=True)) is new
