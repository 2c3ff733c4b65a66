"""A chat endpoint that answers, lies, hangs and floods."""

from __future__ import annotations

import contextlib
import socket
import threading
import tracemalloc
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError, SaewatchError, UnreachableError
from saewatch.dictionary.endpoint import Endpoint, loopback
from tests.dictionary.chatting import Server, say, send, serving

ASKED = [("system", "Say the numbers of the texts."), ("user", 'Label: "cat"\n\n1. "a cat"\n2. "a boat"')]


def endpoint(server: Server, *, key: str = "", timeout_s: float = 10.0, tries: int = 3) -> Endpoint:
    return Endpoint(server.url, "rule", key=key, timeout_s=timeout_s, tries=tries, wait=lambda _: None)


def test_a_question_and_its_answer() -> None:
    with serving() as server:
        one = endpoint(server, key="secret")
        assert one.ask(ASKED, tokens=9) == "[1]"
    (asked,) = server.asked
    assert (asked["model"], asked["max_tokens"], asked["temperature"], one.calls) == ("rule", 9, 0, 1)
    assert server.keys == ["Bearer secret"]


def test_a_passing_fault_is_asked_again_and_later_each_time() -> None:
    waited: list[float] = []
    faults = iter([503, 429])

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        status = next(faults, None)
        if status is not None:
            send(handler, b"", status=status)
        return status is not None

    with serving(fault) as server:
        one = Endpoint(server.url, "rule", wait=waited.append)
        assert one.ask(ASKED, tokens=9) == "[1]"
    assert (one.calls, waited) == (3, [1.0, 2.0])


def _flood(handler: BaseHTTPRequestHandler) -> bool:
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(256):
            handler.wfile.write(b"x" * limits.CHAT_ANSWER_BYTES)
    return True


def _redirect(handler: BaseHTTPRequestHandler) -> bool:
    handler.send_response(302)
    handler.send_header("Location", "http://127.0.0.1:1/v1")
    handler.end_headers()
    return True


def _short(handler: BaseHTTPRequestHandler) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.close_connection = True
    return True


def _said(text: object) -> Callable[[BaseHTTPRequestHandler], bool]:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        say(handler, text)
        return True

    return fault


def _bytes(data: bytes, status: int = 200) -> Callable[[BaseHTTPRequestHandler], bool]:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        send(handler, data, status=status)
        return True

    return fault


LIES: dict[str, tuple[Callable[[BaseHTTPRequestHandler], bool], type[SaewatchError], str]] = {
    "a flood": (_flood, UnreachableError, "a longer answer"),
    "a redirect": (_redirect, ConfigError, "status 302"),
    "no such model": (_bytes(b"{}", 404), ConfigError, "Look at the URL, the model's name and the key"),
    "a broken server": (_bytes(b"", 500), UnreachableError, "status 500"),
    "no JSON": (_bytes(b"<html>"), UnreachableError, "an answer of another form"),
    "nesting": (_bytes(b"[" * 200_000), UnreachableError, "an answer of another form"),
    "no choices": (_bytes(b'{"choices": []}'), UnreachableError, "an answer of another form"),
    "a list": (_bytes(b"[1]"), UnreachableError, "an answer of another form"),
    "no text": (_said(None), UnreachableError, "found NoneType, expected text"),
    "an end too soon": (_short, UnreachableError, "an answer of another form"),
}


@pytest.mark.parametrize(("fault", "kind", "said"), LIES.values(), ids=LIES)
def test_who_lies_is_not_believed(
    fault: Callable[[BaseHTTPRequestHandler], bool], kind: type[SaewatchError], said: str
) -> None:
    with serving(fault) as server:
        one = endpoint(server, key="secret", tries=2)
        tracemalloc.start()
        with pytest.raises(kind) as caught:
            one.ask(ASKED, tokens=9)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert peak < 16 * limits.CHAT_ANSWER_BYTES
    assert one.calls == (1 if kind is ConfigError else 2)


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])
def test_who_hangs_or_trickles_is_left(first: bytes) -> None:
    """A byte now and then keeps a socket's own timeout from ever passing: the deadline is of the whole answer."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(first)
                for _ in range(200):  # it ends by itself where nobody leaves
                    if done.wait(0.05):
                        break
                    connection.sendall(b"H")

        thread = threading.Thread(target=trickle)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        with pytest.raises(UnreachableError, match=r"found nothing (whole )?within 0.4 s"):
            Endpoint(url, "rule", timeout_s=0.4, tries=1).ask(ASKED, tokens=9)
        done.set()
        thread.join()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    with pytest.raises(UnreachableError, match="ConnectionRefusedError"):
        Endpoint(url, "rule", tries=1).ask(ASKED, tokens=9)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000/v1", "ftp://a/v1", "http://", "http://a:b/v1", "http://u:pw@a/v1", "http://a/v1?key=1"]
)
def test_what_is_no_endpoint(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint(url, "rule")
    assert "pw" not in str(caught.value)


def test_a_key_does_not_travel_unencrypted() -> None:
    with pytest.raises(ConfigError, match="expected https, since a key would be sent"):
        Endpoint("http://example.org/v1", "rule", key="secret")
    with pytest.raises(ConfigError, match="characters that no header has") as caught:
        Endpoint("https://example.org/v1", "rule", key="secret\r\nX: y")
    assert "secret" not in str(caught.value)
    Endpoint("https://example.org/v1", "rule", key="secret")


def test_what_is_this_machine() -> None:
    here = ["http://127.0.0.1:8000/v1", "http://127.9.9.9/v1", "http://[::1]:8000/v1", "http://localhost/v1"]
    there = ["http://example.org/v1", "http://10.0.0.1/v1", "http://localhost.example.org/v1", "http://0.0.0.0/v1"]
    assert [loopback(url) for url in (*here, *there)] == [True] * 4 + [False] * 4


@pytest.mark.parametrize("url", [f"http://{'a' * 80}.invalid/v1", "http://..:9/v1"])
def test_a_host_that_no_name_service_takes_is_not_reached(url: str) -> None:
    with pytest.raises(UnreachableError, match="idna"):
        Endpoint(url, "m", tries=1).ask([("user", "x")], tokens=1)
