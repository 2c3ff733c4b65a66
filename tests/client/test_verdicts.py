"""Both clients' verdicts against the sidecar's own service, and what a break of the connection means."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.demo.servers import free_port
from saewatch.client import AsyncClient, Client
from saewatch.client.verdicts import SaidInThreads, VerdictSession
from saewatch.core import limits
from saewatch.core.errors import SaewatchError, UnreachableError
from saewatch.edge.pb import verdict_pb2
from tests import fakes
from tests.client.messages import Failed
from tests.edge.rpc.alerting import alerting, begin, end, fire
from tests.fakes import FakeEngine
from tests.sidecar import Sidecar

CLEAR, FLAGGED = verdict_pb2.VERDICT_STATE_CLEAR, verdict_pb2.VERDICT_STATE_FLAGGED
UNKNOWN = verdict_pb2.VERDICT_STATE_UNKNOWN
NO_CONNECTION = "there is no connection to the sidecar"
GONE = Failed(grpc.StatusCode.UNAVAILABLE, "Socket closed")


async def test_an_asyncio_client_follows_and_leaves() -> None:
    async with alerting() as served, AsyncClient(served.address) as client:
        verdicts = client.verdicts(give_up_after_s=0.0)
        await verdicts.follow("client-7")
        found = aiter(verdicts)
        assert not (await anext(found)).HasField("request")
        begin(served)
        served.batch([(7, 0, 2)])
        served.pump()
        clear = await anext(found)
        assert (clear.state, clear.covered_through) == (CLEAR, 1)
        fire(served, position=2)
        assert (await anext(found)).state == FLAGGED
        await verdicts.leave("client-7")
        served.verdicting.drain()
        with pytest.raises(UnreachableError, match="it ends every stream"):
            await anext(found)


async def test_a_blocking_client_is_told_in_its_own_thread() -> None:
    async with alerting() as served:
        begin(served)
        served.batch([(7, 0, 2)])
        fire(served, position=2)

        def asked() -> verdict_pb2.Verdict:
            with Client(served.address) as client, client.verdicts() as verdicts:
                verdicts.follow("client-7")
                return next(verdicts)

        found = await served.in_thread(asked)
        assert (found.state, found.covered_through, found.alerts[0].rule) == (FLAGGED, 2, "threat")


async def test_a_name_that_is_none_is_refused_in_words() -> None:
    async with alerting() as served, AsyncClient(served.address) as client:
        verdicts = client.verdicts()
        await verdicts.follow("x" * 300)
        with pytest.raises(SaewatchError, match="follow"):
            async for _ in verdicts:
                pass


async def test_nobody_there_is_unknown_until_it_gives_up() -> None:
    async with AsyncClient("127.0.0.1:9") as client:
        verdicts = client.verdicts()
        await verdicts.follow("a", "b")
        found = [await anext(verdicts) for _ in range(2)]
        assert [(one.name, one.state) for one in found] == [("a", UNKNOWN), ("b", UNKNOWN)]
        assert all(one.reason.startswith(NO_CONNECTION) for one in found)
        with pytest.raises(UnreachableError):
            await anext(client.verdicts(give_up_after_s=0.0))


# --- the machine ------------------------------------------------------------------------------------------------------
class Channel:
    """Keeps what is said on each call."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def stream_stream(self, *_: Any, **__: Any) -> Callable[[Any], Any]:
        return self.said.append

    def asked(self) -> list[tuple[list[str], list[str]]]:
        """On the last call, once nothing more is said."""
        return [(list(one.follow), list(one.leave)) for one in self.said[-1]]


def session(**fields: Any) -> VerdictSession:
    return VerdictSession(**{"address": "a:1", "said": SaidInThreads, **fields})


def told(name: str, state: Any = CLEAR, *, key: str = "k", **fields: Any) -> verdict_pb2.WatchVerdictResponse:
    one = verdict_pb2.Verdict(name=name, state=state, covered_through=4, **fields)
    one.request.key = key
    return verdict_pb2.WatchVerdictResponse(verdicts=[one])


def test_after_a_break_the_same_names_are_followed_but_those_that_ended() -> None:
    one, channel = session(), Channel()
    one.follow("a", "b")
    one.call(channel)
    one.follow("c")
    one.leave("b")
    one.take(told("a", ended=True), 1.0)
    one.take(told("c"), 1.0)
    one.lost(GONE, 2.0)
    one.call(channel)
    one.close()
    assert channel.asked() == [(["c"], [])]
    assert [list(request.follow) for request in channel.said[0]] == [["a", "b"], ["c"], []], "that call is over"


def test_unknown_is_told_once_and_of_what_goes_on_only() -> None:
    one = session()
    one.follow("a", "b", "c")
    one.call(Channel())
    one.take(told("a", FLAGGED, ended=True), 1.0)
    one.take(told("b", key="x"), 1.0)
    one.take(told("b", key="y"), 1.0)
    found = one.broken(one.lost(GONE, 2.0))
    assert [(v.name, v.request.key, v.state) for v in found] == [
        ("b", "x", UNKNOWN),
        ("b", "y", UNKNOWN),
        ("c", "", UNKNOWN),
    ]
    assert not any(v.HasField("covered_through") for v in found), "nothing is covered any more"
    assert one.broken(one.lost(GONE, 3.0)) == []
    one.call(Channel())
    one.take(told("b", key="x"), 4.0)
    assert [v.request.key for v in one.broken(one.lost(GONE, 5.0))] == ["x"]


def test_too_many_are_refused_before_they_are_asked() -> None:
    one = session()
    one.follow(*(f"r{number}" for number in range(limits.VERDICT_NAMES)))
    one.follow("r0")
    with pytest.raises(SaewatchError, match="at most 1000"):
        one.follow("another")
    one.leave("r0")
    one.follow("another")


async def test_a_request_that_has_ended_keeps_its_verdict_over_a_break() -> None:
    async with alerting() as served, AsyncClient(served.address) as client:
        begin(served)
        fire(served, position=0)
        end(served, fed=1)
        verdicts = client.verdicts(give_up_after_s=0.0)
        await verdicts.follow("client-7")
        last = await anext(verdicts)
        assert (last.state, last.ended) == (FLAGGED, True)
        served.verdicting.drain()
        with pytest.raises(UnreachableError):
            await anext(verdicts)


# --- a sidecar that is killed and comes back --------------------------------------------------------------------------
RULE = {"id": "threat", "severity": "high", "action": "flag", "uncalibrated": "a test"}
POLICY = {"policy": "trust", "rules": [{**RULE, "when": {"feature": "threat.l1", "above": 1}}]}


def sidecar(folder: Path) -> Sidecar:
    (folder / "p.yaml").write_text(json.dumps(POLICY))
    return Sidecar(folder, [fakes.dictionary()], grpc={"listen": f"127.0.0.1:{free_port()}"}, policies=["p.yaml"])


def serve(one: Sidecar, *, epoch: int, value: float) -> FakeEngine:
    """An engine with one request that goes on."""
    engine = FakeEngine(one.addresses["socket"], fakes.dictionary(), epoch=epoch).ready()
    engine.start(7, name="r7")
    assert engine.acked(engine.batch([(7, 0, 4)], [(1, 2, value)]))
    return engine


def test_a_blocking_client_goes_on_when_the_sidecar_is_back(tmp_path: Path) -> None:
    with sidecar(tmp_path) as one, Client(one.addresses["grpc"]) as client, client.verdicts() as verdicts:
        verdicts.follow("r7")
        with serve(one, epoch=1000, value=0.5):
            assert next(found for found in verdicts if found.HasField("request")).state == CLEAR
            one.process.kill()
            one.process.wait()
            lost = next(found for found in verdicts if found.state == UNKNOWN)
            assert (lost.reason[: len(NO_CONNECTION)], lost.request.engine_id) == (NO_CONNECTION, "r7")
        one.start_again()
        with serve(one, epoch=2000, value=2.0):
            assert next(found for found in verdicts if found.state == FLAGGED).request.engine_id == "r7"


async def test_an_asyncio_client_goes_on_when_the_sidecar_is_back(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        one = await asyncio.to_thread(lambda: stack.enter_context(sidecar(tmp_path)))
        async with AsyncClient(one.addresses["grpc"]) as client, client.verdicts() as verdicts:
            await verdicts.follow("r7")
            engine = await asyncio.to_thread(lambda: serve(one, epoch=1000, value=0.5))
            assert await state(verdicts, CLEAR) == "r7"
            engine.close()
            one.process.kill()
            assert await state(verdicts, UNKNOWN, NO_CONNECTION) == "r7"
            await asyncio.to_thread(one.process.wait)
            await asyncio.to_thread(one.start_again)
            engine = await asyncio.to_thread(lambda: serve(one, epoch=2000, value=2.0))
            assert await state(verdicts, FLAGGED) == "r7"
            engine.close()


async def state(verdicts: Any, wanted: Any, reason: str = "") -> str:
    """The request of the next verdict that is so."""
    for _ in itertools.count():
        found = await anext(verdicts)
        if found.state == wanted and found.reason.startswith(reason):
            return str(found.request.engine_id)
    raise AssertionError
