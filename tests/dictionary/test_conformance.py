"""Bundles beside the libraries of their sources: they agree, and whatever is read wrong is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saewatch.core import limits
from saewatch.core.errors import ConfigError, MisfitError
from saewatch.dictionary.conformance import conformance, made_rows
from saewatch.dictionary.convert import import_source
from saewatch.engine.dictionary_file import load_bundle
from tests import made
from tests.dictionary import libraries


@pytest.fixture(scope="module")
def saelens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source folder of SAELens, with its bundle beside it."""
    at = tmp_path_factory.mktemp("saelens")
    sae = made.saelens("jumprelu", apply_b_dec_to_input=True)
    import_source(made.source(at / "source", sae, directions=2), made.model(at / "model"), at / "bundle")
    return at


def test_a_bundle_of_saelens(saelens: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=made.rows(44).numpy())
    found = conformance(saelens / "bundle", saelens / "source", "saelens", rows=200, given=tmp_path / "x.npz")
    assert found.good
    assert (found.rows, found.latents, found.directions) == (244, made.LATENTS, 2)
    assert found.verdict.compared > 2000
    assert found.verdict.error_max < 1e-5
    assert found.facts()["index_mismatch"] == 0


def test_sparsify(tmp_path: Path) -> None:
    tensors = libraries.sparsify(tmp_path / "source")
    bundle = libraries.bundle(
        tmp_path / "bundle",
        "topk",
        W=tensors["encoder.weight"],
        vectors={"b_enc": tensors["encoder.bias"]},
        pre_bias=tensors["b_dec"],
        k=libraries.K,
    )
    found = conformance(bundle, tmp_path / "source", "sparsify")
    assert found.good
    assert found.verdict.compared == 256 * libraries.K
    relu = libraries.bundle(
        tmp_path / "relu",
        "relu",
        W=tensors["encoder.weight"],
        vectors={"b_enc": tensors["encoder.bias"]},
        pre_bias=tensors["b_dec"],
    )
    wrong = conformance(relu, tmp_path / "source", "sparsify")
    assert not wrong.good  # TopK loaded as ReLU
    assert wrong.verdict.mismatched > 1000


def test_dictionary_learning(tmp_path: Path) -> None:
    tensors = libraries.learned(tmp_path / "source", "MatryoshkaBatchTopKSAE")
    bundle = libraries.bundle(
        tmp_path / "bundle",
        "batchtopk",
        W=tensors["W_enc"].t().contiguous(),
        vectors={"b_enc": tensors["b_enc"], "threshold": tensors["threshold"].repeat(libraries.LATENTS)},
        pre_bias=tensors["b_dec"],
    )
    with pytest.raises(ConfigError, match=r"weights in a pickle, expected --allow-pickle. Whoever made a pickle"):
        conformance(bundle, tmp_path / "source", "dictionary_learning")
    found = conformance(bundle, tmp_path / "source", "dictionary_learning", allow_pickle=True)
    assert found.good, found
    assert found.verdict.compared > 1000


def test_whatever_is_read_wrong_is_seen(saelens: Path, tmp_path: Path) -> None:
    """The same dictionary without its bias before the encoder, and with its values a thousandth off."""
    sae = made.saelens("jumprelu", apply_b_dec_to_input=False)
    sae.b_dec.data = made.saelens("jumprelu").b_dec.data
    for name, change in (("bias", lambda: None), ("scale", lambda: sae.W_enc.data.mul_(1.001))):
        change()
        source = made.source(tmp_path / name, sae)
        found = conformance(saelens / "bundle", source, "saelens")
        assert not found.good
        assert found.verdict.mismatched or found.verdict.error_max > 1e-5


def test_where_nothing_fires_nothing_was_shown(tmp_path: Path) -> None:
    sae = made.saelens("standard")
    sae.b_enc.data.fill_(-1e6)
    source = made.source(tmp_path / "source", sae)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle")
    found = conformance(tmp_path / "bundle", source, "saelens")
    assert (found.verdict.good, found.verdict.compared, found.good) == (True, 0, False)


def test_made_rows_have_the_stated_norm_and_depend_on_the_seed(saelens: Path) -> None:
    bundle = load_bundle(saelens / "bundle", decoder=True)
    x = made_rows(bundle, 41, seed=1)
    assert x.shape == (41, made.D_IN)
    assert bundle.dictionary.b_dec is not None
    norms = (x[21:] - bundle.dictionary.b_dec).norm(dim=1)
    assert torch.allclose(norms, torch.full_like(norms, 9.5), rtol=1e-5)
    assert 7 < x[:21].norm(dim=1).mean() < 12
    assert torch.equal(x, made_rows(bundle, 41, seed=1))
    assert not torch.equal(x, made_rows(bundle, 41, seed=2))
    assert made_rows(bundle, 0, seed=0).shape == (0, made.D_IN)
    assert made_rows(bundle, 1, seed=0).shape == (1, made.D_IN)


def test_rows_and_sources_that_do_not_fit(saelens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = made.source(tmp_path / "other", made.saelens("standard", latents=80))
    with pytest.raises(MisfitError, match="found 80 latents, expected 96, as the bundle has"):
        conformance(saelens / "bundle", other, "saelens")
    np.savez(tmp_path / "x.npz", x=made.rows(9, d_in=23).numpy())
    with pytest.raises(MisfitError, match="width 23"):
        conformance(saelens / "bundle", saelens / "source", "saelens", given=tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=made.rows(9).numpy())
    monkeypatch.setattr(limits, "CONFORMANCE_ROWS", 8)
    with pytest.raises(ConfigError, match="found 9 rows, expected at most 8"):
        conformance(saelens / "bundle", saelens / "source", "saelens", given=tmp_path / "x.npz")
    probes = made.source(tmp_path / "probes", directions=2, hook_point="resid_post.1")
    import_source(probes, made.model(tmp_path / "model"), tmp_path / "bundle")
    with pytest.raises(ConfigError, match="directions only"):
        conformance(tmp_path / "bundle", probes, "saelens")
