"""Which rank of a parallel engine reports what, and that the ranks of one stage hold the same rows.

Under tensor parallelism each rank holds the whole residual stream, so one of them reports it: the first. The others
have the sinks too, so that all of them run the same graph, and nothing behind them: no encoder, no thread, no socket.
That their rows are the same to the bit is shown at start, by digests of what one forward pass left, gathered on the
host. Under pipeline parallelism the stage that has a hook point's block reports it. Replicas report for themselves.

Each process that reports is an engine of its own to a sidecar, so its name says which it is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from saewatch.core.errors import SelfTestFailed
from saewatch.engine.sink import Sink, Sinks

logger = logging.getLogger("vllm.saewatch")


def _alone(mine: Any) -> list[Any]:
    return [mine]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """A worker's place in its engine."""

    dp: int = 0
    pp: int = 0
    tp: int = 0
    parallel: bool = False  # other workers run the same forward pass, or a part of it
    samples: bool = True  # the last stage of a pipeline: others never see the tokens
    gather: Callable[[Any], list[Any]] = _alone
    """What each rank of this stage gives, on all of them, in their order."""

    @property
    def reports(self) -> bool:
        """Whether this rank speaks for its stage."""
        return self.tp == 0

    def named(self, instance: str) -> str:
        """The name of this process as an engine: replicas and stages are told apart."""
        parts = [f"{name}{rank}" for name, rank in (("dp", self.dp), ("pp", self.pp)) if rank]
        return "/".join([instance, *parts])

    def agree(self, sinks: Sinks) -> None:
        """Raises `SelfTestFailed` on the reporting rank unless all ranks of its stage hold the same first row.

        Every rank of the stage must come here, after the same forward pass; one that watches nothing has no ``sinks``.
        """
        found = self.gather({str(point): _digest(sink) for point, (_, sink) in sinks.items()})
        mine = found[self.tp]
        for rank, other in enumerate(found):
            differ = [point for point in mine.keys() & other.keys() if mine[point] != other[point]]
            if differ and self.reports:
                expected = f"the rows of rank {self.tp}, to the bit"
                hint = "The residual stream is not whole on each rank; this model cannot be watched in parallel."
                raise SelfTestFailed(
                    f"sink of {differ[0]}", found=f"other rows on rank {rank}", expected=expected, hint=hint
                )


class Echo:
    """A rank whose rows another one reports, or a stage without a hook point: silent but for the proof."""

    def __init__(self, worker: Any, ranks: Ranks, sinks: Sinks) -> None:
        self._worker = worker
        self._ranks = ranks
        self.sinks = sinks

    def prove(self) -> None:
        """Takes part in what the reporting rank proves."""
        self._worker.execute_dummy_batch()
        self._ranks.agree(self.sinks)

    def pause(self, reason: str) -> None:
        """Nothing is seen anyway."""

    def again(self, ending: str, *, reloaded: bool) -> None:  # noqa: ARG002 - as the reporting rank has it
        """Takes part once more."""
        try:
            self.prove()
        except Exception as error:  # fail open: whatever goes wrong in here, the engine serves on
            logger.warning("saewatch: a rank could not take part in the proof", exc_info=error)

    def before_forward(self) -> None:
        """Nothing is taken."""

    def after_forward(self, scheduled: Any, *, sampling: bool) -> None:
        """Nothing is taken."""

    def after_sampling(self, output: Any) -> Any:
        """Nothing is learnt."""
        return output

    def close(self) -> None:
        """Nothing was opened."""


def _digest(sink: Sink) -> str:
    """Of the first row. A warm-up's attention may read memory that nobody wrote, and NaN is not one pattern of bits."""
    row = torch.nan_to_num(sink.buffer[0]).cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(row.numpy().tobytes()).hexdigest()
