"""`TapService`: what is asked of the taps in running engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import grpc

from saewatch.core import limits
from saewatch.core.errors import EngineError, SaewatchError, UnreachableError
from saewatch.core.records import Command
from saewatch.core.selftest import Check, CheckState
from saewatch.edge.access import Principal
from saewatch.edge.commands import Asked, Examined
from saewatch.edge.pb import tap_pb2
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.rpc import messages
from saewatch.edge.rpc.calls import Streaming, Unary
from saewatch.edge.rpc.refusals import Refusal, invalid, missing
from saewatch.monitor.blindness import HINTS, NO_ENGINE


class TapService:
    """Asks engines through ``send(link, command)``; their answers come to ``pipeline``."""

    SERVICE = "saewatch.v1.TapService"

    def __init__(self, *, pipeline: Pipeline, send: Callable[[int, Command], None]) -> None:
        self._pipeline = pipeline
        self._send = send

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """Its methods by name."""
        return {"RunSelfTest": Unary(tap_pb2.RunSelfTestRequest, self.run_self_test)}

    async def run_self_test(self, request: tap_pb2.RunSelfTestRequest, _: Principal) -> tap_pb2.RunSelfTestResponse:
        """The self-tests of the engines that are asked for; a refusal when none of them gives any."""
        timeout_s = _timeout(request)
        chosen = _chosen(await asyncio.to_thread(self._pipeline.engines), request.engine)
        answers = await asyncio.gather(*(self._answer(engine, timeout_s) for engine in chosen))
        refused = [answer for answer in answers if isinstance(answer, Refusal)]
        if len(refused) == len(answers):
            raise refused[0]
        found: list[tap_pb2.SelfTest] = []
        for engine, answer in zip(chosen, answers, strict=True):
            if isinstance(answer, Refusal):
                found.append(_without_answer(engine, answer))
            else:
                found.extend(map(messages.self_test, answer))
        return tap_pb2.RunSelfTestResponse(self_tests=found)

    async def _answer(self, engine: str, timeout_s: float) -> tuple[Examined, ...] | Refusal:
        try:
            asked, new = self._pipeline.ask(engine)  # not on a thread: a call that is cancelled would leave it behind
        except UnreachableError as error:
            return _refusal(grpc.StatusCode.UNAVAILABLE, error)
        if new:
            self._send(asked.link, asked.command)
        try:
            return await self._wait(asked, timeout_s)
        finally:
            self._pipeline.give_up(asked)

    async def _wait(self, asked: Asked, timeout_s: float) -> tuple[Examined, ...] | Refusal:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked.answer), timeout_s)
        except TimeoutError:
            hint = "Is its shipper alive? `saewatch status` says whether it beats, and its log why not."
            found = f"no answer in {timeout_s:g} s"
            error = UnreachableError(f"engine {asked.engine}", found=found, expected="a self-test", hint=hint)
            return _refusal(grpc.StatusCode.DEADLINE_EXCEEDED, error)
        except UnreachableError as error:
            return _refusal(grpc.StatusCode.UNAVAILABLE, error)
        except EngineError as error:
            return _refusal(grpc.StatusCode.FAILED_PRECONDITION, error)


def _timeout(request: tap_pb2.RunSelfTestRequest) -> float:
    if not request.HasField("timeout"):
        return limits.SELF_TEST_S
    asked = request.timeout.seconds + request.timeout.nanos / 1e9
    if not 0.0 < asked <= limits.SELF_TEST_MAX_S:
        raise invalid("timeout", found=f"{asked:g} s", expected=f"above 0 and at most {limits.SELF_TEST_MAX_S:g} s")
    return asked


def _chosen(engines: Sequence[str], name: str) -> Sequence[str]:
    if not engines:
        error = UnreachableError("engine", found="none connected", expected="one at least", hint=HINTS[NO_ENGINE])
        raise _refusal(grpc.StatusCode.UNAVAILABLE, error)
    if name and name not in engines:
        raise missing("engine", found=repr(name[:128]), expected=f"one of {', '.join(map(repr, engines))}")
    return [name] if name else engines


def _refusal(code: grpc.StatusCode, error: SaewatchError) -> Refusal:
    return Refusal(code, error, reason=code.name)


def _without_answer(engine: str, refusal: Refusal) -> tap_pb2.SelfTest:
    error = refusal.error
    texts = {"found": str(error.found), "expected": str(error.expected), "hint": error.hint}
    failed = Check(name="engine", state=CheckState.FAILED, **texts)
    return tap_pb2.SelfTest(engine=engine, good=False, checks=[messages.check(failed)])
