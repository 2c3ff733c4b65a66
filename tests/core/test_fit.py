"""Whether a dictionary fits the served model, and how much of that is proven."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from saewatch.core.attestation import Attestation, Fit, read_attestation, read_fit
from saewatch.core.errors import ManifestError, MisfitError
from saewatch.core.fit import PROOFS, ModelFacts, adapter_fit, verify_fit, weakest
from saewatch.core.manifest import EncoderSheet, Manifest

A, B, C, D = ("sha256:" + letter * 64 for letter in "abcd")
SHEET = Manifest(
    kind="sae",
    hook_point="resid_post.14",
    encoder=EncoderSheet(activation="relu", latents=10, directions=0, d_in=576, d_out=576),
    tensors={},
)
FIT = Fit(
    model="smollm2",
    architecture="LlamaForCausalLM",
    d_model=576,
    layers=30,
    weights=A,
    tokenizer=B,
    chat_template=C,
    numerics="bf16",
)
FACTS = ModelFacts(architecture="LlamaForCausalLM", d_model=576, layers=30, weights=A, tokenizer=B, chat_template=C)


def test_levels_of_proof() -> None:
    assert verify_fit(SHEET, FIT, FACTS) == "weights"
    assert verify_fit(SHEET, FIT, replace(FACTS, weights="")) == "config"
    assert verify_fit(SHEET, FIT, replace(FACTS, weights="", tokenizer="")) == "shape"
    assert verify_fit(SHEET, None, FACTS) == "shape"
    assert PROOFS == ("shape", "config", "weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": D}, "model weights: found sha256:ddd"),
        ({"tokenizer": D, "weights": ""}, "model tokenizer"),
        ({"chat_template": D}, "model chat_template"),
        ({"architecture": "GemmaForCausalLM"}, "model architecture: found GemmaForCausalLM, expected LlamaForCausalLM"),
        ({"layers": 31}, "model layers: found 31, expected 30"),
        ({"layers": 14}, "hook point resid_post.14: found a model of 14 layers, expected more than 14 layers"),
        ({"d_model": 2048}, "dictionary.encoder.d_in: found 576, expected 2048, the model's width"),
    ],
)
def test_another_model_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MisfitError) as refused:
        verify_fit(SHEET, FIT, replace(FACTS, **change))
    assert message in str(refused.value)


def test_a_hook_point_inside_the_block_may_have_another_width() -> None:
    other = replace(SHEET, hook_point="mlp_out.3", encoder=replace(SHEET.encoder, d_in=64))
    assert verify_fit(other, None, FACTS) == "shape"


def test_a_fit_reads_back() -> None:
    made = Attestation(kind="fit", weights=SHEET.digest, body=FIT.body())
    assert read_fit(read_attestation(made.data(), subject="fit.json", weights=SHEET.digest)) == FIT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({**FIT.body(), "layers": 0}, "fit: layers: found 0"),
        ({**FIT.body(), "weights": "x"}, "fit: weights: found 'x', expected a digest"),
        ({**FIT.body(), "owner": "x"}, "fit: owner: found an unknown member"),
    ],
)
def test_a_wrong_fit_is_refused(body: Any, message: str) -> None:
    with pytest.raises(ManifestError) as refused:
        read_fit(Attestation(kind="fit", weights=A, body=body))
    assert message in str(refused.value)


def test_the_fit_to_an_adapter_is_unverified_until_attested() -> None:
    attested = frozenset({"sql"})
    assert [adapter_fit(one, attested) for one in ("", "sql", "chat")] == ["base", "attested", "unverified"]


def test_several_dictionaries_fit_where_each_of_them_does() -> None:
    one, both = frozenset({"sql"}), frozenset({"sql", "chat"})
    assert [weakest(name, [one, both]) for name in ("", "sql", "chat")] == ["base", "attested", "unverified"]
    assert [weakest(name, []) for name in ("", "sql")] == ["base", "unverified"]
