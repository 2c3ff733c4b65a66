"""VerdictService on a real port: one stream for many requests, slow readers, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.edge.access import LocalAccess, Principal
from saewatch.edge.pb import alert_pb2, verdict_pb2
from saewatch.edge.rpc.verdicts import VerdictFeed, weakest
from saewatch.monitor.alert import Evidence
from saewatch.monitor.policy.condition import Basis
from tests.edge.rpc.alerting import THREAT, alerting, begin, end, fire
from tests.edge.rpc.served import Served

CLEAR, ELEVATED, FLAGGED, UNKNOWN = (
    verdict_pb2.VERDICT_STATE_CLEAR,
    verdict_pb2.VERDICT_STATE_ELEVATED,
    verdict_pb2.VERDICT_STATE_FLAGGED,
    verdict_pb2.VERDICT_STATE_UNKNOWN,
)


class Asking:
    """One stream."""

    def __init__(self, served: Served) -> None:
        self.call = served.verdicts.WatchVerdict()

    async def follow(self, *names: str, leave: tuple[str, ...] = ()) -> None:
        await self.call.write(verdict_pb2.WatchVerdictRequest(follow=names, leave=leave))

    async def next(self) -> list[verdict_pb2.Verdict]:
        """The next verdicts that there are."""
        while True:
            said = await self.call.read()
            assert said is not grpc.aio.EOF, "the stream has ended"
            if said.verdicts:
                return list(said.verdicts)

    async def until(self, state: int, *, position: int | None = None) -> verdict_pb2.Verdict:
        """The first verdict of that state, and covered up to there."""
        while True:
            for one in await self.next():
                covered = one.covered_through if one.HasField("covered_through") else None
                if one.state == state and position in {None, covered}:
                    return one


async def asked(served: Served, *names: str) -> Asking:
    one = Asking(served)
    await one.follow(*names)
    return one


async def refused(one: Asking) -> grpc.aio.AioRpcError:
    async def to_the_end() -> None:
        while await one.call.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await to_the_end()
    return caught.value


async def test_from_unknown_over_clear_to_flagged() -> None:
    async with alerting() as served:
        one = await asked(served, "client-7")
        first = await one.until(UNKNOWN)
        assert (first.name, first.HasField("request"), first.HasField("covered_through")) == ("client-7", False, False)
        begin(served)
        served.batch([(7, 0, 2)])
        served.pump()
        clear = await one.until(CLEAR)
        assert (clear.covered_through, clear.request.tenant, clear.claim) == (1, "acme", "correlational")
        fire(served, position=2)
        flagged = await one.until(FLAGGED)
        assert flagged.covered_through == 2
        [alert] = flagged.alerts
        assert (alert.rule, alert.position, alert.basis.alpha, alert.basis.delta) == ("threat", 2, 0.01, 0.05)
        assert (alert.precision.low, alert.precision.high) == (0.0, 1.0)
        got = await served.alerts.GetAlert(alert_pb2.GetAlertRequest(id=alert.id))
        assert got.alert.rule == "threat"
        end(served, fed=3)
        last = await one.until(FLAGGED, position=2)
        while not last.ended:
            last = await one.until(FLAGGED)
        one.call.cancel()


async def test_every_verdict_has_the_alerts_of_all_that_it_covers() -> None:
    """Whatever a reader gets between batches, a covered token's alert is in it."""
    async with alerting() as served:
        begin(served)
        one = await asked(served, "client-7")
        for position in range(40):
            served.batch([(7, position, 1)], [(0, THREAT, 3.0)] if position == 20 else [])
            served.pump()
            if position % 7 == 0:
                await asyncio.sleep(0.03)
        while True:
            for verdict in await one.next():
                if verdict.HasField("covered_through"):
                    assert (verdict.state == FLAGGED) == (verdict.covered_through >= 20)
            if verdict.covered_through == 39:
                break
        one.call.cancel()


async def test_many_requests_on_one_stream_and_those_that_were_left() -> None:
    async with alerting() as served:
        one = await asked(served, "client-1", "client-2")
        assert {verdict.name for verdict in await one.next()} == {"client-1", "client-2"}
        await one.follow("client-3", leave=("client-2", "nobody"))
        assert [verdict.name for verdict in await one.next()] == ["client-3"], "what was said was heard"
        for request in (1, 2):
            begin(served, request)
        served.batch([(1, 0, 1), (2, 0, 1)])
        served.pump()
        assert {verdict.name for verdict in await one.next()} == {"client-1"}
        await one.follow("client-2")
        assert [verdict.state for verdict in await one.next()] == [CLEAR]
        one.call.cancel()


async def test_who_follows_again_is_told_again() -> None:
    async with alerting() as served:
        begin(served)
        served.batch([(7, 0, 2)])
        one = await asked(served, "client-7")
        assert (await one.until(CLEAR)).covered_through == 1
        await one.follow("client-7")
        assert (await one.until(CLEAR)).covered_through == 1
        one.call.cancel()


async def test_a_slow_reader_gets_the_latest() -> None:
    async with alerting() as served:
        begin(served)
        served.batch([(7, 0, 1)])
        one = await asked(served, "client-7")
        await one.until(CLEAR)
        for position in range(1, 500):
            served.batch([(7, position, 1)])
        served.pump()
        assert (await one.until(CLEAR)).covered_through == 499, "what was in between is not queued"
        one.call.cancel()


async def test_what_is_missing_is_told() -> None:
    async with alerting() as served:
        begin(served)
        one = await asked(served, "client-7")
        served.batch([(7, 2, 1)], missed=[(7, Reason.CACHED, 2)])
        served.pump()
        while not (verdict := await one.until(UNKNOWN)).HasField("request"):
            pass
        assert not verdict.HasField("covered_through")
        assert [(one.tokens, one.reason) for one in verdict.missed] == [(2, 1)]
        assert "cached 2" in verdict.reason
        one.call.cancel()


async def test_without_policies_it_is_unknown() -> None:
    async with alerting(policies=[]) as served:
        begin(served)
        served.batch([(7, 0, 2)])
        served.pump()
        one = await asked(served, "client-7")
        assert (await one.next())[0].state == UNKNOWN
        one.call.cancel()


@pytest.mark.parametrize("name", ["", "x" * 257])
async def test_a_name_that_is_none_ends_the_stream(name: str) -> None:
    async with alerting() as served:
        error = await refused(await asked(served, name))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert served.verdicting.streams == 0


async def test_one_name_too_many_ends_the_stream() -> None:
    async with alerting() as served:
        one = await asked(served, *(f"r{number}" for number in range(limits.VERDICT_NAMES)))
        assert len(await one.next()) == limits.VERDICT_NAMES
        await one.follow("r0")
        await one.until(UNKNOWN)
        await one.follow("one more")
        assert (await refused(one)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_one_stream_too_many_is_told_to_share() -> None:
    async with alerting(subscribers=1) as served:
        one = await asked(served, "a")
        await one.next()
        error = await refused(await asked(served, "b"))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        one.call.cancel()


async def test_bytes_that_are_no_request_end_the_stream() -> None:
    async with alerting() as served:

        async def garbage() -> AsyncIterator[bytes]:
            yield b"\xff\xff\xff"
            await asyncio.sleep(30)

        method: Any = served.channel.stream_stream("/saewatch.v1.VerdictService/WatchVerdict")
        call = method(garbage())
        await asyncio.wait_for(call.read(), 10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await served.check_health()


async def test_a_caller_that_says_no_more_is_still_told() -> None:
    async with alerting() as served:
        one = await asked(served, "client-7")
        await one.call.done_writing()
        await one.until(UNKNOWN)
        begin(served)
        served.batch([(7, 0, 2)])
        served.pump()
        await one.until(CLEAR)
        one.call.cancel()


async def test_a_stop_is_told() -> None:
    async with alerting() as served:
        one = await asked(served, "client-7")
        await one.until(UNKNOWN)
        served.verdicting.drain()
        while not (said := await one.call.read()).drain:
            pass
        assert await one.call.read() is grpc.aio.EOF
        assert said.verdicts == []


class OneTenant(LocalAccess):
    """Somebody who may see one tenant."""

    def principal(self, metadata: Mapping[str, str | bytes]) -> Principal:
        return Principal(name="ada", tenants=frozenset({"acme"}))


async def test_other_tenants_requests_are_not_there() -> None:
    async with alerting(access=OneTenant()) as served:
        for number, tenant in ((1, "other"), (2, "acme")):
            begin(served, number, tenant=tenant)
        served.batch([(1, 0, 1), (2, 0, 1)])
        served.pump()
        one = await asked(served, "client-1", "client-2")
        found = {verdict.name: verdict for verdict in await one.next()}
        assert (found["client-1"].state, found["client-1"].HasField("request")) == (UNKNOWN, False)
        assert found["client-2"].state == CLEAR
        one.call.cancel()


async def test_nothing_rings_for_nothing() -> None:
    feed = VerdictFeed()
    bell = feed.bell.next
    feed.take([])
    assert not bell.is_set()
    feed.bell.ring()
    assert bell.is_set()
    assert not feed.bell.next.is_set()


def basis(**fields: Any) -> Basis:
    known = {"attestation": "a", "alpha": 0.01, "delta": 0.05, "date": "2026-11-01", "n": 10}
    return Basis(**{**known, **fields})


def evidence(one: Basis | None) -> Evidence:
    return Evidence(
        features=(), labels=(), statistic="max", scope="all", value=1, limit=0, first=0, last=0, peak=-1, basis=one
    )


def test_the_weakest_basis_is_told() -> None:
    good, wide, stale = basis(), basis(alpha=0.1), basis(stale="why")
    assert weakest(map(evidence, [good, wide])) is wide
    assert weakest(map(evidence, [wide, stale])) is stale
    assert weakest(map(evidence, [good, None])) is None
    assert weakest([]) is None
