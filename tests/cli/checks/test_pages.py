"""What the doctor reads from a real metrics page, on a real port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import pytest

from saewatch.cli.checks import pages
from saewatch.cli.checks.finding import Finding, Setup, State
from saewatch.edge.pipeline import Pipeline, SinkQueue
from saewatch.edge.sinks.metrics import MetricsSink
from saewatch.edge.web import WebServer
from saewatch.edge.web import pages as served
from tests import fakes

KNOWN = fakes.dictionary()


@contextlib.asynccontextmanager
async def serving(addresses: Mapping[str, str], *, series: int = 1000) -> AsyncIterator[str]:
    """The pages of a sidecar on which every feature of `KNOWN` has fired."""
    sink, queue = MetricsSink(faults=dict, queues=list, series=series), SinkQueue("q", lambda: None)
    pipeline = Pipeline(dictionaries={KNOWN.weights_digest: KNOWN}, queues=[queue])
    pipeline.connect(1)
    for record in (fakes.stream_open(KNOWN), fakes.watch_set(KNOWN), fakes.batch([(7, 0, 1)], [(0, 1, 2.0)])):
        pipeline.receive(1, record)
    sink.take(queue.take())
    server = WebServer(
        served(registry=sink.registry, status=pipeline.status, alive=lambda: True, addresses=lambda: addresses)
    )
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop()


async def examined(web: str, address: str = "localhost:50071") -> Finding:
    (found,) = await asyncio.to_thread(lambda: list(pages.series(Setup(address=address, web=web))))
    return found


async def test_every_series_is_there() -> None:
    async with serving({"grpc": "127.0.0.1:50071"}) as web:
        found = await examined(web)
    assert (found.state, found.found) == (
        State.GOOD,
        f"none is left out; saewatch_firings has most, {len(KNOWN.catalogue.features)}",
    )


async def test_what_is_left_out_is_told() -> None:
    async with serving({"grpc": "127.0.0.1:50071"}, series=2) as web:
        found = await examined(web)
    lacks = len(KNOWN.catalogue.features) - 2
    assert found.state is State.WARNING
    assert f"saewatch_firings lacks {lacks} or more" in found.found
    assert "`limits.series`" in found.hint


@pytest.mark.parametrize("told", [{"grpc": "127.0.0.1:1"}, {}])
async def test_the_page_of_another_one_says_nothing(told: Mapping[str, str]) -> None:
    async with serving(told) as web:
        assert (await examined(web)).state is State.UNVERIFIED


async def test_nobody_there() -> None:
    assert (await examined("127.0.0.1:1")).state is State.UNVERIFIED
    assert "a known address" in (await examined("")).found
