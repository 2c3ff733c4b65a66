"""What is asked of the sidecar's history, as the messages that ask it."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict, Unpack

from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.client.filters import Several, classes, listed
from saewatch.core import limits
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import history_pb2


class Wanted(TypedDict, total=False):
    """Which stored firings and requests. What is left out does not filter; all that is given must hold.

    ``feature``, ``category``, ``min_value`` and ``max_value`` choose firings; ``model``, ``weights``, ``catalogue`` and
    ``hook_point`` choose streams; the others requests. Of each text one, or several as alternatives. A name that nobody
    knows any more matches nothing.
    """

    since: datetime | int | None
    """From this time on; a number is nanoseconds since 1970, and a datetime without a zone is local."""
    until: datetime | int | None
    """Up to, and not at, this time."""
    feature: Several
    category: Several
    min_value: float | None
    """Only values above it."""
    max_value: float | None
    """Only values up to it."""
    tenant: Several
    traffic_class: Several
    request: Several
    """By the client's id, the key or the engine's id."""
    conversation: Several
    model: Several
    weights: Several
    """Weights digests of dictionaries."""
    catalogue: Several
    """Catalogue digests."""
    hook_point: Several


_LISTS = {
    "feature": "feature_ids",
    "category": "categories",
    "tenant": "tenants",
    "request": "request_ids",
    "conversation": "conversations",
    "model": "model_names",
    "weights": "weights_digests",
    "catalogue": "catalogue_digests",
    "hook_point": "hook_points",
}
GROUPS = tuple(name.removeprefix("GROUPING_").lower() for name in history_pb2.Grouping.keys()[1:])
"""What firings are counted by."""


def firings(
    *, latest: bool = False, page_size: int = limits.PAGE_ITEMS, **wanted: Unpack[Wanted]
) -> history_pb2.QueryFiringsRequest:
    """Asks for firings by time, the latest first where that is wanted. Raises `SaewatchError` as `history_filter`."""
    return history_pb2.QueryFiringsRequest(filter=history_filter(**wanted), page_size=page_size, descending=latest)


def counts(
    by: str, *, bucket_s: float | None = None, page_size: int = limits.PAGE_ITEMS, **wanted: Unpack[Wanted]
) -> history_pb2.QueryFiringsRequest:
    """Asks for counts in buckets of a length, None for one over everything. Raises `SaewatchError` for what is none."""
    if by not in GROUPS:
        raise SaewatchError("by", found=repr(by), expected=f"one of {', '.join(GROUPS)}")
    aggregate = history_pb2.Aggregate(by=history_pb2.Grouping.Value(f"GROUPING_{by.upper()}"))
    if bucket_s is not None:
        if not limits.BUCKET_NS_MIN <= bucket_s * 1e9 <= limits.BUCKET_NS_MAX:
            raise SaewatchError("bucket_s", found=f"{bucket_s:g} s", expected="100 ms to 366 days")
        aggregate.bucket.FromNanoseconds(round(bucket_s * 1e9))
    return history_pb2.QueryFiringsRequest(filter=history_filter(**wanted), page_size=page_size, aggregate=aggregate)


def requests(
    *, latest: bool = False, page_size: int = limits.PAGE_ITEMS, **wanted: Unpack[Wanted]
) -> history_pb2.ListRequestsRequest:
    """Asks for requests by the time when they were first seen, the latest first where that is wanted."""
    return history_pb2.ListRequestsRequest(filter=history_filter(**wanted), page_size=page_size, descending=latest)


def history_filter(**wanted: Unpack[Wanted]) -> history_pb2.HistoryFilter:
    """The filter as a message. Raises `SaewatchError` for a time or a traffic class that there is not.

    Raises `TypeError` for a name that is none: left out, it would filter nothing.
    """
    for name in wanted.keys() - Wanted.__annotations__.keys():
        raise TypeError(f"{name!r} is none of {', '.join(Wanted.__annotations__)}")
    found = history_pb2.HistoryFilter(
        start_time=_time("since", wanted.get("since")),
        end_time=_time("until", wanted.get("until")),
        min_value=wanted.get("min_value"),
        max_value=wanted.get("max_value"),
        traffic_classes=classes(wanted.get("traffic_class")),
    )
    for name, field in _LISTS.items():
        getattr(found, field).extend(listed(wanted.get(name)))  # type: ignore[arg-type]  # these are the lists
    return found


def _time(name: str, given: datetime | int | None) -> Timestamp | None:
    if given is None:
        return None
    if isinstance(given, datetime):
        whole = given.astimezone().replace(microsecond=0)
        given = int(whole.timestamp()) * 10**9 + given.microsecond * 1000
    if not 0 <= given < limits.COUNT_MAX:
        raise SaewatchError(name, found=f"{given} ns", expected="a time from 1970 to 2262")
    return Timestamp(seconds=given // 10**9, nanos=given % 10**9)
