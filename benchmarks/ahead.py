"""Asynchronous scheduling on the CPU: vLLM's CPU platform switches it off, since nothing overlaps there.

What matters to a tap does overlap: the next step is scheduled and run before the tokens of the one before it are
fetched. Runner V2 runs so on the CPU as it is; `allow` leaves the configuration what was asked for, in this process,
and comes before the engine's configuration is made.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms.cpu import CpuPlatform


def allow() -> None:
    """Makes ``async_scheduling`` of this process's engines what their arguments say."""
    update: Any = CpuPlatform.check_and_update_config.__func__

    def as_asked(cls: Any, config: Any) -> None:
        asked = config.scheduler_config.async_scheduling
        update(cls, config)
        config.scheduler_config.async_scheduling = asked

    CpuPlatform.check_and_update_config = classmethod(as_asked)
