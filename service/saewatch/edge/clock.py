"""The time beside an engine."""

from __future__ import annotations

import time


class Clock:
    """Nanoseconds since 1970 at the start, and from there on without the steps of the wall clock."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def __call__(self) -> int:
        """Now."""
        return time.monotonic_ns() + self._offset
