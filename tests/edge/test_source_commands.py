"""Commands that the ingest thread sends: to the right engine, at once, and never at the cost of another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saewatch.core import limits
from saewatch.core.errors import UnreachableError
from saewatch.core.records import Command
from saewatch.edge import sources
from tests import fakes
from tests.edge.running import Running
from tests.waiting import wait_until


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(str(tmp_path / "s.sock"))
    one.source.start()
    yield one
    one.source.stop()
    assert one.source.failed is None


def a_command(number: int) -> Command:
    return Command(command=number, verb="self_test")


def test_a_command_reaches_its_engine_at_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.engine().ready(), running.engine(engine="b").ready() as right:
        wait_until(lambda: running.pipeline.engines() == ["b", "engine-0"])
        monkeypatch.setattr(sources, "TICK_S", 600.0)  # it does not wait for the next tick
        for number in range(1, 6):
            asked, _ = running.pipeline.ask("b")
            running.source.send(asked.link, a_command(number))
            assert right.commanded().command == number
        busy = time.process_time()
        time.sleep(0.4)
        assert time.process_time() - busy < 0.2, "the thread sleeps again"
    assert running.faults() == {}


def test_an_answer_to_what_was_asked_is_taken_and_any_other_is_refused(running: Running) -> None:
    with running.engine().ready() as engine:
        wait_until(lambda: running.pipeline.engines() == ["engine-0"])
        asked, _ = running.pipeline.ask("engine-0")
        running.source.send(asked.link, asked.command)
        forged = fakes.self_test(failing="sink").result(asked.command.command + 1)
        engine.send(forged)
        engine.answer(fakes.self_test())
        (examined,) = asked.answer.result(5).examined
        engine.send(examined.test.result(asked.command.command))
        wait_until(lambda: running.faults() == {"refused_record": 2})
    assert running.stream().blind == ""


def test_a_command_waits_for_an_engine_that_does_not_read(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMMANDS_WAITING", 3)
    with running.engine().ready() as deaf, running.engine(engine="b").ready() as other:
        for _ in range(1000):  # each is answered at once, and the kernel keeps some 280 answers
            deaf.send(fakes.stream_open(running.known))
        wait_until(lambda: running.pipeline.engines() == ["b", "engine-0"])
        (deaf_one, _), (other_one, _) = running.pipeline.ask("engine-0"), running.pipeline.ask("b")
        deaf.start(7)
        deaf.batch([(7, 0, 1)])
        wait_until(lambda: running.stream().received_seq == 1)  # behind all those
        for number in range(1, 6):
            running.source.send(deaf_one.link, a_command(number))
        running.source.send(other_one.link, a_command(9))
        assert other.commanded().command == 9
        assert [deaf.commanded().command for _ in range(3)] == [1, 2, 3]
        assert running.faults() == {"commands_dropped": 2}


def test_commands_for_who_has_left_are_dropped(running: Running) -> None:
    with running.engine().ready() as engine:
        wait_until(lambda: running.pipeline.engines() == ["engine-0"])
        asked, _ = running.pipeline.ask("engine-0")
        running.source.send(99, a_command(1))
        running.source.send(asked.link, a_command(2))
        assert engine.commanded().command == 2
    with pytest.raises(UnreachableError):
        asked.answer.result(5)
    running.source.send(asked.link, a_command(3))
    with running.engine(epoch=2000).ready() as engine:
        assert engine.receive(0.3) is None


def test_a_command_after_the_end_is_nobodys(tmp_path: Path) -> None:
    one = Running(str(tmp_path / "s.sock"))
    one.source.start()
    one.source.stop()
    one.source.send(1, a_command(1))
