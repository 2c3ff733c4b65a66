"""A worker with faults that can be switched on while it serves: what a parity test must catch.

``SAEWATCH_FAULT_FILE`` names a file that holds the fault's name; an empty one means none. The sinks of the faults are
in the compiled graph beside the real one from the start.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saewatch.core import hookpoint
from saewatch.engine.sink import Place, Sink, Site, attach
from saewatch.engine.vllm import TapWorker, Watch, places_of

FAULTS = ("wrong_layer", "no_residual", "rows_off_by_one")
HIDDEN_ONLY = Site("", "output", "first")
"""What a block returns, its residual left out."""


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
        assert isinstance(self.saewatch, Watch)
        self._watched = self.saewatch.tap.watched[0]
        point = hookpoint.parse(self._watched.opening.hook_point)
        place = places_of(self)
        self._sinks: dict[str, Any] = {
            "": self._watched.sink,
            "wrong_layer": self._extra(place(replace(point, layer=point.layer - 1)), "saewatch_fault_layer"),
            "no_residual": self._extra(replace(place(point), site=HIDDEN_ONLY), "saewatch_fault_residual"),
            "rows_off_by_one": Rolled(self._watched.sink),
        }
        # The tap's own part of the compile cache's key does not know of these sinks.
        self.vllm_config.additional_config |= {"faulty": str(point)}
        self._fault_file = Path(os.environ["SAEWATCH_FAULT_FILE"])

    def execute_model(self, scheduler_output: Any) -> Any:
        """One forward pass, with the fault that is on."""
        self._watched.sink = self._sinks[self._fault_file.read_text().strip()]
        return super().execute_model(scheduler_output)

    def _extra(self, place: Place, name: str) -> Sink:
        real = self._watched.sink.buffer
        sink = Sink(rows=real.shape[0], width=real.shape[1], like=place.like)
        attach(place, sink, name)
        return sink
