"""Every list of the store is in the protos; the messages themselves are tested through real calls in test_history."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from saewatch.edge.access import Principal
from saewatch.edge.history.buckets import Grouping
from saewatch.edge.history.writer import Cause, State
from saewatch.edge.pb import common_pb2, history_pb2
from saewatch.edge.rpc import stored
from saewatch.edge.rpc.refusals import Refusal


def test_closed_lists_are_whole() -> None:
    for enum, known in (
        (history_pb2.Grouping.DESCRIPTOR, Grouping),
        (history_pb2.LossCause.DESCRIPTOR, Cause),
        (history_pb2.RequestState.DESCRIPTOR, State),
    ):
        names = {value.name.removeprefix(enum.values[0].name.removesuffix("UNSPECIFIED")) for value in enum.values}
        assert names == {one.name for one in known} | {"UNSPECIFIED"}


def test_a_filter_chooses_what_its_fields_say() -> None:
    asked = history_pb2.HistoryFilter(
        feature_ids=["f"],
        categories=["c"],
        max_value=0.0,
        tenants=[""],
        traffic_classes=[common_pb2.TRAFFIC_CLASS_CANARY],
        request_ids=["r"],
        conversations=["o"],
        model_names=["m"],
        weights_digests=["w"],
        catalogue_digests=["k"],
        hook_points=["h"],
    )
    found = stored.wanted(asked, Principal(name="p", tenants=frozenset({"t"})))
    named = {name: value for name in found.__dataclass_fields__ if (value := getattr(found, name)) is not None}
    assert named == {
        "feature_ids": {"f"},
        "categories": {"c"},
        "max_value": 0.0,
        "tenants": {""},
        "traffic_classes": {"canary"},
        "request_ids": {"r"},
        "conversations": {"o"},
        "model_names": {"m"},
        "weights_digests": {"w"},
        "catalogue_digests": {"k"},
        "hook_points": {"h"},
        "allowed_tenants": {"t"},
    }


def test_a_class_that_does_not_exist_is_refused() -> None:
    asked = history_pb2.HistoryFilter.FromString(b"\x40\x4d")  # field 8, 77
    with pytest.raises(Refusal, match=r"filter\.traffic_classes\[0\]: found 77"):
        stored.wanted(asked, Principal(name="p"))


@pytest.mark.parametrize(("low", "high"), [(2.5, 2.5), (1.0, -1.0), (0.0, float("nan"))])
def test_values_between_which_there_is_nothing_are_refused(low: float, high: float) -> None:
    """Above the one and up to the other: the same one twice is nothing too."""
    asked = history_pb2.HistoryFilter(min_value=low, max_value=high)
    with pytest.raises(Refusal, match=r"filter\.max_value: found") as caught:
        stored.wanted(asked, Principal(name="p"))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_masks() -> None:
    row = history_pb2.RequestSummary(fed=3, request=common_pb2.Request(tenant="acme", key="k"))
    assert stored.masked(row, FieldMask()) is row
    assert stored.masked(row, FieldMask(paths=["request.key"])) == history_pb2.RequestSummary(
        request=common_pb2.Request(key="k")
    )
    stored.check_mask(FieldMask(paths=["request.key", "*"]), history_pb2.RequestSummary)
    with pytest.raises(Refusal, match="expected one of request, first_time"):
        stored.check_mask(FieldMask(paths=["key"]), history_pb2.RequestSummary)
