"""A ring is never lost, and what the socket says is told apart from it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

import pytest

from saewatch.engine.bell import GIVE_WAY_S, Bell


def test_a_ring_before_the_wait_is_not_lost() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    began = time.monotonic()
    assert not bell.wait(10.0, socket=-1, writing=False)
    assert time.monotonic() - began < 5.0
    assert not bell.wait(0.0, socket=-1, writing=False), "it was heard"


def test_a_ring_wakes_who_waits() -> None:
    bell = Bell()
    threading.Timer(0.1, bell.ring).start()
    began = time.monotonic()
    bell.wait(10.0, socket=-1, writing=False)
    assert time.monotonic() - began < 5.0


def test_only_what_can_be_read_is_told() -> None:
    bell = Bell()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert not bell.wait(10.0, socket=ours.fileno(), writing=True), "it takes something"
        theirs.send(b"an acknowledgement")
        assert bell.wait(10.0, socket=ours.fileno(), writing=True)
        ours.recv(100)
        theirs.close()
        assert bell.wait(10.0, socket=ours.fileno(), writing=False), "the end is to be read too"


def pauses(steps: Sequence[float]) -> list[float]:
    """How long an engine is given way that has begun to wait at these times."""
    found: list[float] = []
    bell = Bell(sleep=found.append, clock=iter(steps).__next__)
    for _ in steps:
        bell.give_way()
    return found


def test_an_engine_is_given_way_for_a_part_of_its_step() -> None:
    assert pauses([100.0, 100.16, 100.32])[1:] == [GIVE_WAY_S] * 2
    assert pauses([100.0, 100.008, 100.016])[1:] == pytest.approx([0.0005] * 2)


def test_a_fast_engine_that_was_idle_is_given_way_no_longer_for_that() -> None:
    """It has three slots, and three milliseconds are half a step or more."""
    assert pauses([100.0, 100.008, 100.016, 160.0, 160.008])[3:] == pytest.approx([0.0005] * 2)
    assert pauses([100.0])[0] == 0.0, "how long its steps take nobody knows yet"
