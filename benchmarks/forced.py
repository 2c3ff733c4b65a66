"""The GPU's compile path on the CPU: VllmBackend, a graph split at attention, and an artifact that is loaded again.

vLLM's CPU platform replaces that mode by one that never loads a cached graph, so that stock CPU mode cannot show a
stale one. `force` takes the replacement back, in this process; it comes before the engine's configuration is made.
"""

from __future__ import annotations

from typing import Any

import torch
import vllm._custom_ops  # noqa: F401 - registers the operators that there are
from vllm.config import CompilationMode
from vllm.platforms.cpu import CpuPlatform

COMPILATION: dict[str, Any] = {
    "mode": 3,  # VLLM_COMPILE
    "compile_sizes": [],
    "custom_ops": ["none"],
    "pass_config": {"fuse_norm_quant": False, "fuse_act_quant": False},  # their operators are CUDA's
}
"""vLLM's ``compilation_config`` for it."""

_CUDA_ONLY = (
    "fused_add_rms_norm_static_fp8_quant",
    "fused_qk_norm_rope",
    "rms_norm_dynamic_per_token_quant",
    "rms_norm_static_fp8_quant",
    "silu_and_mul_quant",
)
"""Operators that a pass of that path compares with by name; the CPU build lacks them."""


def force() -> torch.library.Library:
    """Makes this process compile as on a GPU. Keep what is returned."""
    kept = torch.library.Library("_C", "FRAGMENT")
    for name in _CUDA_ONLY:
        if not hasattr(torch.ops._C, name):  # noqa: SLF001 - vLLM's name
            kept.define(f"{name}(Tensor x) -> ()")
    update: Any = CpuPlatform.check_and_update_config.__func__

    def forced(cls: Any, config: Any) -> None:
        update(cls, config)
        config.compilation_config.mode = CompilationMode.VLLM_COMPILE

    CpuPlatform.check_and_update_config = classmethod(forced)
    return kept
