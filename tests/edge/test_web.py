"""The pages for machines, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from saewatch.core.errors import ConfigError
from saewatch.edge import web
from saewatch.edge.web import WebServer, pages
from tests.monitor.stage import Stage

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@contextlib.asynccontextmanager
async def serving(
    stage: Stage, *, alive: bool = True, registry: CollectorRegistry | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    registry = registry or CollectorRegistry()
    Gauge("one", "Says.", registry=registry).set(1)
    server = WebServer(
        pages(
            registry=registry,
            status=lambda: stage.monitor.status(stage.now),
            alive=lambda: alive,
            addresses=lambda: {"grpc": "127.0.0.1:1"},
        )
    )
    port = await server.start("127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    await server.stop()


async def test_metrics_in_the_form_that_is_asked_for() -> None:
    async with serving(Stage()) as client:
        answer = await client.get("/metrics", headers={"accept": OPENMETRICS})
        assert answer.headers["content-type"].startswith(OPENMETRICS)
        assert answer.text.endswith("# EOF\n")
        assert [family.name for family in text_string_to_metric_families(answer.text)] == ["one"]
        plain = await client.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain")


async def test_alive_is_not_ready() -> None:
    stage = Stage()
    stage.tick()
    async with serving(stage) as client:
        assert (await client.get("/healthz")).status_code == 200
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        (state,) = answer.json()["blind"]
        assert (answer.json()["ready"], state["reason"]) == (False, "no_engine")
        assert state["hint"]
        stage.ready()
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "blind": []})
        stage.tick(5.0)
        assert (await client.get("/readyz")).status_code == 503


async def test_without_its_thread_it_is_neither() -> None:
    async with serving(Stage().ready(), alive=False) as client:
        assert (await client.get("/healthz")).status_code == 503
        assert (await client.get("/readyz")).status_code == 503


async def test_the_index_says_where_things_are() -> None:
    async with serving(Stage()) as client:
        answer = await client.get("/")
        assert answer.json()["grpc"] == "127.0.0.1:1"
        assert (await client.get("/nowhere")).status_code == 404


async def test_a_port_that_is_taken_is_refused() -> None:
    async with serving(Stage()) as client:
        app = pages(registry=CollectorRegistry(), status=lambda: Stage().monitor.status(0), alive=bool, addresses=dict)
        with pytest.raises(ConfigError, match=r"web\.listen"):
            await WebServer(app).start("127.0.0.1", client.base_url.port or 0)


async def test_connections_that_say_nothing_keep_nobody_out() -> None:
    async with serving(Stage().ready()) as client:
        idle = [await asyncio.open_connection("127.0.0.1", client.base_url.port) for _ in range(100)]
        for page in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(page)).status_code == 200
        for _, writer in idle:
            writer.close()


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\n"])
async def test_a_connection_without_a_whole_request_is_closed(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "REQUEST_S", 0.1)
    async with serving(Stage().ready()) as client:
        assert (await client.get("/healthz")).status_code == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(said)
        assert await asyncio.wait_for(reader.read(), 30.0) == b""
        writer.close()
        assert (await client.get("/healthz")).status_code == 200, "on the connection of before"


class Slow(Collector):
    """Counts those that render at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def collect(self) -> Iterable[Metric]:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        return ()


async def test_one_page_of_metrics_is_rendered_at_a_time() -> None:
    registry, slow = CollectorRegistry(auto_describe=False), Slow()
    registry.register(slow)
    async with serving(Stage(), registry=registry) as client:
        slow.most = 0
        answers = await asyncio.gather(*(client.get("/metrics") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert slow.most == 1
