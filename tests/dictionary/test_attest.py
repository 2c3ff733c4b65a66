"""Attestations made at import: the oracle's word, stated figures and drafted features."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from saewatch.core.errors import ManifestError, TensorFileError
from saewatch.core.manifest import Exclusions
from saewatch.dictionary.attest import conform, provenance, read_adapters, read_features, read_sheet, read_stated
from saewatch.dictionary.convert import Converted, convert
from saewatch.dictionary.formats import read_saelens
from tests import made

WEIGHTS = "sha256:" + "a" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made.source(tmp_path / "source", made.saelens("standard"))


def converted(folder: Path) -> Converted:
    return convert(read_saelens(folder), exclusions=Exclusions())


def test_a_fold_that_the_oracle_contradicts_is_not_written(folder: Path) -> None:
    found = converted(folder)
    tensors = dict(found.tensors)
    tensors["c"] = tensors["c"] + 0.01
    with pytest.raises(
        ManifestError, match=r"conformance: found 0 of \d+ firings differ, values by up to .*sae-lens 6"
    ):
        conform(found.manifest, tensors, folder, made.ORACLE)
    tensors["lim"] = tensors["lim"] + 0.5
    with pytest.raises(ManifestError, match=r"conformance: found [1-9]\d* of \d+ firings differ"):
        conform(found.manifest, tensors, folder, made.ORACLE)


def test_an_oracle_of_another_dictionary_contradicts(folder: Path) -> None:
    other = SimpleNamespace(name="other 1.0", encode=lambda _, x: torch.relu(x[:, :1]).repeat(1, made.LATENTS).double())
    found = converted(folder)
    with pytest.raises(ManifestError, match=r"expected what other 1.0 gives"):
        conform(found.manifest, found.tensors, folder, other)


def test_real_rows_are_used_where_there_are_some(folder: Path) -> None:
    x = made.rows(10)
    save_file({"x": x}, folder / "rows.safetensors")
    found = converted(folder)
    _, rows = conform(found.manifest, found.tensors, folder, made.ORACLE)
    assert torch.equal(rows["inputs"], x)
    assert (rows["value"] > 0).all()


@pytest.mark.parametrize("tensors", [{"y": torch.ones(1, 24)}, {"x": torch.ones(2, 25)}, {"x": torch.ones(24)}])
def test_rows_of_another_form_are_refused(folder: Path, tensors: Any) -> None:
    save_file(tensors, folder / "rows.safetensors")
    found = converted(folder)
    with pytest.raises(TensorFileError, match=r"rows.safetensors: x: found .* expected 1 to 4096 rows of 24"):
        conform(found.manifest, found.tensors, folder, made.ORACLE)


def test_made_rows_have_the_stated_norm_and_fire(folder: Path) -> None:
    found = converted(folder)
    _, rows = conform(found.manifest, found.tensors, folder, made.ORACLE, norm=9.5)
    norms = (rows["inputs"] - found.tensors["b_dec"]).norm(dim=1)
    assert torch.allclose(norms, torch.full_like(norms, 9.5), rtol=1e-5)
    assert len(rows["row"].unique()) == 64


def test_stated_figures_become_decimals(tmp_path: Path) -> None:
    (tmp_path / "stated.json").write_text(json.dumps({"fvu": 0.1, "n": 3, "by": {"role": [0.5, None]}, "max_norm": 7}))
    found = read_stated(tmp_path)
    assert found.body == {"fvu": "0.1", "n": 3, "by": {"role": ["0.5", None]}, "max_norm": 7}
    assert (found.max_norm, found.mean_norm) == (7.0, None)
    assert read_stated(tmp_path / "nowhere").body == {}


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ([1], "stated.json: found list"),
        ({"max_norm": "7"}, "stated.json: max_norm: found '7'"),
        ({"exclude_first": 0.5}, "stated.json: exclude_first: found 0.5"),
        ({"hook_point": 5}, "stated.json: hook_point: found 5"),
        ({"exclude_special": [1, "2"]}, "stated.json: exclude_special: found [1, '2']"),
        ({"exclude_special": True}, "stated.json: exclude_special: found True"),
    ],
)
def test_figures_that_are_none_are_refused(tmp_path: Path, stated: Any, message: str) -> None:
    (tmp_path / "stated.json").write_text(json.dumps(stated))
    with pytest.raises(ManifestError) as refused:
        read_stated(tmp_path)
    assert message in str(refused.value)


DRAFT = {
    "id": "threat.l1",
    "label": "x",
    "category": "vcr",
    "severity": "low",
    "kind": "latent",
    "latents": [3],
    "floor": 0.5,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"floor": "0.5"}, "features.json: [0].floor: found '0.5', expected a number"),
        ({"kind": "neuron"}, "features.json: [0].kind: found 'neuron'"),
        ({"colour": "red"}, "features.json: [0].colour: found an unknown member"),
        ({"direction": 1}, "features.json: [0].direction: found an unknown member"),
        ({"latents": [True]}, "features.json: [0].latents: found bool"),
    ],
)
def test_a_wrong_draft_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "features.json").write_text(json.dumps([DRAFT | change]))
    with pytest.raises(ManifestError) as refused:
        read_features(tmp_path, WEIGHTS)
    assert message in str(refused.value)


def test_adapters_that_it_was_evaluated_on_are_attested_each(tmp_path: Path) -> None:
    assert read_adapters(tmp_path) == []
    listed = [{"name": "sql", "how": "by hand"}, {"name": "chat", "how": "by hand"}]
    (tmp_path / "adapters.json").write_text(json.dumps(listed))
    assert read_adapters(tmp_path) == listed
    for wrong, message in (({}, "adapters.json: found dict"), ([{"name": "sql"}], r"adapters.json: \[0\].how: found")):
        (tmp_path / "adapters.json").write_text(json.dumps(wrong))
        with pytest.raises(ManifestError, match=message):
            read_adapters(tmp_path)


def test_a_groups_weights_stay_with_their_latents(tmp_path: Path) -> None:
    group = DRAFT | {"id": "threat.g1", "kind": "group", "latents": [9, 3], "scope": "prompt"}
    head = {"weights": [0.5, -2.25], "head": "sum of weight * log1p(max)"}
    (tmp_path / "features.json").write_text(json.dumps([group | head]))
    found = read_features(tmp_path, WEIGHTS).features[0]
    assert (found.latents, found.head, found.scope) == ((3, 9), (-2.25, 0.5), "prompt")
    for wrong in ({"weights": [0.5]}, {"weights": [0.5, 1]}, {"head": "another"}):
        (tmp_path / "features.json").write_text(json.dumps([group | head | wrong]))
        with pytest.raises(ManifestError, match=r"features.json: \[0\].(weights|head): found"):
            read_features(tmp_path, WEIGHTS)


def test_the_quality_sheet_is_attested_whole(tmp_path: Path) -> None:
    assert read_sheet(tmp_path) == {}
    (tmp_path / "sheet.json").write_text(json.dumps({"auroc": {"threat": [0.5, 1]}}))
    assert read_sheet(tmp_path) == {"auroc": {"threat": ["0.5", 1]}}


def test_drafts_are_put_in_order_and_have_defaults(tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text(json.dumps([DRAFT | {"id": "threat.l2"}, DRAFT]))
    found = read_features(tmp_path, WEIGHTS)
    assert [feature.id for feature in found.features] == ["threat.l1", "threat.l2"]
    assert {(feature.aggregation, feature.claim) for feature in found.features} == {("max", "correlational")}
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"features.json: found dict, expected a list"):
        read_features(tmp_path, WEIGHTS)


def test_no_draft_is_an_empty_catalogue(tmp_path: Path) -> None:
    assert read_features(tmp_path, WEIGHTS).features == ()


def test_provenance_names_what_was_read(folder: Path) -> None:
    found = provenance(folder, ["cfg.json"], name="made")
    assert found["name"] == "made"
    files = found["files"]
    assert isinstance(files, list)
    assert isinstance(files[0], dict)
    assert files[0]["name"] == "cfg.json"
