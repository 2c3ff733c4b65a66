"""The hook-point table against vLLM's own model classes, and what is refused.

That a name stands in the table says nothing: a case here reads the class's own source, or runs the real block.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, GPTNeoXConfig, PhiConfig
from vllm.model_executor.models.registry import ModelRegistry

from saewatch.core.errors import HookPointError, UnsupportedMode
from saewatch.core.hookpoint import POINTS, HookPoint
from saewatch.engine.families import FAMILIES, THROUGH_TRANSFORMERS, Places
from saewatch.engine.sink import Place, Sink, Site, attach
from tests.engine.standin import LlamaForCausalLM

LLAMA = "llama:LlamaDecoderLayer"
BLOCKS: Mapping[str, str] = {
    "GPT2LMHeadModel": "gpt2:GPT2Block",
    "Gemma2ForCausalLM": "gemma2:Gemma2DecoderLayer",
    "Gemma3ForCausalLM": "gemma3:Gemma3DecoderLayer",
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": "mistral:MistralDecoderLayer",
    "MixtralForCausalLM": "mixtral:MixtralDecoderLayer",
    "OPTForCausalLM": "opt:OPTDecoderLayer",
    "Phi3ForCausalLM": LLAMA,
    "Qwen2ForCausalLM": "qwen2:Qwen2DecoderLayer",
    "Qwen3ForCausalLM": "qwen3:Qwen3DecoderLayer",
    "Qwen3MoeForCausalLM": "qwen3_moe:Qwen3MoeDecoderLayer",
}
"""vLLM's block of each family that it has code of its own for."""

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "hidden_dropout": 0.0,
    "_attn_implementation": "eager",
}
THROUGH: Mapping[str, Any] = {
    "GPTNeoXForCausalLM": GPTNeoXConfig(use_parallel_residual=False, **TINY),
    "PhiForCausalLM": PhiConfig(**TINY),
}
"""A configuration of each family that vLLM runs through transformers' code."""

SITES = [(name, point) for name in BLOCKS for point in FAMILIES[name].sites]


def block_of(name: str) -> Any:
    return pkgutil.resolve_name(f"vllm.model_executor.models.{BLOCKS[name]}")


def model_of(name: str) -> Any:
    registered = ModelRegistry.models[name]
    assert registered.class_name == name
    return getattr(importlib.import_module(registered.module_name), name)


def source(cls: type[Any]) -> str:
    """A class's own, and that of those of vLLM that it is made from."""
    return "".join(inspect.getsource(one) for one in _vllms(cls))


def modules_of(model: type[Any]) -> list[ModuleType]:
    """Where a model class, what it is made from, and what stands beside them are written."""
    own = [sys.modules[cls.__module__] for cls in _vllms(model)]
    beside = [cls for module in own for cls in vars(module).values() if isinstance(cls, type)]
    return list({one.__module__: sys.modules[one.__module__] for cls in beside for one in _vllms(cls)}.values())


def _vllms(cls: type[Any]) -> list[type[Any]]:
    return [one for one in cls.__mro__ if one.__module__.startswith("vllm.model_executor.models.")]


def test_every_family_has_a_case() -> None:
    assert {*BLOCKS, *THROUGH} == set(FAMILIES)
    assert all(set(family.sites) <= set(POINTS) for family in FAMILIES.values())


@pytest.mark.parametrize("name", BLOCKS)
def test_vllm_keeps_the_blocks_where_the_table_says(name: str) -> None:
    modules = modules_of(model_of(name))
    text = "".join(inspect.getsource(module) for module in modules)
    assert block_of(name).__module__ in {module.__name__ for module in modules}
    assert block_of(name).__name__ in text
    for part in FAMILIES[name].blocks.split("."):
        assert re.search(rf"self\.{part}\b", text), part
    assert re.search(rf"self\.{FAMILIES[name].blocks.rpartition('.')[2]} = make_layers\(", text)


@pytest.mark.parametrize(("name", "point"), SITES)
def test_vllms_block_has_the_tensor_that_the_table_names(name: str, point: str) -> None:
    site, block = FAMILIES[name].sites[point], block_of(name)
    text, forward = source(block), inspect.getsource(block.forward)
    if site.module:
        assert re.search(rf"self\.{site.module} = \w+\(", text), "is made"
        assert f"self.{site.module}(" in forward, "is run"
        if site.part == "second":
            given = r"\(\s*hidden_states, residual\s*\)"
            assert re.search(rf"hidden_states, residual = self\.{site.module}{given}", forward), "returns two tensors"
    elif site.side == "output":
        assert re.search(r"return hidden_states(, residual)?$", forward, re.MULTILINE)
    else:
        taken = inspect.signature(block.forward).parameters
        assert "hidden_states" in taken
        assert ("residual" in taken) == ("return hidden_states, residual" in forward), "what comes in is what goes out"


# --- families that vLLM runs through transformers' code ---------------------------------------------------------------
class TransformersForCausalLM(nn.Module):
    """Has the name of vLLM's class, and the model where that has it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = AutoModel.from_config(config).eval()

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.model(tokens).last_hidden_state
        return out


def places(model: nn.Module, architecture: str, config: Any = None) -> Places:
    return Places(model, architecture=architecture, config=config, like=torch.zeros(0))


@pytest.mark.parametrize("name", THROUGH)
def test_vllm_runs_it_through_transformers(name: str) -> None:
    assert ModelRegistry.models[name].class_name == THROUGH_TRANSFORMERS
    assert ModelRegistry.models[name].module_name == "vllm.model_executor.models.transformers"


@pytest.mark.parametrize("name", THROUGH)
@torch.inference_mode()
def test_the_points_of_transformers_own_block_add_up(name: str) -> None:
    config = THROUGH[name]
    model = TransformersForCausalLM(config)
    place = places(model, name, config)
    sinks = {
        (point, layer): Sink(rows=8, width=16, like=torch.zeros(1))
        for point in FAMILIES[name].sites
        for layer in (0, 1)
    }
    for (point, layer), sink in sinks.items():
        attach(place(HookPoint(point, layer)), sink, f"saewatch_{point}")
    model(torch.arange(5)[None])
    assert {int(sink.calls) for sink in sinks.values()} == {1}
    for layer in (0, 1):
        found = {point: sinks[point, layer].buffer[:5] for point in FAMILIES[name].sites}
        assert all(value.abs().sum() > 0 for value in found.values())
        both = found["resid_pre"] + found["attn_out"]
        torch.testing.assert_close(found["resid_post"], both + found["mlp_out"])
        if "resid_mid" in found:
            torch.testing.assert_close(found["resid_mid"], both)
        block = place(HookPoint("mlp_out", layer)).block
        torch.testing.assert_close(block.get_submodule("mlp")(found["mlp_in"]), found["mlp_out"])
    torch.testing.assert_close(sinks["resid_post", 0].buffer, sinks["resid_pre", 1].buffer)


# --- what is refused --------------------------------------------------------------------------------------------------
def test_a_model_that_is_not_known_is_refused_with_all_that_are() -> None:
    class NovelForCausalLM(nn.Module): ...

    with pytest.raises(UnsupportedMode) as caught:
        places(NovelForCausalLM(), "LlamaForCausalLM")
    assert caught.value.found == "NovelForCausalLM, run by vLLM's code"
    assert all(name in str(caught.value.expected) for name in FAMILIES)
    assert str(caught.value.expected).count("(run by transformers' code)") == len(THROUGH)
    with pytest.raises(UnsupportedMode, match="found NovelForCausalLM, run by transformers' code, expected one of"):
        places(TransformersForCausalLM(THROUGH["PhiForCausalLM"]), "NovelForCausalLM")


@pytest.mark.parametrize("name", BLOCKS)
def test_a_family_of_vllms_own_is_not_the_same_through_transformers(name: str) -> None:
    """Its modules have other names there, and its blocks pass on other tensors."""
    with pytest.raises(UnsupportedMode, match=f"found {name}, run by transformers' code"):
        places(TransformersForCausalLM(THROUGH["PhiForCausalLM"]), name)


@pytest.mark.parametrize("name", THROUGH)
def test_a_family_through_transformers_is_not_the_same_in_a_class_of_its_own(name: str) -> None:
    with pytest.raises(UnsupportedMode, match=f"found {name}, run by vLLM's code, expected one of"):
        places(type(name, (nn.Module,), {})(), name)


@pytest.mark.parametrize(
    ("name", "config", "exists"),
    [
        ("GPTNeoXForCausalLM", GPTNeoXConfig(use_parallel_residual=True, **TINY), ", attn_out.<layer> of GPTNeoX"),
        ("PhiForCausalLM", THROUGH["PhiForCausalLM"], ", attn_out.<layer> of PhiForCausalLM"),
    ],
)
def test_a_point_between_what_is_added_at_once_is_refused(name: str, config: Any, exists: str) -> None:
    place = places(TransformersForCausalLM(config), name, config)
    with pytest.raises(HookPointError) as caught:
        place(HookPoint("resid_mid", 1))
    assert str(caught.value.expected).startswith(
        "resid_pre.<layer>, resid_post.<layer>, mlp_in.<layer>, mlp_out.<layer>"
    )
    assert exists in str(caught.value.expected)
    assert "at once" in caught.value.hint
    assert place(HookPoint("resid_post", 1)).site == Site("", "output", "sum")


def an_opt() -> nn.Module:
    model = type("OPTForCausalLM", (nn.Module,), {})()
    model.model = nn.Module()
    model.model.decoder = nn.Module()
    block = nn.Module()
    block.fc1 = nn.Linear(2, 2)
    model.model.decoder.layers = nn.ModuleList([block])
    return model  # type: ignore[no-any-return]  # a class made here


def test_a_block_that_is_not_what_the_table_says_is_refused_before_anything_is_attached() -> None:
    place = places(an_opt(), "OPTForCausalLM", SimpleNamespace(do_layer_norm_before=True))
    with pytest.raises(HookPointError, match="found no fc2 in Module, expected first output of fc2"):
        place(HookPoint("mlp_out", 0))
    with pytest.raises(HookPointError, match="without hidden_states, expected sum input of the block"):
        place(HookPoint("resid_pre", 0))


def test_an_opt_with_its_norms_behind_is_refused() -> None:
    config = SimpleNamespace(do_layer_norm_before=False)
    with pytest.raises(UnsupportedMode) as caught:
        places(an_opt(), "OPTForCausalLM", config)
    assert caught.value.subject == "OPTForCausalLM: do_layer_norm_before"
    assert caught.value.found is False
    assert "= True" in str(caught.value.expected)
    config.do_layer_norm_before = True
    assert isinstance(places(an_opt(), "OPTForCausalLM", config)(HookPoint("mlp_in", 0)), Place)


def test_a_layer_that_the_model_does_not_have_is_refused() -> None:
    model = LlamaForCausalLM(layers=4)
    place = places(model, "LlamaForCausalLM")
    assert place(HookPoint("resid_pre", 3)).block is model.blocks[3]
    with pytest.raises(HookPointError, match=r"found resid_pre\.4, expected a layer from 0 to 3\. Layers count from 0"):
        place(HookPoint("resid_pre", 4))


def test_a_place_has_the_type_of_the_activations_and_not_of_the_weights() -> None:
    like = torch.zeros(0, dtype=torch.bfloat16)
    place = Places(LlamaForCausalLM(), architecture="LlamaForCausalLM", config=None, like=like)
    assert place(HookPoint("mlp_in", 0)).like is like


def test_a_block_that_another_stage_runs_is_not_here() -> None:
    model = LlamaForCausalLM()
    model.model.layers[1] = type("PPMissingLayer", (nn.Identity,), {})()  # type: ignore[operator]  # a list of blocks
    here = places(model, "LlamaForCausalLM")
    assert [here.has(HookPoint("resid_post", layer)) for layer in (0, 1, 2)] == [True, False, True]
    assert here.has(HookPoint("resid_post", 9)), "no stage has it: it is looked for, and refused"
