"""StatusService."""

from __future__ import annotations

from saewatch import __version__
from saewatch.core.records import RequestStart
from saewatch.edge.pb import status_pb2
from tests import fakes
from tests.edge.rpc.served import serving


async def test_everything_is_told() -> None:
    async with serving() as served:
        served.put(RequestStart(request=7, engine_id="plain", prompt_len=4))
        served.batch([(7, 0, 3)], [(0, 0, 1.0)])
        served.put(fakes.beat(fed=10, encoded=7, missed={"gap": 2}, queue_bytes=77))
        await served.watch()
        status = await served.statuses.GetStatus(status_pb2.GetStatusRequest())
        assert (status.version, status.open_requests, status.subscribers, status.connections) == (__version__, 1, 1, 1)
        (stream,) = status.streams
        assert (stream.received_rows, stream.received_firings, stream.slots, stream.connected) == (3, 1, 4, True)
        assert (stream.books.fed, stream.books.imbalance, stream.books.coverage) == (10, 1, 0.7)
        assert stream.stream.versions["vllm"] == "0.0"
        assert {one.name: one.bytes for one in status.queues}["engine engine-0"] == 77
        assert (status.counters["CorruptFrame"], status.counters["seq_gaps"]) == (3, 0)
        assert not status.blind


async def test_blind_states_are_told() -> None:
    async with serving() as served:
        served.put(fakes.stream_open(served.dictionary, stream=2, weights_digest="sha256:unknown"))
        status = await served.statuses.GetStatus(status_pb2.GetStatusRequest())
        (state,) = status.blind
        assert (state.scope, state.reason) == ("tap", "unknown_dictionary")
        assert state.hint
        assert state.since_time.seconds > 0
        assert [stream.HasField("books") for stream in status.streams] == [False, False]
