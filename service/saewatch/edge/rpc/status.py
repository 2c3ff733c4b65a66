"""`StatusService`: what is watched, how completely, and what is blind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from saewatch import __version__
from saewatch.edge.access import Principal
from saewatch.edge.pb import status_pb2
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.rpc import messages
from saewatch.edge.rpc.calls import Streaming, Unary
from saewatch.monitor.events import StreamState


class StatusService:
    """Serves the pipeline's state. ``counters`` and ``subscribers`` are read at each call."""

    SERVICE = "saewatch.v1.StatusService"

    def __init__(
        self, *, pipeline: Pipeline, counters: Callable[[], Mapping[str, int]], subscribers: Callable[[], int]
    ) -> None:
        self._pipeline = pipeline
        self._counters = counters
        self._subscribers = subscribers
        self._started_ns = time.time_ns()

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """Its methods by name."""
        return {"GetStatus": Unary(status_pb2.GetStatusRequest, self.get_status)}

    async def get_status(self, _: status_pb2.GetStatusRequest, __: Principal) -> status_pb2.GetStatusResponse:
        """The state of things."""
        status = await asyncio.to_thread(self._pipeline.status)
        queues = [
            status_pb2.QueueStatus(name=one.name, bytes=one.bytes, dropped=one.dropped)
            for one in self._pipeline.queues()
        ]
        engines = [status_pb2.QueueStatus(name=f"engine {name}", bytes=waiting) for name, waiting in status.queues]
        return status_pb2.GetStatusResponse(
            version=__version__,
            start_time=messages.timestamp(self._started_ns),
            server_time=messages.timestamp(time.time_ns()),
            streams=map(_stream, status.streams),
            blind=map(messages.blind, status.blind),
            rates=status_pb2.Rates(
                tokens_per_second=status.rates.tokens_per_second,
                firings_per_second=status.rates.firings_per_second,
                lag_seconds=status.rates.lag_seconds,
            ),
            queues=[*engines, *queues],
            counters={**self._counters(), **status.counters},
            open_requests=status.open_requests,
            kept_records=status.kept_records,
            subscribers=self._subscribers(),
            connections=status.links,
        )


def _stream(state: StreamState) -> status_pb2.StreamStatus:
    return status_pb2.StreamStatus(
        stream=messages.stream(state.identity),
        books=messages.books(state) if state.books else None,
        connected=state.connected,
        ended=state.ended,
        received_seq=state.received_seq,
        received_rows=state.received_rows,
        received_missed=state.received_missed,
        received_firings=state.received_firings,
        seq_gaps=state.seq_gaps,
        duplicates=state.duplicates,
        slots=state.slots,
    )
