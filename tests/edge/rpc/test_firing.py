"""WatchFirings and GetRequestRecord, over a real channel."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from saewatch.core import limits
from saewatch.core.batch import Origin, Reason
from saewatch.core.records import RequestEnd, RequestLabel, RequestStart
from saewatch.edge.access import Principal
from saewatch.edge.pb import common_pb2, firing_pb2
from saewatch.edge.rpc import firing
from saewatch.edge.rpc.places import name_of
from saewatch.monitor.tables import StreamIdentity
from tests import fakes
from tests.edge.rpc.served import Response, Served, becomes, serving


def request(served: Served, number: int, **label: Any) -> None:
    """A labelled request."""
    known = {"key": fakes.key(number), "client_id": f"client-{number}", "tenant": "acme"}
    served.put(RequestLabel(**{**known, **label}))
    served.put(RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=4))


async def test_a_batch_arrives_with_its_table_and_its_request() -> None:
    async with serving() as served:
        watch = await served.watch()
        request(served, 7)
        served.batch(
            [(7, 0, 3), (7, 9, 1, Origin.RECOMPUTED)], [(0, 0, 1.5), (2, 3, 2.0)], missed=[(7, Reason.EXCLUDED, 1)]
        )
        served.pump()
        table, batch = await watch.until("batch")
        assert [one.feature.id for one in table.table.features] == ["animals.g1", "threat.l1", "threat.p1"]
        assert [list(one.slots) for one in table.table.features] == [[0, 1], [2], [3]]
        assert table.table.number == batch.batch.table
        assert table.table.stream.model_name == "demo-model"
        found = batch.batch
        assert found.requests[0].client_id == "client-7"
        assert found.requests[0].traffic_class == common_pb2.TRAFFIC_CLASS_LIVE
        assert (list(found.span_position), list(found.span_tokens)) == ([0, 9], [3, 1])
        assert list(found.span_origin) == [common_pb2.ORIGIN_COMPUTED, common_pb2.ORIGIN_RECOMPUTED]
        assert list(zip(found.row, found.slot, found.value, strict=True)) == [(0, 0, 1.5), (2, 3, 2.0)]
        assert list(found.missed_reason) == [common_pb2.MISSED_REASON_EXCLUDED]
        served.batch([(7, 3, 1)])
        served.pump()
        assert [one.WhichOneof("event") for one in await watch.until("batch")] == ["batch"], "the table comes once"


async def test_the_end_of_a_request_comes_after_its_batches() -> None:
    async with serving() as served:
        watch = await served.watch()
        request(served, 7)
        served.batch([(7, 0, 4)])
        served.put(RequestEnd(request=7, fed=4, emitted=1))
        served.pump(flush=False)
        messages = await watch.until("ended")
        assert [one.WhichOneof("event") for one in messages] == ["table", "batch", "ended"]
        ended = messages[-1].ended
        assert (ended.request.client_id, ended.fed, ended.emitted, ended.lost) == ("client-7", 4, 1, False)


async def test_small_batches_leave_together_after_20_ms() -> None:
    async with serving() as served:
        watch = await served.watch()
        request(served, 7)
        for position in range(5):
            served.batch([(7, position, 1)])
        served.pump(flush=False)
        batch = await watch.batch()
        assert (batch.first_seq, batch.last_seq, sum(batch.span_tokens)) == (1, 5, 5)
        assert len(served.lags) == 5


async def test_the_books_arrive_with_a_beat() -> None:
    async with serving() as served:
        watch = await served.watch()
        served.put(fakes.beat(fed=10, encoded=7, missed={"gap": 2}, in_flight=2))
        served.pump()
        (message,) = [one for one in await watch.until("coverage") if one.WhichOneof("event") == "coverage"][-1:]
        (books,) = message.coverage.streams
        assert (books.fed, books.encoded, books.in_flight, books.imbalance, books.coverage) == (10, 7, 2, -1, 0.7)
        assert [(one.reason, one.tokens) for one in books.missed] == [(common_pb2.MISSED_REASON_GAP, 2)]


async def test_silence_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "HEARTBEAT_S", 0.05)
    async with serving() as served:
        watch = await served.watch()
        for _ in range(3):
            assert (await watch.next()).WhichOneof("event") == "heartbeat"


async def test_a_filter_chooses_requests_and_firings() -> None:
    async with serving() as served:
        wanted = firing_pb2.FiringFilter(categories=["vcr"], tenants=["acme"], min_value=1.0)
        watch = await served.watch(filter=wanted)
        request(served, 7)
        request(served, 8, tenant="other")
        for number in (7, 8):
            served.batch([(number, 0, 2)], [(0, 0, 5.0), (0, 2, 1.0), (1, 3, 1.5)])
            served.put(RequestEnd(request=number, fed=2, emitted=1))
        request(served, 9)
        served.put(RequestEnd(request=9, fed=2, emitted=1))
        served.pump()
        messages = await watch.until("ended") + await watch.until("ended")
        assert [one.WhichOneof("event") for one in messages] == ["table", "batch", "ended", "ended"]
        batch = messages[1].batch
        assert (list(batch.slot), list(batch.row), sum(batch.span_tokens)) == ([3], [1], 2)
        assert [one.ended.request.client_id for one in messages[2:]] == ["client-7", "client-9"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"feature_ids": ["threat.l1", "thread.l1"]}, "filter.feature_ids[1]"),
        ({"categories": ["vcx"]}, "filter.categories[0]"),
        ({"traffic_classes": [0]}, "filter.traffic_classes[0]"),
        ({"request_ids": ["x"] * 1001}, "filter.request_ids"),
        ({"request_ids": ["x", "ä" * 129]}, "filter.request_ids[1]"),
        ({"tenants": ["x" * 256] * 200, "request_ids": ["x" * 256] * 57}, "filter.request_ids"),
        ({"min_value": float("nan")}, "filter.min_value"),
    ],
)
async def test_a_filter_that_can_match_nothing_or_is_too_long_is_refused(fields: dict[str, Any], named: str) -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.watch(filter=firing_pb2.FiringFilter(**fields))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert named in str(caught.value.details())


async def test_a_subscriber_is_told_at_once_what_does_not_see() -> None:
    async with serving() as served:
        served.pipeline.disconnect(1)
        served.pipeline.tick()
        watch = await served.watch()
        assert [one.reason for one in watch.standing.blind] == ["no_engine"]


async def test_a_resume_token_goes_on_behind_its_event() -> None:
    async with serving() as served:
        watch = await served.watch()
        request(served, 7)
        served.batch([(7, 0, 1)])
        served.pump()
        token = (await watch.until("batch"))[-1].resume_token
        watch.call.cancel()
        for position in range(1, 4):
            served.batch([(7, position, 1)])
            served.pump()
        again = await served.watch(resume_token=token)
        messages = await again.until("batch") + await again.until("batch") + await again.until("batch")
        assert [one.WhichOneof("event") for one in messages] == ["table", "batch", "batch", "batch"]
        assert [one.batch.first_seq for one in messages[1:]] == [2, 3, 4]


async def test_a_token_that_is_too_old_gives_a_gap_of_exact_size() -> None:
    async with serving(ring_bytes=2000) as served:
        watch = await served.watch()
        request(served, 7)
        served.batch([(7, 0, 1)])
        served.pump()
        token = (await watch.until("batch"))[-1].resume_token
        for position in range(1, 41):
            served.batch([(7, position, 2)], [(0, 0, 1.0)])
            served.pump()
        again = await served.watch(resume_token=token)
        gap = (await again.until("gap"))[-1].gap
        assert gap.reason == firing_pb2.GAP_REASON_EXPIRED
        left = 0
        while left < 80 - gap.tokens:
            left += sum((await again.batch()).span_tokens)
        assert (left + gap.tokens, gap.firings) == (80, gap.tokens // 2)
        assert gap.last_event - gap.first_event + 1 == gap.firings


async def test_a_token_of_another_run_begins_with_this_one_and_gets_each_streams_gap_first() -> None:
    async with serving() as served:
        served.put(fakes.beat(told=50, told_firings=9))
        request(served, 7)
        served.batch([(7, 0, 1)])
        served.pump()
        (name,) = served.feed.account.names
        watch = await served.watch(resume_token=f"2.8.1.0.0~{name}.14.4")
        gap, table, batch = await watch.until("gap") + await watch.until("batch")
        assert gap.gap.reason == firing_pb2.GAP_REASON_RESTARTED
        assert (gap.gap.stream.number, gap.gap.tokens, gap.gap.firings, gap.gap.unknown) == (1, 30, 5, False)
        assert (table.WhichOneof("event"), batch.batch.first_seq) == ("table", 1)
        assert f"~{name}.33.9" in batch.resume_token


async def test_what_is_owed_outlives_one_more_break() -> None:
    async with serving() as served:
        opening = fakes.stream_open(served.dictionary)
        name = name_of(StreamIdentity(number=1, opening=opening, dictionary=served.dictionary))
        watch = await served.watch(resume_token=f"2.8.1.0.0~{name}.14.4")
        served.pipeline.tick()  # something happens: no beat yet
        served.pump()
        token = (await watch.next()).resume_token
        assert f"!{name}.14.4?" in token
        watch.call.cancel()
        again = await served.watch(resume_token=token)
        served.put(fakes.beat(told=50, told_firings=9))
        served.pump()
        assert (await again.until("gap"))[-1].gap.tokens == 30


@pytest.mark.parametrize("token", ["nonsense", "2.7.ffff.0.0"])
async def test_a_token_that_nobody_gave_is_refused(token: str) -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError, match="resume_token"):
            await served.watch(resume_token=token)


async def test_a_reader_that_stops_gets_a_gap_of_exact_size_and_memory_stays() -> None:
    async with serving(ring_bytes=2**20) as served:
        watch = await served.watch()
        request(served, 7)
        firings = [(row, slot, 1.0) for row in range(250) for slot in range(4)]
        sent = 0
        for _ in range(1500):  # 18 MB, of which gRPC takes some 6
            served.batch([(7, 0, 250)], firings)
            served.pump()
            sent += 1
            if sent % 50 == 0:
                await asyncio.sleep(0.001)
        assert served.feed.ring.bytes <= 2**20
        tokens = fired = gaps = 0
        while tokens < 250 * sent:
            message = await watch.next()
            kind = message.WhichOneof("event")
            if kind == "gap":
                gaps += 1
                assert message.gap.reason == firing_pb2.GAP_REASON_SLOW_CONSUMER
                tokens += message.gap.tokens
                fired += message.gap.firings
            elif kind == "batch":
                tokens += sum(message.batch.span_tokens)
                fired += len(message.batch.row)
        assert (tokens, fired) == (250 * sent, 1000 * sent)
        assert gaps > 0


async def test_a_reader_may_be_overtaken_again_while_it_is_told_of_a_gap() -> None:
    async with serving(ring_bytes=2000) as served:
        events = served.firing.watch(firing_pb2.WatchFiringsRequest(), Principal(name="p"))
        request(served, 7)

        async def batches(count: int) -> Response:
            for _ in range(count):
                served.batch([(7, 0, 1)])
                served.pump()
            return Response.FromString(await anext(events))

        assert [(await batches(0)).WhichOneof("event") for _ in range(2)] == ["heartbeat", "coverage"]
        gaps = [(await batches(50)).gap, (await batches(50)).gap]
        assert (gaps[0].first_event, gaps[1].last_event) == (1, served.feed.ring.tail.event - 1)
        assert gaps[1].first_event == gaps[0].last_event + 1
        await events.aclose()


async def test_a_principal_of_some_tenants_watches_theirs() -> None:
    async with serving() as served:
        events = served.firing.watch(firing_pb2.WatchFiringsRequest(), Principal(name="p", tenants=frozenset({"acme"})))
        _, _ = await anext(events), await anext(events)  # a heartbeat, and what stands
        request(served, 7, tenant="other")
        request(served, 8)
        served.batch([(7, 0, 1), (8, 0, 2), (99, 0, 4)], [(0, 0, 1.0), (1, 1, 1.0)])
        served.pump()
        found = [Response.FromString(await anext(events)) for _ in range(2)]
        batch = found[1].batch
        assert [one.tenant for one in batch.requests] == ["acme"]
        assert (list(batch.span_tokens), list(batch.slot)) == ([2], [1])
        await events.aclose()


async def test_what_the_sidecars_own_queue_dropped_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:
        watch = await served.watch()
        request(served, 7)
        for position in range(limits.SINK_QUEUE_BATCHES + 10):
            served.batch([(7, position, 1)], [(0, 0, 1.0)])
        served.pump()
        gap = (await watch.until("gap"))[-1].gap
        assert gap.reason == firing_pb2.GAP_REASON_OVERLOAD
        assert gap.tokens == gap.firings == 10


async def test_subscribers_are_limited_and_health_is_not() -> None:
    async with serving(subscribers=2) as served:
        watches = [await served.watch() for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.watch()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await served.check_health()
        watches[0].call.cancel()
        await becomes(lambda: served.firing.subscribers == 1)
        await served.watch()


async def test_a_drain_ends_every_stream_with_a_token() -> None:
    async with serving() as served:
        watch = await served.watch()
        request(served, 7)
        served.batch([(7, 0, 1)])
        served.pump(flush=False)
        served.firing.drain("shutdown")
        messages = await watch.until("drain")
        assert [one.WhichOneof("event") for one in messages] == ["table", "batch", "drain"]
        assert messages[-1].resume_token
        await served.firing.left(1.0)
        assert served.firing.subscribers == 0


async def test_subscribers_with_one_filter_share_one_encoding() -> None:
    async with serving() as served:
        watches = [await served.watch() for _ in range(3)]
        request(served, 7)
        served.batch([(7, 0, 1)])
        served.pump()
        found: list[Response] = [(await watch.until("batch"))[-1] for watch in watches]
        assert len({one.SerializeToString() for one in found}) == 1
        assert served.feed.encodings == 1


async def test_a_record_while_it_runs_and_after() -> None:
    async with serving() as served:
        request(served, 7)
        served.batch([(7, 2, 3)], [(0, 0, 1.0), (2, 1, 3.0)], missed=[(7, Reason.EXCLUDED, 2)])
        (record,) = (await served.record("client-7")).records
        assert (record.HasField("end_time"), record.fed, record.outcome) == (False, 0, 0)
        served.put(RequestEnd(request=7, fed=5, emitted=2, time_ns=10**18))
        served.put(RequestLabel(key=fakes.key(7), client_id="client-7", tenant="acme", outcome="completed", status=200))
        (record,) = (await served.record(fakes.engine_id(7))).records
        assert (record.fed, record.emitted, record.status) == (5, 2, 200)
        assert (record.outcome, record.end_time.seconds) == (firing_pb2.OUTCOME_COMPLETED, 10**9)
        (stream,) = record.streams
        assert (stream.prompt_tokens, stream.answer_tokens) == (2, 1)
        assert [(one.reason, one.tokens) for one in stream.missed] == [(common_pb2.MISSED_REASON_EXCLUDED, 2)]
        (feature,) = stream.features
        assert (feature.feature_id, feature.prompt.count, feature.prompt.max_value) == ("animals.g1", 1, 1.0)
        assert (feature.answer.count, feature.answer.first_position, feature.answer.peak_position) == (1, 4, 4)


async def test_a_record_that_is_not_there() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.record("nobody")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.record("")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_principal_of_some_tenants_sees_theirs() -> None:
    async with serving() as served:
        request(served, 7)
        request(served, 8, tenant="other", client_id="client-7")
        asked = firing_pb2.GetRequestRecordRequest(request_id="client-7")
        found = await served.firing.get_request_record(asked, Principal(name="p", tenants=frozenset({"acme"})))
        assert [one.request.tenant for one in found.records] == ["acme"]


async def test_an_answer_holds_what_a_client_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "ANSWER_BYTES", 300)
    async with serving() as served:
        for number in range(1, 9):
            request(served, number, client_id="same")
        assert 0 < len((await served.record("same")).records) < 8


async def test_nothing_is_kept_for_a_filter_that_nobody_has_any_more() -> None:
    async with serving() as served:
        request(served, 7)
        stays = await served.watch(filter=firing_pb2.FiringFilter(tenants=["acme"]))
        for number in range(20):
            wanted = firing_pb2.FiringFilter(tenants=["acme"], request_ids=[f"{number}"])
            watch = await served.watch(filter=wanted)
            served.batch([(7, number, 1)])
            served.pump()
            await stays.batch()
            watch.call.cancel()
        stays.call.cancel()
        await served.firing.left(5.0)
        assert 40 <= served.feed.encodings < 60, "a cancelled watch may see one more batch before it is gone"
        assert served.feed.encodings_kept == 0
