"""What `bench_soak` asks of each of its engines, and what it makes of their answers: loads no engine."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tiny import VOCABULARY

PREFIXES, SHARING = 12, 0.6
"""So many beginnings are shared, by this share of the requests."""
WARM_REQUESTS = 2000
"""Until then vLLM's memory grows, watched or not: its kernels keep something for each number of rows that they meet."""
LEAVING = 0.1
"""Share of the requests that their client gives up in the middle of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One engine's work. Without a ``socket`` it is not watched."""

    model: str
    bundle: str
    socket: str
    answers: str
    requests: int
    seed: int = 0
    asynchronous: bool = False
    eager: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``leaves_after``: tokens after which its client is gone; 0 where it stays."""

    prompt: Sequence[int]
    tokens: int
    leaves_after: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request."""

    prompt: int  # tokens of it
    tokens: Sequence[int]
    left: bool

    @property
    def fed(self) -> int:
        """Positions that went through the model: the last token does not."""
        return self.prompt + len(self.tokens) - 1


def asks(requests: int, seed: int) -> Iterator[Ask]:
    """The requests in their order, the same ones for each engine."""
    chance = random.Random(seed)
    beginnings = [_tokens(chance, chance.randint(100, 400)) for _ in range(PREFIXES)]
    for _ in range(requests):
        shared = chance.choice(beginnings) if chance.random() < SHARING else []
        prompt = [*shared, *_tokens(chance, chance.randint(1, 200))]
        tokens = chance.randint(1, 48)
        leaves = chance.randint(1, tokens) if chance.random() < LEAVING else 0
        yield Ask(prompt, tokens, leaves)


def _tokens(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(8, VOCABULARY) for _ in range(count)]


def write_answer(name: str, answer: Answer) -> str:
    """A line of the file of answers: kept in memory they would be what grows."""
    return json.dumps([name, answer.prompt, answer.left, list(answer.tokens)]) + "\n"


def read_answers(path: Path) -> dict[str, Answer]:
    """The answers by the request's name."""
    lines = map(json.loads, path.read_text().splitlines())
    return {name: Answer(prompt, tokens, left) for name, prompt, left, tokens in lines}


def slope_mb_per_1k(samples: Sequence[tuple[int, float]]) -> float | None:
    """Least-squares slope of memory [MB] over requests, per 1,000 of them, after the warm-up; None if nothing came."""
    warm = np.array([sample for sample in samples if sample[0] > WARM_REQUESTS], np.float64)
    return float(np.polyfit(warm[:, 0], warm[:, 1], 1)[0] * 1000) if len(warm) > 1 else None
