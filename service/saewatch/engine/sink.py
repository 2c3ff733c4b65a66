"""The sink: a registered operator that writes a hook point's rows into a persistent buffer and counts its calls.

It stands inside the compiled graph because it is an operator that mutates its arguments: ``torch.compile`` may neither
drop it nor move it, and a captured CUDA graph replays its kernels. Its body is pure device work. vLLM's blocks return
``(hidden_states, residual)`` not yet added; the sink takes both, so that no tensor is made for it outside.

A forward hook that is registered before the first compilation is traced into the graph. What it does to tensors stays;
what it would do to Python objects would run once, at the trace: hence the counter on the device.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saewatch.core.errors import HookPointError
from saewatch.core.hookpoint import HookPoint

LIBRARY = torch.library.Library("saewatch", "DEF")
_SCHEMA = "sink(Tensor hidden, Tensor? residual, Tensor(a!) buffer, Tensor(b!) calls) -> ()"
LIBRARY.define(_SCHEMA)


def _sink(hidden: Tensor, residual: Tensor | None, buffer: Tensor, calls: Tensor) -> None:
    rows = buffer[: hidden.shape[0]]
    if residual is None:
        rows.copy_(hidden)
    else:
        torch.add(hidden, residual, out=rows)
    calls.add_(1)


def _sink_meta(hidden: Tensor, residual: Tensor | None, buffer: Tensor, calls: Tensor) -> None:
    """Shapes only: nothing is returned."""


LIBRARY.impl("sink", _sink, "CompositeExplicitAutograd")
LIBRARY.impl("sink", _sink_meta, "Meta")
LIBRARY.define("fire(Tensor hidden, Tensor buffer, Tensor(a!) fired) -> ()")  # `inside` says what it does


class Sink(nn.Module):
    """The buffer of one hook point, a child of the block that it watches.

    Args:
        rows: rows of the largest step.
        width: width of the hook point.
        like: a parameter whose dtype and device the buffer takes.
    """

    def __init__(self, *, rows: int, width: int, like: Tensor) -> None:
        super().__init__()
        buffer = torch.zeros(rows, width, dtype=like.dtype, device=like.device)
        self.register_buffer("buffer", buffer, persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64, device=like.device), persistent=False)
        self.register_buffer("fired", None, persistent=False)
        self.buffer: Tensor
        self.calls: Tensor
        self.fired: Tensor | None  # calls that multiplied the rows as well; None: they do not

    def forward(self, hidden: Tensor, residual: Tensor | None) -> None:
        """Writes ``hidden + residual``, ``[rows, width]`` each, into the buffer's first rows.

        Models that vLLM takes from transformers have a dimension of batches before these, of size 1.
        """
        if hidden.ndim > 2:
            hidden, residual = hidden.flatten(0, -2), None if residual is None else residual.flatten(0, -2)
        torch.ops.saewatch.sink(hidden, residual, self.buffer, self.calls)
        if self.fired is not None:
            torch.ops.saewatch.fire(hidden, self.buffer, self.fired)

    def key(self, site: Site) -> list[str | int]:
        """What it adds to the graph where it hangs at ``site``, for the compile cache's key."""
        return [str(site), *self.buffer.shape, *(["multiplied"] if self.fired is not None else [])]

    def multiply(self) -> None:
        """From here on the graph multiplies the rows as well; to be called before it is compiled."""
        self.fired = torch.zeros_like(self.calls)


Pair = tuple[Tensor, Tensor | None]
"""Tensors whose sum is wanted."""


@dataclass(frozen=True, slots=True)
class Site:
    """Which tensor of a block is a hook point."""

    module: str
    """Where, below the block; empty: the block itself."""
    side: Literal["input", "output"]
    part: Literal["first", "second", "sum"] = "first"
    """Of what is passed there: the first tensor, the second one, or the sum of the hidden states and the residual."""
    only: tuple[str, object] | None = None
    """A field of the model's configuration and the value without which the block has no such tensor."""

    def __str__(self) -> str:
        return f"{self.part} {self.side} of {self.module or 'the block'}"


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A hook point of one model."""

    block: nn.Module
    site: Site
    like: Tensor
    """Has the dtype and the device of the model's activations."""

    def target(self) -> nn.Module:
        """The module that is hooked. Raises `HookPointError` where the block is not what the table says."""
        try:
            module = self.block.get_submodule(self.site.module)
        except AttributeError as error:
            found = f"no {self.site.module} in {type(self.block).__qualname__}"
            raise HookPointError("hook point", found=found, expected=str(self.site)) from error
        if self.site.part == "sum" and self.site.side == "input" and "hidden_states" not in _parameters(module):
            found = f"{type(module).__qualname__}.forward without hidden_states"
            raise HookPointError("hook point", found=found, expected=str(self.site))
        return module


Sinks = Mapping[HookPoint, tuple[Place, Sink]]
"""Where each hook point is, and its sink."""


def hang(sinks: Sinks) -> None:
    """Attaches each sink. The last thing that opening a tap does: nothing of one that failed is in the graph."""
    for point, (place, sink) in sinks.items():
        attach(place, sink, f"saewatch_{point.point}")


def attach(place: Place, sink: Sink, name: str = "saewatch_sink") -> None:
    """Hangs ``sink``, under ``name``, where ``place`` says. To be called before the first compilation."""
    site, target = place.site, place.target()
    place.block.add_module(name, sink)
    if site.side == "output":
        take = _OUTPUTS[site.part]

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            sink(*take(output))

        target.register_forward_hook(hook)
    else:
        given = _inputs_of(target, site.part)

        def pre_hook(_module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            sink(*given(inputs, named))

        target.register_forward_pre_hook(pre_hook, with_kwargs=True)


def _first(output: Any) -> Pair:
    return (output[0] if isinstance(output, tuple) else output), None


def _second(output: Any) -> Pair:
    assert isinstance(output, tuple), "a norm that is given the residual returns it too"
    return output[1], None


def _sum(output: Any) -> Pair:
    return (output[0], output[1]) if isinstance(output, tuple) else (output, None)


_OUTPUTS: Mapping[str, Callable[[Any], Pair]] = {"first": _first, "second": _second, "sum": _sum}


def _parameters(module: nn.Module) -> list[str]:
    """Of its class's ``forward``: what stands in its place on the object may be somebody's wrapper."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def _inputs_of(target: nn.Module, part: str) -> Callable[[tuple[Any, ...], Mapping[str, Any]], Pair]:
    """Finds ``hidden_states`` and ``residual`` among what ``target`` is called with; else its first argument."""
    names = _parameters(target)
    hidden = names.index("hidden_states") if "hidden_states" in names else 0
    residual = names.index("residual") if part == "sum" and "residual" in names else None

    def argument(index: int, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        return inputs[index] if index < len(inputs) else named.get(names[index])

    def given(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Pair:
        return argument(hidden, inputs, named), None if residual is None else argument(residual, inputs, named)

    return given
