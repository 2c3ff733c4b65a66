"""Threads of ours beside those of the engine: they leave it its cores, and wait for none of its work on the device."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import torch

CPUS = os.sched_getaffinity(0)
"""Where this process may run, asked before there is an engine: vLLM's CPU worker binds its threads to cores of its own,
threads that it starts later inherit that, and ours would take the model's core."""


OwnStream = torch.cuda.Stream | None
"""A stream beside the model's; None on the CPU, which has none."""


def own_stream(device: torch.device) -> OwnStream:
    """A new one."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def beside(target: Callable[..., None], *args: Any, name: str, stream: OwnStream) -> threading.Thread:
    """A thread, not started, that calls ``target`` with what it enqueues on ``stream``, and on that one's device.

    CUDA's current device is the thread's own, and the first one unless it is told.
    """

    def run() -> None:
        unbind()
        torch._C.set_num_threads(1)  # noqa: SLF001 - of this thread; vLLM's worker makes torch.set_num_threads do nothing
        with torch.cuda.stream(stream):
            target(*args)

    return threading.Thread(target=run, name=f"saewatch-{name}", daemon=True)


def unbind() -> None:
    """This thread may run wherever the process could at its start."""
    with contextlib.suppress(OSError):  # that has changed since: it stays where it is
        os.sched_setaffinity(0, CPUS)
