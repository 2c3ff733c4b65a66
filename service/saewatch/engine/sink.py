"""The sink: a registered operator that writes a hook point's rows into a persistent buffer and counts its calls.

It stands inside the compiled graph because it is an operator that mutates its arguments: ``torch.compile`` may neither
drop it nor move it, and a captured CUDA graph replays its kernels. Its body is pure device work. vLLM's blocks return
``(hidden_states, residual)`` not yet added; the sink takes both, so that no tensor is made for it outside.

A forward hook that is registered before the first compilation is traced into the graph. What it does to tensors stays;
what it would do to Python objects would run once, at the trace: hence the counter on the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LIBRARY = torch.library.Library("saewatch", "DEF")
_SCHEMA = "sink(Tensor hidden, Tensor? residual, Tensor(a!) buffer, Tensor(b!) calls) -> ()"
LIBRARY.define(_SCHEMA)


def _sink(hidden: torch.Tensor, residual: torch.Tensor | None, buffer: torch.Tensor, calls: torch.Tensor) -> None:
    rows = buffer[: hidden.shape[0]]
    if residual is None:
        rows.copy_(hidden)
    else:
        torch.add(hidden, residual, out=rows)
    calls.add_(1)


def _sink_meta(hidden: torch.Tensor, residual: torch.Tensor | None, buffer: torch.Tensor, calls: torch.Tensor) -> None:
    """Shapes only: nothing is returned."""


LIBRARY.impl("sink", _sink, "CompositeExplicitAutograd")
LIBRARY.impl("sink", _sink_meta, "Meta")


class Sink(nn.Module):
    """The buffer of one hook point, a child of the block that it watches.

    Args:
        rows: rows of the largest step.
        width: width of the hook point.
        like: a parameter whose dtype and device the buffer takes.
    """

    def __init__(self, *, rows: int, width: int, like: torch.Tensor) -> None:
        super().__init__()
        buffer = torch.zeros(rows, width, dtype=like.dtype, device=like.device)
        self.register_buffer("buffer", buffer, persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64, device=like.device), persistent=False)
        self.buffer: torch.Tensor
        self.calls: torch.Tensor

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
        """Writes ``hidden + residual``, ``[rows, width]`` each, into the buffer's first rows."""
        torch.ops.saewatch.sink(hidden, residual, self.buffer, self.calls)


def attach(block: nn.Module, sink: Sink, name: str = "saewatch_sink") -> None:
    """Hangs ``sink`` on what ``block`` returns: one tensor, or a pair whose sum is the residual stream."""
    block.add_module(name, sink)

    def hook(_block: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, tuple):
            sink(output[0], output[1])
        else:
            sink(output, None)

    block.register_forward_hook(hook)
