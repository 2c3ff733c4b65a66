"""When the shipper's thread runs: woken by the engine's thread, and out of its way."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

GIVE_WAY_S = 0.003
GIVE_WAY_SHARE = 16
"""Of the time between two steps: a fast engine has its staging slots back in time."""


class Bell:
    """One thread rings, another waits; the kernel counts, so that no ring is lost."""

    def __init__(
        self, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sleep, self._clock = sleep, clock
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._gave_way = self._between = 0.0

    def ring(self) -> None:
        """Never waits."""
        os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float, *, socket: int, writing: bool) -> bool:
        """Until it rings, ``socket`` (-1: none) has something to read, or takes something where ``writing``.

        True when there is something to read, the end of the connection included.
        """
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if socket >= 0:
            poll.register(socket, select.POLLIN | (select.POLLOUT if writing else 0))
        readable = False
        for descriptor, event in poll.poll(max(seconds, 0.0) * 1000):
            if descriptor == self._descriptor:
                os.eventfd_read(self._descriptor)
            else:
                readable = event != select.POLLOUT
        return readable

    def give_way(self) -> None:
        """Lets the engine's thread go on to its next forward pass, in which it needs the interpreter less.

        Begun at once, settling and sending hold the engine up by 0.6 ms a step, since both threads run Python. A pause
        in front of a step says nothing about how long one takes, and a fast engine fills its slots meanwhile: the time
        between the two before it counts then.
        """
        now = self._clock()
        since, before, self._gave_way = now - self._gave_way, self._between, now
        self._between = since
        self._sleep(min(GIVE_WAY_S, min(since, before) / GIVE_WAY_SHARE))
