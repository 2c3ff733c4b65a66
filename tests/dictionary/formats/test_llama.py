"""Llama Scope's files, written to the documented layout, against the formulas of its library at the commit named there.

The library itself is not installed: what it does when it loads and encodes is written out here in float64.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from saewatch.core.errors import DictionaryError
from saewatch.core.manifest import Folding
from saewatch.dictionary.formats import Asked
from saewatch.dictionary.formats.llama import read, read_library, recognises, recognises_library
from tests import layouts

A = OUT = math.sqrt(layouts.D_IN) / 9.5
LOG = layouts.noise(layouts.LATENTS, seed=5, by=0.3) - 2.0


def gate(scores: Tensor, config: dict[str, Any]) -> Tensor:
    """SparseAutoEncoder.activation_function_factory of 5e5527b7."""
    if config["act_fn"] == "relu":
        return scores.clamp(min=0)
    if config["act_fn"] == "jumprelu":
        return scores.where(scores > config["jump_relu_threshold"], 0)
    best = scores.clamp(min=0).topk(config["top_k"], dim=-1)
    return torch.zeros_like(scores).scatter(-1, best.indices, best.values)


def llama_scope(config: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """SparseAutoEncoder.from_config, encode and decode of 5e5527b7: values and reconstruction."""
    t = {name: tensor.double() for name, tensor in layouts.linear().items()}
    a, o = (A, OUT) if config["norm_activation"] == "dataset-wise" else (1.0, 1.0)
    x = x.double()
    W, b, D, c = t["encoder.weight"], t["encoder.bias"] / a, t["decoder.weight"] * a / o, t["decoder.bias"] / o
    if config["sparsity_include_decoder_norm"]:
        n = D.norm(dim=0)
        W, b, D = W * n[:, None], b * n, D / n
    scale = math.sqrt(layouts.D_IN) / x.norm(dim=-1, keepdim=True) if config["norm_activation"] == "token-wise" else 1.0
    inner = x * scale - (c if config["apply_decoder_bias_to_pre_encoder"] else 0.0)
    values = gate(inner @ W.t() + b, config)
    return values, (values @ D.t() + c) / scale


CASES: dict[str, dict[str, Any]] = {
    "as published": {},
    "without norms": {"sparsity_include_decoder_norm": False},
    "with a pre-bias": {"apply_decoder_bias_to_pre_encoder": True},
    "relu": {"act_fn": "relu"},
    "topk": {"act_fn": "topk", "jump_relu_threshold": 0.0, "top_k": 7},
    "already folded": {"norm_activation": "inference"},
    "token-wise": {"norm_activation": "token-wise"},
}


@pytest.mark.parametrize("case", CASES)
def test_llama_scope(case: str) -> None:
    config = {**layouts.LLAMA, **CASES[case]}
    looked = layouts.opened(layouts.linear(), config)
    assert recognises(looked)
    assert not recognises_library(looked)
    source = read(looked, Asked())
    assert source.hook_point == "resid_post.1"
    assert (Folding(what="normalisation", constant=A) in source.folded) == (config["norm_activation"] == "dataset-wise")
    layouts.check(source, lambda x: llama_scope(config, x)[0])
    if config["norm_activation"] != "token-wise":
        layouts.decoded(source, lambda x: llama_scope(config, x)[1].float())


def test_a_topk_with_a_threshold_is_a_jumprelu_there() -> None:
    config = {**layouts.LLAMA, "act_fn": "topk"}
    source = read(layouts.opened(layouts.linear(), config), Asked())
    assert (source.activation, source.architecture, source.k) == ("jumprelu", "topk", None)
    layouts.check(source, lambda x: llama_scope({**config, "act_fn": "jumprelu"}, x)[0])


def test_half_precision_weights_keep_their_bits_where_no_norm_goes_in() -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in layouts.linear().items()}
    config = {**layouts.LLAMA, "sparsity_include_decoder_norm": False}
    source = read(layouts.opened(tensors, config), Asked())
    assert torch.equal(source.W, tensors["encoder.weight"])


def library(config: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """normalize_activations, SparseAutoEncoder.encode and decode of 37469ae8: values and reconstruction."""
    t = {name: tensor.double() for name, tensor in layouts.linear().items()}
    a, o = (A, OUT) if config["norm_activation"] == "dataset-wise" else (1.0, 1.0)
    pre = (x.double() * a) @ t["encoder.weight"].t() + t["encoder.bias"]
    scores = pre * t["decoder.weight"].norm(dim=0) if config["sparsity_include_decoder_norm"] else pre
    values = pre * (scores > (LOG.double().exp() if config["act_fn"] == "jumprelu" else 0.0))
    return values, (values @ t["decoder.weight"].t() + t["decoder.bias"]) / o


LIBRARY: dict[str, dict[str, Any]] = {
    "as published": {},
    "without norms": {"sparsity_include_decoder_norm": False},
    "relu": {"act_fn": "relu"},
    "already folded": {"norm_activation": "inference"},
}


@pytest.mark.parametrize("case", LIBRARY)
@pytest.mark.parametrize("name", ["log_jumprelu_threshold", "activation_function.log_jumprelu_threshold"])
def test_what_the_library_writes_since(case: str, name: str) -> None:
    config = {**layouts.LIBRARY, **LIBRARY[case]}
    tensors = layouts.linear() | ({name: LOG} if config["act_fn"] == "jumprelu" else {})
    looked = layouts.opened(tensors, config)
    assert recognises_library(looked)
    source = read_library(looked, Asked(mean_norm=9.5))
    layouts.check(source, lambda x: library(config, x)[0])
    layouts.decoded(source, lambda x: library(config, x)[1].float())


def test_averages_may_lie_in_the_weights() -> None:
    average = {"dataset_average_activation_norm.blocks.1.hook_resid_post": torch.tensor(9.5)}
    tensors = {**layouts.linear(), "log_jumprelu_threshold": LOG, **average}
    source = read_library(layouts.opened(tensors, layouts.LIBRARY), Asked())
    layouts.check(source, lambda x: library(dict(layouts.LIBRARY), x)[0])


def test_averages_that_were_never_set_are_not_looked_at() -> None:
    average = {"dataset_average_activation_norm.blocks.1.hook_resid_post": torch.tensor(math.nan)}
    looked = layouts.opened({**layouts.linear(), "log_jumprelu_threshold": LOG, **average}, layouts.LIBRARY)
    with pytest.raises(DictionaryError, match=r"found nan, expected the average norm"):
        read_library(looked, Asked())
    folded = {**layouts.LIBRARY, "norm_activation": "inference"}
    looked = layouts.opened({**layouts.linear(), "log_jumprelu_threshold": LOG, **average}, folded)
    layouts.check(read_library(looked, Asked()), lambda x: library(folded, x)[0])


def test_a_latent_without_a_direction_never_fires() -> None:
    tensors = {**layouts.linear(), "log_jumprelu_threshold": LOG}
    tensors["decoder.weight"] = tensors["decoder.weight"].clone()
    tensors["decoder.weight"][:, 3] = 0.0
    source = read_library(layouts.opened(tensors, layouts.LIBRARY), Asked(mean_norm=9.5))
    assert source.vectors["threshold"][3] == math.inf


def test_the_average_norm_is_asked_for() -> None:
    tensors = {**layouts.linear(), "log_jumprelu_threshold": LOG}
    with pytest.raises(DictionaryError, match=r"expected the average norm of its rows.*--mean-norm"):
        read_library(layouts.opened(tensors, layouts.LIBRARY), Asked())
    with pytest.raises(DictionaryError, match="--mean-norm"):
        read(layouts.opened(layouts.linear(), {**layouts.LLAMA, "dataset_average_activation_norm": None}), Asked())


def test_a_transcoder_names_both_ends() -> None:
    config = {**layouts.LLAMA, "hook_point_in": "mlp_in.1", "hook_point_out": "blocks.1.hook_mlp_out"}
    source = read(layouts.opened(layouts.linear(), config), Asked())
    assert (source.kind, source.hook_point, source.hook_out) == ("transcoder", "mlp_in.1", "mlp_out.1")
    with pytest.raises(DictionaryError, match="expected false for a transcoder"):
        read(layouts.opened(layouts.linear(), {**config, "apply_decoder_bias_to_pre_encoder": True}), Asked())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a second encoder": ({"use_glu_encoder": True}, "use_glu_encoder: found True"),
    "no decoder's bias": ({"use_decoder_bias": False}, "use_decoder_bias: found False"),
    "norms of a batch": ({"norm_activation": "batch-wise"}, "norm_activation: found 'batch-wise'"),
    "another activation": ({"act_fn": "batchtopk"}, "act_fn: found 'batchtopk'"),
    "an unknown key": ({"gate": 1}, "gate: found an unknown member"),
    "another size": ({"d_sae": 97}, "found 97 latents of width 24, expected 96 of 24"),
    "a negative threshold": ({"jump_relu_threshold": -0.5}, "jump_relu_threshold: found -0.5"),
    "no number": ({"dataset_average_activation_norm": {"in": 0, "out": 1}}, "activation_norm.in: found 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_load_wrongly_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(DictionaryError) as refused:
        read(layouts.opened(layouts.linear(), {**layouts.LLAMA, **changes}), Asked())
    assert message in str(refused.value)
