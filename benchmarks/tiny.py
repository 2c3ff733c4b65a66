"""Tiny models with random weights, one of each family, and what transformers' own modules hold at each hook point.

For tests of the hook-point table: every norm's weights and every bias are random too, so that a tensor before a norm is
not like the one after it. Where a hook point is in transformers' classes is written here on its own, and not taken from
the table under test.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from benchmarks.oracle import Reading
from saewatch.core.hookpoint import HookPoint
from saewatch.dictionary.convert import import_source
from saewatch.dictionary.oracle import SAELENS

VOCABULARY = 512
WIDTH = 64
LATENTS = 48
FEW = "few.g1"
"""A feature of some of the latents, in every bundle."""
LAYERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """One family: transformers' configuration, and the modules of its blocks."""

    config: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    blocks: str = "model.layers"
    attn: str = "self_attn"
    attn_out: str = ""  # empty: the attention's own output
    mid: str = "post_attention_layernorm"  # what it reads is the stream; empty: there is no such stream
    mlp_in: str = "mlp"
    mlp_out: str = "mlp"
    cached: bool = True  # vLLM cannot save the graph of a class that it took from transformers and changed

    def reading(self, point: HookPoint) -> Reading:
        """Where transformers has ``point``."""
        module, side = {
            "resid_pre": ("", "input"),
            "resid_mid": (self.mid, "input"),
            "resid_post": ("", "output"),
            "mlp_in": (self.mlp_in, "input"),
            "mlp_out": (self.mlp_out, "output"),
            "attn_out": (self.attn_out or self.attn, "output"),
        }[point.point]
        return Reading(".".join(filter(None, (self.blocks, str(point.layer), module))), side)

    @property
    def points(self) -> tuple[HookPoint, ...]:
        """The hook points of the last block, and what the first one receives, where there is no residual yet."""
        names = ["resid_pre", "resid_mid", "resid_post", "mlp_in", "mlp_out", "attn_out"]
        kept = [name for name in names if name != "resid_mid" or self.mid]
        return (HookPoint("resid_pre", 0), *(HookPoint(name, LAYERS - 1) for name in kept))


_HEADS: Mapping[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 96}
_GEMMA: Mapping[str, Any] = {
    **_HEADS,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 64,
    "tie_word_embeddings": True,
}
_AFTER: Mapping[str, Any] = {
    "attn_out": "post_attention_layernorm",
    "mid": "pre_feedforward_layernorm",
    "mlp_out": "post_feedforward_layernorm",
}

TINY: Mapping[str, Tiny] = {
    "llama": Tiny(config="LlamaConfig", settings=_HEADS),
    "qwen2": Tiny(config="Qwen2Config", settings=_HEADS),
    "qwen3": Tiny(config="Qwen3Config", settings={**_HEADS, "head_dim": 32}),
    "gemma2": Tiny(config="Gemma2Config", settings=_GEMMA, **_AFTER),
    "gemma3": Tiny(config="Gemma3TextConfig", settings=_GEMMA, **_AFTER),
    "mistral": Tiny(config="MistralConfig", settings={**_HEADS, "head_dim": 32, "sliding_window": None}),
    "phi": Tiny(config="PhiConfig", settings={"num_attention_heads": 2, "intermediate_size": 96}, mid="", cached=False),
    "phi3": Tiny(config="Phi3Config", settings={**_HEADS, "pad_token_id": 0}),
    "gpt2": Tiny(
        config="GPT2Config",
        settings={"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 1024},
        blocks="transformer.h",
        attn="attn",
        mid="ln_2",
    ),
    "gpt_neox": Tiny(
        config="GPTNeoXConfig",
        settings={"num_attention_heads": 2, "intermediate_size": 96, "use_parallel_residual": True},
        blocks="gpt_neox.layers",
        attn="attention",
        mid="",
        cached=False,
    ),
    "gpt_neox_serial": Tiny(
        config="GPTNeoXConfig",
        settings={"num_attention_heads": 2, "intermediate_size": 96, "use_parallel_residual": False},
        blocks="gpt_neox.layers",
        attn="attention",
        cached=False,
    ),
    "opt": Tiny(
        config="OPTConfig",
        settings={"num_attention_heads": 2, "ffn_dim": 96, "word_embed_proj_dim": WIDTH},
        blocks="model.decoder.layers",
        mid="final_layer_norm",
        mlp_in="fc1",
        mlp_out="fc2",
    ),
    "mixtral": Tiny(config="MixtralConfig", settings={**_HEADS, "num_local_experts": 4, "sliding_window": None}),
    "qwen3_moe": Tiny(
        config="Qwen3MoeConfig",
        settings={**_HEADS, "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    ),
}


def make_model(name: str, folder: Path) -> Path:
    """Writes the tiny model ``name``; the same one each time."""
    tiny = TINY[name]
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    config = getattr(transformers, tiny.config)(**{**common, **tiny.settings})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.08)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": []}))  # requests are token ids
    return folder


def make_bundle(point: HookPoint, model: Path, folder: Path, *, seed: int = 0) -> Path:
    """The bundle ``folder`` of random weights on ``point``, every latent watched, and ``folder``-source beside it."""
    source = folder.with_name(folder.name + "-source")
    source.mkdir(parents=True)
    chance = torch.Generator().manual_seed(seed)
    decoder = torch.randn(LATENTS, WIDTH, generator=chance)
    decoder /= decoder.norm(dim=1, keepdim=True)
    tensors = {
        "W_enc": decoder.t().contiguous(),
        "b_enc": torch.randn(LATENTS, generator=chance) * 0.05,
        "W_dec": decoder,
        "b_dec": torch.zeros(WIDTH),
    }
    save_file(tensors, source / "sae_weights.safetensors")
    (source / "cfg.json").write_text(json.dumps(_saelens(point)))
    (source / "stated.json").write_text(json.dumps({"exclude_first": 0, "exclude_special": []}))
    features = [_group("all.g1", "every latent", range(LATENTS)), _group(FEW, "every fourth", range(0, LATENTS, 4))]
    (source / "features.json").write_text(json.dumps(features))
    import_source(source, model, folder, oracle=SAELENS)
    return folder


def _group(name: str, label: str, latents: Iterable[int]) -> dict[str, Any]:
    group = {"id": name, "label": label, "category": "x.parity", "severity": "low", "kind": "group"}
    return {**group, "latents": list(latents), "floor": 0.0, "aggregation": "max", "claim": "correlational"}


def _saelens(point: HookPoint) -> dict[str, Any]:
    return {
        "architecture": "standard",
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "tiny",
            "hook_name": point.transformer_lens or point.hugging_face,
        },
    }


def make_tokenizer(model: Path) -> None:
    """Gives a tiny model a tokenizer of one word for each token, for answers that are read as text."""
    words = {f"t{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="t0"))  # noqa: S106 - a word
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(model / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "t0", "eos_token": "t1"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
