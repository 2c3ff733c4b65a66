"""How a watch of a program without a loop ends, and when it takes silence for a break."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from saewatch.client import Client, Disconnected, Firings
from saewatch.client.fake import FakeServer
from saewatch.edge.pb import verdict_pb2
from tests.client.proxy import Proxy
from tests.client.watching import Eager, Reader
from tests.waiting import wait_until


def client(server: FakeServer | Proxy, **options: float) -> Client:
    return Client(server.address, random=Eager(), **options)


def test_a_loop_that_is_left_leaves_no_call_behind(saewatch_server: FakeServer) -> None:
    gc.disable()  # counting references is enough
    try:
        with client(saewatch_server) as one:
            saewatch_server.fires("violence.p1")
            for _ in one.watch():
                assert saewatch_server.watchers == 1
                break
            wait_until(lambda: saewatch_server.watchers == 0)
    finally:
        gc.enable()


def test_a_stream_that_falls_silent_is_given_up(saewatch_server: FakeServer) -> None:
    with Proxy(saewatch_server.address) as proxy, client(proxy, silence_s=2.0) as one:
        reader = Reader(one.watch())
        saewatch_server.tokens(1)
        reader.wait(Firings)
        proxy.hush()
        saewatch_server.tokens(1)
        reader.wait(Disconnected)
        assert "nothing, not even a heartbeat" in reader.of(Disconnected)[0].reason
        proxy.cut()
        proxy.go_on()
        reader.wait(Firings, 2)
        reader.end()
    assert reader.positions == [0, 1]


def test_a_reader_that_takes_its_time_is_not_silence(saewatch_server: FakeServer) -> None:
    with client(saewatch_server, silence_s=1.5) as one, one.watch() as watch:
        saewatch_server.tokens(1)
        saewatch_server.tokens(1)
        assert next(watch)
        time.sleep(2.5)
        assert isinstance(next(watch), Firings)
        saewatch_server.tokens(1)
        assert isinstance(next(watch), Firings)
    assert watch.totals.reconnects == 0


@pytest.mark.parametrize("whose", ["watch", "client"])
def test_another_thread_closes_it(saewatch_server: FakeServer, whose: str) -> None:
    one = client(saewatch_server)
    watch = one.watch()
    threading.Timer(0.3, (watch if whose == "watch" else one).close).start()
    assert list(watch) == []
    wait_until(lambda: saewatch_server.watchers == 0)
    one.close()
    assert list(watch) == []


def test_closed_while_it_waits_to_connect_again() -> None:
    with Client("127.0.0.1:1") as one, one.watch() as watch:
        reader = Reader(watch)
        reader.wait(Disconnected, 6)
        began = time.monotonic()
        reader.end()
        assert time.monotonic() - began < 2.0


def test_verdicts_that_fall_silent_are_unknown(saewatch_server: FakeServer) -> None:
    with Proxy(saewatch_server.address) as proxy, client(proxy, silence_s=2.0) as one, one.verdicts() as verdicts:
        verdicts.follow("r1")
        saewatch_server.alerts.verdict("r1", "clear", covered_through=3)
        assert next(found for found in verdicts if found.covered_through == 3).state == verdict_pb2.VERDICT_STATE_CLEAR
        proxy.hush()
        found = next(verdicts)
        assert (found.state, "not even a heartbeat" in found.reason) == (verdict_pb2.VERDICT_STATE_UNKNOWN, True)
