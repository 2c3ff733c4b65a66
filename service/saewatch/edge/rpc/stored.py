"""From what the history finds to the messages of history.proto, and from those to what it is to look for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.fit import AdapterFit, adapter_fit, weakest
from saewatch.edge.access import Principal
from saewatch.edge.history.buckets import Grouping, Sum
from saewatch.edge.history.columns import I64
from saewatch.edge.history.firings import Covered, Row
from saewatch.edge.history.reading import Reader, Snapshot, Span
from saewatch.edge.history.requests import Summary
from saewatch.edge.history.wanted import StoredRequest, Wanted
from saewatch.edge.history.writer import Cause, Loss, State
from saewatch.edge.pb import common_pb2, history_pb2
from saewatch.edge.rpc import messages
from saewatch.edge.rpc.bounded import bounded
from saewatch.edge.rpc.refusals import invalid
from saewatch.monitor.identity import Identity

M = TypeVar("M", bound=Message)
GROUPINGS = {history_pb2.Grouping.Value(f"GROUPING_{one.name}"): one for one in Grouping}
_CAUSES = {one: history_pb2.LossCause.Value(f"LOSS_CAUSE_{one.name}") for one in Cause}
_STATES = {int(one): history_pb2.RequestState.Value(f"REQUEST_STATE_{one.name}") for one in State}
_CLASSES = {number: name for name, number in messages.TRAFFIC_CLASSES.items()}
_WHO = tuple(one.name for one in fields(Identity))
_TEXTS = (
    "feature_ids",
    "categories",
    "tenants",
    "request_ids",
    "conversations",
    "model_names",
    "weights_digests",
    "catalogue_digests",
    "hook_points",
)


# --- questions ----------------------------------------------------------------------------------------------------
def wanted(asked: history_pb2.HistoryFilter, principal: Principal) -> Wanted:
    """What a filter chooses. Raises `Refusal` for what makes no sense; names that nobody knows do."""
    bounded(asked, _TEXTS, ("traffic_classes",))
    for index, number in enumerate(asked.traffic_classes):
        if number not in _CLASSES:
            raise invalid(f"filter.traffic_classes[{index}]", found=number, expected="a traffic class")
    low = asked.min_value if asked.HasField("min_value") else None
    high = asked.max_value if asked.HasField("max_value") else None
    for name, value in (("min_value", low), ("max_value", high)):
        if value is not None and math.isnan(value):
            raise invalid(f"filter.{name}", found="NaN", expected="a number")
    if low is not None and high is not None and low >= high:
        raise invalid("filter.max_value", found=f"{high:g}", expected=f"above min_value, {low:g}")
    return Wanted(
        min_value=low,
        max_value=high,
        traffic_classes=frozenset(_CLASSES[number] for number in asked.traffic_classes),
        allowed_tenants=principal.tenants,
        **{name: frozenset(getattr(asked, name)) for name in _TEXTS},
    )


def times(asked: history_pb2.HistoryFilter) -> tuple[int | None, int | None]:
    """Begin and end of the asked time. Raises `Refusal` for what is none."""
    start = _time("start_time", asked.start_time) if asked.HasField("start_time") else None
    end = _time("end_time", asked.end_time) if asked.HasField("end_time") else None
    if start is not None and end is not None and start >= end:
        raise invalid("filter.end_time", found="not after start_time", expected="a later time")
    return start, end


def _time(name: str, told: Timestamp) -> int:
    time_ns = told.seconds * 10**9 + told.nanos
    if not 0 <= told.nanos < 10**9 or not 0 <= time_ns < limits.COUNT_MAX:
        raise invalid(f"filter.{name}", found=f"{told.seconds} s, {told.nanos} ns", expected="a time from 1970 to 2262")
    return time_ns


def check_mask(mask: FieldMask, kind: type[Message]) -> None:
    """Raises `Refusal` for a path that the message does not have."""
    of: Any = kind.DESCRIPTOR  # protobuf has two classes for it
    for index, path in enumerate(mask.paths):
        if path != "*" and not FieldMask(paths=[path]).IsValidForDescriptor(of):
            known = ", ".join(field.name for field in of.fields)
            raise invalid(f"read_mask.paths[{index}]", found=repr(path)[:128], expected=f"one of {known}")


def masked(message: M, mask: FieldMask) -> M:
    """What is wanted of a message."""
    if not mask.paths or "*" in mask.paths:
        return message
    part = type(message)()
    mask.MergeMessage(message, part)
    return part


# --- answers ------------------------------------------------------------------------------------------------------
def firing(row: Row) -> history_pb2.StoredFiring:
    """A stored firing."""
    feature, request, opening = row.table.features[row.feature], row.request, row.stream.opening
    return history_pb2.StoredFiring(
        time=messages.timestamp(row.time_ns),
        feature_id=feature.id,
        label=feature.label,
        label_review=messages.LABEL_REVIEWS[feature.review_state],
        category=feature.category,
        value=row.value,
        position=row.position,
        prompt=row.position < request.prompt_len,
        origin=messages.ORIGINS[Origin(row.origin)],
        unit_kind=messages.UNIT_KINDS[int(row.table.kind[row.slot])],
        unit=int(row.table.unit[row.slot]),
        engine_id=request.engine_id,
        key=request.key,
        client_id=request.client_id,
        tenant=request.tenant,
        traffic_class=messages.TRAFFIC_CLASSES[request.traffic_class],
        conversation=request.conversation,
        engine=opening.engine,
        model_name=opening.model_name,
        hook_point=opening.hook_point,
        weights_digest=opening.weights_digest,
        catalogue_digest=row.stream.catalogue_digest,
        adapter=request.adapter,
        fit=messages.FITS[adapter_fit(request.adapter, row.stream.adapters)],
    )


def bucket(span: Span, group: str, one: Sum) -> history_pb2.Bucket:
    """A bucket."""
    return history_pb2.Bucket(
        start_time=messages.timestamp(span.start_ns),
        end_time=messages.timestamp(span.end_ns),
        group=group,
        firings=one.firings,
        requests=one.requests,
        max_value=one.largest if one.firings else None,
        mean_value=one.total / one.firings if one.firings else None,
        tokens_seen=one.seen,
        missed=missed(one.missed),
    )


def summary(one: Summary) -> history_pb2.RequestSummary:
    """A request's summary."""
    request = one.request
    listed = sorted(one.features.items(), key=lambda item: (-item[1][1], item[0]))[: limits.QUERY_FEATURES]
    return history_pb2.RequestSummary(
        request=_request(request, weakest(request.adapter, one.attested)),
        first_time=messages.timestamp(request.first_ns),
        last_time=messages.timestamp(request.last_ns),
        state=_STATES[request.state],
        fed=request.fed,
        emitted=request.emitted,
        tokens_seen=one.seen,
        missed=missed(one.missed),
        firings=one.firings,
        features=[
            history_pb2.FeatureSummary(feature_id=name, count=count, max_value=value) for name, (count, value) in listed
        ],
        features_fired=len(one.features),
    )


def _request(one: StoredRequest, fit: AdapterFit) -> common_pb2.Request:
    return messages.request(Identity(**{name: getattr(one, name) for name in _WHO}), fit)


def coverage(one: Covered) -> history_pb2.HistoryCoverage:
    """What a page covers."""
    return history_pb2.HistoryCoverage(
        start_time=messages.timestamp(one.start_ns),
        end_time=messages.timestamp(one.end_ns),
        tokens_seen=one.seen,
        missed=missed(one.missed),
    )


def losses(reader: Reader, snapshot: Snapshot) -> history_pb2.HistoryLosses:
    """What the store does not have of a time."""
    return history_pb2.HistoryLosses(
        losses=_losses(reader.losses(snapshot)), kept_since_time=messages.timestamp(reader.kept_since_ns() or 0)
    )


def missed(by_reason: I64) -> Sequence[common_pb2.MissedTokens]:
    """Tokens that were not seen, by reason."""
    return messages.missed((Reason(number).label, tokens) for number, tokens in enumerate(by_reason.tolist()))


def _losses(found: Iterable[Loss]) -> list[history_pb2.HistoryLoss]:
    return [
        history_pb2.HistoryLoss(
            cause=_CAUSES[one.cause],
            start_time=messages.timestamp(one.first_ns),
            end_time=messages.timestamp(one.last_ns + 1),
            tokens=one.tokens,
            firings=one.firings,
        )
        for one in found
    ]
