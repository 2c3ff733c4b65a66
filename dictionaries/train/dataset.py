"""Requests as token ids with labels per token and concept: what capture reads and what probes are fitted to."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dictionaries.train import chat, corpus, prose
from dictionaries.train.capture import Capture, Reader
from dictionaries.train.corpus import Generator, Request, Span

EARLY = 0.4  # the first part of a phrase reads like an innocent one and is not labelled
POSITIVE, NEGATIVE, UNLABELLED = 1, 0, -1
TOKENS_MAX = 512


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised request. `prompt_tokens` counts the prompt with the opening of the reply."""

    ids: list[int]
    prompt_tokens: int
    labels: Tensor  # [T, concepts] i8
    request: Request


@dataclass(frozen=True, slots=True)
class Labelled:
    """Captured tokens with their labels: rows of `capture` and of `labels` are the same tokens."""

    capture: Capture
    labels: Tensor  # [N, concepts] i8
    in_reply: Tensor  # [N] bool
    requests: list[Request]


def examples(reader: Reader, requests: Iterable[Request]) -> list[Example]:
    """Render, tokenise and label."""
    return [_example(reader, request) for request in requests]


def _example(reader: Reader, request: Request) -> Example:
    rendered = chat.render(request.prompt, request.reply)
    ids, offsets = reader.encode(rendered.text)
    ids, offsets = ids[:TOKENS_MAX], offsets[:TOKENS_MAX]
    prompt_tokens = sum(start < rendered.prompt_end for start, _ in offsets)
    labels = torch.zeros(len(ids), len(corpus.families()), dtype=torch.int8)
    for span in request.spans:
        shift = rendered.prompt_end if span.in_reply else rendered.prompt_start
        _label(labels, offsets, span, shift, prompt_tokens)
    return Example(ids, prompt_tokens, labels, request)


def _label(labels: Tensor, offsets: Sequence[tuple[int, int]], span: Span, shift: int, prompt_tokens: int) -> None:
    """The later part of the phrase, and for a prompt its last token, are positive; what follows is unlabelled."""
    inside = [i for i, (start, end) in enumerate(offsets) if start < span.end + shift and end > span.start + shift]
    column = labels[:, list(corpus.families()).index(span.concept)]
    column[inside[0] :][column[inside[0] :] == NEGATIVE] = UNLABELLED
    column[inside[int(EARLY * len(inside)) :]] = POSITIVE
    if not span.in_reply:
        column[prompt_tokens - 1] = POSITIVE


def captured(reader: Reader, made: Sequence[Example], *, max_norm: float | None = None) -> Labelled:
    """Run the model and join labels to the tokens that are kept."""
    capture = reader.capture([example.ids for example in made])
    if max_norm is not None:
        capture = capture.below(max_norm)
    starts = torch.tensor([0, *(len(example.ids) for example in made)]).cumsum(0)
    rows = starts[capture.request.long()] + capture.position
    labels = torch.cat([example.labels for example in made])[rows]
    prompt_tokens = torch.tensor([example.prompt_tokens for example in made])
    in_reply = capture.position >= prompt_tokens[capture.request.long()]
    return Labelled(capture, labels, in_reply, [example.request for example in made])


def prose_requests(generator: Generator, count: int, *, skip: int = 0) -> list[Request]:
    """Paragraphs of documentation, a third as the user's words and the rest as the assistant's."""
    texts = prose.paragraphs(skip + count, seed=0)[skip:]
    return [_prose_request(generator, number, text) for number, text in enumerate(texts)]


def _prose_request(generator: Generator, number: int, text: str) -> Request:
    if number % 3 == 0:
        return Request(text, "", (), "prose", f"prose.{number}", generator.half)
    return Request("Explain this in a few words.", text, (), "prose", f"prose.{number}", generator.half)


def handwritten() -> list[Request]:
    """The requests written by hand; they are for testing only. Each is its own template."""
    lines = (corpus.HERE / "handwritten.jsonl").read_text(encoding="utf-8").splitlines()
    return [_handwritten(number, json.loads(line)) for number, line in enumerate(lines)]


def _handwritten(number: int, entry: dict[str, str]) -> Request:
    in_reply = "prompt" in entry
    spans = (Span(entry["concept"], in_reply, 0, len(entry["text"])),) if entry["concept"] else ()
    prompt, reply = (entry["prompt"], entry["text"]) if in_reply else (entry["text"], "")
    return Request(prompt, reply, spans, f"handwritten.{entry['note']}", f"handwritten.{number}", "b")
