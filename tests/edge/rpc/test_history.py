"""Queries of the history over real gRPC."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from saewatch.core import limits
from saewatch.core.batch import Reason
from saewatch.core.records import RequestEnd, RequestLabel, RequestStart
from saewatch.edge.access import LocalAccess, Principal
from saewatch.edge.history.reading import Reader
from saewatch.edge.history.retention import Bounds
from saewatch.edge.history.sink import HistorySink
from saewatch.edge.pb import common_pb2, history_pb2
from saewatch.edge.rpc.history import HistoryQueries
from tests import fakes
from tests.edge.rpc.served import Served, becomes, serving

S = 10**9
T0 = 1_700_000_000 * S
FILTER = history_pb2.HistoryFilter
FEATURE = history_pb2.GROUPING_FEATURE


class Storing:
    """Services with a history that is written when the test says so."""

    def __init__(self, served: Served, sink: HistorySink) -> None:
        self.served = served
        self.sink = sink

    def write(self) -> None:
        """What has come becomes blocks."""
        self.sink.take(self.sink.queue.take())
        assert self.sink.flush()

    def start(self, number: int, *, tenant: str = "acme", **fields: Any) -> None:
        """A request with a label."""
        label = {"client_id": f"client-{number}", "tenant": tenant, **fields}
        self.served.put(
            RequestLabel(key=fakes.key(number), **label),
            RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=2),
        )

    async def firings(self, **fields: Any) -> history_pb2.QueryFiringsResponse:
        """QueryFirings."""
        answer: history_pb2.QueryFiringsResponse = await self.served.firings.QueryFirings(
            history_pb2.QueryFiringsRequest(**fields)
        )
        return answer

    async def requests(self, **fields: Any) -> history_pb2.ListRequestsResponse:
        """ListRequests."""
        answer: history_pb2.ListRequestsResponse = await self.served.firings.ListRequests(
            history_pb2.ListRequestsRequest(**fields)
        )
        return answer


@contextlib.asynccontextmanager
async def storing(folder: Path, **settings: Any) -> AsyncIterator[Storing]:
    sink = HistorySink(folder / "h.db", Bounds(keep_ns=10**18, max_bytes=64 * limits.MIB))
    sink.open()
    try:
        async with serving(history=sink, **settings) as served:
            yield Storing(served, sink)
    finally:
        sink.close()


def two_requests(one: Storing) -> None:
    """Client 7 of acme fires threat.l1 and animals.g1, client 8 of another tenant threat.l1."""
    one.start(7, conversation="c7")
    one.start(8, tenant="other", traffic_class="test")
    one.served.batch([(7, 0, 3)], [(0, 2, 1.5), (2, 0, 0.5)], missed=[(7, Reason.EXCLUDED, 2)], time_ns=T0)
    one.served.batch([(8, 0, 1), (7, 1, 1, 1)], [(0, 2, 2.5), (1, 0, 4.0)], time_ns=T0 + S)
    one.served.put(RequestEnd(request=7, fed=5, emitted=1))
    one.write()


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def at(time_ns: int) -> Timestamp:
    return Timestamp(seconds=time_ns // S, nanos=time_ns % S)


async def test_a_firing_has_everything_that_is_known_of_it(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        answer = await one.firings(filter=FILTER(request_ids=["client-7"], feature_ids=["threat.l1"]))
        (found,) = answer.firings
        assert found.time.ToNanoseconds() == T0
        assert (found.feature_id, found.label, found.category) == ("threat.l1", "label of threat.l1", "vcr")
        assert (found.value, found.position, found.prompt) == (1.5, 0, True)
        assert (found.origin, found.unit_kind, found.unit) == (
            common_pb2.ORIGIN_COMPUTED,
            common_pb2.UNIT_KIND_LATENT,
            3,
        )
        assert (found.engine_id, found.key, found.client_id) == (fakes.engine_id(7), fakes.key(7), "client-7")
        assert (found.tenant, found.conversation) == ("acme", "c7")
        assert found.traffic_class == common_pb2.TRAFFIC_CLASS_LIVE
        assert (found.engine, found.model_name, found.hook_point) == ("engine-0", "demo-model", "resid_post.3")
        assert found.weights_digest == one.served.dictionary.weights_digest
        assert found.catalogue_digest == one.served.dictionary.catalogue_digest
        covered = answer.coverage
        assert (covered.tokens_seen, [(item.reason, item.tokens) for item in covered.missed]) == (
            3,
            [(common_pb2.MISSED_REASON_EXCLUDED, 2)],
        )
        assert (covered.start_time.ToNanoseconds(), covered.end_time.ToNanoseconds()) == (T0, T0 + S + 1)
        assert answer.losses.kept_since_time.ToNanoseconds() == T0
        assert (list(answer.losses.losses), answer.next_page_token) == ([], "")


async def test_what_was_computed_again_is_a_row_and_in_no_count(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        rows = (await one.firings(filter=FILTER(feature_ids=["animals.g1"]))).firings
        assert [(row.value, row.origin, row.position, row.prompt) for row in rows] == [
            (0.5, common_pb2.ORIGIN_COMPUTED, 2, False),
            (4.0, common_pb2.ORIGIN_RECOMPUTED, 1, True),
        ]
        (bucket,) = (
            await one.firings(filter=FILTER(feature_ids=["animals.g1"]), aggregate=history_pb2.Aggregate(by=FEATURE))
        ).buckets
        assert (bucket.firings, bucket.max_value, bucket.tokens_seen) == (1, 0.5, 4)


async def test_buckets_tell_their_denominator_and_zeros(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        every = history_pb2.Aggregate(bucket=Duration(seconds=1), by=FEATURE)
        answer = await one.firings(aggregate=every, filter=FILTER(start_time=at(T0), end_time=at(T0 + 2 * S)))
        told = [
            (item.start_time.seconds - T0 // S, item.group, item.firings, item.requests, item.tokens_seen)
            for item in answer.buckets
        ]
        assert told == [
            (0, "animals.g1", 1, 1, 3),
            (0, "threat.l1", 1, 1, 3),
            (0, "threat.p1", 0, 0, 3),
            (1, "animals.g1", 0, 0, 1),
            (1, "threat.l1", 1, 1, 1),
            (1, "threat.p1", 0, 0, 1),
        ]
        assert [item.HasField("max_value") for item in answer.buckets] == [True, True, False, False, True, False]
        assert [[m.tokens for m in item.missed] for item in answer.buckets] == [[2]] * 3 + [[]] * 3
        assert answer.coverage.tokens_seen == 4


async def test_requests_with_what_fired_in_them(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        found = (await one.requests()).requests
        assert [row.request.client_id for row in found] == ["client-7", "client-8"]
        assert [row.state for row in found] == [history_pb2.REQUEST_STATE_ENDED, history_pb2.REQUEST_STATE_OPEN]
        first = found[0]
        assert (first.fed, first.emitted, first.tokens_seen, first.firings) == (5, 1, 3, 2)
        assert [(item.feature_id, item.count, item.max_value) for item in first.features] == [
            ("threat.l1", 1, 1.5),
            ("animals.g1", 1, 0.5),
        ]
        assert (first.features_fired, first.request.prompt_len) == (2, 2)
        assert (first.first_time.ToNanoseconds(), first.last_time.ToNanoseconds()) == (T0, T0 + S)
        high = await one.requests(filter=FILTER(min_value=2.0, categories=["vcr"]))
        assert [row.request.client_id for row in high.requests] == ["client-8"]
        latest = await one.requests(descending=True, page_size=1)
        assert [row.request.client_id for row in latest.requests] == ["client-8"]


async def test_pages_are_one_query_over_one_moment(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        one.start(7)
        for step in range(20):
            one.served.batch([(7, step, 1)], [(0, 2, step + 1.0)], time_ns=T0 + step * S)
            one.write()
        for down in (False, True):
            values: list[float] = []
            token, step = "", 20
            while True:
                answer = await one.firings(page_size=3, page_token=token, descending=down)
                values += [row.value for row in answer.firings]
                token = answer.next_page_token
                if not token:
                    break
                one.served.batch([(7, step, 1)], [(0, 2, 99.0)], time_ns=T0 + step * S // 2)  # late, and new
                one.write()
                step += 1
            first = sorted(range(1, 21), reverse=down)
            assert [value for value in values if value != 99.0] == first
            assert values.count(99.0) == (0 if not down else 6), "those of the first query were there for the second"


async def test_retention_between_two_pages_leaves_the_rest_in_order(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        one.start(7)
        for step in range(10):
            one.served.batch([(7, step, 1)], [(0, 2, step + 1.0)], time_ns=T0 + step * S)
            one.write()
        page = await one.firings(page_size=2)
        assert one.sink.store is not None
        with one.sink.store.connection as connection:  # what retention does, at a chosen place
            connection.execute("DELETE FROM block WHERE id <= 5")
            connection.execute("DELETE FROM body WHERE block <= 5")
        rest = await one.firings(page_size=50, page_token=page.next_page_token)
        assert [row.value for row in page.firings] == [1.0, 2.0]
        assert [row.value for row in rest.firings] == [6.0, 7.0, 8.0, 9.0, 10.0]


async def test_a_token_is_good_for_its_own_query_only(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        token = (await one.firings(page_size=1)).next_page_token
        assert token
        await one.firings(page_size=2, page_token=token)
        changed: list[dict[str, Any]] = [
            {"filter": FILTER(tenants=["acme"])},
            {"descending": True},
            {"read_mask": FieldMask(paths=["time"])},
            {"aggregate": history_pb2.Aggregate(by=FEATURE)},
        ]
        for fields in changed:
            error = await refused(one.firings(page_token=token, **fields))
            assert (error.code(), "page_token" in str(error.details())) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        error = await refused(one.requests(page_token=token))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "token",
    ["x", "e30=", base64.urlsafe_b64encode(b"[" * 2000).decode(), "A" * 5000, base64.b64encode(b"[1,2,3]").decode()],
)
async def test_what_is_no_token_is_refused(tmp_path: Path, token: str) -> None:
    async with storing(tmp_path) as one:
        assert "page_token" in str((await refused(one.firings(page_token=token))).details())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"filter": FILTER(traffic_classes=[common_pb2.TRAFFIC_CLASS_UNSPECIFIED])}, "filter.traffic_classes[0]"),
        ({"filter": FILTER(request_ids=["x"] * 1001)}, "filter.request_ids"),
        ({"filter": FILTER(conversations=["x", "ä" * 129])}, "filter.conversations[1]"),
        ({"filter": FILTER(tenants=["x" * 256] * 200, hook_points=["x" * 256] * 57)}, "filter.hook_points"),
        ({"filter": FILTER(min_value=float("nan"))}, "filter.min_value"),
        ({"filter": FILTER(start_time=at(2 * S), end_time=at(2 * S))}, "filter.end_time"),
        ({"filter": FILTER(start_time=Timestamp(seconds=-1))}, "filter.start_time"),
        ({"filter": FILTER(end_time=Timestamp(seconds=1, nanos=S))}, "filter.end_time"),
        ({"filter": FILTER(end_time=Timestamp(seconds=2**62))}, "filter.end_time"),
        ({"page_size": -1}, "page_size"),
        ({"read_mask": FieldMask(paths=["*", "nonsense"])}, "read_mask.paths[1]"),
    ],
)
async def test_what_makes_no_sense_is_refused(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    async with storing(tmp_path) as one:
        for call in (one.firings(**fields), one.requests(**fields)):
            error = await refused(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert str(error.details()).startswith(f"{named}: ")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"aggregate": history_pb2.Aggregate()}, "aggregate.by"),
        ({"aggregate": history_pb2.Aggregate(by=FEATURE, bucket=Duration(nanos=1000))}, "aggregate.bucket"),
        ({"aggregate": history_pb2.Aggregate(by=FEATURE, bucket=Duration(seconds=2**40))}, "aggregate.bucket"),
        ({"aggregate": history_pb2.Aggregate(by=FEATURE), "descending": True}, "descending"),
        ({"aggregate": history_pb2.Aggregate(by=FEATURE), "read_mask": FieldMask(paths=["time"])}, "read_mask"),
    ],
)
async def test_buckets_that_make_no_sense_are_refused(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    async with storing(tmp_path) as one:
        error = await refused(one.firings(**fields))
        assert (error.code(), str(error.details()).startswith(f"{named}: ")) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            True,
        )


async def test_names_that_nobody_knows_any_more_match_nothing(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        answer = await one.firings(filter=FILTER(feature_ids=["gone.l1"], categories=["x.gone"]))
        assert (len(answer.firings), answer.coverage.tokens_seen) == (0, 4)


async def test_a_read_mask_leaves_the_rest_out(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        two_requests(one)
        rows = (await one.firings(read_mask=FieldMask(paths=["value", "tenant"]))).firings
        assert {field.name for row in rows for field, _ in row.ListFields()} == {"value", "tenant"}
        assert len((await one.firings(read_mask=FieldMask(paths=["*"]))).firings[0].ListFields()) > 10
        found = (await one.requests(read_mask=FieldMask(paths=["request.client_id", "firings"]))).requests
        assert [str(row.request).strip() for row in found] == ['client_id: "client-7"', 'client_id: "client-8"']


async def test_a_principal_of_some_tenants_gets_nothing_of_others(tmp_path: Path) -> None:
    class Acme(LocalAccess):
        def principal(self, metadata: Any) -> Principal:
            return Principal(name="p", tenants=frozenset({"acme"}))

    async with storing(tmp_path, access=Acme()) as one:
        two_requests(one)
        one.served.batch([(99, 0, 1)], [(0, 2, 9.0)], time_ns=T0 + S)
        one.write()
        for wanted in (FILTER(), FILTER(tenants=["acme", "other", ""]), FILTER(request_ids=["client-7", "client-8"])):
            answer = await one.firings(filter=wanted)
            assert {row.tenant for row in answer.firings} == {"acme"}
            assert answer.coverage.tokens_seen == 3
            assert [row.request.client_id for row in (await one.requests(filter=wanted)).requests] == ["client-7"]
            for by in (FEATURE, history_pb2.GROUPING_TENANT):
                buckets = (await one.firings(filter=wanted, aggregate=history_pb2.Aggregate(by=by))).buckets
                assert {item.tokens_seen for item in buckets} == {3}
                assert sum(item.firings for item in buckets) == 2
                assert "other" not in {item.group for item in buckets}
        nothing = await one.firings(filter=FILTER(tenants=["other"]))
        assert (len(nothing.firings), nothing.coverage.tokens_seen) == (0, 0)
        token = (await one.firings(page_size=1)).next_page_token
    async with serving(history=one.sink) as served:  # the same store, for somebody else
        asked = history_pb2.QueryFiringsRequest(page_size=1, page_token=token)
        assert (await refused(served.firings.QueryFirings(asked))).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_the_queue_dropped_is_told(tmp_path: Path) -> None:
    async with storing(tmp_path) as one:
        one.start(7)
        one.write()
        for position in range(limits.SINK_QUEUE_BATCHES + 10):
            one.served.batch([(7, position, 1)], [(0, 2, 1.0)], time_ns=T0 + position)
        one.write()
        one.served.batch([(7, 5000, 1)], time_ns=T0 + S)
        one.write()
        (loss,) = (await one.firings()).losses.losses
        assert (loss.cause, loss.tokens, loss.firings) == (history_pb2.LOSS_CAUSE_QUEUE_FULL, 10, 10)
        assert (loss.start_time.ToNanoseconds(), loss.end_time.ToNanoseconds()) == (
            T0 + limits.SINK_QUEUE_BATCHES - 1,
            T0 + S + 1,
        )
        assert one.sink.counters["history_lost_tokens"] == 10
        before = await one.firings(filter=FILTER(end_time=at(T0 + 100)))
        assert not before.losses.losses
        assert len((await one.requests()).losses.losses) == 1


async def test_without_a_history_there_is_no_answer() -> None:
    async with serving() as served:
        error = await refused(served.firings.QueryFirings(history_pb2.QueryFiringsRequest()))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "history.path" in str(error.details())


async def test_a_file_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    queries = HistoryQueries(tmp_path / "gone.db")
    with pytest.raises(Exception, match="history: found unable to open") as caught:
        await queries.query_firings(history_pb2.QueryFiringsRequest(), Principal(name="p"))
    assert getattr(caught.value, "code", None) is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_that_leaves_ends_its_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with storing(tmp_path) as one:
        one.start(7)
        for step in range(300):
            one.served.batch([(7, step, 1)], [(0, 2, 1.0)], time_ns=T0 + step * 3 * S)
        one.write()
        opened: list[float] = []

        def slow(*arguments: Any) -> Any:
            opened.append(time.monotonic())
            time.sleep(0.02)
            return real(*arguments)

        real = Reader.block
        monkeypatch.setattr(Reader, "block", slow)
        call = one.served.firings.QueryFirings(
            history_pb2.QueryFiringsRequest(aggregate=history_pb2.Aggregate(by=FEATURE))
        )
        await becomes(lambda: opened)
        call.cancel()
        count = 0
        while count < (count := len(opened)):  # noqa: ASYNC110 - threads read, and set no event
            await asyncio.sleep(0.5)
        assert count < 300
