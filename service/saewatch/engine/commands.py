"""What a sidecar may ask of a running tap. Commands are carried out on the shipper's thread, and must be short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from saewatch.core.records import Command, Result

logger = logging.getLogger("vllm.saewatch")

Carried = Callable[[Command], Sequence[Result]]


def carry_out(command: Command, carried: Mapping[str, Carried]) -> Sequence[Result]:
    """Its results, by the row of ``carried`` for its verb. Never raises: what it meets becomes a failed result."""
    carry = carried.get(command.verb)
    if carry is None:
        return [_refused(command, "not carried out yet")]
    try:
        return carry(command)
    except Exception as error:  # a whole command: it must not raise into the thread that ships
        logger.warning("saewatch: the command %s broke", command.verb, exc_info=error)
        return [_refused(command, f"broke with {type(error).__name__}, see the engine's log")]


def _refused(command: Command, why: str) -> Result:
    return Result(command=command.command, good=False, message=f"{command.verb}: {why}")
