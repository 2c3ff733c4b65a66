"""A client of the OpenAI endpoint: streams an answer and its token ids. Standard library only."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answer:
    """One request as its client knows it."""

    request_id: str
    prompt: list[int] = field(default_factory=list)  # token ids
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    error: str = ""


class ChatError(Exception):
    """The endpoint refused a request or broke off."""


def stream(
    port: int, path: str, body: dict[str, Any], answer: Answer, *, headers: dict[str, str] | None = None
) -> Iterator[list[int]]:
    """Posts ``body`` and yields the new token ids of each chunk, filling ``answer``.

    Raises `ChatError` with the server's words.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        sent = {"Content-Type": "application/json", "X-Request-Id": answer.request_id, **(headers or {})}
        asked = json.dumps({**body, "stream": True, "return_token_ids": True})
        connection.request("POST", path, asked, sent)
        response = connection.getresponse()
        if response.status != 200:
            raise ChatError(f"{response.status}: {response.read(2000).decode(errors='replace')}")
        yield from _events(response, answer)
    except (OSError, http.client.HTTPException) as error:
        raise ChatError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def complete(port: int, body: dict[str, Any], request_id: str, *, headers: dict[str, str] | None = None) -> Answer:
    """One whole answer of ``/v1/completions``."""
    answer = Answer(request_id)
    for _ in stream(port, "/v1/completions", body, answer, headers=headers):
        pass
    return answer


def chat(port: int, model: str, text: str, answer: Answer, *, max_tokens: int, on: Callable[[], None]) -> None:
    """Asks ``text`` and calls ``on`` whenever ``answer`` has grown."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "repetition_penalty": 1.1,  # a model of this size repeats itself otherwise
    }
    for _ in stream(port, "/v1/chat/completions", body, answer):
        on()


def _events(response: http.client.HTTPResponse, answer: Answer) -> Iterator[list[int]]:
    for line in response:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise ChatError(str(event["error"]))
        for choice in event.get("choices", ()):
            new = choice.get("token_ids") or []
            answer.prompt = answer.prompt or event.get("prompt_token_ids") or choice.get("prompt_token_ids") or []
            answer.tokens += new
            answer.finish = choice.get("finish_reason") or answer.finish
            yield new
