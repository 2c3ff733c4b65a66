"""Signals that end the demo: none is lost, none comes at a bad moment, and no child is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from deploy.demo.ending import SIGNALS, Ending, Stop


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[int]]:
    """What would come if the demo did not take it; and everything as it was before, afterwards."""
    missed: list[int] = []

    def miss(number: int, _frame: FrameType | None) -> None:
        missed.append(number)

    before = {number: signal.signal(number, miss) for number in SIGNALS}
    yield missed
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_and_later_ones_do_not_disturb_the_cleaning(number: signal.Signals) -> None:
    ending = Ending()
    with pytest.raises(Stop):
        signal.raise_signal(number)
    for again in SIGNALS:
        signal.raise_signal(again)
    ending.over()


def test_a_signal_while_a_child_is_started_comes_when_it_is_known() -> None:
    ending, known = Ending(), []

    def begin() -> None:
        with ending.held():
            signal.raise_signal(signal.SIGTERM)
            known.append("child")

    with pytest.raises(Stop):
        begin()
    assert known == ["child"]


def test_a_child_that_was_started_meanwhile_can_be_stopped() -> None:
    with Ending().held():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("number", SIGNALS)
def test_nothing_disturbs_the_cleaning_of_a_demo_that_ended_by_itself(number: signal.Signals) -> None:
    Ending().over()
    signal.raise_signal(number)


def test_nohup_stays_in_force(handlers: list[int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Ending()
    signal.raise_signal(signal.SIGHUP)
    assert handlers == []
