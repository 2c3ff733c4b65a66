"""A device that is not the host's, where there is none: tensors that compute, and that nobody may wait for.

A `Far` tensor says that it is on the device ``meta`` and holds one of the CPU, which does the work. What a GPU would be
waited for raises `Waited`: a number or a shape that is read from it, an index of booleans, a copy that blocks. So does
an operator whose tensors are on two devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ATEN: Any = torch.ops.aten
FAR = torch.device("meta")
HOST = torch.device("cpu")

READS = (
    ATEN._local_scalar_dense.default,  # noqa: SLF001 - torch's name of an operator, as below
    ATEN.equal.default,
    ATEN.is_nonzero.default,
    ATEN.masked_select.default,
    ATEN.nonzero.default,
    ATEN.repeat_interleave.Tensor,
    ATEN.unique_consecutive.default,
    ATEN._unique2.default,  # noqa: SLF001 - as above
)
"""Operators whose result, or its shape, the host needs at once."""
COPIES = (ATEN.copy_.default, ATEN._to_copy.default)  # noqa: SLF001 - as above
INDEXES = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default)


class Waited(AssertionError):
    """The host would wait for the device, or mixes two devices."""


class Far(torch.Tensor):
    """A tensor of the device."""

    held: Tensor

    @staticmethod
    def __new__(cls: type[Far], held: Tensor) -> Far:  # noqa: PYI034 - torch makes it
        make: Any = torch.Tensor._make_wrapper_subclass  # noqa: SLF001 - as torch documents it
        shape: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        found: Far = make(cls, held.shape, **shape, dtype=held.dtype, device=FAR)
        found.held = held
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001 - as above

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub has another order than its documentation
        cls, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _called(func, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While it lasts, what is made on the device is `Far`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _called(func, args, kwargs or {})


def _called(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    tensors = [one for one in tree_leaves((args, dict(kwargs))) if isinstance(one, Tensor)]
    if not any(isinstance(one, Far) for one in tensors) and kwargs.get("device") != FAR:
        return func(*args, **kwargs)
    _check(func, args, kwargs, tensors)
    here = {name: HOST if value == FAR else tree_map(_held, value) for name, value in kwargs.items()}
    found = func(*tree_map(_held, tuple(args)), **here)
    if func._schema.is_mutable:  # noqa: SLF001 - torch's only name for it
        return _written(func, args, kwargs)
    if kwargs.get("device") == HOST:
        return found
    return tree_map(lambda one: Far(one) if isinstance(one, Tensor) else one, found)


def _check(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
    crosses = any(not isinstance(one, Far) and one.ndim for one in tensors) or kwargs.get("device") == HOST
    blocks = not (kwargs.get("non_blocking") or (func is ATEN.copy_.default and len(args) > 2 and args[2]))
    if func in READS:
        raise Waited(f"{func} is read by the host")
    if crosses and (func not in COPIES or blocks):
        raise Waited(f"{func} of two devices")
    if func in INDEXES and any(one is not None and one.dtype == torch.bool for one in args[1]):
        raise Waited(f"{func} by booleans, whose number the host needs")


def _held(one: Any) -> Any:
    return one.held if isinstance(one, Far) else one


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What an operator returns that writes into its arguments: these."""
    into = [
        args[place] if place < len(args) else kwargs[argument.name]
        for place, argument in enumerate(func._schema.arguments)  # noqa: SLF001 - as above
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if not func._schema.returns:  # noqa: SLF001 - as above
        return None
    return into[0] if len(into) == 1 else tuple(into)


def moved(one: Any, kept: Sequence[str] = (), seen: dict[int, Any] | None = None) -> Any:
    """``one`` with all its tensors on the device, and all that it holds of the engine; but attributes ``kept``."""
    seen = {} if seen is None else seen
    if id(one) in seen:
        return seen[id(one)]
    if isinstance(one, Tensor):
        seen[id(one)] = Far(one)
        return seen[id(one)]
    if type(one) in (list, tuple):
        return type(one)(moved(item, kept, seen) for item in one)
    if type(one) is dict:
        return {name: moved(item, kept, seen) for name, item in one.items()}
    if not type(one).__module__.startswith("saewatch.engine"):
        return one
    seen[id(one)] = one
    for name in [*getattr(one, "__dict__", {}), *getattr(type(one), "__slots__", ())]:
        if name not in kept and hasattr(one, name):
            value = FAR if name == "device" else moved(getattr(one, name), kept, seen)
            object.__setattr__(one, name, value)  # of frozen ones too
    return one
