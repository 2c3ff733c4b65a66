"""saewatch dictionary evaluate, on the fixture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dictionaries.train.corpus import Generator, Request
from saewatch import cli
from saewatch.core.attestation import Attestation
from saewatch.dictionary.bundle import read_parts, write_bundle
from saewatch.dictionary.contents import read_folder
from saewatch.dictionary.gate import attested
from tests.dictionary import trapped
from tests.dictionary.trapped import Change

FIXTURE = Path(__file__).resolve().parents[2] / "fixture"
BUNDLE, MODEL = FIXTURE / "bundle", FIXTURE / "model"
FEATURES = ("pii_disclosure.p1", "threat.p1")
CHOSEN = [word for name in FEATURES for word in ("--feature", name)]

pytestmark = pytest.mark.usefixtures("one_thread")


def written(path: Path, requests: list[Request]) -> Path:
    entries = [
        {"text": one.prompt, "concept": sorted(one.concepts), "template": one.template, "kind": one.kind}
        for one in requests
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("requests")
    chosen, told = Generator("a", seed=1), Generator("b", seed=2)

    def hazards(of: Generator, count: int) -> list[Request]:
        return [one for one in of.hazards(count) if one.concepts & {"pii_disclosure", "threat"}]

    return {
        "texts": written(folder / "texts.jsonl", told.hazards(1) + told.innocents(16)),
        "labelled": written(folder / "labelled.jsonl", hazards(told, 12) + told.innocents(30)),
        "chosen": written(folder / "chosen.jsonl", hazards(chosen, 12) + chosen.innocents(30)),
    }


def evaluate(files: dict[str, Path], *words: object, bundle: Path = BUNDLE, ce: int = 0) -> int:
    given = ["--texts", files["texts"], "--model", MODEL, "--chat", "--ce-tokens", ce]
    return cli.main(["dictionary", "evaluate", str(bundle), *map(str, given), *map(str, words)])


def planted(tmp_path: Path, change: Change, *, stated: dict[str, str] | None = None) -> Path:
    """The fixture's dictionary after a mistake; ``stated``: other figures for these texts."""
    made = trapped.planted(read_parts(BUNDLE), change)
    if stated is not None:
        kept = [one for one in made.attestations if one.kind != "stated"]
        told = Attestation(kind="stated", weights=made.manifest.digest, body=stated)
        made = dataclasses.replace(made, attestations=[*kept, told])
    write_bundle(made, tmp_path / "planted")
    return tmp_path / "planted"


def test_a_good_one_passes_beside_itself_and_its_bundle_says_so(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page, into = tmp_path / "quality.json", tmp_path / "page.html", tmp_path / "bundle"
    words = ["--labelled", files["labelled"], "--chosen-on", files["chosen"], *CHOSEN, "--against", BUNDLE]
    code = evaluate(files, *words, "--out", out, "--html", page, "--into", into, "--json", ce=150)
    told = json.loads(capsys.readouterr().out)
    assert (code, told["gate"]["failed"], told["looks_like"]) == (cli.GOOD, [], None)
    assert told["gate"]["against"]["weights"] == read_folder(BUNDLE).sheet.weights
    rows = {row["metric"]: row["verdict"] for row in told["rows"]}
    asked = ("fvu", "l0.stated", "ce", "fvu.regression", "auroc.regression", "coverage.regression")
    assert [rows[name] for name in asked] == ["passed"] * len(asked)
    assert told["served"]["reader"].endswith("bfloat16")
    assert 0 < told["figures"]["fvu"]["kept"] < 0.1
    features = {one["id"]: one for one in told["features"]}
    assert features.keys() == set(FEATURES)
    probe = features["pii_disclosure.p1"]
    assert probe["auroc"]["value"] > 0.9
    assert probe["auroc"]["low"] <= probe["auroc"]["value"] <= probe["auroc"]["high"]
    assert probe["baselines"]["words"] is not None
    assert probe["difference"] == {"value": 0, "low": 0, "high": 0}
    carry = sum('"pii_disclosure"' in line for line in files["labelled"].read_text().splitlines())
    assert (probe["positives"], probe["negatives"]) == (carry, 30)
    verdict = attested(read_folder(into))
    sheet = read_folder(BUNDLE).sheet
    assert (verdict.verdict, verdict.attestation, verdict.against) == (
        "passed",
        told["digest"],
        ((sheet.weights, sheet.catalogue),),
    )
    assert "The quality gate is passed" in page.read_text()
    assert json.loads(out.read_text())["kind"] == "quality"


def test_latents_that_are_no_better_than_random_ones_fail(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --chosen-on half of the templates are for fitting; so few requests cannot show a lift."""
    code = evaluate(files, "--labelled", files["labelled"], "--feature", "threat.l1", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (code, told["gate"]["failed"]) == (cli.FAILED, ["lift"])
    assert told["looks_like"] is None, "it is read as it should be"
    (latent,) = told["features"]
    assert latent["baselines"]["random"] is not None
    assert latent["positives"] < 12
    assert "half of the templates" in told["fitted_on"]


def test_a_bad_one_ends_with_2_and_is_named_and_its_bundle_says_so(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = read_parts(BUNDLE)
    bad = planted(tmp_path, Change(trapped.with_thresholds(of, 0 * trapped.thresholds(of))))
    code = evaluate(files, "--into", tmp_path / "judged", bundle=bad)
    said = capsys.readouterr().out
    assert code == cli.FAILED
    assert said.startswith("gate FAILED: fvu, fvu.stated, l0.stated")
    assert "looks like a threshold that is lost, or TopK read as ReLU" in said
    assert attested(read_folder(tmp_path / "judged")).verdict == "failed"


def test_one_at_the_wrong_layer_is_told_where_it_belongs(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(files, "--json", bundle=planted(tmp_path, Change(point="resid_post.1"))) == cli.FAILED
    told = json.loads(capsys.readouterr().out)
    assert (told["looks_like"]["trap"], told["looks_like"]["guess"]) == ("other_place", False)
    assert "resid_post.2" in told["looks_like"]["says"]


def test_a_worse_one_fails_beside_the_one_in_force_alone(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without figures of its authors only the comparison shows that its thresholds were doubled."""
    of = read_parts(BUNDLE)
    bad = planted(tmp_path, Change(trapped.with_thresholds(of, 1.6 * trapped.thresholds(of))), stated={})
    assert evaluate(files, "--json", bundle=bad) == cli.GOOD
    capsys.readouterr()
    assert evaluate(files, "--json", "--against", BUNDLE, bundle=bad) == cli.FAILED
    told = json.loads(capsys.readouterr().out)
    assert "l0.regression" in told["gate"]["failed"]
    both = {"threshold_too_high", "normalisation_lost"}  # on rows of much the same norm they do the same
    assert told["looks_like"]["trap"] in both


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("overlap", "found the text of"),
        ("feature", "nobody.p1"),
        ("concept", "concept: found 'nothing'"),
        ("kind", "kind: found 3"),
        ("texts", "found no texts"),
        ("against", "--against: found resid_post.1"),
        ("store", "found"),
    ],
)
def test_what_is_refused(
    case: str, said: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = dict(files)
    line = tmp_path / "line.jsonl"
    words: list[object] = ["--labelled", line]
    if case == "overlap":
        words = ["--labelled", files["labelled"], "--chosen-on", files["labelled"]]
    elif case == "feature":
        words = ["--feature", "nobody.p1"]
    elif case == "concept":
        line.write_text('{"text": "a", "concept": "nothing"}\n')
    elif case == "kind":
        line.write_text('{"text": "a", "kind": 3}\n')
    elif case == "texts":
        given["texts"] = line
        line.write_text("\n")
        words = []
    elif case == "against":
        words = ["--against", planted(tmp_path, Change(point="resid_post.1"))]
    else:
        words = ["--against", "demo/resid_post.2@stable", "--store", tmp_path / "none"]
    code = evaluate(given, *words)
    assert code == (cli.UNREACHED if case == "store" else cli.FAILED)
    assert said in capsys.readouterr().err


def test_usage_and_files_that_are_not_there(files: dict[str, Path], tmp_path: Path) -> None:
    assert evaluate(files, "--chosen-on", files["chosen"]) == cli.USAGE
    assert evaluate({**files, "texts": tmp_path / "none.jsonl"}) == cli.UNREACHED
    assert evaluate(files, bundle=tmp_path) == cli.UNREACHED


def test_where_it_goes_is_looked_at_before_the_model_is_read(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    for word in ("--out", "--html"):
        assert evaluate(files, "--model", nowhere, word, nowhere / "it") == cli.UNREACHED
        assert f"found no folder {nowhere} that takes one" in capsys.readouterr().err
    assert evaluate(files, "--model", nowhere, "--into", tmp_path) == cli.FAILED
    assert "expected no such folder" in capsys.readouterr().err
