"""Waiting for what another thread or process does: no longer than it takes, and long enough for a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMEOUT_S = 120.0


def wait_until(holds: Callable[[], object], what: Callable[[], str] = lambda: "it did not come in time") -> None:
    """Returns as soon as ``holds`` does; a test that waits in vain fails and says ``what`` it waited for."""
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.01)
