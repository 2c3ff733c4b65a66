"""The hook-point table: which module of which model family holds which hook point, in vLLM's own model classes.

Most of vLLM's blocks pass on ``(hidden_states, residual)``, not yet added, and each norm adds what came before it to
the residual: the second tensor that the norm before the MLP returns is the stream between attention and MLP. Others
pass on one tensor. What attention or the MLP "adds to the stream" is taken after a norm on the way there (Gemma's
``post_*_layernorm``), as TransformerLens takes it. Families that vLLM runs through transformers' classes are named by
the architecture behind it.

A family is a row here and a case of the tests; what is not here is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from saewatch.core.errors import HookPointError, UnsupportedMode
from saewatch.core.hookpoint import HookPoint
from saewatch.engine.sink import Place, Site

THROUGH_TRANSFORMERS = "TransformersForCausalLM"
"""vLLM's class for models that it has no code of its own for."""

ELSEWHERE = "PPMissingLayer"
"""vLLM's class for a block that another stage of the pipeline runs."""


@dataclass(frozen=True, slots=True)
class Family:
    """Where the blocks are, and their hook points."""

    blocks: str
    sites: Mapping[str, Site]
    only: tuple[str, object] | None = None
    """A field of the model's configuration and the one value of it that was tested."""


_STREAM_IN, _STREAM_OUT = Site("", "input", "sum"), Site("", "output", "sum")

_FUSED = {
    "resid_pre": _STREAM_IN,
    "resid_mid": Site("post_attention_layernorm", "output", "second"),
    "resid_post": _STREAM_OUT,
    "mlp_in": Site("mlp", "input"),
    "mlp_out": Site("mlp", "output"),
    "attn_out": Site("self_attn", "output"),
}
"""Llama's block, and that of most families since."""

_MIXTRAL = {**_FUSED, "mlp_in": Site("block_sparse_moe", "input"), "mlp_out": Site("block_sparse_moe", "output")}

_GEMMA = {
    **_FUSED,
    "resid_mid": Site("pre_feedforward_layernorm", "output", "second"),
    "mlp_out": Site("post_feedforward_layernorm", "output"),
    "attn_out": Site("post_attention_layernorm", "output"),
}
"""A norm before and after each half."""

_GPT2 = {
    "resid_pre": _STREAM_IN,
    "resid_mid": Site("ln_2", "input"),
    "resid_post": _STREAM_OUT,
    "mlp_in": Site("mlp", "input"),
    "mlp_out": Site("mlp", "output"),
    "attn_out": Site("attn", "output"),
}

_OPT = {
    "resid_pre": _STREAM_IN,
    "resid_mid": Site("final_layer_norm", "input"),
    "resid_post": _STREAM_OUT,
    "mlp_in": Site("fc1", "input"),
    "mlp_out": Site("fc2", "output"),
    "attn_out": Site("self_attn", "output"),
}

_NEOX = {
    "resid_pre": _STREAM_IN,
    "resid_mid": Site("post_attention_layernorm", "input", only=("use_parallel_residual", False)),
    "resid_post": _STREAM_OUT,
    "mlp_in": Site("mlp", "input"),
    "mlp_out": Site("mlp", "output"),
    "attn_out": Site("attention", "output"),
}

_PHI = {name: site for name, site in _FUSED.items() if name != "resid_mid"}
"""Attention and MLP read the same norm and are added at once."""

FAMILIES: Mapping[str, Family] = {
    "GPT2LMHeadModel": Family("transformer.h", _GPT2),
    "GPTNeoXForCausalLM": Family("model.layers", _NEOX),
    "Gemma2ForCausalLM": Family("model.layers", _GEMMA),
    "Gemma3ForCausalLM": Family("model.layers", _GEMMA),
    "LlamaForCausalLM": Family("model.layers", _FUSED),
    "MistralForCausalLM": Family("model.layers", _FUSED),
    "MixtralForCausalLM": Family("model.layers", _MIXTRAL),
    "OPTForCausalLM": Family("model.decoder.layers", _OPT, only=("do_layer_norm_before", True)),
    "Phi3ForCausalLM": Family("model.layers", _FUSED),
    "PhiForCausalLM": Family("model.layers", _PHI),
    "Qwen2ForCausalLM": Family("model.layers", _FUSED),
    "Qwen3ForCausalLM": Family("model.layers", _FUSED),
    "Qwen3MoeForCausalLM": Family("model.layers", _FUSED),
}
"""By vLLM's model class; by the architecture for `THROUGH_TRANSFORMERS`."""

_RUN_BY_TRANSFORMERS = frozenset({"GPTNeoXForCausalLM", "PhiForCausalLM"})


class Places:
    """Finds a loaded model's hook points.

    Args:
        model: as vLLM built it.
        architecture: that the model's configuration names.
        config: the model's own configuration.
        like: has the dtype and the device of the activations.
    """

    def __init__(self, model: nn.Module, *, architecture: str, config: Any, like: Tensor) -> None:
        self._name = _name(model, architecture)
        self._family = FAMILIES[self._name]
        _check_tested(self._name, self._family, config)
        self._config = config
        self._like = like
        blocks = model.get_submodule(self._family.blocks)
        assert isinstance(blocks, nn.ModuleList), "vLLM keeps a model's blocks in a list"
        self._blocks = blocks

    def has(self, point: HookPoint) -> bool:
        """Whether the block of ``point`` is here: a stage of a pipeline has empty places for those of the others."""
        return point.layer >= len(self._blocks) or type(self._blocks[point.layer]).__name__ != ELSEWHERE

    def __call__(self, point: HookPoint) -> Place:
        """Where ``point`` is. Raises `HookPointError` when this model has no such point."""
        site = self._family.sites.get(point.point)
        if site is None or not _holds(site.only, self._config):
            names = (name for name, site in self._family.sites.items() if _holds(site.only, self._config))
            hint = "Its blocks add attention and MLP at once." if point.point == "resid_mid" else ""
            expected = f"{', '.join(f'{name}.<layer>' for name in names)} of {self._name}"
            raise HookPointError("hook point", found=str(point), expected=expected, hint=hint)
        if point.layer >= len(self._blocks):
            expected = f"a layer from 0 to {len(self._blocks) - 1}"
            raise HookPointError("hook point", found=str(point), expected=expected, hint="Layers count from 0.")
        place = Place(self._blocks[point.layer], site, self._like)
        place.target()
        return place


def _name(model: nn.Module, architecture: str) -> str:
    """The family's row. UnsupportedMode with all that is known, for one that has none."""
    cls = type(model).__name__
    through = cls == THROUGH_TRANSFORMERS
    name = architecture if through else cls
    if name in FAMILIES and (name in _RUN_BY_TRANSFORMERS) == through:
        return name
    whose = "transformers'" if through else "vLLM's"
    found = f"{name}, run by {whose} code"
    expected = f"one of {', '.join(map(_told, FAMILIES))}"
    hint = "Set on_failure: serve to run it unwatched."
    raise UnsupportedMode("model architecture", found=found, expected=expected, hint=hint)


def _told(name: str) -> str:
    return f"{name} (run by transformers' code)" if name in _RUN_BY_TRANSFORMERS else name


def _check_tested(name: str, family: Family, config: Any) -> None:
    if not _holds(family.only, config):
        assert family.only is not None, "what is not asked for holds"
        field, value = family.only
        expected = f"{field} = {value}, the kind that was tested"
        raise UnsupportedMode(f"{name}: {field}", found=getattr(config, field, None), expected=expected)


def _holds(only: tuple[str, object] | None, config: Any) -> bool:
    return only is None or getattr(config, only[0], None) == only[1]
