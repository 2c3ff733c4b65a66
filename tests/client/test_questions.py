"""What is asked of the history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from saewatch.client import Client, questions
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import common_pb2, history_pb2


def test_nothing_wanted_is_everything() -> None:
    assert questions.history_filter() == history_pb2.HistoryFilter()
    everything: Any = dict.fromkeys(questions.Wanted.__annotations__)
    assert questions.history_filter(**everything) == history_pb2.HistoryFilter()


def test_every_field_of_the_filter_has_a_name() -> None:
    wanted: Any = dict.fromkeys(questions.Wanted.__annotations__, "x")
    wanted |= {"since": 1, "until": 2, "min_value": 0.0, "max_value": 1.0, "traffic_class": "live"}
    found = questions.history_filter(**wanted)
    assert {field.name for field, _ in found.ListFields()} == {field.name for field in found.DESCRIPTOR.fields}
    assert list(found.traffic_classes) == [common_pb2.TRAFFIC_CLASS_LIVE]


@pytest.mark.parametrize(
    ("given", "time_ns"),
    [
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
        (datetime(2023, 11, 14, 22, 13, 20, 123, tzinfo=UTC), 1_700_000_000_000_123_000),
        (datetime(2023, 11, 14, 23, 13, 20, tzinfo=timezone(timedelta(hours=1))), 1_700_000_000_000_000_000),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC).astimezone().replace(tzinfo=None), 1_700_000_000_000_000_000),
        (0, 0),
    ],
)
def test_times(given: datetime | int, time_ns: int) -> None:
    assert questions.history_filter(since=given).start_time.ToNanoseconds() == time_ns
    assert questions.history_filter(until=given).HasField("end_time")


def test_what_is_counted() -> None:
    asked = questions.counts("class", bucket_s=0.25, page_size=3, tenant="acme")
    assert asked.aggregate.by == history_pb2.GROUPING_CLASS
    assert (asked.aggregate.bucket.ToNanoseconds(), asked.page_size, list(asked.filter.tenants)) == (
        250_000_000,
        3,
        ["acme"],
    )
    assert not questions.counts("model").aggregate.HasField("bucket")
    assert set(questions.GROUPS) == {"feature", "category", "tenant", "class", "model"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (lambda one: one.query_firings(since=-1), "since: found -1 ns"),
        (lambda one: one.list_requests(until=2**63), "until"),
        (lambda one: one.query_firings(traffic_class="life"), "'life', expected one of live"),
        (lambda one: one.count_firings("weather"), "by: found 'weather', expected one of feature"),
        (lambda one: one.count_firings(bucket_s=0), "bucket_s: found 0 s"),
        (lambda one: one.count_firings(bucket_s=float("nan")), "bucket_s: found nan s"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_call(asked: Any, says: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(SaewatchError, match=says):
        asked(client)


def test_a_misspelt_name_is_no_filter_that_chooses_everything() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match="'features' is none of since, until, feature"):
        client.query_firings(features="x")  # type: ignore[call-arg]  # that is the point
