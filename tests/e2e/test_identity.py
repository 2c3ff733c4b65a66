"""Whose request is it? Every path to the engine, clients that lie, and a hop that wants the prompt computed anew."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from benchmarks.rig import MODEL_NAME
from saewatch.client import Client
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb.saewatch.v1 import common_pb2, firing_pb2
from tests.e2e.conftest import Pair
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

HOP = {"X-Saewatch-Tenant": "acme", "X-Saewatch-Class": "test"}
AGAIN = {**HOP, "X-Saewatch-Recompute": "1"}
BLOCK = 128
"""Tokens that vLLM's prefix cache keeps together on a CPU."""


@pytest.fixture
def client(pair: Pair) -> Iterator[Client]:
    with Client(pair.watched.addresses["grpc"]) as found:
        yield found


def post(
    pair: Pair, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | Sequence[tuple[str, str]]
) -> tuple[dict[str, str], Any]:
    """Headers and body of an answer, which must be a good one."""
    connection = http.client.HTTPConnection("127.0.0.1", pair.watched.port, timeout=120)
    try:
        data = json.dumps({"model": MODEL_NAME, **body}).encode()
        connection.putrequest("POST", path)
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            connection.putheader(name, value)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return {name.lower(): value for name, value in answer.getheaders()}, json.loads(text)
    finally:
        connection.close()


def records(client: Client, name: str, count: int) -> list[firing_pb2.RequestRecord]:
    """The records under ``name``, once there are so many, ended and told how."""

    def found() -> list[firing_pb2.RequestRecord]:
        time.sleep(0.05)
        with contextlib.suppress(SaewatchError):  # not seen yet
            return [one for one in client.record(name) if one.HasField("end_time") and one.outcome]
        return []

    wait_until(lambda: len(found()) >= count)
    return found()


def stamped(name: str) -> str:
    return f"{name}-{time.time_ns()}"


SHORT = {"max_tokens": 4, "temperature": 0.0}


def bodies(prompt: str) -> dict[str, tuple[Mapping[str, Any], int]]:
    """By path: a body that asks ``prompt``, and how many requests the engine makes of it."""
    turn, other = ([{"role": "user", "content": text}] for text in (prompt, f"And {prompt}"))
    return {
        "/v1/completions": ({**SHORT, "prompt": [prompt, f"And {prompt}"]}, 2),
        "/v1/chat/completions": ({**SHORT, "messages": turn}, 1),
        "/v1/chat/completions/batch": ({**SHORT, "messages": [turn, other]}, 2),
        "/v1/responses": ({"input": prompt, "max_output_tokens": 4, "temperature": 0.0}, 1),
        "/v1/messages": ({**SHORT, "messages": turn}, 1),
        "/invocations": ({**SHORT, "messages": turn}, 1),
    }


PATHS = tuple(bodies(""))


@pytest.mark.parametrize("path", PATHS)
def test_every_path_is_joined(pair: Pair, client: Client, path: str) -> None:
    name = stamped("path")
    body, count = bodies("Hello there!")[path]
    headers, _ = post(pair, path, body, {"X-Request-Id": name, **HOP})
    assert headers["x-request-id"] == name
    found = records(client, name, count)
    assert len(found) == count
    assert {one.request.key in one.request.engine_id for one in found} == {True}
    assert {(one.request.tenant, one.request.traffic_class) for one in found} == {
        ("acme", common_pb2.TRAFFIC_CLASS_TEST)
    }
    assert all(one.fed == one.request.prompt_len + one.emitted - 1 for one in found)


@pytest.mark.parametrize("path", PATHS)
def test_a_hop_has_the_prompt_computed_anew(pair: Pair, client: Client, path: str) -> None:
    """All of it, and without a trace for those who come after: they find what was in the cache before."""
    prompt = stamped(path) + " and what else is there to say of it?" * 12
    body, count = bodies(prompt)[path]
    kinds = {"first": HOP, "cached": HOP, "anew": AGAIN, "again": AGAIN, "after": HOP}
    found: dict[str, list[firing_pb2.RequestRecord]] = {}
    for kind, headers in kinds.items():
        name = stamped(kind)
        told, _ = post(pair, path, body, {"X-Request-Id": name, **headers})
        assert told.get("x-saewatch-recompute") == ("1" if headers is AGAIN else None)
        found[kind] = records(client, name, count)
    cached = {kind: [one.request.cached for one in ones] for kind, ones in found.items()}
    assert cached["anew"] == cached["again"] == [0] * count
    assert min(cached["cached"]) >= BLOCK
    assert cached["after"] == cached["cached"]
    for one in found["anew"]:
        (seen,) = one.streams
        missed = {part.reason: part.tokens for part in seen.missed}
        assert missed.keys() <= {common_pb2.MISSED_REASON_EXCLUDED}
        assert seen.prompt_tokens + seen.answer_tokens + sum(missed.values()) == one.fed


def test_a_clients_own_salt_is_its_own(pair: Pair, client: Client) -> None:
    prompt = {**SHORT, "prompt": stamped("salt") + " and what else is there to say of it?" * 12}
    cached = []
    for salt in ("mine", "mine", "yours"):
        name = stamped("salt")
        post(pair, "/v1/completions", {**prompt, "cache_salt": salt}, {"X-Request-Id": name, **HOP})
        (one,) = records(client, name, 1)
        cached.append(one.request.cached)
    assert cached[0] == cached[2] == 0 < cached[1]


LIES = {
    "tenant": "evil",
    "saewatch": "off",
    "X-Saewatch-Tenant": "evil",
    "X-Saewatch-Class": "live",
    "opted_out": 1,
    "skip_reading_prefix_cache": 1,
}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/messages"])
def test_a_clients_arguments_name_no_tenant_and_switch_nothing_off(pair: Pair, client: Client, path: str) -> None:
    name, other = stamped("lies"), stamped("other")
    post(pair, "/v1/completions", {**SHORT, "prompt": "Hello!"}, {"X-Request-Id": other, **HOP})
    (victim,) = records(client, other, 1)
    lies = {"vllm_xargs": LIES, "user": "evil", "request_id": victim.request.key, "metadata": {"tenant": "evil"}}
    if path == "/v1/messages":
        lies["metadata"] = {"user_id": "evil"}
    body, count = bodies("Hello there!")[path]
    post(pair, path, {**body, **lies}, {"X-Request-Id": name, **HOP})
    found = records(client, name, count)
    for one in found:
        assert (one.request.tenant, one.request.traffic_class) == ("acme", common_pb2.TRAFFIC_CLASS_TEST)
        assert one.request.key != victim.request.key
        (seen,) = one.streams
        excluded = {missed.reason: missed.tokens for missed in seen.missed}
        assert excluded.keys() <= {common_pb2.MISSED_REASON_EXCLUDED}
        assert seen.prompt_tokens + seen.answer_tokens + sum(excluded.values()) == one.fed
    assert len(client.record(victim.request.key)) == 1


def test_a_response_takes_no_name_of_another(pair: Pair, client: Client) -> None:
    """Its id comes from the body, where a client could write anything."""
    other, name = stamped("other"), stamped("claims")
    post(pair, "/v1/completions", {**SHORT, "prompt": "Hello!"}, {"X-Request-Id": other, **HOP})
    (victim,) = records(client, other, 1)
    body, _ = bodies("Hello there!")["/v1/responses"]
    claim = {**body, "request_id": f"resp_{victim.request.key}"}
    _, answer = post(pair, "/v1/responses", claim, {"X-Request-Id": name, "X-Saewatch-Tenant": "other"})
    (one,) = records(client, name, 1)
    assert answer["id"] == f"resp_{one.request.key}"
    assert (one.request.tenant, len(client.record(victim.request.key))) == ("other", 1)


def test_one_id_for_many_requests_books_each_to_its_own_key(pair: Pair, client: Client) -> None:
    name = stamped("same")

    def ask(number: int) -> str:
        body = {**SHORT, "prompt": "Hello there!", "max_tokens": 2 + number, "ignore_eos": True}
        headers, _ = post(pair, "/v1/completions", body, {"X-Request-Id": name, **HOP})
        return headers["x-request-id"]

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(ask, range(12))) == {name}
    found = records(client, name, 12)
    assert len({one.request.key for one in found}) == 12
    assert sorted(one.emitted for one in found) == list(range(2, 14))


HOSTILE: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "several ids": ([("X-Request-Id", "{}"), ("x-request-id", "two")], "{}", "acme"),
    "odd case": ([("x-REQUEST-id", "{}")], "{}", "acme"),
    "quotes": ([("X-Request-Id", "{}'\"\\;--")], "{}'\"\\;--", "acme"),
    "no text": ([("X-Request-Id", "{}\xff\xfe")], "{}??", "acme"),
    "64 KiB": ([("X-Request-Id", "{}" + "i" * 64 * 1024)], "{}", "acme"),
    "a forged tenant before the hop's": ([("X-Request-Id", "{}"), ("X-Saewatch-Tenant", "evil")], "{}", "acme"),
    "a trace that is none": ([("X-Request-Id", "{}"), ("traceparent", "00-zz-" * 40)], "{}", "acme"),
}
"""What comes, the id that the client gets back or how it begins, and the tenant."""


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers_are_survived(pair: Pair, client: Client, kind: str) -> None:
    sent, returned, tenant = HOSTILE[kind]
    stamp = stamped("hostile")
    headers = [(name, value.format(stamp)) for name, value in sent] + list(HOP.items())
    told, _ = post(pair, "/v1/completions", {**SHORT, "prompt": "Hello there!"}, headers)
    own = told["x-request-id"]
    assert own.startswith(returned.format(stamp))
    (one,) = records(client, own.replace("?", "\N{REPLACEMENT CHARACTER}"), 1)
    assert (one.request.tenant, one.request.trace_id) == (tenant, "")


@pytest.mark.parametrize("sent", [[], [("X-Request-Id", "")]], ids=["none", "empty"])
def test_without_an_id_the_client_gets_the_key(pair: Pair, client: Client, sent: list[tuple[str, str]]) -> None:
    told, answer = post(pair, "/v1/completions", {**SHORT, "prompt": "Hello there!"}, [*sent, *HOP.items()])
    (one,) = records(client, told["x-request-id"], 1)
    assert one.request.key == told["x-request-id"]
    assert one.request.key in answer["id"]
    assert one.request.client_id == ""
