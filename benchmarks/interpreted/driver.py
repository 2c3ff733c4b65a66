"""The driver of a CPU that interprets kernels.

The interpreter's reductions refuse a row of nothing but NaN, which a GPU does not; vLLM's warm-up samples from such
rows, because its attention reads memory that nobody has written. So they are taken for the smallest or the greatest.

Much of its time goes into what changes no result, and is left out: it checks each sum and product of integers for an
overflow, as no compiled kernel does unless it is being debugged, looks through the whole language for what it must
replace before each call, and makes a table of all types each time that it asks for one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from triton.backends.driver import DriverBase


class InterpretedDriver(DriverBase):  # type: ignore[misc]  # triton has no annotations
    """The CPU."""

    @classmethod
    def is_active(cls) -> bool:
        """Always; asked once Triton is loaded, if ever."""
        mend()
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Never called."""
        raise NotImplementedError

    def get_current_target(self) -> Any:
        """Never called."""
        raise NotImplementedError

    def get_active_torch_device(self) -> Any:
        """Never called."""
        raise NotImplementedError

    def get_benchmarker(self) -> Any:
        """Never called."""
        raise NotImplementedError


def mend() -> None:
    """Mends the interpreter of this process, once; Triton must be loaded, and no kernel running."""
    from triton.runtime import interpreter  # not loaded yet when this module is

    if interpreter.ReduceOps.min_max.__name__ != "tolerant":
        _take_nan_as_a_number(interpreter)
        builder = interpreter.interpreter_builder
        builder.options = replace(builder.options, sanitize_overflow=False)
        look_up_once(interpreter)


def _take_nan_as_a_number(interpreter: Any) -> None:
    original = interpreter.ReduceOps.min_max

    def tolerant(self: Any, values: Any, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
        first = values[0] if isinstance(values, tuple) else values
        data = first.handle.data
        if data.dtype.kind == "f" and np.isnan(data).any():
            worst = -np.inf if val_reduce_op is np.nanmax else np.inf
            first.handle.data = np.where(np.isnan(data), worst, data).astype(data.dtype)
        return original(self, values, val_reduce_op, idx_reduce_op)

    interpreter.ReduceOps.min_max = tolerant


def look_up_once(interpreter: Any) -> None:
    """Keeps what the module ``interpreter`` finds in Triton's language and of its types; no kernel may be running."""
    is_builtin = interpreter.tl.core.is_builtin

    @cache
    def builtins(package: Any) -> list[str]:
        """Names, looked for when nothing of ``package`` has been replaced yet."""
        return [name for name in dir(package) if is_builtin(getattr(package, name, None))]

    def patch_builtin(package: Any, builder: Any, scope: Any) -> None:
        for name in builtins(package):
            member = getattr(package, name)
            if is_builtin(member):
                interpreter._patch_attr(package, name, member, builder, scope)  # noqa: SLF001 - triton's name

    interpreter._patch_builtin = patch_builtin  # noqa: SLF001 - triton's name
    of_type = interpreter._get_np_dtype  # noqa: SLF001 - triton's name
    of_scalar = cache(of_type)

    def np_dtype(one: Any) -> Any:
        scalar = one.scalar
        return of_type(scalar) if scalar.is_ptr() else of_scalar(scalar)

    interpreter._get_np_dtype = np_dtype  # noqa: SLF001 - triton's name
