"""The pages for machines, over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from saewatch.core.errors import ConfigError
from saewatch.edge.web import WebServer, pages
from tests.monitor.stage import Stage

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@contextlib.asynccontextmanager
async def serving(stage: Stage, *, alive: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    registry = CollectorRegistry()
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
