"""`StatusService`: what is watched, how completely, and what is blind."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Mapping

import grpc

from saewatch import __version__
from saewatch.core import limits
from saewatch.core.errors import SaewatchError
from saewatch.edge import evidence
from saewatch.edge.access import Principal
from saewatch.edge.pb import status_pb2
from saewatch.edge.pipeline import Pipeline
from saewatch.edge.rpc import messages, policystatus
from saewatch.edge.rpc.calls import Streaming, Unary
from saewatch.edge.rpc.refusals import Refusal
from saewatch.monitor.compared import Comparison, Side
from saewatch.monitor.events import StreamState


class StatusService:
    """Serves the pipeline's state. ``counters`` and ``subscribers`` are read at each call.

    ``clock``: by which attestations age.
    """

    SERVICE = "saewatch.v1.StatusService"

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        counters: Callable[[], Mapping[str, int]],
        subscribers: Callable[[], int],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._counters = counters
        self._subscribers = subscribers
        self._started_ns = time.time_ns()

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """Its methods by name."""
        return {
            "GetStatus": Unary(status_pb2.GetStatusRequest, self.get_status),
            "CompareShadow": Unary(status_pb2.CompareShadowRequest, self.compare_shadow),
        }

    async def get_status(self, _: status_pb2.GetStatusRequest, __: Principal) -> status_pb2.GetStatusResponse:
        """The state of things."""
        status = await asyncio.to_thread(self._pipeline.status)
        policies, programmes = await asyncio.to_thread(self._pipeline.policies)
        silences = await asyncio.to_thread(
            self._pipeline.tell_alerts, lambda alerts, now_ns: (len(alerts.silences.all(now_ns)), ())
        )
        queues = [
            status_pb2.QueueStatus(name=one.name, bytes=one.bytes, dropped=one.dropped)
            for one in self._pipeline.queues()
        ]
        engines = [status_pb2.QueueStatus(name=f"engine {name}", bytes=waiting) for name, waiting in status.queues]
        return status_pb2.GetStatusResponse(
            version=__version__,
            start_time=messages.timestamp(self._started_ns),
            server_time=messages.timestamp(time.time_ns()),
            streams=[_stream(one, self._today()) for one in status.streams],
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
            policies=policystatus.messages_of(policies, programmes),
            active_silences=silences,
        )

    async def compare_shadow(
        self, request: status_pb2.CompareShadowRequest, _: Principal
    ) -> status_pb2.CompareShadowResponse:
        """Shadow dictionaries beside the stable ones."""
        comparisons = await asyncio.to_thread(self._pipeline.comparisons)
        chosen = [
            one
            for one in comparisons
            if request.model_name in {"", one.model_name} and request.hook_point in {"", one.hook_point}
        ]
        ordered = sorted(chosen, key=lambda one: (one.model_name, one.hook_point, one.begin_ns))
        answer = status_pb2.CompareShadowResponse(comparisons=map(_comparison, ordered))
        if len(ordered) > 1 and answer.ByteSize() > limits.QUERY_BYTES:
            found, expected = f"{len(ordered)} comparisons of {answer.ByteSize()} bytes", "fewer"
            error = SaewatchError("answer", found=found, expected=expected, hint="Name a model and a hook point.")
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, error, reason="ANSWER_BYTES")
        return answer

    def _today(self) -> dt.date:
        return dt.datetime.fromtimestamp(self._clock() / 1e9, tz=dt.UTC).date()


def _comparison(one: Comparison) -> status_pb2.ShadowComparison:
    fired = (one.stable_firings > 0) | (one.shadow_firings > 0)
    columns = (one.both, one.stable_alone, one.shadow_alone, one.stable_firings, one.shadow_firings)
    names = [name for name, here in zip(one.features, fired.tolist(), strict=True) if here]
    return status_pb2.ShadowComparison(
        model_name=one.model_name,
        hook_point=one.hook_point,
        stable=_side(one.stable),
        shadow=_side(one.shadow),
        begin_time=messages.timestamp(one.begin_ns),
        end_time=messages.timestamp(one.end_ns),
        requests=one.requests,
        uneven=one.uneven,
        features=[
            status_pb2.ShadowFeature(
                id=name,
                both=both,
                stable_alone=stable,
                shadow_alone=shadow,
                stable_firings=stable_firings,
                shadow_firings=shadow_firings,
            )
            for name, both, stable, shadow, stable_firings, shadow_firings in zip(
                names, *(column[fired].tolist() for column in columns), strict=True
            )
        ],
        stable_only=one.stable_only[: limits.SHADOW_IDS],
        shadow_only=one.shadow_only[: limits.SHADOW_IDS],
        silent=len(one.features) - len(names),
    )


def _side(side: Side) -> status_pb2.ShadowSide:
    return status_pb2.ShadowSide(
        weights_digest=side.weights,
        catalogue_digest=side.catalogue,
        tokens=side.tokens,
        missed=side.missed,
        firings=side.firings,
    )


def _stream(state: StreamState, today: dt.date) -> status_pb2.StreamStatus:
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
        evidence=map(_evidence, evidence.of_stream(state.identity, today)),
    )


_STATES = {
    evidence.VALID: status_pb2.EVIDENCE_STATE_VALID,
    evidence.RENEW: status_pb2.EVIDENCE_STATE_RENEW,
    evidence.VOID: status_pb2.EVIDENCE_STATE_VOID,
}


def _evidence(found: evidence.Evidence) -> status_pb2.Evidence:
    return status_pb2.Evidence(
        kind=found.kind,
        digest=found.digest,
        state=_STATES[found.state],
        reasons=found.reasons,
        without_alert=found.without_alert,
    )
