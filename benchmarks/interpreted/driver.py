"""The driver of a CPU that interprets kernels.

The interpreter's reductions refuse a row of nothing but NaN, which a GPU does not; vLLM's warm-up samples from such
rows, because its attention reads memory that nobody has written. So they are taken for the smallest or the greatest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.backends.driver import DriverBase


class InterpretedDriver(DriverBase):  # type: ignore[misc]  # triton has no annotations
    """The CPU."""

    @classmethod
    def is_active(cls) -> bool:
        """Always; asked once Triton is loaded, which is when its interpreter can be mended."""
        _take_nan_as_a_number()
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


def _take_nan_as_a_number() -> None:
    from triton.runtime.interpreter import ReduceOps  # not loaded yet when this module is

    original = ReduceOps.min_max
    if original.__name__ == "tolerant":
        return

    def tolerant(self: Any, values: Any, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
        first = values[0] if isinstance(values, tuple) else values
        data = first.handle.data
        if data.dtype.kind == "f" and np.isnan(data).any():
            worst = -np.inf if val_reduce_op is np.nanmax else np.inf
            first.handle.data = np.where(np.isnan(data), worst, data).astype(data.dtype)
        return original(self, values, val_reduce_op, idx_reduce_op)

    ReduceOps.min_max = tolerant
