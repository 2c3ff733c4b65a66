"""Messages as flat rows, and rows as text."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.cli import rows
from saewatch.edge.pb import common_pb2, history_pb2


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, ""),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (10**9, "1970-01-01T00:00:01Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
    ],
)
def test_times(time_ns: int, text: str) -> None:
    assert rows.time_text(time_ns) == text


def test_a_requests_identity_is_beside_the_rest() -> None:
    summary = history_pb2.RequestSummary(
        request=common_pb2.Request(tenant="acme", traffic_class=common_pb2.TRAFFIC_CLASS_LIVE),
        first_time=Timestamp(seconds=1),
        state=history_pb2.REQUEST_STATE_LOST,
        missed=[common_pb2.MissedTokens(reason=common_pb2.MISSED_REASON_NO_SLOT, tokens=3)],
    )
    found = rows.row(summary, rows.columns(history_pb2.RequestSummary))
    assert (found["tenant"], found["traffic_class"], found["state"]) == ("acme", "live", "lost")
    assert (found["first_time"], found["last_time"], found["missed"]) == (10**9, None, {"no_slot": 3})
    some = rows.columns(history_pb2.RequestSummary, ["tenant", "fed"])
    assert rows.row(summary, some) == {"tenant": "acme", "fed": 0}


def test_a_value_of_a_newer_service_is_its_number() -> None:
    assert rows.name(common_pb2.Origin.DESCRIPTOR, 99) == "99"
    assert rows.name(common_pb2.Origin.DESCRIPTOR, 0) == "unspecified"


def test_a_table_is_as_wide_as_it_has_to_be() -> None:
    fields = rows.columns(history_pb2.Bucket, ["group", "firings", "max_value"])
    found = [
        {"group": "a.l1", "firings": 5, "max_value": 1.23456},
        {"group": "bb", "firings": 12345, "max_value": None},
    ]
    assert rows.table("buckets", found, fields) == [
        "group  firings  max_value",
        "a.l1   5        1.235",
        "bb     12345",
    ]
    only = rows.columns(history_pb2.Bucket, ["end_time"])
    assert rows.table("buckets", [{"end_time": 10**9}], only) == ["end_time", "1970-01-01T00:00:01Z"]


def test_csv_has_one_value_in_each_cell() -> None:
    fields = rows.columns(history_pb2.Bucket, ["start_time", "group", "missed"])
    text = rows.csv_lines([{"start_time": 10**9, "group": "a,b", "missed": {"gap": 2}}], fields, head=True)
    assert text == 'start_time,group,missed\n1970-01-01T00:00:01Z,"a,b","{""gap"": 2}"\n'
