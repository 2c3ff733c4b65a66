"""OpenAI's, Goodfire's and Qwen-Scope's weights, laid out as documented, against the formulas of their code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saewatch.core.errors import DictionaryError
from saewatch.dictionary.formats import Asked
from saewatch.dictionary.formats.pickled import (
    read_goodfire,
    read_openai,
    read_qwen,
    recognises_goodfire,
    recognises_openai,
    recognises_qwen,
)
from tests import layouts

SAID = Asked(hook_point=layouts.POINT, k=layouts.K)
TOPK: dict[str, Any] = {
    "activation": "TopK",
    "activation_state_dict.k": layouts.K,
    "activation_state_dict.postact_fn": "ReLU",
}


def openai() -> dict[str, Tensor]:
    found = layouts.linear(decoder_bias="pre_bias")
    found["latent_bias"] = found.pop("encoder.bias")
    return found | {"stats_last_nonzero": torch.zeros(layouts.LATENTS, dtype=torch.int64)}


def qwen() -> dict[str, Tensor]:
    found = layouts.transposed(layouts.jumps(), "W_enc", "W_dec")
    del found["threshold"]
    return found


def topk(pre: Tensor) -> Tensor:
    best = pre.topk(layouts.K, dim=-1)
    return torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())


def encoded_by_openai(x: Tensor, *, wins: bool) -> Tensor:
    """Autoencoder.encode of sparse_autoencoder/model.py at 764586ae."""
    t = openai()
    if wins:
        x = x - x.mean(dim=-1, keepdim=True)
        x = x / (x.std(dim=-1, keepdim=True) + 1e-5)
    pre = torch.nn.functional.linear(x - t["pre_bias"], t["encoder.weight"], t["latent_bias"])
    return topk(pre) if wins else pre.relu()


@pytest.mark.parametrize("wins", [False, True])
def test_openai(*, wins: bool) -> None:
    looked = layouts.opened(openai(), scalars=TOPK if wins else {"activation": "ReLU"})
    assert recognises_openai(looked)
    source = read_openai(looked, SAID)
    assert (source.k, source.input_norm.kind) == ((layouts.K, "layer_norm") if wins else (None, "none"))
    layouts.check(source, lambda x: encoded_by_openai(x, wins=wins))


@pytest.mark.parametrize(
    ("scalars", "message"),
    [
        ({"activation": "GELU"}, "activation: found GELU"),
        ({**TOPK, "activation_state_dict.postact_fn": "Identity"}, "A latent may fire below zero"),
        ({"activation": "TopK"}, "activation_state_dict.k: found None, expected 1 to 96"),
        ({**TOPK, "activation_state_dict.k": 97}, "found 97"),
        ({**TOPK, "scale": 2.0}, "scale: found a plain value, expected no such member"),
    ],
)
def test_an_activation_of_openai_that_does_not_fold_is_refused(scalars: dict[str, Any], message: str) -> None:
    with pytest.raises(DictionaryError) as refused:
        read_openai(layouts.opened(openai(), scalars=scalars), SAID)
    assert message in str(refused.value)


@pytest.mark.parametrize("infix", ["_linear", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_goodfire(infix: str, dtype: torch.dtype) -> None:
    tensors = {name.replace(".", f"{infix}."): tensor.to(dtype) for name, tensor in layouts.linear().items()}
    looked = layouts.opened(tensors)
    assert recognises_goodfire(looked)
    weight, bias = (tensors[f"encoder{infix}.{name}"].float() for name in ("weight", "bias"))
    layouts.check(read_goodfire(looked, SAID), lambda x: torch.nn.functional.linear(x, weight, bias).relu())


def test_qwen_scope() -> None:
    looked = layouts.opened(qwen(), weights="layer1.sae.pt")
    assert recognises_qwen(looked)
    t = qwen()
    layouts.check(read_qwen(looked, SAID), lambda x: topk(torch.nn.functional.linear(x, t["W_enc"], t["b_enc"])))


@pytest.mark.parametrize("k", [None, 97])
def test_how_many_win_is_asked_for(k: int | None) -> None:
    with pytest.raises(DictionaryError, match="expected --k K, from 1 to 96"):
        read_qwen(layouts.opened(qwen()), Asked(hook_point=layouts.POINT, k=k))


def test_the_other_orientation_is_another_format() -> None:
    assert not recognises_qwen(layouts.opened(layouts.transposed(qwen(), "W_enc", "W_dec")))
    assert not recognises_qwen(layouts.opened(layouts.jumps()))
    square = {name: torch.ones(24, 24) if name.startswith("W_") else torch.ones(24) for name in qwen()}
    with pytest.raises(DictionaryError, match="the shapes do not tell"):
        read_qwen(layouts.opened(square), SAID)
    assert read_qwen(layouts.opened(square), Asked(format="qwen_scope", k=1, hook_point="mlp_out.1")).k == 1


@pytest.mark.parametrize("read", [read_openai, read_goodfire, read_qwen])
def test_where_it_reads_has_to_be_said(read: Any) -> None:
    tensors = {read_openai: openai(), read_goodfire: layouts.linear(), read_qwen: qwen()}[read]
    with pytest.raises(DictionaryError, match="expected --hook-point POINT"):
        read(layouts.opened(tensors), Asked(k=layouts.K))
