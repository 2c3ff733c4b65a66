"""What wakes everybody who waits for a feed. Lives on an event loop alone."""

from __future__ import annotations

import asyncio
import contextlib


class Bell:
    """Rings for all who wait now, and for nobody who comes later."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ring(self) -> None:
        """Wakes them."""
        self._next.set()
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """Set when it rings after now. Who takes it, looks what there is, and then waits, misses nothing."""
        return self._next

    async def wait(self, timeout_s: float) -> None:
        """Waits until it rings, or for ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._next.wait()
