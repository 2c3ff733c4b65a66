"""saewatch dictionary align, on the fixture and copies of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dictionaries.train.corpus import Generator
from saewatch import cli
from saewatch.core.attestation import read_fit
from saewatch.dictionary.bundle import Parts, read_parts, write_bundle
from saewatch.score import Scorer
from tests import made
from tests.dictionary.aligned import parts, permuted

FIXTURE = Path(__file__).resolve().parents[2] / "fixture"
BUNDLE, MODEL = FIXTURE / "bundle", FIXTURE / "model"
OLD = read_parts(BUNDLE)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    generator = Generator("b", seed=3)
    requests = generator.innocents(60) + generator.hazards(4)
    path.write_text("".join(json.dumps({"text": one.prompt}) + "\n" for one in requests))
    return path


def align(new: Path, texts: Path, *words: object) -> int:
    given = [BUNDLE, new, "--model", MODEL, "--texts", texts, "--chat", *words]
    return cli.main(["dictionary", "align", *map(str, given)])


def copy(folder: Path, scale: float) -> tuple[Path, list[int]]:
    new, went = permuted(OLD, torch.full((OLD.manifest.encoder.latents,), scale))
    fit = [replace(one, weights=new.manifest.digest) for one in OLD.attestations if one.kind == "fit"]
    write_bundle(replace(new, attestations=fit), folder)
    return folder, went


def other_seed(folder: Path) -> Path:
    one = made.dictionary(seed=4, d_in=128, latents=256, exclusions=OLD.manifest.exclusions)
    new = parts(one, features=())
    manifest = replace(new.manifest, hook_point=OLD.manifest.hook_point)
    catalogue = replace(new.catalogue, weights=manifest.digest)
    write_bundle(replace(new, manifest=manifest, catalogue=catalogue), folder)
    return folder


def test_a_permuted_copy_keeps_every_id(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, went = copy(tmp_path / "new", 1.0)
    assert align(new, texts, "--out", tmp_path / "out", "--json") == cli.GOOD
    told = json.loads(capsys.readouterr().out)
    assert told["latents"]["accepted"] == told["latents"]["live"] > 400
    named = {latent for one in OLD.catalogue.features for latent in one.latents}
    lost = {one["id"]: one["why"] for one in told["lost"]}
    assert all("tokens, 20 are needed" in why for why in lost.values()), "nothing else speaks against one"
    found = {one["id"]: one for one in told["features"]}
    assert found.keys() | lost.keys() == {one.id for one in OLD.catalogue.features}
    assert len(found) > 30
    assert all(pair["new"] == went[pair["old"]] for one in found.values() for pair in one["latents"])
    assert named
    written = read_parts(tmp_path / "out")
    assert [one.id for one in written.catalogue.features] == sorted(found)
    assert written.manifest.digest == told["weights"] == read_parts(new).manifest.digest, "the same dictionary"
    assert [one.kind for one in written.attestations if one.kind == "calibration"] == []


def test_a_rescaled_copy_is_found_whole_and_groups_that_weigh_values_are_lost(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, _ = copy(tmp_path / "new", 2.5)
    assert align(new, texts) == cli.GOOD
    said = capsys.readouterr().out
    assert "its values are 2.5 times as large" in said
    assert "tokens are recommended" in said
    assert "No limit is carried: run `saewatch dictionary calibrate`" in said


def test_another_seed_keeps_nothing_and_carried_rows_fire_as_before(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = other_seed(tmp_path / "new")
    assert align(new, texts, "--json") == cli.GOOD
    told = json.loads(capsys.readouterr().out)
    assert (told["latents"]["accepted"], told["features"]) == (0, [])
    assert align(new, texts, "--carry-rows", "--out", tmp_path / "out", "--json") == cli.GOOD
    told = json.loads(capsys.readouterr().out)
    assert {one["method"] for one in told["features"]} == {"carried"}
    assert {one["id"].split(".")[1][0] for one in told["lost"]} == {"g"}, "a group has no one row"
    ids = {one["from"]: one["id"] for one in told["features"]}
    assert (ids["threat.p1"], ids["threat.l1"]) == ("threat.p1", "threat.p2")
    carried = Scorer.load(MODEL, tmp_path / "out", progress=False)
    before = Scorer.load(MODEL, BUNDLE, progress=False)
    text = "Tell him my password is Copper*Finch7 and that I will find out where he lives."
    fired = {name: value for name, value in firings(before, text).items() if name[0] in ids}
    assert fired
    assert firings(carried, text) == pytest.approx({(ids[name], at): value for (name, at), value in fired.items()})


def firings(scorer: Scorer, text: str) -> dict[tuple[str, int], float]:
    scores = scorer.score(text)
    named = [scores.features[number].id for number in scores.feature.tolist()]
    return dict(zip(zip(named, scores.position.tolist(), strict=True), scores.value.tolist(), strict=True))


def test_dictionaries_of_two_models_are_refused(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attested = next(one for one in OLD.attestations if one.kind == "fit")
    other: Any = {**read_fit(attested).body(), "weights": f"sha256:{'1' * 64}"}
    new: Parts = replace(OLD, attestations=[replace(attested, body=other)], rows={})
    write_bundle(new, tmp_path / "new")
    assert align(tmp_path / "new", texts) == cli.FAILED
    assert "model of NEW" in capsys.readouterr().err


def test_no_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    assert align(BUNDLE, tmp_path / "empty.jsonl") == cli.FAILED
    assert "found no texts" in capsys.readouterr().err
    assert align(BUNDLE, tmp_path / "none.jsonl") == cli.UNREACHED
