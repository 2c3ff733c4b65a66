"""`AsyncClient`: the same events as `Client`, and ends that are its own."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from saewatch.client import AsyncClient, AsyncWatch, Client, Coverage, Disconnected, Event, Firings, Gap, Reconnected
from saewatch.client.fake import FakeServer
from saewatch.client.plain import plain
from saewatch.core.errors import SaewatchError, UnreachableError
from tests.client.proxy import Proxy
from tests.client.watching import WAIT_S, Eager


def client(server: FakeServer | Proxy, **options: float) -> AsyncClient:
    return AsyncClient(server.address, random=Eager(), **options)


async def take(watch: AsyncWatch, count: int) -> list[Event]:
    async with asyncio.timeout(WAIT_S):
        return [await anext(watch) for _ in range(count)]


async def test_both_clients_give_the_same_events(saewatch_server: FakeServer) -> None:
    saewatch_server.tokens(4, missed={"cached": 2}, firings=[(1, "greeting.g1", 1.5), (3, "medical.p1", 1.0)])
    saewatch_server.coverage(blind="no_beat")
    saewatch_server.tokens(0, request="r2", missed={"no_slot": 3})
    saewatch_server.ends("r1", emitted=3)
    saewatch_server.gap("overload", tokens=5, firings=1)
    filters: list[dict[str, Any]] = [
        {},
        {"feature": "greeting.g1"},
        {"category": "vcr", "request": "r1"},
        {"min_value": 1.2},
    ]
    for wanted in filters:
        with Client(saewatch_server.address) as one:
            watch = one.watch(**wanted)
            blocking = await asyncio.to_thread(list, itertools.islice(watch, 4))
        async with client(saewatch_server) as other:
            again = other.watch(**wanted)
            events = await take(again, 4)
        assert list(map(plain, events)) == list(map(plain, blocking))
        assert (again.totals, again.resume_token) == (watch.totals, watch.resume_token)


async def test_a_connection_that_is_cut_loses_and_repeats_nothing(saewatch_server: FakeServer) -> None:
    with Proxy(saewatch_server.address) as proxy:
        async with client(proxy) as one, one.watch() as watch:
            positions: list[int] = []
            backs = 0
            saewatch_server.tokens(1)
            async with asyncio.timeout(WAIT_S):
                async for event in watch:
                    assert not isinstance(event, Gap)
                    backs += isinstance(event, Reconnected)
                    if isinstance(event, Firings):
                        positions += event.span_position.tolist()
                        if len(positions) % 20 == 10:
                            proxy.cut()
                        saewatch_server.tokens(1)
                    if len(positions) >= 100:
                        break
    assert positions == list(range(100))
    assert backs == 5


async def test_stop_restart_and_drain(saewatch_server: FakeServer) -> None:
    async with client(saewatch_server) as one:
        watch = one.watch()
        saewatch_server.tokens(3)
        await take(watch, 1)
        await asyncio.to_thread(saewatch_server.restart)
        (event,) = await take(watch, 1)
        assert isinstance(event, Disconnected)
        while not isinstance(event, Reconnected):
            (event,) = await take(watch, 1)
        (gap,) = await take(watch, 1)
        assert isinstance(gap, Gap)
        assert (gap.reason, gap.tokens) == ("restarted", 0)
        saewatch_server.drain("an update")
        drained, back = await take(watch, 2)
        assert isinstance(drained, Disconnected)
        assert "an update" in drained.reason
        assert isinstance(back, Reconnected)


async def test_what_is_refused_and_what_is_given_up(saewatch_server: FakeServer) -> None:
    async with client(saewatch_server) as one:
        with pytest.raises(SaewatchError, match=r"filter\.categories\[0\]: found 'vcx'"):
            await take(one.watch(category="vcx"), 1)
    async with AsyncClient("127.0.0.1:1") as nobody:
        with pytest.raises(UnreachableError, match=r"no connection in 0\.3 s"):
            await take(nobody.watch(give_up_after_s=0.3), 50)


async def test_calls_with_one_answer(saewatch_server: FakeServer) -> None:
    saewatch_server.tokens(6, firings=[(1, "violence.p1", 2.0)])
    async with client(saewatch_server) as one:
        assert "fake" in (await one.status()).version
        assert len(await one.dictionaries()) == 1
        assert [feature.id for feature in await one.features(category="vcr")] == ["violence.p1"]
        assert (await one.record("r1"))[0].streams[0].features[0].prompt.count == 1
        assert (await one.self_test())[0].good
        with pytest.raises(SaewatchError, match=r"request_id: found nobody"):
            await one.record("nobody")


async def test_many_watches_of_one_client(saewatch_server: FakeServer) -> None:
    async with client(saewatch_server) as one:
        saewatch_server.coverage()
        found = await asyncio.gather(*(take(one.watch(), 1) for _ in range(20)))
        assert all(isinstance(events[0], Coverage) for events in found)
