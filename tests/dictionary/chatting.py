"""A real HTTP server that speaks OpenAI's chat format and answers by rule: a text with a word of the label fires.

It names a feature by the words that every firing text has and no other one; and it can be told to misbehave.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from saewatch.dictionary.autolabel import NAMING

Fault = Callable[[BaseHTTPRequestHandler], bool]
"""Answers in the place of the rule; False: this time the rule answers."""


def words(text: str) -> set[str]:
    """Lower-case words."""
    return set(re.findall(r"[a-z]+", text.lower()))


def answer(system: str, user: str) -> str:
    """What the rule says."""
    texts = [json.loads(text) for text in re.findall(r'^\d+\. (".*")$', user, re.MULTILINE)]
    if system == NAMING:
        fires, silent = (part.splitlines() for part in user.split("\n\nDoes not fire:\n"))
        common = set.intersection(*(words(line) for line in fires[1:])) - set().union(*(words(line) for line in silent))
        return " ".join(sorted(common)) or "nothing in common"
    label = words(user.splitlines()[0].removeprefix("Label: "))
    return json.dumps([number for number, text in enumerate(texts, start=1) if label & words(text)])


class Server(ThreadingHTTPServer):
    """Counts its questions, and keeps them."""

    daemon_threads = True

    def __init__(self, fault: Fault | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault = fault
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        """Up to and with /v1."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        self.server.keys.append(self.headers["Authorization"])
        if self.server.fault is not None and self.server.fault(self):
            return
        assert self.path == "/v1/chat/completions"
        system, user = (message["content"] for message in asked["messages"])
        say(self, answer(system, user))

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


def say(handler: BaseHTTPRequestHandler, text: object, *, status: int = 200) -> None:
    """An answer in the format."""
    data = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    send(handler, data, status=status)


def send(handler: BaseHTTPRequestHandler, data: bytes, *, status: int = 200) -> None:
    """These bytes."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@contextmanager
def serving(fault: Fault | None = None) -> Iterator[Server]:
    """A server on a free port."""
    with Server(fault) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
