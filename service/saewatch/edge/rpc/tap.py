"""`TapService`: what is asked of the taps in running engines, and what is changed in them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import structlog

from saewatch.core import limits
from saewatch.core.errors import AccessError, EngineError, SaewatchError, UnreachableError
from saewatch.core.records import Command
from saewatch.core.selftest import Check, CheckState
from saewatch.edge.access import Principal
from saewatch.edge.commands import EXPECTED, SELF_TEST, Answer, Asked
from saewatch.edge.pb import tap_pb2
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.rpc import changes, messages
from saewatch.edge.rpc.applied import Application, How, Step, application
from saewatch.edge.rpc.calls import Streaming, Unary
from saewatch.edge.rpc.changes import Change, Known, Streams
from saewatch.edge.rpc.refusals import Refusal, invalid
from saewatch.edge.shelf import Shelf

logger = structlog.get_logger(__name__)

BUSY_S = 1.0
"""When to ask an engine again that carries out something else."""


class TapService:
    """Asks engines through ``send(link, command)``; their answers come to ``pipeline``."""

    SERVICE = "saewatch.v1.TapService"

    def __init__(self, *, pipeline: Pipeline, shelf: Shelf, send: Callable[[int, Command], None]) -> None:
        self._pipeline = pipeline
        self._shelf = shelf
        self._send = send

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """Its methods by name."""
        return {
            "RunSelfTest": Unary(tap_pb2.RunSelfTestRequest, self.run_self_test),
            "SetWatching": Unary(tap_pb2.SetWatchingRequest, self.set_watching),
            "SetWatchList": Unary(tap_pb2.SetWatchListRequest, self.set_watch_list),
            "LoadDictionary": Unary(tap_pb2.LoadDictionaryRequest, self.load_dictionary),
            "ApplyBundle": Unary(tap_pb2.ApplyBundleRequest, self.apply_bundle),
        }

    async def run_self_test(self, request: tap_pb2.RunSelfTestRequest, _: Principal) -> tap_pb2.RunSelfTestResponse:
        """The self-tests of the engines that are asked for; a refusal when none of them gives any."""
        timeout_s = _timeout(request, limits.SELF_TEST_S, limits.SELF_TEST_MAX_S)
        chosen = changes.chosen(await asyncio.to_thread(self._pipeline.engines), request.engine)
        answers = await asyncio.gather(*(self._answer(engine, SELF_TEST, {}, timeout_s) for engine in chosen))
        _refuse_if_all(answers)
        found: list[tap_pb2.SelfTest] = []
        for engine, answer in zip(chosen, answers, strict=True):
            if isinstance(answer, Refusal):
                found.append(_without_answer(engine, answer))
            else:
                found.extend(map(messages.self_test, answer.examined))
        return tap_pb2.RunSelfTestResponse(self_tests=found)

    async def set_watching(
        self, request: tap_pb2.SetWatchingRequest, principal: Principal
    ) -> tap_pb2.SetWatchingResponse:
        """Switches taps on or off."""
        found = await self._change(changes.switch, request, principal, limits.CHANGE_S)
        return tap_pb2.SetWatchingResponse(changes=found)

    async def set_watch_list(
        self, request: tap_pb2.SetWatchListRequest, principal: Principal
    ) -> tap_pb2.SetWatchListResponse:
        """Changes which features of a dictionary are watched."""
        found = await self._change(changes.watch, request, principal, limits.CHANGE_S)
        return tap_pb2.SetWatchListResponse(changes=found)

    async def load_dictionary(
        self, request: tap_pb2.LoadDictionaryRequest, principal: Principal
    ) -> tap_pb2.LoadDictionaryResponse:
        """Puts a dictionary in the place of another."""
        found = await self._change(changes.load, request, principal, limits.LOAD_S)
        return tap_pb2.LoadDictionaryResponse(changes=found)

    async def apply_bundle(
        self, request: tap_pb2.ApplyBundleRequest, principal: Principal
    ) -> tap_pb2.ApplyBundleResponse:
        """Brings a bundle of the store to the streams of its hook point and of a role."""
        _check_may_change(principal)
        timeout_s = _timeout(request, limits.LOAD_S, limits.CHANGE_MAX_S)
        streams = await asyncio.to_thread(self._pipeline.streams)
        found = await asyncio.to_thread(application, request, streams, self._shelf)
        if request.validate_only:
            planned = [messages.change(step.engine, _in_force(found), step.how.value) for step in found.steps]
            return tap_pb2.ApplyBundleResponse(changes=planned)
        self._shelf.keep(found.known)  # before any engine has it: its first batch is read
        if any(step.how is How.RELABELLED for step in found.steps):
            labels = {"principal": principal.name, "weights": found.known.weights_digest}
            logger.info("labels changed", **labels, catalogue=found.known.catalogue_digest)
            await asyncio.to_thread(self._pipeline.relabel, found.known)
        answers = await asyncio.gather(*(self._applied(found, step, timeout_s, principal) for step in found.steps))
        _refuse_if_all(answers)
        changes = [
            messages.change(step.engine, answer, step.how.value)
            for step, answer in zip(found.steps, answers, strict=True)
        ]
        return tap_pb2.ApplyBundleResponse(changes=changes)

    async def _applied(
        self, found: Application, step: Step, timeout_s: float, principal: Principal
    ) -> Answer | Refusal:
        if step.change is None:
            return _in_force(found)
        return await self._changed(step.engine, step.change, timeout_s, principal)

    async def _change(
        self, read: Callable[[Any, Streams, Known], Change], request: Any, principal: Principal, wait_s: float
    ) -> list[tap_pb2.Change]:
        """What came of it in each engine; a refusal when none of them did it."""
        _check_may_change(principal)
        timeout_s = _timeout(request, wait_s, limits.CHANGE_MAX_S)
        streams = await asyncio.to_thread(self._pipeline.streams)
        change = await asyncio.to_thread(read, request, streams, self._shelf)
        answers = await asyncio.gather(
            *(self._changed(engine, change, timeout_s, principal) for engine in change.engines)
        )
        _refuse_if_all(answers)
        return [messages.change(engine, answer) for engine, answer in zip(change.engines, answers, strict=True)]

    async def _changed(self, engine: str, change: Change, timeout_s: float, principal: Principal) -> Answer | Refusal:
        """What came of it in one engine. Who asked for what is in the log before it can have happened."""
        log = logger.bind(principal=principal.name, engine=engine, verb=change.verb)
        log.info("tap change asked for", **change.arguments)
        answer = await self._answer(engine, change.verb, change.arguments, timeout_s)
        if isinstance(answer, Refusal):
            log.warning("tap not changed", reason=str(answer))
        else:
            log.info("tap changed", watch=answer.watch, slots=answer.slots)
        return answer

    async def _answer(self, engine: str, verb: str, arguments: Mapping[str, str], timeout_s: float) -> Answer | Refusal:
        try:
            # not on a thread: a call that is cancelled would leave it behind
            asked, new = self._pipeline.ask(engine, verb, arguments)
        except UnreachableError as error:
            return _refusal(grpc.StatusCode.UNAVAILABLE, error)
        except EngineError as error:
            return _refusal(grpc.StatusCode.ABORTED, error, retry_s=BUSY_S)
        if new:
            self._send(asked.link, asked.command)
        try:
            return await self._wait(asked, timeout_s)
        finally:
            self._pipeline.give_up(asked)

    async def _wait(self, asked: Asked, timeout_s: float) -> Answer | Refusal:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked.answer), timeout_s)
        except TimeoutError:
            hint = "Is its shipper alive? `saewatch status` says whether it beats, and its log why not."
            if asked.command.verb != SELF_TEST:
                hint = f"It may still come into force. {hint}"
            found, expected = f"no answer in {timeout_s:g} s", EXPECTED[asked.command.verb]
            error = UnreachableError(f"engine {asked.engine}", found=found, expected=expected, hint=hint)
            return _refusal(grpc.StatusCode.DEADLINE_EXCEEDED, error)
        except UnreachableError as error:
            return _refusal(grpc.StatusCode.UNAVAILABLE, error)
        except EngineError as error:
            return _refusal(grpc.StatusCode.FAILED_PRECONDITION, error)


def _check_may_change(principal: Principal) -> None:
    if principal.tenants is not None:
        found, expected = f"{principal.name}, who may see some tenants", "somebody who may see all of them"
        error = AccessError("principal", found=found, expected=expected)
        raise Refusal(grpc.StatusCode.PERMISSION_DENIED, error, reason="PERMISSION_DENIED")


def _in_force(found: Application) -> Answer:
    """What is said where no engine was asked."""
    return Answer(weights=found.known.weights_digest)


def _timeout(request: Any, unset_s: float, at_most_s: float) -> float:
    if not request.HasField("timeout"):
        return unset_s
    asked: float = request.timeout.seconds + request.timeout.nanos / 1e9
    if not 0.0 < asked <= at_most_s:
        raise invalid("timeout", found=f"{asked:g} s", expected=f"above 0 and at most {at_most_s:g} s")
    return asked


def _refusal(code: grpc.StatusCode, error: SaewatchError, *, retry_s: float = 0.0) -> Refusal:
    return Refusal(code, error, reason=code.name, retry_s=retry_s)


def _refuse_if_all(answers: Sequence[Answer | Refusal]) -> None:
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    if len(refused) == len(answers):
        raise refused[0]


def _without_answer(engine: str, refusal: Refusal) -> tap_pb2.SelfTest:
    error = refusal.error
    texts = {"found": str(error.found), "expected": str(error.expected), "hint": error.hint}
    failed = Check(name="engine", state=CheckState.FAILED, **texts)
    return tap_pb2.SelfTest(engine=engine, good=False, checks=[messages.check(failed)])
