"""One configuration of a kernel: what a launcher may choose, and what the compile gate compiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPTIONS: Mapping[str, Any] = {"enable_fp_fusion": False}
"""Of every compilation: ``s * u + c`` is rounded twice, as where limits were raised. Sums by ``tl.dot`` do not mind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A kernel with its types and sizes."""

    name: str
    kernel: Any
    """The jit function."""
    signature: Mapping[str, str]
    """Argument to its type: ``*bf16``, ``i32``, ``constexpr``…"""
    constexprs: Mapping[str, Any]
    """Argument to its value."""
    warps: int
    stages: int
    aligned: tuple[str, ...] = ()
    """Arguments that are divisible by 16."""
    mma: str = ""
    """The tensor core instruction that its main loop must have: ``HGMMA``, ``IGMMA``, ``HMMA``, or none."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Of a launch and of a compilation."""
        return {"num_warps": self.warps, "num_stages": self.stages, **OPTIONS}


def pointers(signature: Mapping[str, str]) -> tuple[str, ...]:
    """Arguments that are pointers, for `Variant.aligned` where each is given a buffer from where it begins.

    For any other launch Triton compiles in the middle of serving. So sizes that change from step to step are
    `do_not_specialize`, and tests/engine/test_launched.py compares each launch with the table.
    """
    return tuple(name for name, kind in signature.items() if kind.startswith("*"))
