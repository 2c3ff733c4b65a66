"""Who waits is woken, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from saewatch.edge.rpc.bell import Bell


async def test_all_who_wait_are_woken_and_who_comes_later_is_not() -> None:
    bell = Bell()
    waiting = [asyncio.create_task(bell.wait(60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    bell.ring()
    await asyncio.wait_for(asyncio.gather(*waiting), 10.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bell.wait(60.0), 0.01)


async def test_a_ring_between_looking_and_waiting_is_not_missed() -> None:
    bell = Bell()
    taken = bell.next
    bell.ring()
    assert taken.is_set()
    assert not bell.next.is_set()


async def test_waiting_ends_by_itself() -> None:
    await asyncio.wait_for(Bell().wait(0.01), 10.0)
