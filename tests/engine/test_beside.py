"""A thread of ours may run where the process could, computes alone, and has its own stream."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from saewatch.engine.beside import CPUS, beside, own_stream, unbind


def test_a_thread_may_run_where_the_process_could() -> None:
    found = []

    def look() -> None:
        os.sched_setaffinity(0, {min(CPUS)})
        unbind()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [CPUS]


def test_what_it_enqueues_is_on_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA stream is one of a device, and makes that one the thread's."""
    current: list[Any] = []

    @contextlib.contextmanager
    def stands_for(stream: Any) -> Iterator[None]:
        current.append(stream)
        yield
        current.append("over")

    monkeypatch.setattr(torch.cuda, "stream", stands_for)
    stream: Any = "the second device's"

    def look(what: str) -> None:
        current.append((what, threading.current_thread().name, torch.get_num_threads()))

    thread = beside(look, "argument", name="tested", stream=stream)
    assert current == []
    thread.start()
    thread.join()
    assert current == [stream, ("argument", "saewatch-tested", 1), "over"]
    assert thread.daemon


def test_the_host_has_no_streams() -> None:
    assert own_stream(torch.device("cpu")) is None
    found: list[bool] = []
    thread = beside(found.append, True, name="tested", stream=None)
    thread.start()
    thread.join()
    assert found == [True]
