"""Hostile bytes on the wire, under both of uvicorn's protocols: a label for each request, and the server lives on."""

from __future__ import annotations

import asyncio
import re

import pytest

from saewatch.engine.middleware import ID_BYTES
from tests.engine.labelled import App, Listener, post, serving

PROTOCOLS = ("h11", "httptools")

IDS = {
    "none": (b"", ""),
    "empty": (b"X-Request-Id:\r\n", ""),
    "blanks": (b"X-Request-Id: \t \r\n", ""),
    "odd case": (b"x-REQUEST-iD: odd\r\n", "odd"),
    "several": (b"X-Request-Id: one\r\nX-Request-Id: two\r\n", "one"),
    "quotes": (b'X-Request-Id: "a\', \\b"\r\n', '"a\', \\b"'),
    "bytes that are no text": (
        b"X-Request-Id: a\xff\xfe\x80b\r\n",
        "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}",
    ),
    "a key of another": (b"X-Request-Id: sw-" + b"0" * 32 + b"\r\n", "sw-" + "0" * 32),
    "a path": (b"X-Request-Id: ../../../etc/passwd\r\n", "../../../etc/passwd"),
}
"""What a server must pass: the bytes, and how the label begins."""

REFUSED = {
    "a control byte": b"X-Request-Id: a\x01b\r\n",
    "NUL": b"X-Request-Id: a\x00b\r\n",
    "DEL": b"X-Request-Id: a\x7fb\r\n",
    "a bare line feed": b"X-Request-Id: a\nX-Saewatch-Tenant: evil\r\n",
    "a bare carriage return": b"X-Request-Id: a\rX-Saewatch-Tenant: evil\r\n",
    "a folded line": b"X-Request-Id: a\r\n b\r\n",
    "64 KiB": b"X-Request-Id: " + b"i" * 64 * 1024 + b"\r\n",
    "a name with a blank": b"X-Request-Id : a\r\n",
    "no name": b": a\r\n",
}
"""What a server may refuse; where it does not, the label must be sound."""


async def send(app: App, headers: bytes, path: str = "/echo") -> bytes:
    """The answer to a request with these headers, to its last byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    start = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
    writer.write(start.encode() + headers + b"\r\n{}")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


def ids_of(answer: bytes) -> list[bytes]:
    return re.findall(rb"(?im)^x-request-id: *(.*?)\r$", answer.partition(b"\r\n\r\n")[0])


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch, sidecar: Listener) -> None:
    monkeypatch.setenv("SAEWATCH_TRUST_HEADERS", "1")


@pytest.mark.parametrize("http", PROTOCOLS)
@pytest.mark.parametrize("kind", IDS)
async def test_every_request_has_one_key_and_its_client_its_own_id(sidecar: Listener, kind: str, http: str) -> None:
    sent, begins = IDS[kind]
    async with serving(App(), http=http) as app:
        answer = await send(app, sent)
        assert answer.startswith(b"HTTP/1.1 200 ")
        label = await sidecar.outcome()
        assert app.ids == [[label.key]]
        assert label.client_id.startswith(begins)
        assert bool(label.client_id) is bool(begins)
        (own,) = ids_of(answer)
        assert own.decode("latin-1") == (label.client_id.replace("\N{REPLACEMENT CHARACTER}", "?") or label.key)


@pytest.mark.parametrize("http", PROTOCOLS)
@pytest.mark.parametrize("kind", REFUSED)
async def test_what_no_header_may_hold_forges_nothing(sidecar: Listener, kind: str, http: str) -> None:
    async with serving(App(), http=http) as app:
        answer = await send(app, REFUSED[kind] + b"X-Saewatch-Tenant: acme\r\n")
        after = await post(app, "/echo", {"X-Request-Id": "after"})
        assert after.headers["x-request-id"] == "after"
        passed = answer.startswith(b"HTTP/1.1 200 ")
        label = await sidecar.outcome(2 + 2 * passed)
        assert (label.client_id, label.outcome) == ("after", "completed")
        assert len({one.key for one in sidecar.labels}) == 1 + passed
        if passed:
            first = sidecar.labels[0]
            assert first.tenant == "acme"
            assert first.client_id.isprintable()
            assert len(first.client_id) <= ID_BYTES
            assert len(ids_of(answer)) == 1


@pytest.mark.parametrize("http", PROTOCOLS)
async def test_one_id_for_many_requests_is_many_keys(sidecar: Listener, http: str) -> None:
    async with serving(App(), http=http) as app:
        answers = await asyncio.gather(*(send(app, b"X-Request-Id: same\r\n") for _ in range(32)))
        assert [ids_of(answer) for answer in answers] == [[b"same"]] * 32
        await sidecar.outcome(64)
        keys = [label.key for label in sidecar.labels if label.outcome]
        assert len(set(keys)) == 32
        assert sorted(keys) == sorted(key for (key,) in app.ids)
        assert {label.client_id for label in sidecar.labels} == {"same"}


@pytest.mark.parametrize("http", PROTOCOLS)
@pytest.mark.parametrize(
    ("sent", "tenant"),
    [
        (b"X-Saewatch-Tenant: evil\r\nX-Saewatch-Tenant: acme\r\n", "acme"),
        (b"x-saewatch-TENANT: evil\r\nX-SAEWATCH-TENANT: evil2\r\nX-Saewatch-Tenant: acme\r\n", "acme"),
        (b"X-Saewatch-Tenant: evil\r\nX-Saewatch-Tenant:\r\n", ""),
        (b"X-Saewatch-Tenant: evil, acme\r\n", "evil, acme"),
        (b"X_Saewatch_Tenant: evil\r\n", ""),
    ],
    ids=["the hop adds", "in any case", "the hop adds that there is none", "one line is one name", "underscores"],
)
async def test_of_several_tenants_the_nearest_hops_counts(
    sidecar: Listener, http: str, sent: bytes, tenant: str
) -> None:
    async with serving(App(), http=http) as app:
        await send(app, sent)
        assert (await sidecar.outcome()).tenant == tenant


TRACES = {
    "its own": (b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01", "ab" * 16),
    "a later version": (b"01-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01", "ab" * 16),
    "no version": (b"ff-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01", ""),
    "no trace": (b"00-" + b"00" * 16 + b"-" + b"cd" * 8 + b"-01", ""),
    "no span": (b"00-" + b"ab" * 16 + b"-" + b"00" * 8 + b"-01", ""),
    "capitals": (b"00-" + b"AB" * 16 + b"-" + b"cd" * 8 + b"-01", ""),
    "too short": (b"00-abcd-01", ""),
    "too long": (b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01-and-more", ""),
    "nothing": (b"", ""),
    "another thing": (b"'; DROP TABLE firings; --", ""),
}


@pytest.mark.parametrize("kind", TRACES)
async def test_a_trace_that_is_none_is_left_out(sidecar: Listener, kind: str) -> None:
    sent, trace = TRACES[kind]
    async with serving(App()) as app:
        assert (await send(app, b"traceparent: " + sent + b"\r\n")).startswith(b"HTTP/1.1 200 ")
        assert (await sidecar.outcome()).trace_id == trace


@pytest.mark.parametrize("http", PROTOCOLS)
async def test_lengths_that_disagree_are_the_servers_to_refuse(sidecar: Listener, http: str) -> None:
    """A second length would let one body be read as two requests; ours takes the length away where it grows a body."""
    async with serving(App(), http=http) as app:
        smuggled = b"Content-Length: 50\r\nX-Saewatch-Recompute: 1\r\n"
        answer = await send(app, smuggled, "/v1/completions")
        assert not answer.startswith(b"HTTP/1.1 200 ")
        assert (await post(app, "/v1/completions", {"X-Saewatch-Recompute": "1"}, b"{}")).status_code == 200
