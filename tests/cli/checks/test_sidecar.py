"""The running sidecar's checks, against the services on a real port."""

from __future__ import annotations

import asyncio
from typing import Any

from saewatch import __version__
from saewatch.cli.checks import sidecar
from saewatch.cli.checks.finding import Finding, Setup, State
from saewatch.core.records import Command, Result
from tests import fakes
from tests.edge.rpc.served import Served, serving


async def examined(served: Served) -> dict[str, Finding]:
    setup = Setup(address=served.address, named=True)
    found = await asyncio.to_thread(lambda: list(sidecar.examine(setup)))
    return {one.subject: one for one in found}


def answering(served: Served, *, failing: str = "") -> Any:
    def obey(link: int, command: Command) -> None:
        served.pipeline.receive(link, fakes.self_test(failing=failing).result(command.command))

    return obey


async def test_one_that_is_well() -> None:
    async with serving() as served:
        served.obey = answering(served)
        served.put(fakes.beat(fed=10, encoded=10))
        found = await examined(served)
        assert found.pop("CorruptFrame").found == "3 since the sidecar's start"
        assert found.pop("series").state is State.UNVERIFIED, "it has no pages here"
        assert {one.state for one in found.values()} == {State.GOOD}
        assert found["health"].found == "SERVING"
        assert found["version"].found == __version__
        assert found["self-test of engine-0 resid_post.3"].found == "sink, rows and encoder"


async def test_an_engine_of_another_version() -> None:
    async with serving() as served:
        served.obey = answering(served)
        served.put(fakes.stream_open(served.dictionary, stream=2, versions={"saewatch": "0.0.1"}))
        found = await examined(served)
        assert (found["version"].state, found["version"].found) == (State.WARNING, "engine-0 0.0.1")


async def test_a_self_test_that_fails() -> None:
    async with serving() as served:
        served.obey = answering(served, failing="sink")
        found = await examined(served)
        checked = found["self-test of engine-0 resid_post.3: sink"]
        assert (checked.state, checked.found, checked.hint) == (State.FAILED, "no call", "Restart it.")


async def test_an_engine_that_carries_none_out() -> None:
    async with serving() as served:
        served.obey = lambda link, command: served.pipeline.receive(
            link, Result(command=command.command, good=False, message="not carried out")
        )
        found = await examined(served)
        assert found["engine engine-0"].state is State.FAILED


async def test_without_an_engine_there_is_nothing_to_test() -> None:
    async with serving() as served:
        served.pipeline.disconnect(1)
        found = await examined(served)
        assert found["self-test"].state is State.UNVERIFIED


async def test_a_health_that_is_not_serving() -> None:
    async with serving() as served:
        served.obey = answering(served)
        await served.server.leave()
        assert (await examined(served))["health"].state is State.FAILED


def test_nobody_there() -> None:
    (named,) = sidecar.examine(Setup(address="127.0.0.1:1", named=True))
    assert (named.state, named.unreached) == (State.FAILED, True)
    (guessed,) = sidecar.examine(Setup(address="127.0.0.1:1"))
    assert (guessed.state, guessed.unreached) == (State.UNVERIFIED, False)
    (unknown,) = sidecar.examine(Setup())
    assert unknown.state is State.UNVERIFIED
