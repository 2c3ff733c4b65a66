"""What is stored of requests through adapters says how far each dictionary fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from saewatch.core.records import RequestStart
from saewatch.edge.pb import common_pb2
from tests import fakes
from tests.edge.rpc.test_history import T0, storing


async def test_a_request_through_an_adapter_says_how_far_each_dictionary_fits(tmp_path: Path) -> None:
    known = [replace(fakes.dictionary(seed=seed), adapters=frozenset({"sql", f"chat{seed}"})) for seed in (0, 1)]
    async with storing(tmp_path, known=known) as one:
        for number, other in enumerate(known[1:], 2):
            one.served.put(fakes.stream_open(other, stream=number), fakes.watch_set(other, stream=number))
        for request, adapter in ((7, "sql"), (8, "chat0"), (9, "")):
            start = RequestStart(request=request, engine_id=f"plain-{request}", prompt_len=2, adapter=adapter)
            one.served.put(start)
        spans: list[fakes.Span] = [(7, 0, 1), (8, 0, 1), (9, 0, 1)]
        for stream in (1, 2):
            one.served.put(fakes.batch(spans, [(row, 2, 1.0) for row in range(3)], time_ns=T0, stream=stream))
        one.write()
        rows = (await one.firings()).firings
        attested, unverified = common_pb2.FIT_ATTESTED, common_pb2.FIT_UNVERIFIED
        assert {
            (row.engine_id, row.adapter, row.weights_digest == known[0].weights_digest, row.fit) for row in rows
        } == {
            ("plain-7", "sql", True, attested),
            ("plain-7", "sql", False, attested),
            ("plain-8", "chat0", True, attested),
            ("plain-8", "chat0", False, unverified),
            ("plain-9", "", True, common_pb2.FIT_BASE),
            ("plain-9", "", False, common_pb2.FIT_BASE),
        }
        listed = (await one.requests()).requests
        assert {found.request.engine_id: found.request.fit for found in listed} == {
            "plain-7": attested,
            "plain-8": unverified,
            "plain-9": common_pb2.FIT_BASE,
        }
