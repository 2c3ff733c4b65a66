"""saewatch dictionary label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from saewatch.core.label import Review, Score, Source
from saewatch.engine.dictionary_file import load_bundle
from tests import made
from tests.dictionary.test_neuronpedia import batch, line


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made.bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def label(bundle: Path, *words: object) -> int:
    return cli.main(["dictionary", "label", str(bundle), *map(str, words)])


def asked(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_csv_makes_a_bundle_of_the_same_dictionary(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "labels.csv"
    sheet.write_text("feature,latent,label,severity\nthreat.l1,,Threats of harm,critical\n,12,Cities,\n")
    words = ("--csv", sheet, "--new", "place", "--out", tmp_path / "new")
    assert label(bundle, *words, "--json") == cli.GOOD
    said = asked(capsys)
    old, new = load_bundle(bundle), load_bundle(tmp_path / "new")
    assert (said["changed"], said["added"], said["kept"], said["unnamed"]) == (["threat.l1"], ["place.l1"], [], 0)
    assert (new.sheet.weights, new.sheet.digest, new.catalogue.digest) == (
        old.sheet.weights,
        said["bundle"],
        said["catalogue_digest"],
    )
    assert new.catalogue.parent == old.catalogue.digest
    place, _, latent, _ = new.catalogue.features
    assert (place.id, place.latents, place.category) == ("place.l1", (12,), "x.place")
    assert (latent.label, latent.severity, latent.source) == ("Threats of harm", "critical", Source(kind="csv"))
    (attested,) = [one for one in new.attestations if one.kind == "label"]
    assert (attested.body["method"], attested.body["labels"]) == ("csv", ["place.l1", "threat.l1"])
    assert (attested.body["from"], attested.body["catalogue"]) == (old.catalogue.digest, new.catalogue.digest)
    assert label(bundle, *words, "--json") == cli.GOOD, "the same again is the same bundle"
    assert asked(capsys)["bundle"] == said["bundle"]
    assert cli.main(["dictionary", "show", str(tmp_path / "new")]) == cli.GOOD
    assert "threat.l1  Threats of harm (unreviewed); from csv" in capsys.readouterr().out


def test_an_export_labels_the_latents_of_features_once_somebody_confirmed_the_weights(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch(tmp_path, line("3", scores=[{"value": 0.75}]), line("3", "another view"), line("12", "cities"))
    words: tuple[object, ...] = ("--neuronpedia", tmp_path, "--out", tmp_path / "new")
    assert label(bundle, *words) == cli.FAILED
    weights = load_bundle(bundle).sheet.weights
    assert f"expected {weights}. An export does not name the weights" in capsys.readouterr().err
    words = (*words, "--confirm-weights", weights)
    assert label(bundle, *words) == cli.FAILED, "the label is a person's, as far as is known"
    said = capsys.readouterr().out
    assert "kept   threat.l1" in said
    assert "nothing was written" in said
    assert not (tmp_path / "new").exists()
    assert label(bundle, *words, "--overwrite", "--new", "found", "--json") == cli.GOOD
    new = load_bundle(tmp_path / "new")
    found, _, latent, _ = new.catalogue.features
    assert (found.id, found.label, found.latents) == ("found.l1", "cities", (12,))
    assert (latent.label, latent.score) == ("names of capital cities", Score(claimed=0.75))
    assert (latent.source, latent.review) == (
        Source(kind="neuronpedia", model="gpt-4o-mini"),
        Review(state="unreviewed"),
    )
    (attested,) = [one for one in new.attestations if one.kind == "label"]
    kept: Any = attested.body["explanations"]
    assert [(one["latent"], one["text"]) for one in kept] == [
        (3, "names of capital cities"),
        (3, "another view"),
        (12, "cities"),
    ]
    assert (attested.body["model"], attested.body["source"]) == ("made-1m", "1-res-96")


def test_only_some_latents_and_one_explainer(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch(tmp_path, line("12", "a"), line("12", "b", explanationModelName="other"), line("13", "c"))
    weights = load_bundle(bundle).sheet.weights
    words = ("--neuronpedia", tmp_path, "--confirm-weights", weights, "--latent", 12, "--explainer", "other")
    assert label(bundle, *words, "--new", "found", "--out", tmp_path / "new", "--json") == cli.GOOD
    assert asked(capsys)["added"] == ["found.l1"]
    assert load_bundle(tmp_path / "new").catalogue.features[0].label == "b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("feature,label\nnone.l1,x\n", "labels.csv:2: none.l1: found no such feature"),
        ("latent,label\n96,x\n", "labels.csv:2: latent: found 96, expected below 96"),
        ("feature,label\nthreat.l1,x\nthreat.l1,y\n", "labels.csv:3: threat.l1: found a label at labels.csv:2 already"),
    ],
)
def test_bad_labels_are_refused_before_anything_is_written(
    text: str, said: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    assert label(bundle, "--csv", tmp_path / "labels.csv", "--out", tmp_path / "new") == cli.FAILED
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "labels.csv"]
    assert label(bundle, "--csv", tmp_path / "none.csv", "--out", tmp_path / "new") == cli.UNREACHED


def test_weights_that_a_csv_is_said_to_be_about_are_checked_too(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "labels.csv"
    sheet.write_text("feature,label\nthreat.l1,Threats of harm\n")
    words = ("--csv", sheet, "--out", tmp_path / "new")
    assert label(bundle, *words, "--confirm-weights", f"sha256:{'0' * 64}") == cli.FAILED
    assert "weights" in capsys.readouterr().err
    assert label(bundle, *words, "--confirm-weights", load_bundle(bundle).sheet.weights) == cli.GOOD


@pytest.mark.parametrize("option", [("--latent", "12"), ("--explainer", "gpt")])
def test_what_is_said_of_exports_is_refused_with_a_csv(
    option: tuple[str, str], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("feature,label\nthreat.p1,Threats\n")
    words = ("--csv", tmp_path / "labels.csv", "--out", tmp_path / "out", *option)
    assert label(bundle, *words) == cli.USAGE
    assert f"{option[0]}: found given" in capsys.readouterr().err
