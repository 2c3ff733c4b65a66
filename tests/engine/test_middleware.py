"""The middleware in a real server: keys, labels, ids of hostile clients, streaming, and how a request ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from saewatch.core.records import RequestLabel, key_of
from saewatch.engine.middleware import ID_BYTES, LabelMiddleware, label_of
from tests.descriptors import no_free_descriptor
from tests.engine.labelled import TRUSTED, App, Listener, post, serving
from tests.waiting import wait_until


async def test_the_application_gets_the_key_and_the_client_its_own_id(sidecar: Listener) -> None:
    async with serving(App()) as app:
        response = await post(app, "/echo", {"X-Request-Id": "mine"})
        assert (response.status_code, response.text) == (200, "body")
        assert response.headers.get_list("x-request-id") == ["mine"]
        label = await sidecar.outcome()
        assert app.ids == [[label.key]]
        assert key_of(f"chatcmpl-{label.key}-1234abcd") == label.key
        assert sidecar.labels[0].key == label.key
        assert (label.client_id, label.outcome, label.status) == ("mine", "completed", 200)
        assert (sidecar.labels[0].outcome, sidecar.labels[0].status) == ("", 0)
        assert label.time_ns >= sidecar.labels[0].time_ns


async def test_a_client_without_an_id_gets_the_key_and_no_two_are_the_same(sidecar: Listener) -> None:
    async with serving(App()) as app:
        responses = [await post(app, "/echo") for _ in range(3)]
        assert [[response.headers["x-request-id"]] for response in responses] == app.ids
        assert len({response.headers["x-request-id"] for response in responses}) == 3


async def test_the_applications_own_header_is_replaced(sidecar: Listener) -> None:
    async with serving(App()) as app:
        response = await post(app, "/own", {"X-Request-Id": "mine"})
        assert response.headers.get_list("x-request-id") == ["mine"]


@pytest.mark.parametrize("trusted", [True, False])
async def test_labels_come_from_a_trusted_hop_only(
    tmp_path: Path, sidecar: Listener, monkeypatch: pytest.MonkeyPatch, *, trusted: bool
) -> None:
    monkeypatch.setenv("SAEWATCH_TRUST_HEADERS", "1" if trusted else "0")
    async with serving(App()) as app:
        await post(app, "/echo", TRUSTED)
        label = await sidecar.outcome()
        expected = ("acme", "canary", "c-1") if trusted else ("", "live", "")
        assert (label.tenant, label.traffic_class, label.conversation) == expected
        assert label.trace_id == "ab" * 16


def test_a_class_that_does_not_exist_is_live() -> None:
    assert label_of([(b"x-saewatch-class", b"root")], trusted=True).traffic_class == "live"


HOSTILE = {
    "very long": (b"x" * 20_000, "x" * ID_BYTES),
    "not ASCII": ("idé".encode("latin-1"), "id\N{REPLACEMENT CHARACTER}"),
    "UTF-8": ("日本".encode(), "\N{REPLACEMENT CHARACTER}" * 6),
    "a control character": (b"a\tb", "a\N{REPLACEMENT CHARACTER}b"),
    "JSON": (b'"},{"outcome":"completed', '"},{"outcome":"completed'),
    "somebody's key": (b"sw-" + b"0" * 32, "sw-" + "0" * 32),
    "empty": (b"", ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_ids_are_survived(sidecar: Listener, kind: str) -> None:
    sent, kept = HOSTILE[kind]
    async with serving(App()) as app:
        response = await post(app, "/echo", [(b"X-Request-Id", sent)])
        assert response.status_code == 200
        label = await sidecar.outcome()
        assert label.client_id == kept
        assert app.ids == [[label.key]]
        assert response.headers["x-request-id"] == (kept.replace("\N{REPLACEMENT CHARACTER}", "?") or label.key)


async def test_of_several_ids_the_first_counts_and_none_reaches_the_application(sidecar: Listener) -> None:
    async with serving(App()) as app:
        headers = [(b"X-Request-Id", b"one"), (b"x-request-id", b"two"), (b"X-REQUEST-ID", b"three")]
        response = await post(app, "/echo", headers)
        label = await sidecar.outcome()
        assert label.client_id == "one"
        assert app.ids == [[label.key]]
        assert response.headers.get_list("x-request-id") == ["one"]


async def test_an_answer_is_not_held_back(sidecar: Listener) -> None:
    async with serving(App()) as app, httpx.AsyncClient() as client:
        async with client.stream("POST", app.url("/stream")) as response:
            chunks = response.aiter_bytes()
            assert await asyncio.wait_for(anext(chunks), 5) == b"chunk 0\n"
            assert app.produced == [0]  # the others do not exist yet
            app.go_on.set()
            assert b"".join([chunk async for chunk in chunks]) == b"chunk 1\nchunk 2\n"
        assert (await sidecar.outcome()).outcome == "completed"


async def test_a_client_that_leaves_in_the_middle_of_the_answer_disconnected(sidecar: Listener) -> None:
    async with serving(App()) as app, httpx.AsyncClient() as client:
        async with client.stream("POST", app.url("/stream")) as response:
            await anext(response.aiter_bytes())
        label = await sidecar.outcome()
        assert (label.outcome, label.status) == ("disconnected", 200)


async def test_a_client_that_left_before_the_answer_disconnected_though_there_is_one(sidecar: Listener) -> None:
    async with serving(App()) as app:
        with pytest.raises(httpx.ReadTimeout):
            async with httpx.AsyncClient(timeout=0.2) as client:
                await client.post(app.url("/deaf"), content=b"x")
        assert (await sidecar.outcome()).outcome == "disconnected"


@pytest.mark.parametrize(("path", "status", "seen"), [("/raise", 500, 0), ("/refuse", 400, 400), ("/none", 404, 404)])
async def test_an_answer_that_is_an_error(sidecar: Listener, path: str, status: int, seen: int) -> None:
    async with serving(App()) as app:
        response = await post(app, path)
        assert response.status_code == status
        label = await sidecar.outcome()
        assert label.outcome == "error"
        assert label.status in {seen, status}


async def test_get_passes_untouched(sidecar: Listener) -> None:
    async with serving(App()) as app:
        async with httpx.AsyncClient() as client:
            response = await client.get(app.url("/echo"), headers={"X-Request-Id": "mine"})
        assert app.ids == [["mine"]]
        assert "x-request-id" not in response.headers
        await post(app, "/echo")
        await sidecar.outcome()
        assert len({label.key for label in sidecar.labels}) == 1


async def test_other_protocols_pass_untouched() -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    for scope in ({"type": "lifespan"}, {"type": "websocket", "headers": []}):
        await LabelMiddleware(inner)(scope, nothing, nothing)
        assert seen[-1] == (scope, nothing, nothing)
        assert seen[-1][0] is scope


async def test_a_server_that_reports_a_client_that_left_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[RequestLabel] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b""})

    async def gone(*_: Any) -> Any:
        raise OSError("the client has left")

    middleware = LabelMiddleware(inner)
    monkeypatch.setattr(middleware._sender, "send", labels.append)  # noqa: SLF001 - the socket has its own tests
    with pytest.raises(OSError, match="left"):
        await middleware({"type": "http", "method": "POST", "path": "/", "headers": []}, gone, gone)
    assert labels[-1].outcome == "disconnected"


async def test_without_a_sidecar_requests_are_unaffected_and_labels_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEWATCH_SOCKET", str(tmp_path / "nobody"))
    async with serving(App()) as app:
        for _ in range(3):
            assert (await post(app, "/echo", {"X-Request-Id": "mine"})).headers["x-request-id"] == "mine"
        wait_until(lambda: app.app._sender.dropped == 6)  # noqa: SLF001 - it is told nowhere yet


async def test_a_request_passes_though_no_descriptor_is_free_for_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b""})

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message["type"])

    sent: list[str] = []
    monkeypatch.setenv("SAEWATCH_SOCKET", str(tmp_path / "socket"))
    middleware = LabelMiddleware(inner)
    with no_free_descriptor():
        await middleware({"type": "http", "method": "POST", "path": "/", "headers": []}, nothing, send)
    assert sent == ["http.response.start", "http.response.body"]
    assert middleware._sender.dropped == 2  # noqa: SLF001 - it is told nowhere yet
