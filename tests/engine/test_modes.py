"""Modes of vLLM that are refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saewatch.core.errors import UnsupportedMode
from saewatch.engine.modes import CONNECTORS, DRAFTERS, MODES, refuse
from tests.engine.standin import a_worker


def drafting(method: str, *, adaptive: bool = False) -> Any:
    return SimpleNamespace(method=method, enable_adaptive_verification=adaptive)


PIPELINE = {"pipeline_parallel_size": 2}
REFUSED: dict[str, dict[str, Any]] = {
    "pipeline parallelism on model runner V1": {**PIPELINE, "use_v2_model_runner": False},
    "pipeline parallelism with asynchronous scheduling": {**PIPELINE, "async_scheduling": True},
    "pipeline parallelism with speculative decoding": {**PIPELINE, "speculative_config": drafting("ngram")},
    "data parallelism of a mixture of experts": {"data_parallel_size": 2},
    "prefill context parallelism": {"prefill_context_parallel_size": 2},
    "decode context parallelism": {"decode_context_parallel_size": 2},
    "sequence-parallel MoE": {"use_sequence_parallel_moe": True},
    "micro-batching (DBO)": {"use_ubatching": True},
    "adaptive draft verification": {"speculative_config": drafting("eagle", adaptive=True)},
    "an untested method of speculative decoding": {"speculative_config": drafting("medusa")},
    "fast prefill (kv_sharing_fast_prefill)": {"kv_sharing_fast_prefill": True},
    "an untested KV connector": {"kv_transfer_config": SimpleNamespace(kv_connector="AnotherConnector")},
    "weight offloading": {"uva": SimpleNamespace(cpu_offload_gb=1)},
    "sleep mode": {"enable_sleep_mode": True},
    "transfer of new weights": {"weight_transfer_config": object()},
    "a folder of its own for compiled graphs (cache_dir)": {"cache_dir": "/somewhere"},
    "made-up weights (load_format dummy)": {"load_format": "dummy"},
    "a pooling model": {"runner_type": "pooling"},
    "an encoder-decoder model": {"is_encoder_decoder": True},
    "multimodal inputs": {"is_multimodal_model": True},
    "prompt embeddings": {"enable_prompt_embeds": True},
}


def test_every_refused_mode_has_a_case() -> None:
    assert set(REFUSED) == set(MODES)


@pytest.mark.parametrize("mode", REFUSED)
def test_an_untested_mode_is_refused_by_name(tmp_path: Path, mode: str) -> None:
    with pytest.raises(UnsupportedMode) as caught:
        refuse(a_worker(tmp_path, **REFUSED[mode]).vllm_config)
    assert (caught.value.subject, caught.value.found) == ("vllm mode", mode)
    assert "on_failure: serve" in caught.value.hint


ALLOWED: dict[str, dict[str, Any]] = {
    "asynchronous scheduling": {"async_scheduling": True},
    "tensor parallelism": {"tensor_parallel_size": 2},
    "pipeline parallelism": PIPELINE,
    "LoRA adapters": {"lora_config": object()},
    **{name: {"kv_transfer_config": SimpleNamespace(kv_connector=name)} for name in CONNECTORS},
    **{method: {"speculative_config": drafting(method)} for method in DRAFTERS},
    "drafts and steps that run ahead": {"speculative_config": drafting("eagle"), "async_scheduling": True},
}


@pytest.mark.parametrize("mode", ALLOWED)
def test_a_tested_mode_is_not(tmp_path: Path, mode: str) -> None:
    refuse(a_worker(tmp_path, **ALLOWED[mode]).vllm_config)


def test_all_modes_are_told_at_once_with_the_option_against_one_that_nobody_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMode) as caught:
        refuse(a_worker(tmp_path, **PIPELINE, async_scheduling=True, enable_sleep_mode=True).vllm_config)
    assert caught.value.found == "pipeline parallelism with asynchronous scheduling, sleep mode"
    assert "--no-async-scheduling" in caught.value.hint
