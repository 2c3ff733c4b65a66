"""A worker with faults that can be switched on while it serves: what a parity test must catch.

``SAEWATCH_FAULT_FILE`` names a file that holds the fault's name; an empty one means none. The sinks of the faults are
in the compiled graph beside the real one from the start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saewatch.core import hookpoint
from saewatch.engine.sink import Sink, attach
from saewatch.engine.vllm import TapWorker

FAULTS = ("wrong_layer", "no_residual", "rows_off_by_one")


class Rolled:
    """The buffer of a sink with its rows off by one."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.calls = sink.calls

    @property
    def buffer(self) -> torch.Tensor:
        """The buffer, rolled by one row."""
        return torch.roll(self._sink.buffer, 1, 0)


class FaultyWorker(TapWorker):
    """The watched worker, with faults."""

    def load_model(self, **kwargs: Any) -> None:
        """Loads and attaches as ever, and attaches the faults' sinks too."""
        super().load_model(**kwargs)
        assert self.saewatch is not None
        self._watched = self.saewatch.tap.watched[0]
        self._sinks: dict[str, Any] = {"": self._watched.sink}
        layer = hookpoint.parse(self._watched.opening.hook_point).layer
        blocks = self.get_model().get_submodule("model.layers")
        self._sinks["wrong_layer"] = self._extra(blocks[layer - 1])
        self._sinks["no_residual"] = self._extra(blocks[layer], residual=False)
        self._sinks["rows_off_by_one"] = Rolled(self._watched.sink)
        self._fault_file = Path(os.environ["SAEWATCH_FAULT_FILE"])

    def execute_model(self, scheduler_output: Any) -> Any:
        """One forward pass, with the fault that is on."""
        self._watched.sink = self._sinks[self._fault_file.read_text().strip()]
        return super().execute_model(scheduler_output)

    def _extra(self, block: nn.Module, *, residual: bool = True) -> Sink:
        real = self._watched.sink.buffer
        sink = Sink(rows=real.shape[0], width=real.shape[1], like=real)
        if residual:
            attach(block, sink, "saewatch_fault")
        else:
            block.add_module("saewatch_fault_residual", sink)
            block.register_forward_hook(lambda _block, _inputs, output: sink(output[0], None))
        return sink
