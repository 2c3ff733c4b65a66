"""The two ends of the sidecar for bench_pipeline: an engine that only talks, and subscribers that only listen.

Both run in processes of their own, so that the sidecar's CPU time is the sidecar's alone. The engine sends steps of a
given number of requests, each decoding one token a step, at a given rate of tokens; what fires is drawn once and sent
again and again under new numbers and times. It says what it sent, subscribers what they got.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np

from saewatch.core.batch import FiringBatch, Origin
from saewatch.core.wire import encode, fit
from saewatch.edge.pb import firing_pb2, firing_pb2_grpc
from tests import fakes
from tests.fakes import FakeEngine

FEATURES = 64
KNOWN = fakes.dictionary([fakes.feature(f"demo.l{n + 100}", latents=(n,)) for n in range(FEATURES)])
"""Every latent is a feature, so at most this many firings a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the engine sends."""

    tokens_per_s: float
    firings_per_token: int
    seconds: float
    requests: int = 256
    tokens_per_request: int = 0
    """After so many a request ends and another begins, at other steps than its neighbours; 0: none ever ends."""

    @property
    def steps(self) -> int:
        """Engine steps in all."""
        return round(self.tokens_per_s * self.seconds / self.requests)


def drive(socket_path: str, load: Load, said: Connection) -> None:
    """Sends the load, and says what it sent and by how much it was late at most."""
    rng = np.random.default_rng(0)
    drawn = [_step(load, rng) for _ in range(16)]
    sent, behind_s, seq = 0, 0.0, 0
    with FakeEngine(socket_path, KNOWN) as engine:
        engine.ready()
        open_requests = Open(engine, load)
        said.send("ready")
        began, beat = time.monotonic(), 0.0
        for number in range(load.steps):
            due = began + number * load.requests / load.tokens_per_s
            time.sleep(max(due - time.monotonic(), 0.0))
            behind_s = max(behind_s, time.monotonic() - due)
            open_requests.turn(number)
            for piece in fit(open_requests.fill(drawn[number % len(drawn)], seq + 1, number)):
                seq = piece.seq
                engine.seq[1] = seq
                engine.send_bytes(encode(piece))
            sent += load.requests
            if time.monotonic() - beat > 1.0:
                beat = time.monotonic()
                engine.beat()
            engine.drop_what_came()
        said.send({"tokens": sent, "firings": sent * load.firings_per_token, "behind_s": behind_s})
        assert engine.acked(seq, timeout_s=60), "the sidecar did not acknowledge everything"
        said.send("acknowledged")
        said.recv()


def _step(load: Load, rng: np.random.Generator) -> FiringBatch:
    rows = np.arange(load.requests)
    slots = np.sort(rng.permuted(np.tile(np.arange(FEATURES), (load.requests, 1)), axis=1)[:, : load.firings_per_token])
    return FiringBatch(
        stream=1,
        watch=1,
        seq=1,
        step=1,
        time_ns=1,
        request=np.arange(1, load.requests + 1, dtype=np.uint32),
        span_start=np.arange(load.requests + 1, dtype=np.int32),
        position=np.zeros(load.requests, np.int32),
        origin=np.full(load.requests, Origin.COMPUTED, np.uint8),
        missed_request=np.zeros(0, np.uint32),
        missed_reason=np.zeros(0, np.uint8),
        missed_tokens=np.zeros(0, np.int32),
        row=np.repeat(rows, load.firings_per_token).astype(np.uint32),
        slot=slots.ravel().astype(np.uint16),
        value=rng.gamma(2.0, 2.0, slots.size).astype(np.float32) + np.float32(0.1),
    )


class Open:
    """The requests that the engine works on, one in each row of a step."""

    def __init__(self, engine: FakeEngine, load: Load) -> None:
        self._engine = engine
        self._tokens = load.tokens_per_request
        self._number = np.arange(1, load.requests + 1, dtype=np.uint32)  # [R]
        self._began = np.zeros(load.requests, np.int32)  # [R] step
        self._phase = np.arange(load.requests) * self._tokens // load.requests  # [R]
        for request in self._number.tolist():
            engine.start(request, name=f"plain-{request}")

    def turn(self, number: int) -> None:
        """Step ``number`` comes: some have ended, and others begin in their rows."""
        if not self._tokens or not number:
            return
        for row in np.flatnonzero((self._phase + number) % self._tokens == 0).tolist():
            fed = number - int(self._began[row])
            self._engine.end(int(self._number[row]), fed=fed, emitted=fed)
            self._number[row] += np.uint32(len(self._number))
            self._began[row] = number
            self._engine.start(int(self._number[row]), name=f"plain-{self._number[row]}")

    def fill(self, step: FiringBatch, seq: int, number: int) -> FiringBatch:
        """A drawn step, as step ``number`` of these requests."""
        position = np.int32(number) - self._began
        return replace(
            step, seq=seq, step=number, time_ns=time.time_ns(), position=position, request=self._number.copy()
        )


@dataclass(slots=True)
class Got:
    """What one subscriber was given."""

    messages: int = 0
    tokens: int = 0
    firings: int = 0
    gap_tokens: int = 0
    gap_firings: int = 0
    lags_s: list[float] = field(default_factory=list)

    def take(self, message: firing_pb2.WatchFiringsResponse) -> None:
        """Adds a message up. Its lag is that of its oldest step."""
        self.messages += 1
        kind = message.WhichOneof("event")
        if kind == "batch":
            batch = message.batch
            self.lags_s.append((time.time_ns() - batch.first_time_unix_nano) / 1e9)
            self.tokens += sum(batch.span_tokens) + sum(batch.missed_tokens)
            self.firings += len(batch.row)
        elif kind == "gap":
            self.gap_tokens += message.gap.tokens
            self.gap_firings += message.gap.firings


def subscribe(address: str, count: int, silent: int, said: Connection) -> None:
    """``count`` subscribers, of which the first ``silent`` read nothing until they are told to."""
    said.send(asyncio.run(_subscribe(address, count, silent, said)))


async def _subscribe(address: str, count: int, silent: int, said: Connection) -> Sequence[Mapping[str, Any]]:
    got, reading = [Got() for _ in range(count)], asyncio.Event()
    channels = [grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in got]
    calls = [_call(channel) for channel in channels]
    for call in calls:
        await call.read()  # the first heartbeat: it is subscribed
    tasks = [
        asyncio.create_task(_listen(call, one, reading if index < silent else None))
        for index, (call, one) in enumerate(zip(calls, got, strict=True))
    ]
    said.send("ready")
    loop = asyncio.get_running_loop()
    for word in ("read", "end"):
        assert await loop.run_in_executor(None, said.recv) == word
        reading.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return [
        {name: getattr(one, name) for name in ("messages", "tokens", "firings", "gap_tokens", "gap_firings", "lags_s")}
        for one in got
    ]


def _call(channel: grpc.aio.Channel) -> Any:
    stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
    return stub.WatchFirings(firing_pb2.WatchFiringsRequest())


async def _listen(call: Any, got: Got, reading: asyncio.Event | None) -> None:
    if reading is not None:
        await reading.wait()
    while True:
        got.take(await call.read())
