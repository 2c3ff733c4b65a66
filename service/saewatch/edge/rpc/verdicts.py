"""`VerdictService`: what may be said of requests, on one stream for many of them.

Nothing is queued for a reader: what it has not taken yet is looked up when it takes it. Who reads slowly gets the
latest verdict on each request, and fewer of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping

import grpc
from google.protobuf.message import DecodeError

from saewatch.core import limits
from saewatch.core.errors import SaewatchError
from saewatch.edge.access import Principal
from saewatch.edge.pb import verdict_pb2
from saewatch.edge.pipeline import Item, Pipeline
from saewatch.edge.rpc import alerted, messages
from saewatch.edge.rpc.bell import Bell
from saewatch.edge.rpc.bounded import FILTER_ITEM_BYTES
from saewatch.edge.rpc.calls import Exchange
from saewatch.edge.rpc.firing import ANSWER_BYTES, HEARTBEAT_S
from saewatch.edge.rpc.refusals import Refusal, invalid
from saewatch.monitor.alert import Alert, Evidence
from saewatch.monitor.policy.condition import Basis
from saewatch.monitor.verdict import CLEAR, ELEVATED, FLAGGED, NOT_SEEN, UNKNOWN, Verdict

PACE_S = limits.FLUSH_NS / 1e9
"""Between two messages: an application takes its tokens at no higher rate, and a message costs some 50 us."""
NEVER, NOBODY = -1, 0
"""In the place of a version: nothing was said of a name; it was said that nobody of it is known."""
STATES = {
    one: verdict_pb2.VerdictState.Value(f"VERDICT_STATE_{one.upper()}") for one in (CLEAR, ELEVATED, FLAGGED, UNKNOWN)
}
Response = verdict_pb2.WatchVerdictResponse


class VerdictFeed:
    """A sink that wakes those who wait for verdicts; what there is they look up."""

    name = "verdicts"

    def __init__(self) -> None:
        self.bell = Bell()

    def take(self, items: Iterable[Item]) -> None:
        """Something has happened."""
        if any(True for _ in items):
            self.bell.ring()


class _Follower:
    """One stream: the names that it follows, and what was said of each."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}
        """By name, the latest version that was told."""
        self.named = asyncio.Event()
        self.refusal: Refusal | None = None

    async def listen(self, requests: AsyncIterator[verdict_pb2.WatchVerdictRequest]) -> None:
        """Takes names as they come, until the caller says no more or says what makes no sense."""
        try:
            await self._listen(requests)
        except DecodeError:
            self.refusal = invalid("request", found="bytes that cannot be read", expected="a WatchVerdictRequest")
        finally:
            self.named.set()

    async def _listen(self, requests: AsyncIterator[verdict_pb2.WatchVerdictRequest]) -> None:
        async for request in requests:
            for name in request.leave:
                self.told.pop(name, None)
            for index, name in enumerate(request.follow):
                self.refusal = _refused(name, index, len(self.told) + (name not in self.told))
                if self.refusal is not None:
                    return
                self.told[name] = NEVER  # who names it again is told again
            self.named.set()


class VerdictService:
    """Serves the pipeline's verdicts."""

    SERVICE = "saewatch.v1.VerdictService"

    def __init__(self, *, feed: VerdictFeed, pipeline: Pipeline, streams: int = limits.VERDICT_STREAMS) -> None:
        self._feed = feed
        self._pipeline = pipeline
        self._streams_max = streams
        self._draining = False
        self.streams = 0

    def methods(self) -> Mapping[str, Exchange]:
        """Its methods by name."""
        return {"WatchVerdict": Exchange(verdict_pb2.WatchVerdictRequest, self.watch)}

    def drain(self) -> None:
        """Ends every stream."""
        self._draining = True
        self._feed.bell.ring()

    async def watch(
        self, requests: AsyncIterator[verdict_pb2.WatchVerdictRequest], principal: Principal
    ) -> AsyncGenerator[bytes, None]:
        """Verdicts on the requests that are named, as they change."""
        if self.streams >= self._streams_max:
            found, expected = f"{self.streams} streams", f"at most {self._streams_max}"
            error = SaewatchError(
                "streams", found=found, expected=expected, hint="Share one: it follows many requests."
            )
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, error, reason="STREAMS", retry_s=5.0)
        self.streams += 1
        follower = _Follower()
        listening = asyncio.create_task(follower.listen(requests))
        try:
            yield _response(())
            async for said in self._said(follower, principal):
                if listening.done():
                    listening.result()  # a fault of ours ends the call
                yield said
        finally:
            self.streams -= 1
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _said(self, follower: _Follower, principal: Principal) -> AsyncGenerator[bytes, None]:
        spoke = time.monotonic()
        while True:
            bell, follower.named = self._feed.bell.next, asyncio.Event()
            if follower.refusal is not None:
                raise follower.refusal
            asked = dict(follower.told)
            found = await asyncio.to_thread(self._pipeline.verdicts, asked) if asked else []
            for part in _parts(_settled(found, follower, principal)):
                yield part
                spoke = time.monotonic()
            if self._draining:
                yield _response((), drain=True)
                return
            if time.monotonic() - spoke >= HEARTBEAT_S:
                yield _response(())
                spoke = time.monotonic()
            await _either(bell, follower.named, HEARTBEAT_S)
            await asyncio.sleep(PACE_S)


def _settled(found: Iterable[Verdict], follower: _Follower, principal: Principal) -> list[verdict_pb2.Verdict]:
    """What is to be said, noted as told. Requests of other tenants are not there."""
    said: dict[str, list[Verdict]] = {}
    for one in found:
        hidden = (
            principal.tenants is not None and one.identity is not None and one.identity.tenant not in principal.tenants
        )
        said.setdefault(one.name, [])
        if not hidden:
            said[one.name].append(one)
    chosen: list[verdict_pb2.Verdict] = []
    for name, verdicts in said.items():
        before = follower.told.get(name)
        if before is None:
            continue  # it was left meanwhile
        if not verdicts:
            if before == NEVER:
                chosen.append(_nobody(name))
                follower.told[name] = NOBODY
            continue
        follower.told[name] = max(one.version for one in verdicts)
        chosen += map(message, verdicts)
    return chosen


def _nobody(name: str) -> verdict_pb2.Verdict:
    return message(
        Verdict(name=name, version=NOBODY, identity=None, state=UNKNOWN, reason=NOT_SEEN, covered_through=-1)
    )


def message(one: Verdict) -> verdict_pb2.Verdict:
    """A verdict as a message."""
    return verdict_pb2.Verdict(
        name=one.name,
        request=messages.request(one.identity) if one.identity else None,
        state=STATES[one.state],
        reason=one.reason,
        covered_through=alerted.position(one.covered_through),
        ended=one.ended,
        alerts=map(_alert, one.alerts),
        missed=messages.missed(one.missed.items()),
        claim=one.claim,
    )


def _alert(one: Alert) -> verdict_pb2.VerdictAlert:
    basis = weakest(one.evidence)
    return verdict_pb2.VerdictAlert(
        id=one.id,
        policy=one.policy,
        rule=one.rule,
        rule_version=one.version,
        severity=alerted.SEVERITY[one.severity],
        action=alerted.ALERT_ACTIONS[one.action],
        state=alerted.STATES[one.state],
        position=alerted.position(one.position),
        basis=alerted.basis(basis) if basis else None,
        precision=alerted.precision(one.judged),
    )


def weakest(evidence: Iterable[Evidence]) -> Basis | None:
    """Of what limits rest on, that which says least; None where one rests on nothing."""
    found = [one.basis for one in evidence]
    if not found or any(one is None for one in found):
        return None
    return max((one for one in found if one), key=lambda one: (one.quarantined, bool(one.stale), one.alpha, one.delta))


def _parts(verdicts: Iterable[verdict_pb2.Verdict]) -> Iterable[bytes]:
    """Messages that clients take, with as many verdicts as fit into each."""
    part, size = list[verdict_pb2.Verdict](), 0
    for one in verdicts:
        size += one.ByteSize()
        if part and size > ANSWER_BYTES:
            yield _response(part)
            part, size = [], one.ByteSize()
        part.append(one)
    if part:
        yield _response(part)


def _response(verdicts: Iterable[verdict_pb2.Verdict], *, drain: bool = False) -> bytes:
    now = messages.timestamp(time.time_ns())
    return Response(verdicts=verdicts, server_time=now, drain=drain).SerializeToString()


def _refused(name: str, index: int, count: int) -> Refusal | None:
    size = len(name.encode())
    if not 0 < size <= FILTER_ITEM_BYTES:
        return invalid(f"follow[{index}]", found=f"{size} bytes", expected=f"1 to {FILTER_ITEM_BYTES}")
    if count > limits.VERDICT_NAMES:
        expected = f"at most {limits.VERDICT_NAMES} on one stream"
        error = SaewatchError(
            "follow", found=f"{count} requests", expected=expected, hint="Leave those that have ended."
        )
        return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, error, reason="NAMES", retry_s=1.0)
    return None


async def _either(one: asyncio.Event, other: asyncio.Event, timeout_s: float) -> None:
    """Waits for one of two, or for so long."""
    waiting = [asyncio.ensure_future(each.wait()) for each in (one, other)]
    try:
        await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
