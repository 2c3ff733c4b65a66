"""Requests that nobody made: tokens, firings and ends, at random, for people who develop a client."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from saewatch.client.fake.state import State

AT_ONCE = 3
"""Requests that run at the same time."""
FIRES = 0.15
"""Share of tokens on which something fires."""
TENANTS = ("acme", "globex", "")


@dataclass(slots=True)
class _Running:
    name: str
    left: int
    """Tokens that are still to come."""


class Traffic:
    """Made-up requests for ``state``; the same ones for the same ``random``."""

    def __init__(self, state: State, random: Random) -> None:
        self._state = state
        self._random = random
        self._number = 0
        self._running: list[_Running] = []

    def step(self, tokens: int) -> None:
        """The next ``tokens`` tokens, spread over the requests that run; new ones begin where others have ended."""
        while tokens > 0:
            while len(self._running) < AT_ONCE:
                self._running.append(self._begin())
            one = self._random.choice(self._running)
            count = min(tokens, one.left, self._random.randint(1, 4))
            self._state.tokens(count, request=one.name, firings=self._firings(count))
            tokens -= count
            one.left -= count
            if not one.left:
                self._running.remove(one)
                self._state.ends(one.name, emitted=self._random.randint(5, 40))

    def _begin(self) -> _Running:
        self._number += 1
        prompt_len, answer_len = self._random.randint(6, 20), self._random.randint(10, 40)
        name = f"made-up-{self._number}"
        self._state.request(name, tenant=self._random.choice(TENANTS), prompt_len=prompt_len)
        if self._random.random() < 1 / 4:
            self._state.tokens(0, request=name, missed={"cached": 4})
            prompt_len -= 4
        return _Running(name, prompt_len + answer_len)

    def _firings(self, count: int) -> list[tuple[int, str, float]]:
        names = sorted(self._state.made.watched)
        return [
            (offset, self._random.choice(names), round(self._random.lognormvariate(0.6, 0.5), 3))
            for offset in range(count)
            if self._random.random() < FIRES
        ]
