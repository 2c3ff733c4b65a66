"""Pages of a fake sidecar's history, and what it refuses: as a real one does, but that a token is just a number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from saewatch.client.fake.history import GROUPS, Fired, History
from saewatch.client.fake.made import ENGINE, HOOK_POINT, LABEL_REVIEWS, MODEL
from saewatch.client.fake.refusal import Refusal, invalid
from saewatch.client.fake.state import State
from saewatch.core import limits
from saewatch.edge.pb import common_pb2, history_pb2

Asked = history_pb2.QueryFiringsRequest | history_pb2.ListRequestsRequest
PAGE_SIZE = 50
_TOKEN = re.compile(r"fake-page-(\d{1,9})", re.ASCII)


def firings(state: State, request: history_pb2.QueryFiringsRequest) -> history_pb2.QueryFiringsResponse:
    """A page of firings: it covers the batches from its first one's to the one before the next page's."""
    history = History(state, request.filter)
    step = -1 if request.descending else 1
    order = history.rows[::step]
    found = [(place, one) for place, rows in enumerate(order) for one in history.fired(rows)[::step]]
    begin, end, token = _page(request, len(found))
    places = [0, *(place for place, _ in found[1:]), len(order)]
    first, last = places[begin] if found else 0, places[end] if found else len(order)
    return history_pb2.QueryFiringsResponse(
        firings=[_masked(_firing(one), request.read_mask) for _, one in found[begin:end]],
        next_page_token=token,
        coverage=history.covered(order[first:last]),
        losses=history.losses,
    )


def buckets(state: State, request: history_pb2.QueryFiringsRequest) -> history_pb2.QueryFiringsResponse:
    """A page of counts; the first one covers everything."""
    history = History(state, request.filter)
    found = list(history.buckets(request.aggregate))
    begin, end, token = _page(request, len(found))
    return history_pb2.QueryFiringsResponse(
        buckets=found[begin:end],
        next_page_token=token,
        coverage=history.covered([] if begin else history.rows),
        losses=history.losses,
    )


def requests(state: State, request: history_pb2.ListRequestsRequest) -> history_pb2.ListRequestsResponse:
    """A page of requests, by the time when they were first seen."""
    history, wanted = History(state, request.filter), request.filter
    chosen = wanted.feature_ids or wanted.categories or wanted.HasField("min_value") or wanted.HasField("max_value")
    known = {one.request.client_id: one.request for one in history.rows if not chosen or history.fired(one)}
    found = [history.summary(one) for one in known.values()]
    found.sort(key=lambda one: one.first_time.ToNanoseconds(), reverse=request.descending)
    begin, end, token = _page(request, len(found))
    return history_pb2.ListRequestsResponse(
        requests=[_masked(one, request.read_mask) for one in found[begin:end]],
        next_page_token=token,
        losses=history.losses,
    )


def refused(request: Asked) -> Refusal | None:
    """What of a question makes no sense, in the words of a real sidecar."""
    return next(_refusals(request), None)


def _refusals(request: Asked) -> Iterator[Refusal]:
    wanted = request.filter
    if request.page_size < 0:
        yield invalid("page_size", found=request.page_size, expected="0 or more")
    if _begin(request.page_token) is None:
        yield invalid("page_token", found=repr(request.page_token[:80]), expected="a next_page_token of this query")
    times = wanted.HasField("start_time") and wanted.HasField("end_time")
    if times and wanted.start_time.ToNanoseconds() >= wanted.end_time.ToNanoseconds():
        yield invalid("filter.end_time", found="not after start_time", expected="a later time")
    low, high = wanted.min_value, wanted.max_value
    if wanted.HasField("min_value") and wanted.HasField("max_value") and low >= high:
        yield invalid("filter.max_value", found=f"{high:g}", expected=f"above min_value, {low:g}")
    if isinstance(request, history_pb2.ListRequestsRequest):
        yield from _mask_refusals(request.read_mask, history_pb2.RequestSummary)
    elif request.HasField("aggregate"):
        yield from _aggregate_refusals(request)
    else:
        yield from _mask_refusals(request.read_mask, history_pb2.StoredFiring)


def _aggregate_refusals(request: history_pb2.QueryFiringsRequest) -> Iterator[Refusal]:
    asked = request.aggregate
    for name, given in (("read_mask", request.HasField("read_mask")), ("descending", request.descending)):
        if given:
            yield invalid(name, found="set beside aggregate", expected="firings, or buckets: not both")
    if asked.by not in GROUPS:
        yield invalid("aggregate.by", found=asked.by, expected="feature, category, tenant, class or model")
    width = asked.bucket.ToNanoseconds()
    if asked.HasField("bucket") and not limits.BUCKET_NS_MIN <= width <= limits.BUCKET_NS_MAX:
        yield invalid("aggregate.bucket", found=f"{width / 1e9:g} s", expected="100 ms to 366 days")


def _mask_refusals(mask: FieldMask, kind: type[Any]) -> Iterator[Refusal]:
    for index, path in enumerate(mask.paths):
        if path != "*" and not FieldMask(paths=[path]).IsValidForDescriptor(kind.DESCRIPTOR):
            yield invalid(f"read_mask.paths[{index}]", found=repr(path), expected=f"a field of {kind.__name__}")


def _masked(message: Any, mask: FieldMask) -> Any:
    if not mask.paths or "*" in mask.paths:
        return message
    part = type(message)()
    mask.MergeMessage(message, part)
    return part


def _begin(token: str) -> int | None:
    """The number of the item that a page token names; None for what is no token of ours."""
    match = _TOKEN.fullmatch(token or "fake-page-0")
    return int(match[1]) if match else None


def _page(request: Any, count: int) -> tuple[int, int, str]:
    """Begin and end of the asked page, and the token of the next one."""
    begin = min(_begin(request.page_token) or 0, count)
    end = min(begin + min(request.page_size or PAGE_SIZE, limits.PAGE_ITEMS), count)
    return begin, end, f"fake-page-{end}" if end < count else ""


def _firing(one: Fired) -> history_pb2.StoredFiring:
    request, position = one.rows.request, one.rows.position + one.row
    made = one.rows.of.made
    kind, unit = made.unit(one.slot)
    found = history_pb2.StoredFiring(
        feature_id=one.feature.id,
        label=one.feature.label,
        label_review=LABEL_REVIEWS[one.feature.review_state],
        category=one.feature.category,
        value=one.value,
        position=position,
        prompt=position < request.prompt_len,
        origin=common_pb2.ORIGIN_RECOMPUTED if one.rows.recomputed else common_pb2.ORIGIN_COMPUTED,
        unit_kind=kind,
        unit=unit,
        engine_id=request.engine_id,
        key=request.key,
        client_id=request.client_id,
        tenant=request.tenant,
        traffic_class=request.traffic_class,
        conversation=request.conversation,
        engine=ENGINE,
        model_name=MODEL,
        hook_point=HOOK_POINT,
        weights_digest=made.weights,
        catalogue_digest=made.catalogue,
    )
    found.time.FromNanoseconds(one.rows.time_ns)
    return found
