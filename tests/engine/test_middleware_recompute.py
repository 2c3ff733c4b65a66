"""Forced recomputation, and the key that vLLM takes from a body: what the application gets, and what a hop is told."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from saewatch.core.records import key_of
from saewatch.engine.middleware import SALTED
from tests.engine.labelled import App, Listener, post, serving

BODY = json.dumps({"model": "m", "prompt": [1, 2, 3]}, indent=1).encode()
AGAIN = {"X-Saewatch-Recompute": "1"}


@pytest.fixture
def trusted(sidecar: Listener, monkeypatch: pytest.MonkeyPatch) -> Listener:
    monkeypatch.setenv("SAEWATCH_TRUST_HEADERS", "1")
    return sidecar


@pytest.mark.parametrize("path", ["/prefix/v1/completions", *SALTED])
async def test_a_trusted_hop_gets_a_new_salt_for_each_request(trusted: Listener, path: str) -> None:
    async with serving(App()) as app:
        answers = [await post(app, path, AGAIN, BODY) for _ in range(2)]
        assert [one.headers.get_list("x-saewatch-recompute") for one in answers] == [["1"], ["1"]]
        found = [one.json() for one in answers]
        assert all({**one, **json.loads(BODY)} == one for one in found)
        salts = {one["cache_salt"] for one in found}
        assert len(salts) == 2
        assert all(len(salt) == 32 and salt.isalnum() for salt in salts)
        assert app.lengths == [None, None]  # the client's would be wrong
        assert app.app.unsalted == 0


async def test_the_salt_replaces_the_clients_and_is_not_its_key(trusted: Listener) -> None:
    async with serving(App()) as app:
        answer = await post(app, "/v1/completions", AGAIN, b'{"cache_salt": "shared", "prompt": "x"}')
        salt = answer.json()["cache_salt"]
        assert salt != "shared"
        assert salt not in answer.headers["x-request-id"]


@pytest.mark.parametrize("value", ["0", "", "true", "yes", "11"])
async def test_only_the_value_1_asks_for_it(trusted: Listener, value: str) -> None:
    async with serving(App()) as app:
        answer = await post(app, "/v1/completions", {"X-Saewatch-Recompute": value}, BODY)
        assert app.bodies == [BODY]
        assert "x-saewatch-recompute" not in answer.headers


async def test_of_several_headers_the_one_that_the_hop_added_counts(trusted: Listener) -> None:
    async with serving(App()) as app:
        name = "X-Saewatch-Recompute"
        await post(app, "/v1/completions", [(name, "0"), (name.upper(), "1")], BODY)
        await post(app, "/v1/completions", [(name, "1"), (name.lower(), "0")], BODY)
        assert ["cache_salt" in json.loads(body) for body in app.bodies] == [True, False]


async def test_an_untrusted_client_changes_nothing(sidecar: Listener) -> None:
    own = b'{"cache_salt": "its own", "prompt": "x"} '
    async with serving(App()) as app:
        answer = await post(app, "/v1/completions", AGAIN, own)
        assert (app.bodies, app.lengths) == ([own], [str(len(own))])
        assert "x-saewatch-recompute" not in answer.headers


@pytest.mark.parametrize(
    ("tenants", "tenant", "salted"),
    [
        ("acme", "acme", True),
        (" other , acme ", "acme", True),
        ("acme", "acm", False),
        ("acme", "", False),
        ("*", "", True),
        ("*", "acme", True),
        ("", "", False),
        (" , ", "", False),
    ],
)
async def test_by_tenant(
    trusted: Listener, monkeypatch: pytest.MonkeyPatch, tenants: str, tenant: str, *, salted: bool
) -> None:
    monkeypatch.setenv("SAEWATCH_RECOMPUTE_TENANTS", tenants)
    async with serving(App()) as app:
        await post(app, "/v1/completions", {"X-Saewatch-Tenant": tenant} if tenant else {}, BODY)
        assert ("cache_salt" in json.loads(app.bodies[0])) is salted


async def test_tenants_that_nobody_can_name_are_warned_of(
    sidecar: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SAEWATCH_RECOMPUTE_TENANTS", "acme")
    with caplog.at_level(logging.WARNING, "vllm.saewatch"):
        async with serving(App()) as app:
            await post(app, "/v1/completions", {"X-Saewatch-Tenant": "acme"}, BODY)
    assert app.bodies == [BODY]
    assert "SAEWATCH_TRUST_HEADERS" in caplog.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/echo", BODY, id="no path that takes a salt"),
        pytest.param("/v1/completions", b"[1, 2]", id="no object"),
        pytest.param("/v1/completions", b"nonsense", id="no JSON"),
        pytest.param("/v1/completions", b"", id="nothing"),
        pytest.param("/v1/completions", BODY.decode().encode("utf-16"), id="another encoding"),
        pytest.param("/unread/v1/completions", BODY, id="nobody read it"),
    ],
)
async def test_what_gets_no_salt_passes_unchanged_is_counted_and_says_so(
    trusted: Listener, caplog: pytest.LogCaptureFixture, path: str, body: bytes
) -> None:
    with caplog.at_level(logging.WARNING, "vllm.saewatch"):
        async with serving(App()) as app:
            answers = [await post(app, path, AGAIN, body) for _ in range(2)]
            assert [one.headers["x-saewatch-recompute"] for one in answers] == ["0", "0"]
            assert app.app.unsalted == 2
    assert caplog.text.count("not computed anew") == 1
    assert set(app.bodies) <= {body}


async def test_a_body_in_chunks_is_salted_as_it_passes(trusted: Listener) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in BODY:
            yield bytes([byte])

    async with serving(App()) as app:
        answer = await post(app, "/v1/completions", AGAIN, chunks())
        assert answer.json().keys() == {"model", "prompt", "cache_salt"}


async def test_a_large_body_is_salted_too(trusted: Listener) -> None:
    body = json.dumps({"prompt": list(range(200_000))}).encode()
    async with serving(App()) as app:
        answer = await post(app, "/v1/completions", AGAIN, body)
        assert len(answer.json()["prompt"]) == 200_000
        assert app.bodies[0].startswith(body[:-1])


async def test_a_client_that_leaves_while_its_body_is_read_disconnected(trusted: Listener) -> None:
    async with serving(App()) as app:
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Saewatch-Recompute: 1\r\n")
        writer.write(b'Content-Length: 1000\r\n\r\n{"prompt": "x"')
        await writer.drain()
        await trusted.outcome(1)
        writer.close()
        assert (await trusted.outcome(2)).outcome == "disconnected"
        assert app.bodies == []
        assert (await post(app, "/v1/completions", AGAIN, BODY)).status_code == 200


# --- the key in the body ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("claimed", [None, "resp_mine", "resp_sw-" + "0" * 32])
async def test_a_response_gets_its_key_in_the_body(sidecar: Listener, claimed: str | None) -> None:
    """vLLM takes a response's id from there: a client's own would leave it unlabelled, or under another's label."""
    body: dict[str, Any] = {"input": "x"} | ({"request_id": claimed} if claimed else {})
    async with serving(App()) as app:
        answer = await post(app, "/v1/responses", {"X-Request-Id": "mine"}, json.dumps(body).encode())
        label = await sidecar.outcome()
        assert answer.json() == {"input": "x", "request_id": f"resp_{label.key}"}
        assert key_of(answer.json()["request_id"]) == label.key
        assert answer.headers["x-request-id"] == "mine"
        assert "x-saewatch-recompute" not in answer.headers


async def test_a_response_may_get_both(trusted: Listener) -> None:
    async with serving(App()) as app:
        answer = await post(app, "/v1/responses", AGAIN, b"{}")
        assert answer.json().keys() == {"request_id", "cache_salt"}
        assert answer.headers["x-saewatch-recompute"] == "1"


async def test_a_key_alone_is_no_recomputation(trusted: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body of a response has members of ours in any case."""
    monkeypatch.setattr("saewatch.engine.middleware.SALTED", ())
    async with serving(App()) as app:
        answer = await post(app, "/v1/responses", AGAIN, b'{"input": "x"}')
        assert (answer.headers["x-saewatch-recompute"], app.app.unsalted) == ("0", 1)


async def test_other_bodies_get_no_key(sidecar: Listener) -> None:
    async with serving(App()) as app, httpx.AsyncClient() as client:
        for path in (one for one in SALTED if one != "/v1/responses"):
            assert (await client.post(app.url(path), content=BODY)).content
        assert set(app.bodies) == {BODY}
