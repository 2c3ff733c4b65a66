"""Modes of vLLM that are refused by name until they were tested, and workers that are not as the adapter knows them.

By attribute and without importing vLLM. Which combinations were tested is in docs/limits.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from saewatch.core.errors import UnsupportedMode, UnsupportedVersion

SEAMS = (
    "compile_or_warm_up_model",
    "execute_dummy_batch",
    "execute_model",
    "get_model",
    "load_model",
    "reload_weights",
    "sample_tokens",
    "shutdown",
    "sleep",
    "wake_up",
)
"""Methods of the worker without which this adapter does not work."""

DRAFTERS = ("ngram", "ngram_gpu", "draft_model", "eagle")
"""vLLM's methods of speculative decoding that were tested."""

CONNECTORS = ("ExampleConnector",)
"""vLLM's KV connectors that were tested: what they bring from elsewhere is counted as *external*."""

MODES: Mapping[str, Callable[[Any], bool]] = {
    "pipeline parallelism on model runner V1": lambda config: (
        config.parallel_config.pipeline_parallel_size > 1 and not config.use_v2_model_runner
    ),
    "pipeline parallelism with asynchronous scheduling": lambda config: (
        config.parallel_config.pipeline_parallel_size > 1 and bool(config.scheduler_config.async_scheduling)
    ),
    "pipeline parallelism with speculative decoding": lambda config: (
        config.parallel_config.pipeline_parallel_size > 1 and config.speculative_config is not None
    ),
    "data parallelism of a mixture of experts": lambda config: config.parallel_config.data_parallel_size > 1,
    "prefill context parallelism": lambda config: config.parallel_config.prefill_context_parallel_size > 1,
    "decode context parallelism": lambda config: config.parallel_config.decode_context_parallel_size > 1,
    "sequence-parallel MoE": lambda config: bool(config.parallel_config.use_sequence_parallel_moe),
    "micro-batching (DBO)": lambda config: bool(config.parallel_config.use_ubatching),
    "adaptive draft verification": lambda config: bool(
        getattr(config.speculative_config, "enable_adaptive_verification", False)
    ),
    "an untested method of speculative decoding": lambda config: (
        config.speculative_config is not None and config.speculative_config.method not in DRAFTERS
    ),
    "fast prefill (kv_sharing_fast_prefill)": lambda config: bool(config.cache_config.kv_sharing_fast_prefill),
    "an untested KV connector": lambda config: (
        config.kv_transfer_config is not None and config.kv_transfer_config.kv_connector not in CONNECTORS
    ),
    "weight offloading": lambda config: bool(
        config.offload_config.uva.cpu_offload_gb or config.offload_config.prefetch.offload_group_size
    ),
    "sleep mode": lambda config: bool(config.model_config.enable_sleep_mode),
    "transfer of new weights": lambda config: config.weight_transfer_config is not None,
    "a folder of its own for compiled graphs (cache_dir)": lambda config: bool(config.compilation_config.cache_dir),
    "made-up weights (load_format dummy)": lambda config: config.load_config.load_format == "dummy",
    "a pooling model": lambda config: config.model_config.runner_type == "pooling",
    "an encoder-decoder model": lambda config: bool(config.model_config.is_encoder_decoder),
    "multimodal inputs": lambda config: bool(config.model_config.is_multimodal_model),
    "prompt embeddings": lambda config: bool(config.model_config.enable_prompt_embeds),
}
"""What is refused by name until it was tested. In a folder of one's own vLLM looks for graphs without their key."""

SWITCH_OFF: Mapping[str, str] = {"pipeline parallelism with asynchronous scheduling": "--no-async-scheduling"}
"""vLLM's option against a mode that nobody asked for."""


def refuse(config: Any) -> None:
    """Raises `UnsupportedMode` that names every mode of the ``VllmConfig`` that was not tested."""
    found = [name for name, holds in MODES.items() if holds(config)]
    if found:
        options = " ".join(SWITCH_OFF[name] for name in found if name in SWITCH_OFF)
        hint = f"Switch it off{f' ({options})' if options else ''}, or set on_failure: serve to run unwatched."
        raise UnsupportedMode("vllm mode", found=", ".join(found), expected="modes that were tested", hint=hint)


def check_seams(base: type, versions: Iterable[str]) -> None:
    """Refuses a platform's worker that lacks a method that the adapter needs, and vLLM of these ``versions`` has."""
    for name in SEAMS:
        if not callable(getattr(base, name, None)):
            expected = f"the method {name}, which vLLM {' and '.join(versions)} has"
            raise UnsupportedVersion("vllm worker", found=base.__qualname__, expected=expected)
