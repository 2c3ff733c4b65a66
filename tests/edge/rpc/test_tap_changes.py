"""TapService: what is changed in connected engines, who is told, and every way in which nothing is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
import structlog

from saewatch.core.records import Command, Result
from saewatch.edge.access import LocalAccess, Principal
from saewatch.edge.pb import status_pb2, tap_pb2
from tests import fakes
from tests.edge.rpc.served import Served, serving
from tests.edge.rpc.test_tap import ask, blind, refused, second_engine, seconds

OLD, NEW = fakes.dictionary(), replace(fakes.dictionary(seed=1), folder="/bundles/new")


async def switch(served: Served, *, on: bool, **fields: Any) -> list[tap_pb2.Change]:
    answer = await served.taps.SetWatching(tap_pb2.SetWatchingRequest(on=on, **fields))
    return list(answer.changes)


def doing(served: Served, **details: str) -> Any:
    """Engines that do what they are asked for."""

    def obey(link: int, command: Command) -> None:
        served.pipeline.receive(link, Result(command=command.command, good=True, details=details))

    return obey


async def test_engines_are_switched_off_and_on() -> None:
    async with serving() as served:
        second_engine(served)
        served.obey = doing(served)
        assert [(one.engine, one.good) for one in await switch(served, on=False)] == [
            ("engine-0", True),
            ("engine-1", True),
        ]
        await switch(served, on=True, engine="engine-1")
        assert [(link, command.verb) for link, command in served.commands] == [(1, "off"), (2, "off"), (2, "on")]


async def test_a_tap_that_is_off_is_blind_with_a_hint() -> None:
    async with serving() as served:
        served.put(fakes.beat(blind="off"))
        status = await served.statuses.GetStatus(status_pb2.GetStatusRequest())
        (one,) = status.blind
        assert one.reason == "off"
        assert "`saewatch tap on`" in one.hint
        served.put(fakes.beat())
        assert await blind(served) == []


async def test_a_watch_list() -> None:
    async with serving() as served:
        served.obey = doing(served, weights=served.dictionary.weights_digest, watch="sha256:w", slots="1")
        asked = tap_pb2.SetWatchListRequest(weights_digest=served.dictionary.weights_digest, feature_ids=["threat.l1"])
        (change,) = (await served.taps.SetWatchList(asked)).changes
        assert (change.engine, change.good, change.HasField("refusal")) == ("engine-0", True, False)
        assert change.weights_digest == served.dictionary.weights_digest
        assert (change.watch_digest, change.slots, change.HasField("opened")) == ("sha256:w", 1, False)
        ((_, command),) = served.commands
        assert (command.verb, command.arguments["watch"]) == ("watch", '["threat.l1"]')


async def test_another_dictionary_and_the_stream_that_opened() -> None:
    async with serving(known=[OLD, NEW]) as served:

        def obey(link: int, command: Command) -> None:
            served.put(fakes.stream_open(NEW, stream=2), fakes.watch_set(NEW, stream=2))
            details = {"weights": NEW.weights_digest, "opened": "2", "slots": "4"}
            served.pipeline.receive(link, Result(command=command.command, good=True, details=details))

        served.obey = obey
        asked = tap_pb2.LoadDictionaryRequest(replaces_digest=OLD.weights_digest, weights_digest=NEW.weights_digest)
        (change,) = (await served.taps.LoadDictionary(asked)).changes
        assert (change.opened.number, change.opened.weights_digest, change.slots) == (2, NEW.weights_digest, 4)
        assert served.commands[0][1].arguments["path"] == "/bundles/new"


async def test_what_is_refused_here_reaches_no_engine() -> None:
    async with serving() as served:
        for method, request in (
            (served.taps.SetWatching, tap_pb2.SetWatchingRequest()),
            (served.taps.SetWatchList, tap_pb2.SetWatchListRequest(weights_digest="x")),
            (served.taps.LoadDictionary, tap_pb2.LoadDictionaryRequest(replaces_digest="x")),
            (served.taps.SetWatching, tap_pb2.SetWatchingRequest(on=True, timeout=seconds(600.5))),
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await method(request)
        assert served.commands == []


async def test_an_engine_that_refuses_says_why_in_its_own_words() -> None:
    async with serving() as served:
        served.obey = lambda link, command: served.pipeline.receive(
            link,
            Result(command=command.command, good=False, message="tap: found fault, expected a sound one. Restart it."),
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await switch(served, on=True)
        assert refused(caught) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "engine engine-0: tap: found fault, expected a sound one. Restart it.",
        )


async def test_an_engine_that_refuses_is_told_beside_the_others() -> None:
    async with serving() as served:
        second_engine(served)
        served.obey = lambda link, command: served.pipeline.receive(
            link, Result(command=command.command, good=link == 2, message="off: not carried out yet")
        )
        refuses, good = await switch(served, on=False)
        assert (refuses.engine, refuses.good) == ("engine-0", False)
        said = refuses.refusal
        assert (said.subject, said.found) == ("engine engine-0", "off: not carried out yet")
        assert (said.expected, said.hint[:6]) == ("a tap that is off", "Update")
        assert (good.engine, good.good, good.HasField("refusal")) == ("engine-1", True, False)


async def test_a_busy_engine_is_to_be_asked_again() -> None:
    async with serving() as served:
        testing = asyncio.create_task(ask(served))
        await served.asked.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await switch(served, on=False)
        code, said = refused(caught)
        assert code is grpc.StatusCode.ABORTED
        assert "engine engine-0: found busy with 'self_test', which somebody asked for before" in said
        assert "Try again" in said
        assert any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata())
        ((link, command),) = served.commands
        served.pipeline.receive(link, fakes.self_test().result(command.command))
        await testing
        served.obey = doing(served)
        assert (await switch(served, on=False))[0].good


async def test_without_an_answer_it_may_still_come_into_force() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await switch(served, on=False, timeout=seconds(0.1))
        code, said = refused(caught)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "found no answer in 0.1 s, expected a tap that is off. It may still come into force" in said


async def test_who_changes_what_is_in_the_log() -> None:
    async with serving() as served:
        served.obey = doing(served, watch="sha256:w", slots="1")
        asked = tap_pb2.SetWatchListRequest(weights_digest=served.dictionary.weights_digest, feature_ids=["threat.l1"])
        with structlog.testing.capture_logs() as lines:
            await served.taps.SetWatchList(asked)
            served.obey = lambda link, _: served.pipeline.disconnect(link)
            with pytest.raises(grpc.aio.AioRpcError):
                await switch(served, on=False)
        who = {"principal": "local", "engine": "engine-0"}
        assert [line["event"] for line in lines] == [
            "tap change asked for",
            "tap changed",
            "tap change asked for",
            "tap not changed",
        ]
        assert all(who.items() <= line.items() for line in lines)
        assert (lines[0]["verb"], lines[0]["watch"]) == ("watch", '["threat.l1"]')
        assert (lines[1]["watch"], lines[1]["slots"]) == ("sha256:w", 1)
        assert (lines[3]["verb"], "no connection" in lines[3]["reason"]) == ("off", True)


class SomeTenants(LocalAccess):
    def principal(self, metadata: Any) -> Principal:
        del metadata
        return Principal(name="acme", tenants=frozenset({"acme"}))


async def test_who_may_see_some_tenants_only_changes_nothing() -> None:
    async with serving(access=SomeTenants()) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await switch(served, on=False)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert served.commands == []
