"""TapService: self-tests of connected engines, and every way in which there is none."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from saewatch.core.errors import RecordError
from saewatch.core.records import Command, Result
from saewatch.edge.pb import status_pb2, tap_pb2
from tests import fakes
from tests.edge.rpc.served import Served, becomes, serving

GOOD, FAILED = tap_pb2.CHECK_STATE_GOOD, tap_pb2.CHECK_STATE_FAILED


async def ask(served: Served, engine: str = "", timeout_s: float = 5.0) -> tap_pb2.RunSelfTestResponse:
    request = tap_pb2.RunSelfTestRequest(engine=engine, timeout=seconds(timeout_s))
    answer: tap_pb2.RunSelfTestResponse = await served.taps.RunSelfTest(request)
    return answer


def seconds(number: float) -> Duration:
    return Duration(seconds=int(number), nanos=round(number % 1 * 1e9))


def refused(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> tuple[grpc.StatusCode, str]:
    return caught.value.code(), str(caught.value.details())


async def blind(served: Served) -> list[str]:
    status = await served.statuses.GetStatus(status_pb2.GetStatusRequest())
    return [one.reason for one in status.blind]


def second_engine(served: Served) -> None:
    """On link 2."""
    served.pipeline.connect(2)
    served.pipeline.receive(2, fakes.stream_open(served.dictionary, engine="engine-1", stream=4))


def answering(served: Served, *, failing: str = "") -> Any:
    """Each engine answers for its only stream."""

    def obey(link: int, command: Command) -> None:
        stream = {1: 1, 2: 4}[link]
        served.pipeline.receive(link, fakes.self_test(stream=stream, failing=failing).result(command.command))

    return obey


async def test_an_engine_answers() -> None:
    async with serving() as served:
        served.obey = answering(served)
        (test,) = (await ask(served)).self_tests
        assert [(link, command.verb) for link, command in served.commands] == [(1, "self_test")]
        assert (test.engine, test.good, test.stream.hook_point) == ("engine-0", True, "resid_post.3")
        assert {check.name: check.state for check in test.checks} == dict.fromkeys(
            ("tap", "sink", "rows", "encoder"), GOOD
        )
        assert (test.sink_calls, test.calls_since, test.steps_since) == (90, 12, 12)
        assert (test.rows, test.compared, test.error_max, test.oracle) == (13, 214, 3e-7, "oracle 1.0")
        assert await blind(served) == []


async def test_a_failed_self_test_makes_the_stream_blind_until_one_passes() -> None:
    async with serving() as served:
        served.obey = answering(served, failing="sink")
        (test,) = (await ask(served)).self_tests
        (failed,) = (check for check in test.checks if check.state == FAILED)
        assert (failed.name, failed.found) == ("sink", "no call")
        assert (failed.expected, failed.hint) == ("something else", "Restart it.")
        assert not test.good
        assert await blind(served) == ["self_test_failed"]
        served.obey = answering(served)
        await ask(served)
        assert await blind(served) == []


async def test_all_engines_are_asked_or_one() -> None:
    async with serving() as served:
        second_engine(served)
        served.obey = answering(served)
        assert [test.engine for test in (await ask(served)).self_tests] == ["engine-0", "engine-1"]
        assert [test.engine for test in (await ask(served, "engine-1")).self_tests] == ["engine-1"]
        assert [link for link, _ in served.commands] == [1, 2, 2]


async def test_without_an_engine_it_is_said_how_one_connects() -> None:
    async with serving() as served:
        served.pipeline.disconnect(1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served)
        code, said = refused(caught)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "none connected" in said
        assert "saewatch vllm-args" in said


async def test_an_unknown_engine_is_told_with_those_that_are_there() -> None:
    async with serving() as served:
        second_engine(served)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served, "engin-0")
        assert refused(caught) == (
            grpc.StatusCode.NOT_FOUND,
            "engine: found 'engin-0', expected one of 'engine-0', 'engine-1'",
        )


async def test_an_engine_that_does_not_answer_in_time() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served, timeout_s=0.2)
        code, said = refused(caught)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "engine engine-0: found no answer in 0.2 s" in said
        assert "saewatch status" in said
        ((link, late),) = served.commands
        with pytest.raises(RecordError, match=r"result\.command"):
            served.pipeline.receive(link, fakes.self_test().result(late.command))
        served.obey = answering(served)
        assert (await ask(served)).self_tests[0].good, "the next one is a new one"


async def test_an_engine_that_disconnects_meanwhile() -> None:
    async with serving() as served:
        served.obey = lambda link, _: served.pipeline.disconnect(link)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served)
        code, said = refused(caught)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "engine engine-0: found no connection, expected an answer" in said


async def test_an_older_engine_does_not_carry_it_out() -> None:
    async with serving() as served:
        served.obey = lambda link, command: served.pipeline.receive(
            link, Result(command=command.command, good=False, message="self_test: not carried out yet")
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served)
        code, said = refused(caught)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "found self_test: not carried out yet" in said
        assert "Update saewatch" in said


@pytest.mark.parametrize("fault", ["another stream", "another command", "no self-test"])
async def test_a_forged_result_is_refused(fault: str) -> None:
    async with serving() as served:
        refusals: list[RecordError] = []

        def obey(link: int, command: Command) -> None:
            result = {
                "another stream": fakes.self_test(stream=9).result(command.command),
                "another command": fakes.self_test().result(command.command + 1),
                "no self-test": Result(command=command.command, good=True, details={"stream": "one"}),
            }[fault]
            try:
                served.pipeline.receive(link, result)
            except RecordError as error:
                refusals.append(error)

        served.obey, ignored = obey, fault == "another command"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served, timeout_s=0.2 if ignored else 60.0)
        expected = grpc.StatusCode.DEADLINE_EXCEEDED if ignored else grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.code() is expected
        assert len(refusals) == 1
        assert await blind(served) == []


async def test_one_engine_that_does_not_answer_does_not_cost_the_others() -> None:
    async with serving() as served:
        second_engine(served)
        answer = answering(served)
        served.obey = lambda link, command: answer(link, command) if link == 2 else None
        silent, good = (await ask(served, timeout_s=0.3)).self_tests
        assert (silent.engine, silent.good, silent.HasField("stream")) == ("engine-0", False, False)
        (check,) = silent.checks
        assert (check.name, check.state, check.found) == ("engine", FAILED, "no answer in 0.3 s")
        assert (good.engine, good.good) == ("engine-1", True)


async def test_any_number_of_calls_cost_an_engine_one_self_test_at_a_time() -> None:
    async with serving() as served:
        calls = [asyncio.create_task(ask(served, timeout_s=60.0)) for _ in range(50)]
        await served.asked.wait()
        asked, new = served.pipeline.ask("engine-0")
        assert not new
        await becomes(lambda: asked.waiting == 51)
        calls[0].cancel()
        await becomes(lambda: asked.waiting == 50)
        served.pipeline.give_up(asked)
        ((link, command),) = served.commands
        served.pipeline.receive(link, fakes.self_test().result(command.command))
        answers = await asyncio.gather(*calls[1:])
        assert {answer.self_tests[0].engine for answer in answers} == {"engine-0"}
        assert len(served.commands) == 1


async def test_a_call_that_is_given_up_leaves_nothing_behind() -> None:
    async with serving() as served:
        call = asyncio.create_task(ask(served))
        await served.asked.wait()
        asked, _ = served.pipeline.ask("engine-0")
        call.cancel()
        await becomes(lambda: asked.waiting == 1)
        served.pipeline.give_up(asked)
        served.obey = answering(served)
        assert (await ask(served)).self_tests[0].good
        assert len(served.commands) == 2, "asked anew"


@pytest.mark.parametrize("timeout_s", [-1.0, 60.5])
async def test_a_timeout_has_bounds(timeout_s: float) -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served, timeout_s=timeout_s)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_without_a_timeout_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saewatch.core.limits.SELF_TEST_S", 0.1)
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.taps.RunSelfTest(tap_pb2.RunSelfTestRequest())
        assert "no answer in 0.1 s" in str(caught.value.details())
