"""How a watch in a loop ends, and when it takes silence for a break."""

from __future__ import annotations

import asyncio
import time

import pytest

from saewatch.client import AsyncClient, AsyncWatch, Disconnected, Event, Reconnected
from saewatch.client.fake import FakeServer
from tests.client.proxy import Proxy
from tests.client.watching import WAIT_S, Eager


def client(server: FakeServer | Proxy, **options: float) -> AsyncClient:
    return AsyncClient(server.address, random=Eager(), **options)


async def take(watch: AsyncWatch, count: int) -> list[Event]:
    async with asyncio.timeout(WAIT_S):
        return [await anext(watch) for _ in range(count)]


async def test_a_stream_that_falls_silent_is_given_up(saewatch_server: FakeServer) -> None:
    with Proxy(saewatch_server.address) as proxy:
        async with client(proxy, silence_s=2.0) as one, one.watch() as watch:
            saewatch_server.tokens(1)
            await take(watch, 1)
            proxy.hush()
            (down,) = await take(watch, 1)
            assert isinstance(down, Disconnected)
            assert "not even a heartbeat" in down.reason
            proxy.cut()
            proxy.go_on()
            kinds = [type(event) for event in await take(watch, 1)]
            assert kinds in ([Reconnected], [Disconnected])


@pytest.mark.parametrize("whose", ["watch", "client"])
async def test_another_task_closes_it(saewatch_server: FakeServer, whose: str) -> None:
    one = client(saewatch_server)
    watch = one.watch()

    async def close() -> None:
        await asyncio.sleep(0.3)
        if whose == "watch":
            watch.close()
        else:
            await one.close()

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        group.create_task(close())
        assert [event async for event in watch] == []
    await one.close()


async def test_a_task_that_is_cancelled_is_cancelled(saewatch_server: FakeServer) -> None:
    async with client(saewatch_server) as one:
        watch = one.watch()
        task = asyncio.create_task(anext(watch))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_task_that_is_cancelled_while_its_watch_is_closed(saewatch_server: FakeServer) -> None:
    async with client(saewatch_server) as one:
        watch = one.watch()
        task = asyncio.create_task(anext(watch))
        await asyncio.sleep(0.3)
        watch.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_closed_while_it_waits_to_connect_again() -> None:
    async with AsyncClient("127.0.0.1:1") as one:
        watch = one.watch()
        events = await take(watch, 6)
        assert all(isinstance(event, Disconnected) for event in events)
        asyncio.get_running_loop().call_later(0.1, watch.close)
        began = time.monotonic()
        assert [event async for event in watch if not isinstance(event, Disconnected)] == []
        assert time.monotonic() - began < 2.0
