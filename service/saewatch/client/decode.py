"""From the messages of saewatch.v1 to events. What a sidecar should not send is a `RecordError`, never a wrong event.

Numbers of closed lists that are not known, of a newer sidecar, become words like ``reason_12`` and go through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.client.events import Blind, Books, Coverage, Gap, Heartbeat, RequestEnded
from saewatch.client.filters import Chosen
from saewatch.client.firings import Firings
from saewatch.client.tables import Request, Stream, Table, table
from saewatch.core.batch import F32, I32, U32
from saewatch.core.catalogue import Feature
from saewatch.core.errors import RecordError
from saewatch.core.label import Review, Source
from saewatch.edge.pb import common_pb2, firing_pb2

FAULT = "A fault of the sidecar: its log may say more."


@lru_cache(maxsize=1024)
def word(enum: Any, number: int) -> str:
    """An enumeration's value in our spelling: ``queue_full``; empty for 0, ``reason_12`` for one that is not known."""
    spelt = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name)
    try:
        name: str = enum.Name(number)
    except ValueError:
        return f"{spelt.rpartition('_')[2].lower()}_{number}"
    return "" if number == 0 else name.removeprefix(f"{spelt.upper()}_").lower()


def time_ns(moment: Timestamp) -> int:
    """Nanoseconds since 1970."""
    return moment.seconds * 10**9 + moment.nanos


def stream(one: common_pb2.Stream) -> Stream:
    """Who a stream is."""
    return Stream(
        number=one.number,
        engine=one.engine,
        epoch=one.epoch,
        dp_rank=one.dp_rank,
        pp_rank=one.pp_rank,
        tp_rank=one.tp_rank,
        model_name=one.model_name,
        model_digest=one.model_digest,
        model_proof=one.model_proof,
        quantisation=one.quantisation,
        hook_point=one.hook_point,
        weights_digest=one.weights_digest,
        catalogue_digest=one.catalogue_digest,
        mode=one.mode,
        role=word(common_pb2.Role, one.role),
        excluded=dict(one.excluded),
        versions=dict(one.versions),
    )


def request(one: common_pb2.Request) -> Request:
    """Who a request is."""
    return Request(
        engine_id=one.engine_id,
        key=one.key,
        client_id=one.client_id,
        tenant=one.tenant,
        traffic_class=word(common_pb2.TrafficClass, one.traffic_class),
        conversation=one.conversation,
        trace_id=one.trace_id,
        child=one.child,
        prompt_len=one.prompt_len,
        cached=one.cached,
        adapter=one.adapter,
        engine=one.engine,
        fit=word(common_pb2.Fit, one.fit),
    )


def feature(one: common_pb2.Feature) -> Feature:
    """A feature of the catalogue."""
    return Feature(
        id=one.id,
        label=one.label,
        category=one.category,
        severity=word(common_pb2.Severity, one.severity),
        floor=one.floor,
        latents=tuple(one.latents),
        direction=one.direction if one.HasField("direction") else None,
        aggregation=one.aggregation,
        scope=one.scope,
        head=tuple(one.head),
        claim=one.claim,
        source=Source(kind=one.label_source, model=one.label_model) if one.label_source else None,
        review=Review(state=word(common_pb2.LabelReview, one.label_review)) if one.label_review else None,
    )


def feature_table(message: firing_pb2.FeatureTable, chosen: Chosen) -> Table:
    """What the slots of a stream mean. Raises `RecordError` for columns of different lengths or a slot that is none."""
    width = _same_length("table slots", message.slot_kind, message.slot_unit, message.slot_floor)
    features = [(feature(one.feature), tuple(one.slots)) for one in message.features]
    for one, slots in features:
        if slots and max(slots) >= width:
            raise _fault(f"table.features[{one.id}].slots", found=max(slots), expected=f"below {width}")
    return table(
        number=message.number,
        stream=stream(message.stream),
        watch_digest=message.watch_digest,
        kind=tuple(word(common_pb2.UnitKind, kind) for kind in message.slot_kind),
        unit=np.array(message.slot_unit, dtype=np.uint32),
        features=features,
        shown=[chosen.shows(one) for one, _ in features],
        chosen=chosen.features_only,
    )


def firings(message: firing_pb2.FiringBatch, tables: Mapping[int, Table], resume_token: str) -> Firings:
    """A batch with what its slots mean. Raises `RecordError` for a table that was not sent, and for broken columns."""
    known = tables.get(message.table)
    if known is None:
        raise _fault("batch.table", found=f"table {message.table}", expected="a table that was sent before")
    _same_length("batch spans", message.span_request, message.span_position, message.span_tokens, message.span_origin)
    _same_length("batch missed", message.missed_request, message.missed_reason, message.missed_tokens)
    _same_length("batch firings", message.row, message.slot, message.value)
    span_request, missed_request = _requests(message, message.span_request), _requests(message, message.missed_request)
    position, tokens = _numbers(message.span_position), _numbers(message.span_tokens)
    row, slot = _numbers(message.row), _numbers(message.slot)
    value: F32 = np.array(message.value, dtype=np.float32)
    ends = np.cumsum(tokens, dtype=np.int64)
    _below("batch.row", row, int(ends[-1]) if len(ends) else 0)
    _below("batch.slot", slot, known.slots)
    firing, fired = known.fired(slot, value)
    row = row[firing]
    span = np.searchsorted(ends, row, side="right")  # the span that each row lies in
    return Firings(
        resume_token=resume_token,
        table=known,
        requests=tuple(map(request, message.requests)),
        first_seq=message.first_seq,
        last_seq=message.last_seq,
        first_time_ns=message.first_time_unix_nano,
        last_time_ns=message.last_time_unix_nano,
        slot_firings=len(slot),
        span_request=span_request,
        span_position=position,
        span_tokens=tokens,
        span_origin=_words(common_pb2.Origin, message.span_origin),
        missed_request=missed_request,
        missed_reason=_words(common_pb2.MissedReason, message.missed_reason),
        missed_tokens=_numbers(message.missed_tokens),
        feature=fired,
        request=span_request[span],
        position=position[span].astype(np.int64) + row - (ends - tokens)[span],
        slot=slot[firing],
        value=value[firing],
    )


def coverage(message: firing_pb2.Coverage, resume_token: str) -> Coverage:
    """The books, and what is blind."""
    return Coverage(
        resume_token=resume_token, streams=tuple(map(books, message.streams)), blind=tuple(map(blind, message.blind))
    )


def books(one: common_pb2.StreamBooks) -> Books:
    """A stream's books."""
    return Books(
        stream=one.stream,
        fed=one.fed,
        encoded=one.encoded,
        reused=one.reused,
        missed={word(common_pb2.MissedReason, item.reason): item.tokens for item in one.missed},
        in_flight=one.in_flight,
        imbalance=one.imbalance,
        firings=one.firings,
        sink_calls=one.sink_calls,
        coverage=one.coverage,
        beat_time_ns=time_ns(one.beat_time),
        blind=one.blind,
    )


def blind(one: common_pb2.Blind) -> Blind:
    """A blind state."""
    return Blind(
        scope=one.scope, reason=one.reason, subject=one.subject, hint=one.hint, since_ns=time_ns(one.since_time)
    )


def gap(message: firing_pb2.Gap, resume_token: str) -> Gap:
    """Events that were not received."""
    return Gap(
        resume_token=resume_token,
        reason=word(firing_pb2.GapReason, message.reason),
        tokens=message.tokens,
        firings=message.firings,
        first_event=message.first_event,
        last_event=message.last_event,
        stream=stream(message.stream) if message.HasField("stream") else None,
        repeated_tokens=message.repeated_tokens,
        unknown=message.unknown,
    )


def ended(message: firing_pb2.RequestEnded, resume_token: str) -> RequestEnded:
    """A request's end."""
    return RequestEnded(
        resume_token=resume_token,
        request=request(message.request),
        fed=message.fed,
        emitted=message.emitted,
        lost=message.lost,
    )


def heartbeat(message: firing_pb2.Heartbeat, resume_token: str) -> Heartbeat:
    """A sign of life."""
    return Heartbeat(
        resume_token=resume_token, head_event=message.head_event, server_time_ns=time_ns(message.server_time)
    )


def _numbers(column: Iterable[int]) -> U32:
    return np.array(column, dtype=np.uint32)  # reads protobuf's container as it is, without an object for each number


def _requests(message: firing_pb2.FiringBatch, column: Iterable[int]) -> I32:
    """Indexes into the requests; 4294967295, for one that is not known, becomes -1."""
    found = _numbers(column).astype(np.int32)
    if ((found < -1) | (found >= len(message.requests))).any():
        raise _fault("batch requests", found=f"request {found.max()}", expected=f"below {len(message.requests)}")
    return found


def _words(enum: Any, numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(word(enum, number) for number in numbers)


def _same_length(what: str, *columns: Any) -> int:
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise _fault(what, found=f"columns of {sorted(lengths)} items", expected="columns of one length")
    return int(lengths.pop())


def _below(what: str, column: U32, bound: int) -> None:
    if len(column) and int(column.max()) >= bound:
        raise _fault(what, found=int(column.max()), expected=f"below {bound}")


def _fault(what: str, *, found: object, expected: object) -> RecordError:
    return RecordError(what, found=found, expected=expected, hint=FAULT)
