"""Messages as flat rows, and rows as text."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.cli import UsageError, rows
from saewatch.edge.pb import common_pb2, history_pb2


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
    some = rows.columns(history_pb2.RequestSummary, ["fed", "tenant", "fed"])
    assert list(rows.row(summary, some).items()) == [("fed", 0), ("tenant", "acme")], "in the asked order, once"


def test_a_column_that_there_is_not() -> None:
    with pytest.raises(UsageError, match=r"--fields: found 'tenants', expected some of .*engine_id.*tokens_seen"):
        rows.columns(history_pb2.RequestSummary, ["tenant", "tenants"])


def test_a_value_of_a_newer_service_is_its_number() -> None:
    assert rows.name(common_pb2.Origin.DESCRIPTOR, 99) == "99"
    assert rows.name(common_pb2.Origin.DESCRIPTOR, 0) == "unspecified"


def test_a_table_is_as_wide_as_it_has_to_be() -> None:
    found = [
        {"group": "a.l1", "firings": 5, "max_value": 1.23456},
        {"group": "bb", "firings": 12345, "max_value": None},
    ]
    assert rows.table(found, ["group", "firings", "max_value"]) == [
        "group  firings  max_value",
        "a.l1   5        1.235",
        "bb     12345",
    ]
    assert rows.table([{"end_time": 10**9}], ["end_time"]) == ["end_time", "1970-01-01T00:00:01.000000000Z"]


def test_a_label_in_a_table_is_marked_until_somebody_accepted_it() -> None:
    found = [{"label": "a", "label_review": "accepted"}, {"label": "b", "label_review": "unspecified"}]
    assert rows.table(found, ["label"]) == ["label", "a", "b (unreviewed)"]


def test_a_cell_says_how_many_features_it_leaves_out() -> None:
    features = [{"feature_id": f"f{number}", "count": 1, "max_value": 2.0} for number in range(5)]
    for count, said in ((3, "f0 2x1, f1 2x1, f2 2x1"), (5, "f0 2x1, f1 2x1, f2 2x1, 2 more")):
        assert rows.table([{"features": features[:count]}], ["features"])[1] == said


def test_csv_has_one_value_in_each_cell() -> None:
    fields = rows.columns(history_pb2.Bucket, ["start_time", "group", "missed"])
    text = rows.csv_lines([{"start_time": 10**9, "group": "a,b", "missed": {"gap": 2}}], fields, head=True)
    assert text == 'start_time,group,missed\n1970-01-01T00:00:01.000000000Z,"a,b","{""gap"": 2}"\n'
