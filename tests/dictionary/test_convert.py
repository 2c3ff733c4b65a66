"""Import: from a source folder to a bundle that every machine makes alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saewatch.core.errors import ConfigError, ManifestError, MisfitError
from saewatch.core.manifest import Exclusions, Folding
from saewatch.dictionary.attest import conform
from saewatch.dictionary.bundle import read_parts, write_bundle
from saewatch.dictionary.convert import convert, import_source, read_model
from saewatch.dictionary.formats import Source, read_all, read_probes, read_saelens
from saewatch.edge.dictionaries import load_one
from saewatch.engine import heads
from saewatch.engine.dictionary_file import load_bundle
from saewatch.engine.encode import Folded, encode
from tests import layouts, made

RULES = Exclusions(exclude_first=1)

FIXTURE = Path(__file__).resolve().parents[1] / "fixture"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made.model(tmp_path / "model")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    sae = made.saelens("jumprelu", apply_b_dec_to_input=True)
    return made.source(tmp_path / "source", sae, directions=3, half=True, max_norm=47.5)


def test_an_imported_dictionary_loads_with_all_that_is_known_of_it(tmp_path: Path, model: Path, source: Path) -> None:
    (source / "adapters.json").write_text(json.dumps([{"name": "sql", "how": "by hand"}]))
    sheet = import_source(source, model, tmp_path / "bundle", name="made", oracle=made.ORACLE)
    bundle = load_bundle(tmp_path / "bundle", decoder=True)
    assert bundle.sheet == sheet
    manifest = bundle.manifest
    assert (manifest.encoder.latents, manifest.encoder.directions) == (made.LATENTS, 3)
    assert manifest.exclusions == Exclusions(exclude_first=1, special=(0, 2), max_norm=47.5)
    assert manifest.folded == (Folding(what="pre_bias"), Folding(what="rounding"))
    assert manifest.tensors["W"].dtype == "F16"
    assert [feature.id for feature in bundle.catalogue.features] == [
        "fraud.p1",
        "fraud.p2",
        "fraud.p3",
        "threat.g1",
        "threat.l1",
    ]
    assert bundle.catalogue.watch_list(manifest).rows == (3, 7, 40, 96, 97, 98)
    fit = bundle.fit()
    assert fit is not None
    assert (fit.architecture, fit.layers, fit.model) == ("LlamaForCausalLM", 3, "made-1M")
    assert load_one(tmp_path / "bundle").adapters == {"sql"}
    stated, made_of = bundle.attestation("stated"), bundle.attestation("provenance")
    assert stated is not None
    assert stated.body["fvu"] == "0.15"
    assert made_of is not None
    assert made_of.body["name"] == "made"
    assert bundle.attestation("conformance") is not None


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, model: Path, source: Path) -> None:
    for name in ("one", "two"):
        import_source(source, model, tmp_path / name, name="made", oracle=made.ORACLE)
    files = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*.*")}
    assert len(files) == 10
    assert files == {p.relative_to(tmp_path / "two"): p.read_bytes() for p in (tmp_path / "two").rglob("*.*")}


def test_a_folded_digest_is_the_same_on_every_machine() -> None:
    """Made without sine or random numbers, folded with a pre-bias: another digest means another order of summation."""
    n, d = 6, 40
    W = ((np.arange(n * d) * 37 % 101 - 50) / 7.0).reshape(n, d)
    vectors = {name: torch.from_numpy((np.arange(n) - at) / 11.0).float() for at, name in enumerate(GATED)}
    source = Source(
        activation="gated",
        W=torch.from_numpy(W).float(),
        vectors=vectors,
        files=(),
        hook_point="resid_post.1",
        pre_bias=True,
        W_dec=torch.ones(n, d),
        b_dec=torch.from_numpy(np.arange(d) / 3.0).float(),
    )
    assert (
        convert(source, exclusions=RULES).manifest.digest
        == "sha256:c4a52d3135f095eb0aa463ac23fd4df92e7a604b284d26ef7cd053fe1328653b"
    )


GATED = ("b_gate", "b_mag", "r_mag")


def test_without_an_oracle_there_are_no_conformance_rows(tmp_path: Path, model: Path, source: Path) -> None:
    import_source(source, model, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").attestation("conformance") is None
    assert not (tmp_path / "bundle" / "conformance.safetensors").exists()


def test_without_a_model_nothing_says_which_one_it_fits(tmp_path: Path, source: Path) -> None:
    import_source(source, None, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.fit() is None
    assert bundle.manifest.exclusions == Exclusions(exclude_first=1, max_norm=47.5)
    (source / "stated.json").write_text(json.dumps({"exclude_special": [4]}))
    import_source(source, None, tmp_path / "other")
    assert load_bundle(tmp_path / "other").manifest.exclusions.special == (4,)


def test_what_a_reader_folded_is_in_the_data_sheet(tmp_path: Path) -> None:
    layout = layouts.layouts()["llama_scope"]
    import_source(layout.write(tmp_path / "source"), None, tmp_path / "bundle")
    folded = load_bundle(tmp_path / "bundle").manifest.folded
    assert folded == (Folding(what="normalisation", constant=24**0.5 / 9.5), Folding(what="decoder_norm"))


def test_one_file_is_imported_with_what_lies_beside_it(tmp_path: Path) -> None:
    layout = layouts.layouts()["gemma_scope"]
    folder = layout.write(tmp_path / "source")
    (folder / "stated.json").write_text(json.dumps({"hook_point": layouts.POINT, "max_norm": 9}))
    import_source(folder / layout.weights, None, tmp_path / "bundle")
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert (manifest.hook_point, manifest.exclusions.max_norm) == (layouts.POINT, 9.0)


def test_directions_keep_their_values_in_float16(source: Path) -> None:
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


def test_directions_beside_float32_latents_are_exact(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard"), directions=2)
    tensors = convert(read_saelens(folder), read_probes(folder), exclusions=RULES).tensors
    assert torch.equal(tensors["W"][made.LATENTS :], load_file(folder / "probes.safetensors")["w"])


def test_what_was_left_out_in_training_is_left_out_in_serving(tmp_path: Path, model: Path) -> None:
    stated: dict[str, Any] = {"exclude_first": 3, "exclude_special": [5, 4], "max_norm": 12}
    folder = made.source(tmp_path / "source", made.saelens("standard"), **stated)
    (folder / "sheet.json").write_text(json.dumps({"auroc": 0.9}))
    import_source(folder, model, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.manifest.exclusions == Exclusions(exclude_first=3, special=(4, 5), max_norm=12.0)
    quality = bundle.attestation("quality")
    assert quality is not None
    assert quality.body == {"auroc": "0.9"}


def test_probes_alone(tmp_path: Path, model: Path) -> None:
    folder = made.source(tmp_path / "source", directions=3, hook_point="resid_post.1")
    import_source(folder, model, tmp_path / "bundle", oracle=made.ORACLE)
    bundle = load_bundle(tmp_path / "bundle", decoder=True)
    assert bundle.manifest.kind == "probes"
    assert bundle.catalogue.watch_list(bundle.manifest).rows == (0, 1, 2)


def test_heads_come_in_beside_latents_and_rows(tmp_path: Path, model: Path, source: Path) -> None:
    path = source / "probes.safetensors"
    headed = made.headed(0, "gelu", 5) | made.headed(1, "relu", 3) | made.headed(2, "silu", 3)
    save_file(load_file(path) | headed | made.headed(3, "gelu_tanh", 4), path)
    feature = {"id": "fraud.p4", "label": "a head", "category": "ncr", "severity": "high", "floor": 0.25}
    features = json.loads((source / "features.json").read_text())
    (source / "features.json").write_text(json.dumps([*features, feature | {"kind": "probe", "direction": 3}]))
    sheet = import_source(source, model, tmp_path / "bundle", oracle=made.ORACLE)
    parts = read_parts(tmp_path / "bundle")
    encoder = parts.manifest.encoder
    assert (encoder.directions, [head.direction for head in encoder.heads]) == (7, [3, 4, 5, 6])
    assert torch.equal(parts.tensors["head.3.W1"], headed["heads.0.mlp.gelu.W1"]), "float32 beside float16 latents"
    answered = parts.rows["index"] >= made.LATENTS + 3
    assert answered.any(), "the stored rows say what heads give"
    assert write_bundle(parts, tmp_path / "again") == sheet
    assert load_one(tmp_path / "bundle").catalogue.watch_list(parts.manifest).rows[-1] == made.LATENTS + 3


@pytest.mark.parametrize("between", ["relu", "gelu", "gelu_tanh", "silu"])
def test_a_head_that_is_read_wrong_is_found_by_its_answers(between: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made.dictionary(heads=[(between, 8)])
    parts = (one.manifest, made.tensors_of(one), Path("nowhere"), NoLatents())
    _, rows = conform(*parts)
    assert (rows["index"] == made.LATENTS + 2).any()
    monkeypatch.setitem(heads.ACTIVATIONS, between, torch.tanh)
    with pytest.raises(ManifestError, match=r"conformance: found .* firings differ"):
        conform(*parts)


class NoLatents:
    """Stands in for a library: it says what our reference says, so that heads alone can differ."""

    name = "made 1"

    def encode(self, _folder: Path, x: torch.Tensor) -> torch.Tensor:
        one = made.dictionary()
        return encode(x, one.W, one.limits, one.manifest.encoder)[:, : made.LATENTS].double()


def test_heads_alone_have_rows_that_make_them_fire(tmp_path: Path, model: Path) -> None:
    folder = made.source(tmp_path / "source", hook_point="resid_post.1")
    save_file(made.headed(0, "gelu", 8), folder / "probes.safetensors")
    import_source(folder, model, tmp_path / "bundle", oracle=made.ORACLE)
    parts = read_parts(tmp_path / "bundle")
    assert len(set(parts.rows["value"].tolist())) >= 5


def pooled_source(folder: Path) -> Path:
    folder = made.source(folder, hook_point="resid_post.1")
    save_file(made.attending(0) | made.attending(1, 1, seed=1), folder / "probes.safetensors")
    return folder


def test_pooled_probes_come_in_alone(tmp_path: Path, model: Path) -> None:
    sheet = import_source(pooled_source(tmp_path / "source"), model, tmp_path / "bundle")
    parts = read_parts(tmp_path / "bundle")
    assert [head.kind for head in parts.manifest.encoder.heads] == ["attention", "attention"]
    assert torch.equal(parts.tensors["head.0.q"], made.attending(0)["heads.0.attention.q"])
    assert write_bundle(parts, tmp_path / "again") == sheet


def test_pooled_probes_beside_others_are_refused(tmp_path: Path, model: Path, source: Path) -> None:
    save_file(load_file(source / "probes.safetensors") | made.attending(0), source / "probes.safetensors")
    with pytest.raises(ManifestError, match="expected no latents, rows or other heads beside pooled ones"):
        import_source(source, model, tmp_path / "bundle")


def test_rows_without_their_request_have_no_pooled_value(tmp_path: Path, model: Path) -> None:
    import_source(pooled_source(tmp_path / "source"), model, tmp_path / "bundle")
    one = load_bundle(tmp_path / "bundle").dictionary
    with pytest.raises(ManifestError, match="found pooled probes, expected rows that have a value each"):
        encode(made.rows(3), one.W, one.limits, one.manifest.encoder)


def test_probes_alone_must_say_where_they_belong(tmp_path: Path, model: Path) -> None:
    folder = made.source(tmp_path / "source", directions=3)
    with pytest.raises(ManifestError, match=r"hook.point: found nothing, expected the probes' hook point"):
        import_source(folder, model, tmp_path / "bundle")
    other = made.source(tmp_path / "other", made.saelens("standard"), hook_point="resid_post.2")
    with pytest.raises(ManifestError, match=r"hook.point: found resid_post.2, expected resid_post.1"):
        import_source(other, model, tmp_path / "bundle")


def test_probes_of_another_width(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard", d_in=16), directions=1)
    with pytest.raises(ManifestError, match=r"probes.w: found width 24, expected width 16"):
        convert(*read_all(folder), exclusions=RULES)


def test_probes_beside_a_normalised_input_are_refused(tmp_path: Path) -> None:
    sae = made.saelens("standard", normalize_activations="layer_norm")
    folder = made.source(tmp_path / "source", sae, directions=1)
    with pytest.raises(ManifestError, match="give probes a dictionary of their own"):
        convert(*read_all(folder), exclusions=RULES)


def test_a_threshold_stands_in_for_the_competition(tmp_path: Path, model: Path) -> None:
    sae = made.saelens("topk", k=7, rescale_acts_by_decoder_norm=True)
    folder = made.source(tmp_path / "source", sae, directions=1)
    import_source(folder, model, tmp_path / "bundle", oracle=made.ORACLE, threshold=0.75)
    one = load_bundle(tmp_path / "bundle").dictionary
    assert one.manifest.encoder.modes == ("exact", "thresholded")
    assert one.manifest.folded == (Folding(what="decoder_norm"), Folding(what="threshold", constant=0.75))
    x = made.rows(300)
    sheet = one.manifest.encoder
    found = encode(x, one.W, one.folded("thresholded"), sheet, mode="thresholded")
    dense = encode(x, one.W, one.limits, sheet, mode="thresholded")  # limits of 0: before any competition
    latents = slice(made.LATENTS)
    assert torch.equal(found[:, latents] > 0, dense[:, latents] > 0.75)
    assert torch.equal(found[:, made.LATENTS :], dense[:, made.LATENTS :])  # directions do not compete
    assert (dense[:, made.LATENTS :] > 0).any()
    assert (found > 0).sum(1).float().std() > 0  # no longer k of each row


def test_a_rescaled_decoder_reconstructs_as_saelens_does(tmp_path: Path) -> None:
    sae = made.saelens("topk", k=7, rescale_acts_by_decoder_norm=True)
    folder = made.source(tmp_path / "source", sae)
    converted = convert(read_saelens(folder), exclusions=RULES)
    x, tensors = made.rows(50), converted.tensors
    folded = Folded(*(tensors[name].numpy() for name in ("lim", "s", "c")))
    values = encode(x, tensors["W"], folded, converted.manifest.encoder)
    with torch.no_grad():
        assert torch.allclose(values @ tensors["W_dec"] + tensors["b_dec"], sae(x), atol=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_only_topk_takes_a_threshold(source: Path, threshold: float | None) -> None:
    if threshold is None:
        convert(read_saelens(source), exclusions=RULES)
        return
    with pytest.raises(ConfigError, match="--threshold: found jumprelu, expected TopK"):
        convert(read_saelens(source), exclusions=RULES, threshold=threshold)


def test_a_model_of_another_width_or_depth(tmp_path: Path, source: Path) -> None:
    with pytest.raises(MisfitError, match=r"dictionary.encoder.d_in: found 24, expected 32, the model's width"):
        import_source(source, made.model(tmp_path / "wide", d_model=32), tmp_path / "bundle")
    with pytest.raises(MisfitError, match=r"hook point resid_post.1: found a model of 1 layers"):
        import_source(source, made.model(tmp_path / "flat", layers=1), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_folder_in_no_known_format(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ConfigError, match=r"no dictionary in a known format, expected one of saelens"):
        import_source(tmp_path, model, tmp_path / "bundle")
    with pytest.raises(ConfigError, match="found a bundle, which is imported already"):
        import_source(FIXTURE / "bundle", model, tmp_path / "bundle")


def test_facts_of_a_model(model: Path) -> None:
    facts, special = read_model(model)
    assert (facts.architecture, facts.d_model, facts.layers) == ("LlamaForCausalLM", made.D_IN, 3)
    assert special == (0, 2)  # the ordinary added token is no special one
    assert all(digest.startswith("sha256:") for digest in (facts.weights, facts.tokenizer, facts.chat_template))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_model_folder_that_says_nothing(model: Path, name: str) -> None:
    (model / name).write_text(json.dumps({}))
    with pytest.raises(ManifestError, match=r"expected config.json and tokenizer.json"):
        read_model(model)
    (model / name).unlink()
    with pytest.raises(ManifestError, match="No such file"):
        read_model(model)
