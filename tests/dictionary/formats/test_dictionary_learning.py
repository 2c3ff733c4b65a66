"""Every class of dictionary_learning against the library's own loader and encoder."""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from saewatch.core.errors import DictionaryError
from saewatch.core.manifest import Folding
from saewatch.dictionary.formats import Asked
from saewatch.dictionary.formats.dictionary_learning import read, recognises
from tests import layouts, made  # noqa: F401 - made imports sae_lens first, which must not see the stand-in below

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    if "nnsight" not in sys.modules:  # it collects activations with it, which nothing here does
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]  # a module takes any attribute
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

CLASSES: dict[str, Any] = {
    "AutoEncoder": dictionary.AutoEncoder,
    "AutoEncoderNew": dictionary.AutoEncoderNew,
    "GatedAutoEncoder": dictionary.GatedAutoEncoder,
    "JumpReluAutoEncoder": dictionary.JumpReluAutoEncoder,
    "AutoEncoderTopK": AutoEncoderTopK,
    "BatchTopKSAE": BatchTopKSAE,
    "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "AutoEncoderTopK": {"k": layouts.K},
    "BatchTopKSAE": {"k": layouts.K},
    "MatryoshkaBatchTopKSAE": {"k": layouts.K, "group_sizes": [32, 64]},
}


def saved(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and state of a random dictionary, as its trainer saves them."""
    torch.manual_seed(3)
    coder = CLASSES[name](layouts.D_IN, layouts.LATENTS, **OPTIONS.get(name, {}))
    for at, (key, parameter) in enumerate(coder.named_parameters()):
        scale = 0.3 if key.lower().endswith(("weight", "w_enc", "w_dec")) else 0.2
        parameter.data = layouts.noise(*parameter.shape, seed=at, by=scale)
        if key == "threshold":
            parameter.data = parameter.data.abs()
    if hasattr(coder, "threshold") and not coder.threshold.shape:
        coder.threshold.fill_(0.4)
    state = coder.state_dict()
    torch.save(state, folder / "ae.pt")
    trainer = {key: value for key, value in layouts.TRAINER.items() if key != "k" or name in OPTIONS}
    config = {"trainer": trainer | {"dict_class": name}, "buffer": {"ctx_len": 128, "io": "out"}}
    return config, state


@pytest.mark.parametrize("name", CLASSES)
def test_it_encodes_as_the_library_does(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config, state = saved(tmp_path, name)
    k = {"k": layouts.K} if "k" in OPTIONS.get(name, {}) else {}
    theirs = CLASSES[name].from_pretrained(str(tmp_path / "ae.pt"), **k)
    looked = layouts.opened(state, config)
    assert recognises(looked)
    source = read(looked, Asked())
    assert (source.hook_point, source.architecture, source.model) == ("resid_post.1", name, "made-1M")
    layouts.check(source, theirs.encode)
    layouts.decoded(source, theirs)
    capsys.readouterr()  # it says that it normalises


def test_the_norms_of_a_decoder_that_is_not_normalised_go_into_its_encoder(tmp_path: Path) -> None:
    config, state = saved(tmp_path, "AutoEncoder")
    assert read(layouts.opened(state, config), Asked()).folded == (Folding(what="decoder_norm"),)
    state["decoder.weight"] /= state["decoder.weight"].norm(dim=0)
    assert read(layouts.opened(state, config), Asked()).folded == ()


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another class": ({"dict_class": "IdentityDict"}, {}, "trainer.dict_class: found 'IdentityDict'"),
    "an unknown key": ({"sparsity_gate": 1}, {}, "trainer.sparsity_gate: found an unknown member"),
    "another k": ({"k": 8}, {}, "trainer.k: found 8, expected 7, as the weights have"),
    "another size": ({"dict_size": 97}, {}, "trainer.dict_size: found 97, expected 96"),
    "another point": ({"submodule_name": "mlp_layer_1"}, {}, "hook.point: found nothing, expected --hook-point"),
    "another layer": ({"layer": 2}, {}, "hook.point: found nothing, expected --hook-point"),
    "a threshold never set": ({}, {"threshold": torch.tensor(-1.0)}, "threshold: found -1.0, expected 0 or more"),
    "no threshold": ({}, {"threshold": None}, "threshold: found nothing, expected this tensor"),
    "an extra tensor": ({}, {"W_gate": torch.ones(3)}, "W_gate: found present, expected no such tensor"),
    "k of fractions": ({}, {"k": torch.tensor(7.0)}, "k: found F32, expected I32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_load_wrongly_is_refused(case: str) -> None:
    changes, tensors, message = REFUSED[case]
    layout = layouts.layouts()["dictionary_learning"]
    found = {name: tensor for name, tensor in ({**layout.tensors, **tensors}).items() if tensor is not None}
    with pytest.raises(DictionaryError) as refused:
        read(layouts.opened(found, {"trainer": layouts.TRAINER | changes}), Asked())
    assert message in str(refused.value)


def test_a_key_that_nobody_knows_can_be_ignored() -> None:
    tensors = layouts.layouts()["dictionary_learning"].tensors
    looked = layouts.opened(tensors, {"trainer": layouts.TRAINER | {"sparsity_gate": 1}})
    assert read(looked, Asked(ignore=frozenset({"sparsity_gate"}))).activation == "jumprelu"


def test_a_point_that_is_not_stated_can_be_said() -> None:
    tensors = layouts.layouts()["dictionary_learning"].tensors
    looked = layouts.opened(tensors, {"trainer": layouts.TRAINER | {"submodule_name": None}})
    assert read(looked, Asked(hook_point="mlp_out.1")).hook_point == "mlp_out.1"
    stated = layouts.opened(tensors, {"trainer": layouts.TRAINER})
    with pytest.raises(DictionaryError, match=r"hook.point: found mlp_out.1, expected resid_post.1"):
        read(stated, Asked(hook_point="mlp_out.1"))


def test_old_topk_without_its_counts_takes_k_from_the_configuration() -> None:
    tensors = layouts.linear(decoder_bias="b_dec")
    source = read(layouts.opened(tensors, {"trainer": layouts.TRAINER | {"dict_class": "AutoEncoderTopK"}}), Asked())
    assert source.k == layouts.K
