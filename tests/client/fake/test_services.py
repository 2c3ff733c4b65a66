"""A fake sidecar's services over a plain channel: what clients in other languages meet."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from saewatch.client import Client
from saewatch.client.fake import FakeServer
from saewatch.edge.pb import (
    dictionary_pb2,
    dictionary_pb2_grpc,
    firing_pb2,
    firing_pb2_grpc,
    tap_pb2,
    tap_pb2_grpc,
)

Response = firing_pb2.WatchFiringsResponse


@pytest.fixture
def channel(saewatch_server: FakeServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(saewatch_server.address) as channel:
        yield channel


def watch(channel: grpc.Channel, count: int, **asked: Any) -> list[Response]:
    call = firing_pb2_grpc.FiringServiceStub(channel).WatchFirings(firing_pb2.WatchFiringsRequest(**asked), timeout=10)
    found = list(itertools.islice(call, count))
    call.cancel()
    return found


def kinds(found: list[Response]) -> list[str | None]:
    return [one.WhichOneof("event") for one in found]


def test_a_heartbeat_is_first_and_a_table_comes_before_its_batches(
    saewatch_server: FakeServer, channel: grpc.Channel
) -> None:
    saewatch_server.coverage()
    saewatch_server.tokens(2)
    saewatch_server.tokens(2)
    found = watch(channel, 5)
    assert kinds(found) == ["heartbeat", "coverage", "table", "batch", "batch"]
    assert found[2].table.number == found[3].batch.table == 1
    assert all(one.resume_token for one in found)


def test_tokens_go_on_behind_their_event(saewatch_server: FakeServer, channel: grpc.Channel) -> None:
    for _ in range(3):
        saewatch_server.tokens(1)
    token = watch(channel, 3)[-1].resume_token
    rest = watch(channel, 4, resume_token=token)
    assert kinds(rest) == ["heartbeat", "table", "batch", "batch"]
    assert [one.batch.span_position[0] for one in rest[2:]] == [1, 2]


def test_a_watch_without_a_token_begins_now_unless_events_are_replayed() -> None:
    with FakeServer(replay=False, heartbeat_s=0.1) as server, grpc.insecure_channel(server.address) as channel:
        server.tokens(1)
        assert kinds(watch(channel, 3)) == ["heartbeat"] * 3


def test_what_the_window_lost_is_a_gap() -> None:
    with FakeServer(window=2) as server, grpc.insecure_channel(server.address) as channel:
        server.tokens(3, firings=[(0, "violence.p1", 1.0)])
        token = watch(channel, 3)[-1].resume_token
        for _ in range(5):
            server.tokens(3, firings=[(0, "violence.p1", 1.0)])
        gap = watch(channel, 2, resume_token=token)[-1].gap
        assert (gap.reason, gap.tokens, gap.firings) == (firing_pb2.GAP_REASON_EXPIRED, 9, 3)
        assert (gap.first_event, gap.last_event) == (2, 4)


def test_a_reader_that_stops_is_told_what_it_missed() -> None:
    with FakeServer(window=50) as server, grpc.insecure_channel(server.address) as channel:
        call = firing_pb2_grpc.FiringServiceStub(channel).WatchFirings(firing_pb2.WatchFiringsRequest(), timeout=30)
        assert next(call).WhichOneof("event") == "heartbeat"
        firings = [(row, "violence.p1", 1.0) for row in range(1000)]
        for _ in range(1000):  # 12 MB, of which gRPC takes some 6
            server.tokens(1000, firings=firings)
        tokens = fired = 0
        while tokens < 1_000_000:
            message = next(call)
            tokens += message.gap.tokens + sum(message.batch.span_tokens)
            fired += message.gap.firings + len(message.batch.row)
        assert tokens == fired == 1_000_000
        call.cancel()


def test_filters(saewatch_server: FakeServer, channel: grpc.Channel) -> None:
    saewatch_server.request("r1", tenant="acme")
    saewatch_server.tokens(2, request="r1", firings=[(0, "violence.p1", 1.0), (1, "medical.p1", 5.0)])
    saewatch_server.tokens(2, request="r2")
    saewatch_server.ends("r2")
    saewatch_server.ends("r1")
    found = watch(channel, 4, filter=firing_pb2.FiringFilter(tenants=["acme"], categories=["vcr"]))
    assert kinds(found) == ["heartbeat", "table", "batch", "ended"]
    assert list(found[2].batch.value) == [1.0]
    assert found[3].ended.request.client_id == "r1"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"filter": firing_pb2.FiringFilter(feature_ids=["violence.p1", "x"])}, "filter.feature_ids[1]: found 'x'"),
        ({"filter": firing_pb2.FiringFilter(categories=["x"])}, "filter.categories[0]"),
        ({"resume_token": "x"}, "resume_token"),
        ({"resume_token": "fake-2-1-0-0"}, "resume_token"),
        ({"resume_token": "fake-1-9-0-0"}, "resume_token"),
    ],
)
def test_what_makes_no_sense_is_refused(channel: grpc.Channel, asked: dict[str, Any], named: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        watch(channel, 1, **asked)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert named in error.details()


def test_dictionaries(channel: grpc.Channel) -> None:
    stub = dictionary_pb2_grpc.DictionaryServiceStub(channel)
    (known,) = stub.ListDictionaries(dictionary_pb2.ListDictionariesRequest()).dictionaries
    asked = dictionary_pb2.GetDictionaryRequest(weights_digest=known.weights_digest)
    assert stub.GetDictionary(asked).dictionary == known
    with pytest.raises(grpc.RpcError, match="weights_digest"):
        stub.GetDictionary(dictionary_pb2.GetDictionaryRequest(weights_digest="x"))


def test_its_clock_is_told(saewatch_server: FakeServer) -> None:
    with Client(saewatch_server.address) as client:
        assert abs(client.status().server_time.ToNanoseconds() - time.time_ns()) < 60e9


def test_a_self_test_of_another_engine(channel: grpc.Channel) -> None:
    stub = tap_pb2_grpc.TapServiceStub(channel)
    assert stub.RunSelfTest(tap_pb2.RunSelfTestRequest(engine="fake-engine")).self_tests[0].good
    with pytest.raises(grpc.RpcError, match="engine"):
        stub.RunSelfTest(tap_pb2.RunSelfTestRequest(engine="b"))
