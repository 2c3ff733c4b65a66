"""What `bench_serving` tells the process of its engine, and what each block of work came to: loads nothing.

======== ======================= ====================================================================================
arm      graph                   the tap
======== ======================= ====================================================================================
bare     without sinks           not called: the engine as it is without us
again    without sinks           as ``bare``, a second time: what the machine's noise alone makes of the comparison
off      with sinks              not called: the sinks write, and nobody reads
watching with sinks              watches the dictionary's features
all      with sinks              watches them, and takes every token through the whole dictionary and its decoder
======== ======================= ====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ARMS = ("bare", "again", "off", "watching", "all")
TAPPED = ("off", "watching", "all")
"""Their graph has the sinks."""
SEEN = ("watching", "all")
"""In these the tap is told of every step."""

PARTS = ("sink", "snapshot", "encode", "host", "ship")
"""Of what the tap spends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one engine is to do. A block sends all ``prompts`` at once and waits for ``tokens`` new tokens of each."""

    model: str
    bundle: str
    socket: str
    prompts: Sequence[Sequence[int]]
    tokens: int
    rounds: int
    seed: int = 0
    arms: Sequence[str] = ARMS
    """Bare and watching at least."""
    shared: int = 0
    """Tokens at the beginning of each prompt that every block finds in the prefix cache."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of vLLM, further ones."""

    @property
    def decodes(self) -> bool:
        """Whether the steps after the first are between two tokens of a request, and not prompts too."""
        return self.tokens > 1

    @property
    def fed(self) -> int:
        """Positions of a block that go through the model: the last token of an answer does not."""
        return sum(len(prompt) + self.tokens - 1 for prompt in self.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of one arm. What is counted is what the block added."""

    arm: str
    steps: Sequence[float]
    """Seconds of each step, end to end. The first one is the prompts', where they fit into one; the others decode."""
    mismatched: int
    """Answers whose tokens are not those of the first block."""
    calls: int
    """Of the sink, as the device counted them."""
    fed: int
    encoded: int
    reused: int
    missed: Mapping[str, int]
    firings: int
    spent: Mapping[str, float]
    """Seconds by `PARTS`. The sink's and the engine thread's are wall time, the shipper's are its thread's CPU time."""

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(self.steps)

    @property
    def lost(self) -> int:
        """Tokens that were missed, but for those that the dictionary excludes."""
        return sum(tokens for reason, tokens in self.missed.items() if reason != "excluded")
