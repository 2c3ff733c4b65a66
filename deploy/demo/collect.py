"""Gathers what the gRPC stream says, by request: the other half of what the client knows of its own answers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import grpc
import numpy as np
import numpy.typing as npt

from saewatch.edge.pb.saewatch.v1 import common_pb2, firing_pb2, firing_pb2_grpc, status_pb2, status_pb2_grpc

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

UNKNOWN = 0xFFFFFFFF
START_S = 30
"""For the stream to begin: the sidecar tells of its dictionaries at once."""

CHANNEL = (("grpc.max_receive_message_length", 16 * 2**20), ("grpc.http2.bdp_probe", 0))


@dataclass(slots=True)
class Seen:
    """What was received of one request (one sampled answer), in columns that grow."""

    request: common_pb2.Request
    position: list[I64] = field(default_factory=list)  # of each row
    fired_position: list[I64] = field(default_factory=list)  # of each firing
    slot: list[I64] = field(default_factory=list)
    value: list[F32] = field(default_factory=list)
    missed: Counter[int] = field(default_factory=Counter)  # by MissedReason
    upto: int = -1  # greatest position seen
    recomputed: int = 0
    fed: int = -1  # at its end
    lag_s: float = 0.0  # from the step to here, of its latest batch

    def columns(self) -> tuple[I64, I64, I64, F32]:
        """Positions of rows, and position, slot and value of firings."""
        none = np.zeros(0, np.int64)
        return (
            np.concatenate([none, *self.position]),
            np.concatenate([none, *self.fired_position]),
            np.concatenate([none, *self.slot]),
            np.concatenate([np.zeros(0, np.float32), *self.value]),
        )


class Collector:
    """One WatchFirings call on a thread of its own. ``seen`` is keyed by the client's id and the child's number.

    ``with Collector(address) as collector`` waits until the stream has begun, and ends the call.
    """

    def __init__(self, address: str, *, on: Callable[[], None] = lambda: None) -> None:
        self._channel = grpc.insecure_channel(address, options=CHANNEL)
        self._on = on
        self.seen: dict[tuple[str, int], Seen] = {}
        self.tables: dict[int, firing_pb2.FeatureTable] = {}
        self.gaps: list[firing_pb2.Gap] = []
        self.unattributed: Counter[int] = Counter()
        self.first_firing: float | None = None
        self.firings = 0
        self.rows = 0
        self.blind: tuple[str, ...] = ()
        self._ready = threading.Event()
        self._call = firing_pb2_grpc.FiringServiceStub(self._channel).WatchFirings(firing_pb2.WatchFiringsRequest())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        if not self._ready.wait(START_S):
            self.close()
            raise TimeoutError(f"no event of WatchFirings within {START_S} s")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> status_pb2.GetStatusResponse:
        """The sidecar's state."""
        stub = status_pb2_grpc.StatusServiceStub(self._channel)
        return stub.GetStatus(status_pb2.GetStatusRequest(), timeout=10)

    def settled(self, *, timeout_s: float = 15.0) -> status_pb2.GetStatusResponse:
        """The state once two beats in a row, after this call, tell of nothing in flight and of no more tokens."""
        deadline, before = time.monotonic() + timeout_s, Counter[int]()
        beaten, seen = time.time_ns(), 0
        while True:
            state = self.status()
            books = [stream.books for stream in state.streams if stream.connected]
            fed = Counter({one.stream: one.fed for one in books})
            latest = min((one.beat_time.ToNanoseconds() for one in books), default=0)
            if latest > beaten:
                quiet = not state.open_requests and all(one.in_flight == 0 for one in books)
                seen = seen + 1 if quiet and fed == before else 0
                beaten, before = latest, fed
            if seen or time.monotonic() > deadline:
                return state
            time.sleep(0.1)

    def close(self) -> None:
        """Ends the call."""
        self._call.cancel()
        self._thread.join(5)
        self._channel.close()

    def _run(self) -> None:
        try:
            for event in self._call:
                self._take(event)
                self._on()
        except grpc.RpcError:
            self._on()

    def _take(self, event: firing_pb2.WatchFiringsResponse) -> None:
        kind = event.WhichOneof("event")
        if kind == "batch":
            self._batch(event.batch)
        elif kind == "table":
            self.tables[event.table.number] = event.table
        elif kind == "gap":
            self.gaps.append(event.gap)
        elif kind == "coverage":
            self.blind = tuple(f"{one.scope}: {one.reason}" for one in event.coverage.blind)
        elif kind == "ended":
            self._seen(event.ended.request).fed = event.ended.fed
        self._ready.set()

    def _batch(self, batch: firing_pb2.FiringBatch) -> None:
        now = time.time()
        seen = [self._seen(request) for request in batch.requests]
        tokens = np.array(batch.span_tokens, np.int64)
        starts = np.concatenate([[0], np.cumsum(tokens)])
        row, slot = np.array(batch.row, np.int64), np.array(batch.slot, np.int64)
        value = np.array(batch.value, np.float32)
        bounds = np.searchsorted(row, starts)
        for index, (request, position, origin) in enumerate(
            zip(batch.span_request, batch.span_position, batch.span_origin, strict=True)
        ):
            one, part = seen[request], slice(bounds[index], bounds[index + 1])
            one.lag_s = now - batch.last_time_unix_nano / 1e9
            one.upto = max(one.upto, position + int(tokens[index]) - 1)
            if origin == common_pb2.ORIGIN_RECOMPUTED:
                one.recomputed += int(tokens[index])
                continue
            one.position.append(np.arange(position, position + tokens[index]))
            one.fired_position.append(row[part] - starts[index] + position)
            one.slot.append(slot[part])
            one.value.append(value[part])
        for request, reason, count in zip(batch.missed_request, batch.missed_reason, batch.missed_tokens, strict=True):
            (self.unattributed if request == UNKNOWN else seen[request].missed)[reason] += count
        self.rows += int(tokens.sum())
        self.firings += len(row)
        if len(row) and self.first_firing is None:
            self.first_firing = time.time()

    def _seen(self, request: common_pb2.Request) -> Seen:
        return self.seen.setdefault(self.key(request), Seen(request))

    def key(self, request: common_pb2.Request) -> tuple[str, int]:
        """Under which name and child it is ``seen``."""
        return request.client_id or request.engine_id, request.child

    def features_of(self) -> Iterator[tuple[int, int, common_pb2.Feature, float]]:
        """Table, slot, feature, and the slot's weight in a group's head (0 without one) of all that is watched."""
        for number, table in self.tables.items():
            for watched in table.features:
                weights = dict(zip(watched.feature.latents, watched.feature.head, strict=False))
                for slot in watched.slots:
                    yield number, slot, watched.feature, weights.get(table.slot_unit[slot], 0.0)
