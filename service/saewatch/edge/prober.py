"""Sends canaries to this engine's own port, one after the other, each twice a period, at a low priority.

Between them go the prompts of a panel, each once a period and as they are: what they fire is compared with what they
fired when the baseline was made, so nothing stands in front of them.

A prompt is padded *in front*, with plain words and no more than it takes: every word is at least one token. Each
request has a fresh ``cache_salt``, so that no prefix of it is known, and asks for one token. Its client's id is random:
the verdict comes with the engine's records of the request of that id, and nobody can answer in its place.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.dictionary.endpoint import Endpoint, loopback
from saewatch.edge.pipeline import Pipeline
from saewatch.monitor.canary import TOKENS, Canary
from saewatch.monitor.drift.replays import client_id, prompt_name

logger = structlog.get_logger(__name__)

PADDING = (
    "The following lines describe the weather of an ordinary week. On Monday it was mild and dry. On Tuesday some"
    " clouds came from the west. On Wednesday it rained a little in the morning. On Thursday the sun was out again."
    " On Friday a light wind blew over the fields. On Saturday it was warm. On Sunday it was quiet and clear."
)
LEAVE_S = 1.0
SPARE = 8
"""Words more than tokens are needed."""
HEADER = "X-Saewatch-Class"
OK, SHOWN = 200, 200
"""Status, and bytes of an answer of another one that are told."""


class Prober:
    """A thread that sends. ``wait`` is given seconds and says whether to end. Raises `ConfigError` for its address."""

    def __init__(
        self,
        canaries: Sequence[Canary],
        *,
        pipeline: Pipeline,
        url: str,
        model: str,
        period_s: float,
        priority: int,
        panel: Sequence[str] = (),
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        if not loopback(url):
            hint = "Canaries go to the engine beside this sidecar, and to no other."
            raise ConfigError("canaries.url", found=url, expected="an address of this machine", hint=hint)
        if not model:
            raise ConfigError("canaries.model", found="nothing", expected="the model's name, as the engine serves it")
        self._ending = threading.Event()
        self._wait = wait or self._ending.wait
        self._pipeline, self._priority, self._model = pipeline, priority, model
        self._round: list[Canary | str] = [*canaries, *panel[::2], *canaries, *panel[1::2]]
        self._pause_s = period_s / len(self._round)
        self._endpoint = Endpoint(url, model, timeout_s=period_s, tries=1)
        self._thread = threading.Thread(target=self.run, name="saewatch-prober", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; a canary that is under way is waited for no longer than `LEAVE_S`."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(LEAVE_S)

    def run(self) -> None:
        """Goes round until it is stopped; `start` does that in a thread of its own."""
        while True:
            for one in self._round:
                if self._wait(self._pause_s):
                    return
                if self._pipeline.canary(lambda canaries, _: canaries.unlabelled):
                    logger.error("canaries are not sent any more", reason="the engine does not trust our headers")
                    return
                self.send_prompt(one) if isinstance(one, str) else self.send(one)

    def send(self, one: Canary) -> None:
        """Sends one; what the engine refuses is a failure of it."""
        name = f"canary-{secrets.token_hex(16)}"
        self._pipeline.canary(lambda canaries, now_ns: canaries.send(name, one.id, now_ns))
        why = ""
        try:
            why = self._post(name, padded(one.prompt))
        except UnreachableError as error:
            why = str(error)
        if why:
            self._pipeline.canary(lambda canaries, now_ns: canaries.refuse(name, why, now_ns))

    def send_prompt(self, text: str) -> None:
        """Sends one of the panel. What is not served completes no round, and that is what is told of it."""
        with contextlib.suppress(UnreachableError):
            self._post(client_id(prompt_name(text), secrets.token_hex(16)), text)

    def _post(self, name: str, text: str) -> str:
        """Why the engine did not serve it; empty where it did."""
        headers = {"X-Request-Id": name, HEADER: "canary"}
        status, answer = self._endpoint.post("/completions", self._body(text), headers)
        if status == OK:
            return ""
        return f"the engine answered with status {status}: {answer[:SHOWN].decode('utf-8', 'replace')}"

    def _body(self, text: str) -> bytes:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": text,
            "max_tokens": 1,
            "temperature": 0,
            "cache_salt": secrets.token_hex(16),
        }
        if self._priority:
            body["priority"] = self._priority
        return json.dumps(body).encode()


def padded(prompt: str) -> str:
    """A prompt of at least `TOKENS` words: `PADDING` in front of it, over and over, cut at a word."""
    lacking = TOKENS + SPARE - len(prompt.split())
    if lacking <= 0:
        return prompt
    words = PADDING.split()
    padding = [words[number % len(words)] for number in range(lacking)]
    return f"{' '.join(padding)}\n\n{prompt}"
