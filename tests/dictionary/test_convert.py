"""Import: from a source folder to a bundle that every machine makes alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saewatch.core.errors import ConfigError, ManifestError, MisfitError
from saewatch.core.manifest import Exclusions, Folding
from saewatch.dictionary.convert import convert, import_source, read_model, read_sources
from saewatch.dictionary.formats import read_probes, read_saelens
from saewatch.dictionary.oracle import SAELENS
from saewatch.engine.dictionary_file import load_bundle
from saewatch.engine.encode import Folded, encode
from tests import made

RULES = Exclusions(exclude_first=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made.model(tmp_path / "model")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sae = made.saelens("jumprelu", apply_b_dec_to_input=True)
    return made.source(tmp_path / "source", sae, directions=3, half=True, max_norm=47.5)


def test_an_imported_dictionary_loads_with_all_that_is_known_of_it(tmp_path, model, source):
    sheet = import_source(source, model, tmp_path / "bundle", name="made", oracle=SAELENS)
    bundle = load_bundle(tmp_path / "bundle", decoder=True)
    assert bundle.sheet == sheet
    manifest = bundle.manifest
    assert (manifest.encoder.latents, manifest.encoder.directions) == (made.LATENTS, 3)
    assert manifest.exclusions == Exclusions(exclude_first=1, special=(0, 2), max_norm=47.5)
    assert manifest.folded == (Folding(what="pre_bias"), Folding(what="rounding"))
    assert manifest.tensors["W"].dtype == "F16"
    assert [feature.id for feature in bundle.catalogue.features] == [
        "fraud.p1", "fraud.p2", "fraud.p3", "threat.g1", "threat.l1",
    ]
    assert bundle.catalogue.watch_list(manifest).rows == (3, 7, 40, 96, 97, 98)
    fit = bundle.fit()
    assert fit is not None
    assert (fit.architecture, fit.layers, fit.model) == ("LlamaForCausalLM", 3, "model")
    stated, made_of = bundle.attestation("stated"), bundle.attestation("provenance")
    assert stated is not None
    assert stated.body["fvu"] == "0.15"
    assert made_of is not None
    assert made_of.body["name"] == "made"
    assert bundle.attestation("conformance") is not None


def test_the_same_inputs_give_the_same_bytes(tmp_path, model, source):
    for name in ("one", "two"):
        import_source(source, model, tmp_path / name, name="made", oracle=SAELENS)
    files = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*.*")}
    assert len(files) == 10
    assert files == {p.relative_to(tmp_path / "two"): p.read_bytes() for p in (tmp_path / "two").rglob("*.*")}


def test_the_digest_of_a_made_dictionary_is_the_same_on_every_machine():
    """Folded from exact inputs by exact steps: if this digest differs, a sum ran in another order."""
    rows = np.arange(6 * 40, dtype=np.float64).reshape(6, 40)
    W = torch.from_numpy(np.sin(1.0) * 0 + (rows % 17 - 8) / 7.0).float()
    source = made_source(W, b_dec=torch.from_numpy(np.arange(40) / 3.0).float())
    folded = convert(source, exclusions=RULES).tensors
    names = ("lim", "s", "c")
    assert [folded[name].numpy().tobytes().hex()[:16] for name in names] == EXPECTED_BITS


def made_source(W, b_dec):
    from saewatch.dictionary.formats import Source

    n = len(W)
    vectors = {"b_gate": torch.linspace(-1, 1, n), "b_mag": torch.full((n,), 0.3), "r_mag": torch.linspace(-0.5, 0.5, n)}
    return Source(
        activation="gated", W=W, vectors=vectors, files=(), hook_point="resid_post.1", pre_bias=True,
        W_dec=torch.ones(n, W.shape[1]), b_dec=b_dec,
    )


EXPECTED_BITS = ["", "", ""]


def test_without_an_oracle_there_are_no_conformance_rows(tmp_path, model, source):
    import_source(source, model, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").attestation("conformance") is None
    assert not (tmp_path / "bundle" / "conformance.safetensors").exists()


def test_directions_keep_their_values_in_float16(source):
    """Weights of 1e-3 and less: float16 alone would lose them."""
    latents, probes = read_saelens(source), read_probes(source)
    tensors = convert(latents, probes, exclusions=RULES).tensors
    rows = tensors["W"][made.LATENTS :].float()
    assert (rows.abs().amax(dim=1) >= 0.5).all()
    x = made.rows(200)
    value = tensors["s"][made.LATENTS :] * (x @ rows.t()) + tensors["c"][made.LATENTS :]
    expected = x @ probes.W.t() + probes.vectors["b_enc"]
    assert torch.allclose(value, expected, atol=3e-4 * float(expected.abs().max()))
    fires = x @ rows.t() > tensors["lim"][made.LATENTS :]
    assert (fires == (expected > 0)).float().mean() > 0.995


def test_directions_beside_float32_latents_are_exact(tmp_path):
    folder = made.source(tmp_path / "source", made.saelens("standard"), directions=2)
    tensors = convert(read_saelens(folder), read_probes(folder), exclusions=RULES).tensors
    assert torch.equal(tensors["W"][made.LATENTS :], load_file(folder / "probes.safetensors")["w"])


def test_probes_alone(tmp_path, model):
    folder = made.source(tmp_path / "source", directions=3, hook_point="resid_post.1")
    import_source(folder, model, tmp_path / "bundle", oracle=SAELENS)
    bundle = load_bundle(tmp_path / "bundle", decoder=True)
    assert bundle.manifest.kind == "probes"
    assert bundle.catalogue.watch_list(bundle.manifest).rows == (0, 1, 2)


def test_probes_alone_must_say_where_they_belong(tmp_path, model):
    folder = made.source(tmp_path / "source", directions=3)
    with pytest.raises(ManifestError, match="hook.point: found nothing, expected the probes' hook point"):
        import_source(folder, model, tmp_path / "bundle")
    other = made.source(tmp_path / "other", made.saelens("standard"), hook_point="resid_post.2")
    with pytest.raises(ManifestError, match=r"hook.point: found resid_post.2, expected resid_post.1"):
        import_source(other, model, tmp_path / "bundle")


def test_probes_of_another_width(tmp_path):
    folder = made.source(tmp_path / "source", made.saelens("standard", d_in=16), directions=1)
    with pytest.raises(ManifestError, match="probes.w: found width 24, expected width 16"):
        convert(*read_sources(folder), exclusions=RULES)


def test_probes_beside_a_normalised_input_are_refused(tmp_path):
    sae = made.saelens("standard", normalize_activations="layer_norm")
    folder = made.source(tmp_path / "source", sae, directions=1)
    with pytest.raises(ManifestError, match="give probes a dictionary of their own"):
        convert(*read_sources(folder), exclusions=RULES)


def test_a_threshold_stands_in_for_the_competition(tmp_path, model):
    sae = made.saelens("topk", k=7, rescale_acts_by_decoder_norm=True)
    folder = made.source(tmp_path / "source", sae)
    import_source(folder, model, tmp_path / "bundle", oracle=SAELENS, threshold=0.75)
    one = load_bundle(tmp_path / "bundle").dictionary
    assert one.manifest.encoder.modes == ("exact", "thresholded")
    assert one.manifest.folded == (Folding(what="decoder_norm"), Folding(what="threshold", constant=0.75))
    x = made.rows(300)
    sheet = one.manifest.encoder
    found = encode(x, one.W, one.folded("thresholded"), sheet, mode="thresholded")
    dense = encode(x, one.W, one.limits, sheet, mode="thresholded")  # limits of 0: before any competition
    assert torch.equal(found > 0, dense > 0.75)
    assert (found > 0).sum(1).float().std() > 0  # no longer k of each row


def test_a_rescaled_decoder_reconstructs_as_saelens_does(tmp_path):
    sae = made.saelens("topk", k=7, rescale_acts_by_decoder_norm=True)
    folder = made.source(tmp_path / "source", sae)
    converted = convert(read_saelens(folder), exclusions=RULES)
    x, tensors = made.rows(50), converted.tensors
    folded = Folded(*(tensors[name].numpy() for name in ("lim", "s", "c")))
    values = encode(x, tensors["W"], folded, converted.manifest.encoder)
    with torch.no_grad():
        assert torch.allclose(values @ tensors["W_dec"] + tensors["b_dec"], sae(x), atol=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_only_topk_takes_a_threshold(source, threshold):
    if threshold is None:
        convert(read_saelens(source), exclusions=RULES)
        return
    with pytest.raises(ManifestError, match="encoder.modes"):
        convert(read_saelens(source), exclusions=RULES, threshold=threshold)


def test_a_model_of_another_width_or_depth(tmp_path, source):
    with pytest.raises(MisfitError, match="dictionary.encoder.d_in: found 24, expected 32, the model's width"):
        import_source(source, made.model(tmp_path / "wide", d_model=32), tmp_path / "bundle")
    with pytest.raises(MisfitError, match=r"hook point resid_post.1: found a model of 1 layers"):
        import_source(source, made.model(tmp_path / "flat", layers=1), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_folder_in_no_known_format(tmp_path, model):
    with pytest.raises(ConfigError, match="no dictionary in a known format, expected one of cfg.json"):
        import_source(tmp_path, model, tmp_path / "bundle")


def test_facts_of_a_model(model):
    facts, special = read_model(model)
    assert (facts.architecture, facts.d_model, facts.layers) == ("LlamaForCausalLM", made.D_IN, 3)
    assert special == (0, 2)  # the ordinary added token is no special one
    assert all(digest.startswith("sha256:") for digest in (facts.weights, facts.tokenizer, facts.chat_template))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_model_folder_that_says_nothing(model, name):
    (model / name).write_text(json.dumps({}))
    with pytest.raises(ManifestError, match="expected config.json and tokenizer.json"):
        read_model(model)
    (model / name).unlink()
    with pytest.raises(ManifestError, match="No such file"):
        read_model(model)
