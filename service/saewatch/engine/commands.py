"""What a sidecar may ask of a running tap. Commands are carried out on the shipper's thread, and must be short."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from saewatch.core.records import Command, Result

logger = logging.getLogger("vllm.saewatch")

Carried = Callable[[Command], Sequence[Result]]


class Commands:
    """What is carried out, by verb, and what was asked for on which connection and has no result yet.

    `answer` may be called on any thread, everything else belongs to the shipper's.
    """

    def __init__(self, carried: Mapping[str, Carried]) -> None:
        self._carried = carried
        self._asked: dict[int, int] = {}  # connection, by number of the command
        self._results: deque[Result] = deque()

    def carry_out(self, command: Command, connection: int) -> Sequence[Result]:
        """Its results; none of one that has only begun."""
        results = carry_out(command, self._carried)
        if not results:
            self._asked[command.command] = connection
        return results

    def answer(self, result: Result) -> None:
        """Of a command that had only begun."""
        self._results.append(result)

    def due(self, connection: int) -> Iterator[Result]:
        """Results for ``connection``. What another one asked for, which is gone, is told nobody."""
        while self._results:
            result = self._results.popleft()
            if self._asked.pop(result.command, 0) == connection:
                yield result


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
