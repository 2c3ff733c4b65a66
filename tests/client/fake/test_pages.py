"""What a fake sidecar's queries refuse, and what they leave out; the figures are in test_history."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.client import Client
from saewatch.client.fake import FakeServer
from saewatch.edge.pb import firing_pb2_grpc, history_pb2

FEATURE = history_pb2.GROUPING_FEATURE
FILTER = history_pb2.HistoryFilter
QUERY = history_pb2.QueryFiringsRequest
LIST = history_pb2.ListRequestsRequest


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (QUERY(page_size=-1), "page_size"),
        (QUERY(page_token="x"), "page_token"),
        (LIST(page_token="fake-page-x"), "page_token"),
        (QUERY(filter=FILTER(start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=2))), "filter.end_time"),
        (LIST(filter=FILTER(min_value=2.0, max_value=1.0)), "filter.max_value"),
        (QUERY(read_mask=FieldMask(paths=["*", "nonsense"])), "read_mask.paths[1]"),
        (LIST(read_mask=FieldMask(paths=["value"])), "read_mask.paths[0]"),
        (QUERY(aggregate=history_pb2.Aggregate()), "aggregate.by"),
        (QUERY(aggregate=history_pb2.Aggregate(by=FEATURE, bucket=Duration())), "aggregate.bucket"),
        (QUERY(aggregate=history_pb2.Aggregate(by=FEATURE), descending=True), "descending"),
        (QUERY(aggregate=history_pb2.Aggregate(by=FEATURE), read_mask=FieldMask(paths=["time"])), "read_mask"),
    ],
)
def test_what_makes_no_sense_is_refused(saewatch_server: FakeServer, asked: Any, named: str) -> None:
    with grpc.insecure_channel(saewatch_server.address) as channel:
        stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
        call = stub.ListRequests if isinstance(asked, LIST) else stub.QueryFirings
        with pytest.raises(grpc.RpcError) as caught:
            call(asked)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{named}: ")


def test_a_read_mask_and_a_server_that_was_told_nothing(saewatch_server: FakeServer) -> None:
    with grpc.insecure_channel(saewatch_server.address) as channel:
        stub: Any = firing_pb2_grpc.FiringServiceStub(channel)
        saewatch_server.fires("violence.p1")
        answer = stub.QueryFirings(QUERY(read_mask=FieldMask(paths=["value"])))
        assert {field.name for one in answer.firings for field, _ in one.ListFields()} == {"value"}
    with FakeServer() as empty, Client(empty.address) as client:
        (page,) = client.query_firings()
        assert (page.items, page.covered and page.covered.tokens_seen, page.kept_since_ns) == ((), 0, 0)
        assert [list(page) for page in client.list_requests()] == [[]]
        assert [list(page) for page in client.count_firings()] == [[]]
