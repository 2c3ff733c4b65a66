"""A tap that reports to a sidecar on a socket, for tests that change what it watches while it runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saewatch.core.batch import FiringBatch
from saewatch.core.records import Beat, Command, Result, StreamEnd, StreamOpen
from saewatch.core.wire import encode
from saewatch.engine.life import Checkpoint
from saewatch.engine.tap import Tap
from tests.engine.standin import CPU, Blocks, a_config, a_step, an_engine, hidden, rows_of
from tests.simulate.sidecar import FakeSidecar
from tests.waiting import wait_until

ROWS = 10


@dataclass
class Running:
    """A tap that reports to a sidecar, and an engine that steps when it is told to."""

    tap: Tap
    blocks: Blocks
    sidecar: FakeSidecar
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    steps: int = 0

    def command(self, verb: str, **arguments: str) -> int:
        number = next(self.numbers)
        self.sidecar.say(encode(Command(command=number, verb=verb, arguments=arguments)))
        return number

    def asked(self, verb: str, **arguments: str) -> Result:
        """Its result, when it has come."""
        number = self.command(verb, **arguments)
        wait_until(lambda: any(one.command == number for one in self.sidecar.of(Result)))
        (found,) = [one for one in self.sidecar.of(Result) if one.command == number]
        return found

    def step(self, count: int = ROWS) -> None:
        """One prompt of ``count`` tokens."""
        self.tap.step(**self.enqueued(count))

    def enqueued(self, count: int = ROWS) -> dict[str, Any]:
        """A forward pass whose tokens are still to come."""
        self.steps += 1
        self.tap.enter()
        rows = rows_of(self.blocks.device, **{f"r{self.steps}": (0, count)})
        self.blocks.run(hidden(count, seed=self.steps))
        self.tap.snapshot(lambda: rows)
        return a_step(rows)

    def again(self, ending: str = "sleep", reloaded: Checkpoint | None = None) -> None:
        """What paused it is over, and a pass over one row has called the sinks."""
        calls = self.tap.calls
        self.blocks.run(hidden(1))
        self.tap.again(ending, since=calls, reloaded=reloaded)

    def blind(self) -> str:
        """What the last beat says of the newest stream."""
        return self.sidecar.of(Beat)[-1].streams[-1].blind

    def closed(self) -> dict[int, StreamEnd]:
        """How the streams ended."""
        self.tap.close()
        opened = {one.stream for one in self.sidecar.of(StreamOpen)}
        wait_until(lambda: opened <= {end.stream for end in self.sidecar.of(StreamEnd)})
        return {end.stream: end for end in self.sidecar.of(StreamEnd)}

    def batches(self, **wanted: int) -> list[FiringBatch]:
        found = self.sidecar.of(FiringBatch)
        return [one for one in found if all(getattr(one, name) == value for name, value in wanted.items())]


@contextmanager
def running_tap(folder: Path, device: torch.device = CPU, **config: Any) -> Iterator[Running]:
    """A tap that has told its first beat."""
    blocks = Blocks(device)
    tap = Tap.open(a_config(folder, **config), an_engine(), blocks)
    blocks.run(hidden(1))
    tap.prove()
    with FakeSidecar(folder / "s") as sidecar:
        tap.start()
        wait_until(lambda: bool(sidecar.of(Beat)))
        yield Running(tap, blocks, sidecar)
        tap.close()
