"""One semantics: every row of the table against SAELens' own classes, and the arithmetic that folding rests on."""

from __future__ import annotations

from decimal import Decimal, getcontext
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from saewatch.core.errors import ManifestError
from saewatch.core.manifest import EncoderSheet, Exclusions, InputNorm
from saewatch.dictionary.convert import convert
from saewatch.dictionary.formats import read_saelens
from saewatch.engine import encode as semantics
from saewatch.engine.encode import ACTIVATIONS, REFUSED, Folded, compare, encode, fold, grey_pairs, raise_limits
from tests import made

NORMS = ("none", "layer_norm", "constant_norm_rescale")
CASES: dict[str, dict[str, Any]] = {
    "standard": {},
    "jumprelu": {},
    "gated": {},
    "topk": {"k": 7},
    "topk, rescaled": {"k": 7, "rescale_acts_by_decoder_norm": True},
    "transcoder": {},
    "skip_transcoder": {},
    "jumprelu_transcoder": {},
    "jumprelu_skip_transcoder": {},
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("case", "pre_bias"),
    [(case, pre_bias) for case in CASES for pre_bias in (False, True) if not (pre_bias and "transcoder" in case)],
)
def test_parity_with_saelens(tmp_path: Path, case: str, norm: str, pre_bias: bool) -> None:
    options = CASES[case] | {"normalize_activations": norm, "apply_b_dec_to_input": pre_bias}
    sae = made.saelens(case.partition(",")[0], seed=len(case), **options)
    sae.save_model(tmp_path)
    converted = convert(read_saelens(tmp_path), exclusions=Exclusions())
    x = made.rows(200)
    with torch.no_grad():
        expected = sae.encode(x)
    sheet, tensors = converted.manifest.encoder, converted.tensors
    folded = Folded(*(tensors[name].numpy() for name in ("lim", "s", "c")))
    found = encode(x, tensors["W"], folded, sheet)
    verdict = compare(found, expected, grey_pairs(x, tensors["W"], folded, sheet))
    assert verdict.compared > 500
    assert verdict.in_grey_band <= 4
    assert verdict.good, verdict


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_fold_agrees_with_its_reference(name: str) -> None:
    row, k = ACTIVATIONS[name], 5 if ACTIVATIONS[name].competes else None
    generator = torch.Generator().manual_seed(3)
    vectors = {v: torch.randn(made.LATENTS, generator=generator, dtype=torch.float64) * 0.3 for v in row.vectors}
    vectors |= {v: vectors[v].abs() for v in ("threshold", "decoder_norm") if v in vectors}
    W, x = torch.randn(made.LATENTS, made.D_IN, generator=generator), made.rows(100)
    sheet = EncoderSheet(activation=name, latents=made.LATENTS, directions=0, d_in=made.D_IN, d_out=made.D_IN, k=k)
    folded = fold(name, {v: vector.numpy() for v, vector in vectors.items()})
    expected = row.reference(x.double() @ W.double().t(), vectors, k)
    verdict = compare(encode(x, W, folded, sheet), expected, grey_pairs(x, W, folded, sheet))
    assert verdict.compared > 100
    assert verdict.good, verdict


@pytest.mark.parametrize("name", [*REFUSED, "softmax"])
def test_what_does_not_fold_is_refused_by_name(name: str) -> None:
    with pytest.raises(ManifestError, match=name) as refused:
        semantics.activation_of(name)
    assert refused.value.subject == "encoder.activation"
    assert REFUSED.get(name, "not in the table") in str(refused.value)


def test_topk_ties_go_to_the_lowest_index() -> None:
    sheet = EncoderSheet(activation="topk", latents=8, directions=0, d_in=1, d_out=1, k=3)
    folded = fold("topk", {"b_enc": np.zeros(8), "decoder_norm": np.ones(8)})
    W = torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0])[:, None]
    assert encode(torch.ones(1, 1), W, folded, sheet).nonzero()[:, 1].tolist() == [0, 1, 4]
    equal = encode(torch.ones(4, 1), torch.ones(8, 1), folded, sheet)
    assert equal.nonzero()[:, 1].tolist() == [0, 1, 2] * 4


FINITE = st.floats(-1e6, 1e6, width=32)


@hypothesis.given(FINITE, st.floats(0, 100, width=32), FINITE, st.floats(0, 1e6, width=32))
def test_raised_limits_are_exact(lim: float, s: float, c: float, floor: float) -> None:
    columns = [np.array([value], dtype=np.float32) for value in (lim, s, c)]
    raised = raise_limits(Folded(*columns), np.array([floor], dtype=np.float32)).lim
    assert raised[0] >= columns[0][0]
    with np.errstate(over="ignore", invalid="ignore"):
        above = np.nextafter(raised, np.float32(np.inf))
        if np.isfinite(above[0]):
            assert columns[1] * above + columns[2] > floor
        if raised[0] > columns[0][0] and np.isfinite(raised[0]):
            assert not columns[1] * raised + columns[2] > floor


def test_a_limit_is_never_negative_zero() -> None:
    folded = fold("relu", {"b_enc": np.array([0.0, -0.0])})
    assert not np.signbit(folded.lim).any()


def test_a_latent_without_decoder_norm_never_fires() -> None:
    folded = fold("topk", {"b_enc": np.array([1.0]), "decoder_norm": np.zeros(1)})
    assert folded.lim[0] == np.inf


def test_ordered_sums_are_summed_in_order() -> None:
    W = made.rows(300, d_in=50)
    b = np.linspace(-1.0, 1.0, 50)
    found = semantics.ordered_dot(W, b)
    for row in (0, 150, 299):
        total = 0.0
        for weight, value in zip(W[row].tolist(), b.tolist(), strict=True):
            total += weight * value
        assert found[row] == total  # bit for bit: no blocks, no fused multiply-add
    assert np.array_equal(semantics.ordered_norm(W[:, :1]), np.abs(W[:, 0].double().numpy()))


def test_ordered_sums_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    W, b = made.rows(37), np.linspace(-1.0, 1.0, made.D_IN)
    whole = semantics.ordered_dot(W, b)
    monkeypatch.setattr(semantics, "_FOLD_ROWS", 8)
    assert np.array_equal(semantics.ordered_dot(W, b), whole)


@hypothesis.given(st.floats(-20, 20))
def test_powers_of_e_are_correctly_rounded(r: float) -> None:
    getcontext().prec = 60
    assert semantics.exp(np.array([r]))[0] == float(Decimal(r).exp())


def test_the_grey_band_is_what_its_definition_says() -> None:
    x, W = made.rows(5), made.rows(7, seed=2)
    band = semantics.grey_band(x, W)
    assert band[2, 3] == pytest.approx(2.0**-20 * float(x[2].norm()) * float(W[3].norm()), rel=1e-6)


def test_pairs_in_the_grey_band_are_counted_apart() -> None:
    found, expected = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    verdict = compare(found, expected, torch.tensor([[True, False, False]]))
    assert (verdict.compared, verdict.mismatched, verdict.in_grey_band) == (3, 1, 1)
    assert not verdict.good


def test_values_are_compared_with_the_rows_largest() -> None:
    small, true = torch.tensor([[1e-3 + 2e-6]]), torch.tensor([[1e-3]])
    no_grey = torch.zeros(1, 1, dtype=torch.bool)
    assert not compare(small, true, no_grey).good
    assert compare(small, true, no_grey, whole=torch.tensor([[1e-3, 1.0]])).good
    verdict = compare(torch.tensor([[1.0, 10.001]]), torch.tensor([[1.0, 10.0]]), torch.zeros(1, 2, dtype=torch.bool))
    assert verdict.error_max == pytest.approx(1e-4, rel=1e-2)
    assert not verdict.good


@pytest.mark.parametrize("kind", NORMS)
def test_unnormalise_undoes_normalise(kind: str) -> None:
    x, norm = made.rows(10), InputNorm(kind=kind, eps=0.0 if kind == "layer_norm" else None)
    prepared, r = semantics.normalise(x, norm)
    scaled = prepared if r is None else prepared * r[:, None]
    assert torch.allclose(semantics.unnormalise(scaled, x, norm), x, atol=1e-5)


def test_an_empty_batch_encodes_to_nothing() -> None:
    one = made.dictionary()
    assert encode(torch.zeros(0, made.D_IN), one.W, one.limits, one.manifest.encoder).shape == (0, made.LATENTS + 2)
