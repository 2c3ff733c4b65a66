"""Webhooks to a real HTTP server: the signature, the order, what is tried again, and what is not said."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import structlog

from saewatch.core import limits
from saewatch.edge.pipeline import Dropped
from saewatch.edge.sinks.webhook import Webhook, WebhookSink, secret_of, signed
from saewatch.monitor.alert import Alert, AlertChanged
from tests.edge.sinks.receiver import Receiver
from tests.monitor.test_alerts import Watching, a_policy, begun

SECRET = b"s" * 32


class Waits:
    """Waits for nothing, and keeps how long it should have."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def webhook(url: str, **fields: Any) -> Webhook:
    known = {"name": "pager", "secret": SECRET, "states": {"active", "resolved"}, "trust_environment": False}
    return Webhook(url=url, **{**known, **fields})


@contextlib.asynccontextmanager
async def sending(url: str, **fields: Any) -> AsyncIterator[tuple[WebhookSink, Waits]]:
    waits = Waits()
    sink = WebhookSink(webhook(url, **fields), clock=lambda: 1_700_000_000.9, wait=waits, random=Random(1))
    sink.start()
    try:
        yield sink, waits
    finally:
        await sink.stop(0)


async def until_idle(sink: WebhookSink) -> None:
    async with asyncio.timeout(20):
        await sink.idle()


def fired(number: int = 7, **rule: Any) -> Alert:
    [alert] = begun(Watching(a_policy(rule)), number).fire(number, 0)
    return alert


def outcomes(sink: WebhookSink) -> dict[str, int]:
    return {name: count for name, count in sink.outcomes.items() if count}


async def test_a_receiver_can_check_the_signature_and_read_the_alert() -> None:
    with Receiver() as receiver:
        async with sending(receiver.url) as (sink, _):
            sink.take([AlertChanged(fired())])
            await until_idle(sink)
        assert outcomes(sink) == {"delivered": 1}
    [(headers, body)] = receiver.posts
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(SECRET, content, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert (headers["webhook-timestamp"], headers["content-type"]) == ("1700000000", "application/json")
    said = json.loads(body)
    assert (said["type"], said["timestamp"]) == ("alert.active", said["data"]["change_time"])
    data = said["data"]
    assert (data["rule"], data["claim"], data["coverage"]["complete"]) == ("threat", "correlational", True)
    assert data["evidence"][0]["basis"]["alpha"] == 0.01


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of the Standard Webhooks libraries' own tests."""
    key = secret_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_?", "é"])
def test_what_is_no_secret_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        secret_of(text)


@pytest.mark.parametrize("answer", [0, 408, 429, 500, 503])
async def test_what_may_pass_is_tried_again_under_the_same_id(answer: int) -> None:
    with Receiver(answer, answer, 200) as receiver:
        async with sending(receiver.url) as (sink, waits):
            sink.take([AlertChanged(fired())])
            await until_idle(sink)
        assert outcomes(sink) == {"delivered": 1, "retried": 2}
        assert len({headers["webhook-id"] for headers, _ in receiver.posts}) == 1
        assert len(waits.seconds) == 2
        assert all(0 <= wait <= ceiling for wait, ceiling in zip(waits.seconds, (1, 2), strict=True))


@pytest.mark.parametrize("answer", [301, 400, 401, 404, 422])
async def test_what_is_refused_is_not_tried_again_and_holds_up_nobody(answer: int) -> None:
    with Receiver(answer, 200) as receiver:
        async with sending(receiver.url) as (sink, _):
            sink.take([AlertChanged(fired(7)), AlertChanged(fired(8))])
            await until_idle(sink)
        assert outcomes(sink) == {"refused": 1, "delivered": 1}
        assert len(receiver.posts) == 2, "a redirect is not followed"


@contextlib.asynccontextmanager
async def answering(data: bytes, *, slowly: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A receiver that answers with these bytes, whatever they are; its URL, and the heads that came."""
    heads: list[bytes] = []
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            for at in range(0, len(data), 1 if slowly else len(data)):
                writer.write(data[at : at + 1] if slowly else data)
                await writer.drain()
                await asyncio.sleep(0.1 if slowly else 0)
                if over.is_set():
                    break
        answered.release()

    answered = asyncio.Semaphore(0)
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", heads
    finally:
        over.set()
        for _ in heads:
            await answered.acquire()
        server.close()


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: javascript:alert(1)\r\n\r\n", "refused"),
        (b"HTTP/1.1 303 See\r\nLocation: http://[::1\r\n\r\n", "refused"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe/\r\n\r\n", "refused"),
        (b"HTTP/1.1 204 Yes\r\nSet-Cookie: \xff\xff=\xff\r\n\r\n", "delivered"),
        (b"HTTP/1.1 200 Yes\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "delivered"),
        (b"HTTP/1.1 200 Yes\r\nA: " + b"b" * 200_000, "given_up"),
        (b"\x00\x01\x02" * 99, "given_up"),
    ],
)
async def test_a_hostile_answer_is_an_answer_like_another(data: bytes, outcome: str) -> None:
    async with answering(data) as (url, _), sending(url) as (sink, _):
        sink.take([AlertChanged(fired(7)), AlertChanged(fired(8))])
        await until_idle(sink)
    assert outcomes(sink).get(outcome) == 2, "the second one is posted too"


async def test_an_answer_that_drips_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WEBHOOK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(limits, "WEBHOOK_ATTEMPTS", 2)
    drops = b"HTTP/1.1 204 Yes\r\n" + b"A: b\r\n" * 100
    async with answering(drops, slowly=True) as (url, _), sending(url) as (sink, _):
        sink.take([AlertChanged(fired())])
        await until_idle(sink)
    assert outcomes(sink) == {"given_up": 1, "retried": 1}


async def test_what_the_receiver_sets_is_not_sent_back() -> None:
    cookie = b"HTTP/1.1 204 Yes\r\nSet-Cookie: a=b; Path=/\r\n\r\n"
    async with answering(cookie) as (url, heads), sending(url) as (sink, _):
        sink.take([AlertChanged(fired(7)), AlertChanged(fired(8))])
        await until_idle(sink)
    assert len(heads) == 2
    assert not any(b"cookie" in head.lower() for head in heads)


async def test_a_fault_of_ours_ends_one_alert_and_not_the_webhook() -> None:
    with Receiver() as receiver:
        async with sending(receiver.url) as (sink, _):
            faults = iter([ValueError("a bug")])

            def clock() -> float:
                for fault in faults:
                    raise fault
                return 1.0

            sink._clock = clock  # noqa: SLF001 - what may fail and is ours
            sink.take([AlertChanged(fired(7)), AlertChanged(fired(8))])
            await until_idle(sink)
    assert outcomes(sink) == {"given_up": 1, "delivered": 1}


async def test_in_vain_for_so_many_times_is_enough() -> None:
    with Receiver(503) as receiver:
        async with sending(receiver.url) as (sink, waits):
            sink.take([AlertChanged(fired())])
            await until_idle(sink)
        assert outcomes(sink) == {"given_up": 1, "retried": limits.WEBHOOK_ATTEMPTS - 1}
        assert max(waits.seconds) <= limits.WEBHOOK_MAX_S


async def test_nobody_there_is_tried_again() -> None:
    with Receiver() as receiver:
        url = receiver.url
    async with sending(url) as (sink, _):
        sink.take([AlertChanged(fired())])
        await until_idle(sink)
    assert outcomes(sink)["given_up"] == 1


@pytest.mark.parametrize("host", ["xn--", "a..b"])
async def test_a_host_that_is_none_is_nobody_and_not_named_in_the_log(host: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with sending(f"https://{host}/hook") as (sink, _):
            sink.take([AlertChanged(fired())])
            await until_idle(sink)
    assert outcomes(sink)["given_up"] == 1
    assert [(line["event"], line["log_level"]) for line in logs] == [("webhook takes no alerts", "warning")]


async def test_gone_is_the_end_of_it() -> None:
    with Receiver(410) as receiver:
        async with sending(receiver.url) as (sink, _):
            sink.take([AlertChanged(fired(7)), AlertChanged(fired(8))])
            await until_idle(sink)
            sink.take([AlertChanged(fired(9))])
            await until_idle(sink)
        assert len(receiver.posts) == 1
        assert outcomes(sink) == {"refused": 3}


async def test_what_does_not_fit_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WEBHOOK_QUEUE", 2)
    sink = WebhookSink(webhook("http://127.0.0.1:9"))
    sink.take([AlertChanged(fired(number)) for number in (1, 2, 3)])
    sink.take([Dropped(4, 0, 0)])
    assert (sink.waiting, outcomes(sink)) == (2, {"dropped": 5})


async def test_the_end_waits_for_what_can_be_sent_and_counts_the_rest() -> None:
    with Receiver() as receiver:
        sink = WebhookSink(webhook(receiver.url))
        sink.start()
        sink.take([AlertChanged(fired())])
        await sink.stop(10)
        assert outcomes(sink) == {"delivered": 1}
    sink = WebhookSink(webhook(receiver.url))
    sink.start()
    sink.take([AlertChanged(fired())])
    await sink.stop(0.2)
    assert outcomes(sink)["dropped"] == 1


@pytest.mark.parametrize(
    ("alert", "fields", "wanted"),
    [
        (fired(), {}, True),
        (fired(severity="low"), {"severities": {"high"}}, False),
        (fired(severity="high"), {"severities": {"high"}}, True),
        (fired(shadow=True), {}, False),
        (fired(action="record"), {}, False),
        (fired(), {"states": {"resolved"}}, False),
    ],
)
def test_only_what_is_wanted_and_delivered_is_sent(alert: Alert, fields: dict[str, Any], wanted: bool) -> None:
    assert webhook("https://a/b", **fields).wants(alert) is wanted


async def test_an_acknowledgement_is_not_sent() -> None:
    sink = WebhookSink(webhook("http://127.0.0.1:9"))
    sink.take([AlertChanged(fired(), acknowledged=True)])
    assert sink.waiting == 0


def test_nothing_that_lets_others_in_is_shown() -> None:
    shown = repr(webhook("https://example.org/hush"))
    assert "hush" not in shown
    assert "sss" not in shown


async def test_neither_url_nor_secret_is_logged() -> None:
    with Receiver(500, 400, 200) as receiver, structlog.testing.capture_logs() as logs:
        async with sending(f"{receiver.url}?token=hush") as (sink, _):
            sink.take([AlertChanged(fired(7)), AlertChanged(fired(8))])
            await until_idle(sink)
    assert [line["event"] for line in logs] == ["webhook takes no alerts", "webhook takes alerts again"]
    assert not any(word in str(logs) for word in ("hush", "127.0.0.1", "sss"))
    assert SECRET not in repr(logs).encode()
