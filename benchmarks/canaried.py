"""A worker with the five faults that canaries are to catch, switched while it serves; and a fine-tuned model.

``SAEWATCH_FAULT_FILE`` names a file that holds the fault's name; an empty one means none. Behind a colon stands what it
needs: the file of other weights. Tensors are changed in place and put back, so that one engine shows all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from saewatch.core import hookpoint
from saewatch.engine.sink import Sink, attach
from saewatch.engine.vllm import TapWorker, Watch, places_of

SEED = 7


class Removed:
    """A sink whose hook is gone: what it held when it went is all that it ever holds, and nothing counts a call."""

    def __init__(self, sink: Sink) -> None:
        self.buffer, self.calls = sink.buffer.clone(), sink.calls.clone()


class CanariedWorker(TapWorker):
    """The watched worker, with faults."""

    def load_model(self, **kwargs: Any) -> None:
        """Loads and attaches as ever, and one more sink a layer off."""
        super().load_model(**kwargs)
        assert isinstance(self.saewatch, Watch)
        self._watched = self.saewatch.tap.watched[0]
        self._real = self._watched.sink
        point = hookpoint.parse(self._watched.opening.hook_point)
        place = places_of(self)(hookpoint.parse(f"resid_post.{point.layer - 1}"))
        buffer = self._real.buffer
        self._off = Sink(rows=buffer.shape[0], width=buffer.shape[1], like=place.like)
        attach(place, self._off, "saewatch_fault_layer")
        # The tap's own part of the compile cache's key does not know of this sink.
        self.vllm_config.additional_config |= {"canaried": str(point)}
        self._fault_file = Path(os.environ["SAEWATCH_FAULT_FILE"])
        self._fault = ""
        self._before: list[tuple[Tensor, Tensor]] = []

    def execute_model(self, scheduler_output: Any) -> Any:
        """One forward pass, with the fault that is on."""
        fault = self._fault_file.read_text().strip()
        if fault != self._fault:
            self._fault = fault
            self._mend()
            if fault:
                FAULTS[fault.partition(":")[0]](self)
        return super().execute_model(scheduler_output)

    def change(self, tensor: Tensor, other: Tensor) -> None:
        """In place, and noted to be put back."""
        self._before.append((tensor, tensor.clone()))
        tensor.copy_(other)

    def remove_hook(self) -> None:
        """The sink is written to no more."""
        self._watched.sink = Removed(self._real)  # type: ignore[assignment]  # what the tap reads of one

    def shift_layer(self) -> None:
        """The sink of the layer before."""
        self._watched.sink = self._off

    def encoder_weights(self) -> Tensor:
        """Of the watched rows, on the device."""
        return self._watched.encoder._W  # noqa: SLF001 - a planted fault

    def load_other(self) -> None:
        """The weights of a file, under the names that transformers has for them."""
        self._before += [(one.data, one.data.clone()) for one in self.model_runner.model.parameters()]
        self.model_runner.model.load_weights(load_file(self._fault.partition(":")[2]).items())

    def model_weights(self) -> Iterator[Tensor]:
        """All matrices of the model."""
        found: Iterator[Tensor] = self.model_runner.model.parameters()
        return (one.data for one in found if one.dim() == 2)

    def _mend(self) -> None:
        self._watched.sink = self._real
        for tensor, before in self._before:
            tensor.copy_(before)
        self._before.clear()


def _corrupted(worker: CanariedWorker) -> None:
    """A part of the rows lost their upper halves, as a torn copy leaves them."""
    weights = worker.encoder_weights()
    torn = weights.clone()
    torn[:, : weights.shape[1] // 2] = 0
    worker.change(weights, torn)


def _other_dictionary(worker: CanariedWorker) -> None:
    """Rows of the same norms that another model's dictionary could have."""
    weights = worker.encoder_weights()
    drawn = torch.randn(weights.shape, generator=torch.Generator().manual_seed(SEED))
    worker.change(weights, drawn / drawn.norm(dim=1, keepdim=True) * weights.norm(dim=1, keepdim=True))


def _other_model(worker: CanariedWorker) -> None:
    """Matrices of the same sizes and spread, drawn anew."""
    chance = torch.Generator().manual_seed(SEED)
    for one in worker.model_weights():
        drawn = torch.randn(one.shape, generator=chance)
        worker.change(one, (drawn * one.float().std()).to(one.dtype))


FAULTS: dict[str, Callable[[CanariedWorker], None]] = {
    "hook removed": CanariedWorker.remove_hook,
    "wrong layer": CanariedWorker.shift_layer,
    "corrupted weights": _corrupted,
    "dictionary of another model": _other_dictionary,
    "engine on another model": _other_model,
    "tuned": CanariedWorker.load_other,
}
