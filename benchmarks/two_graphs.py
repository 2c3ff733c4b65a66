"""The tap's worker with two compiled graphs of one model, without sinks and with them, and a choice between two blocks.

Two engines would differ in more than the tap: first of all in where their weights and caches lie in memory. Here both
graphs use the same weights, the same KV cache and the same buffers. The first one is compiled before there is a sink,
so it is that of an engine without a tap; then the compiler's wrapper is reset, and the tap attaches its sinks and
compiles as it always does.

The sink is timed inside its operator: this process registers a kernel for CPU that calls the tap's own between two
looks at the clock. What the call from the graph into Python costs is measured on its own (`call_seconds`).
"""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch import Tensor
from vllm.compilation.wrapper import reset_compile_wrapper
from vllm.config import set_current_vllm_config

from benchmarks.blocks import PARTS, SEEN, TAPPED
from saewatch.core.records import StreamBeat
from saewatch.engine import sink
from saewatch.engine.runners import view_of
from saewatch.engine.vllm import TapWorker, Watch, open_watch

CALLS = 2000
"""To find what one call costs."""


class SinkClock:
    """Seconds in the sink's operator, and how often it was called."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._library = torch.library.Library("saewatch", "IMPL", "CPU")
        self._library.impl("sink", self._timed)

    def _timed(self, hidden: Tensor, residual: Tensor | None, buffer: Tensor, calls: Tensor) -> None:
        started = time.perf_counter()
        sink._sink(hidden, residual, buffer, calls)  # noqa: SLF001 - the kernel that this one stands before
        self.seconds += time.perf_counter() - started
        self.calls += 1

    def call_seconds(self) -> float:
        """What a call from outside costs beyond its own time: the dispatcher, and the way into Python."""
        rows, before = torch.zeros(1, 8), self.seconds
        calls = torch.zeros((), dtype=torch.int64)
        started = time.perf_counter()
        for _ in range(CALLS):
            torch.ops.saewatch.sink(rows, rows, rows, calls)
        whole, inside = time.perf_counter() - started, self.seconds - before
        self.seconds, self.calls = before, self.calls - CALLS
        return (whole - inside) / CALLS


class TimedWatch(Watch):
    """A watch whose time on the engine's thread is added up."""

    seconds = 0.0

    def after_forward(self, scheduled: Any, *, sampling: bool) -> None:
        """The rows of the forward pass that has just been enqueued."""
        started = time.perf_counter()
        super().after_forward(scheduled, sampling=sampling)
        self.seconds += time.perf_counter() - started

    def after_sampling(self, output: Any) -> Any:
        """Learns what the step emitted."""
        started = time.perf_counter()
        found = super().after_sampling(output)
        self.seconds += time.perf_counter() - started
        return found


class TwoGraphs(TapWorker):
    """One worker, of which `choose` makes each of the arms."""

    def load_model(self, **kwargs: Any) -> None:
        """Loads the model, compiles it as it is, and attaches the tap."""
        super(TapWorker, self).load_model(**kwargs)
        self.model_runner.warming_up_model()
        self._bare = self._compiled()
        with set_current_vllm_config(self.vllm_config):
            reset_compile_wrapper(self.get_model())
        watch = open_watch(self)
        assert isinstance(watch, Watch)
        self.saewatch = self._watch = TimedWatch(self, watch.tap, view_of(self.model_runner))
        self._clock = SinkClock()

    def compile_or_warm_up_model(self) -> Any:
        """Proves the tap on its own graph, and keeps that."""
        result = super().compile_or_warm_up_model()
        self._tapped = self._compiled()
        assert self._tapped is not self._bare
        (self._watched,) = self._watch.tap.watched
        self._counting = self._watched.counting
        self._call_seconds = self._clock.call_seconds()
        return result

    def choose(self, arm: str) -> None:
        """Makes ``arm`` of the engine, which must be idle."""
        self.get_model().model.aot_compiled_fn = self._tapped if arm in TAPPED else self._bare
        self.saewatch = self._watch if arm in SEEN else None
        self._watched.counting = self._counting if arm == "all" else None

    def books(self) -> StreamBeat:
        """The stream's books."""
        return self._watch.tap.books[0]

    def calls(self) -> int:
        """Of the sink, as the device counted them."""
        return int(self._watched.sink.calls)

    def spent(self) -> dict[str, float]:
        """Seconds by `PARTS`, since the start."""
        stages = self._watch.tap._seconds  # noqa: SLF001 - a beat tells them once a second, and not by block
        sink_seconds = self._clock.seconds + self._clock.calls * self._call_seconds
        inside = stages["snapshot"] + stages["encode"]
        found = (sink_seconds, stages["snapshot"], stages["encode"], self._watch.seconds - inside, _shipper_seconds())
        return dict(zip(PARTS, found, strict=True))

    def shutdown(self) -> None:
        """Sends the last books, whatever the last arm was."""
        self.saewatch = self._watch
        super().shutdown()

    def _compiled(self) -> Any:
        found = self.get_model().model.aot_compiled_fn
        assert found is not None, "vLLM compiles ahead of time on the CPU"
        return found


def _shipper_seconds() -> float:
    """CPU time of the shipper's thread, all of it."""
    thread = next(thread for thread in threading.enumerate() if thread.name == "saewatch-shipper")
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
