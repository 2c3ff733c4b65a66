"""saewatch dictionary review."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch import cli
from saewatch.dictionary.review import read_review
from saewatch.engine.dictionary_file import load_bundle
from tests import made
from tests.dictionary.exemplary import pets, write


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made.bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def review(bundle: Path, *words: object) -> int:
    return cli.main(["dictionary", "review", str(bundle), *map(str, words)])


def test_the_queue_knows_how_often_features_fire(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_bundle(bundle).sheet.weights
    pets_often = replace(pets("threat.p1"), fired=100)
    examples = write(tmp_path / "examples", weights, replace(pets("threat.l1"), fired=10), pets_often)
    assert review(bundle, "--examples", examples, "--json") == cli.GOOD
    waiting = json.loads(capsys.readouterr().out)["waiting"]
    assert [(one["id"], one["rate"], one["impact"]) for one in waiting] == [
        ("threat.g1", None, 1.0),
        ("threat.p1", 0.1, 0.75),
        ("threat.l1", 0.01, 0.5),
    ]
    assert {one["state"] for one in waiting} == {"unreviewed"}
    assert review(bundle, "--limit", 1) == cli.GOOD
    said = capsys.readouterr().out
    assert "made (unreviewed); not scored" in said
    assert "2 more" in said


def test_a_verdict_is_written_shown_and_takes_the_label_out_of_the_queue(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by = ("--by", "ada", "--date", "2026-03-01")
    words = ("--accept", "threat.l1", "threat.g1", "--reason", "read ten", *by, "--out", tmp_path / "one")
    assert review(bundle, *words) == cli.GOOD
    assert "1 labels still wait" in capsys.readouterr().out
    assert review(tmp_path / "one", "--reject", "threat.l1", *by, "--out", tmp_path / "two", "--json") == cli.GOOD
    said = json.loads(capsys.readouterr().out)
    old, new = load_bundle(bundle), load_bundle(tmp_path / "two")
    assert (new.sheet.digest, new.sheet.weights) == (said["bundle"], old.sheet.weights)
    assert [one.shown for one in new.catalogue.features] == ["made", "made (rejected)", "made (unreviewed)"]
    (attested,) = [one for one in new.attestations if one.kind == "review"]
    assert [(one.feature, one.state, one.reason) for one in read_review(attested)] == [
        ("threat.l1", "accepted", "read ten"),
        ("threat.g1", "accepted", "read ten"),
        ("threat.l1", "rejected", ""),
    ]
    assert review(tmp_path / "two") == cli.GOOD
    said = capsys.readouterr().out
    assert "threat.p1" in said
    assert "threat.l1" not in said
    assert cli.main(["dictionary", "show", str(tmp_path / "two")]) == cli.GOOD
    said = capsys.readouterr().out
    assert "3, 1 unreviewed, 1 accepted, 1 rejected;" in said
    assert "threat.g1  made\n" in said
    assert cli.main(["dictionary", "diff", str(bundle), str(tmp_path / "two")]) == cli.GOOD
    assert "feature threat.l1: review nothing -> rejected by ada" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--accept", "threat.l1", "--out", "x"), cli.USAGE, "--by: found nothing"),
        (("--accept", "threat.l1", "--by", "ada"), cli.USAGE, "--out: found nothing"),
        (("--by", "ada"), cli.USAGE, "--by: found no verdict"),
        (("--date", "2026-03-01"), cli.USAGE, "--date: found no verdict"),
        (("--accept", "none.l1", "--by", "ada", "--out", "x"), cli.FAILED, "found 'none.l1'"),
        (("--accept", "a", "--by", "a\x1b[2J", "--out", "x"), cli.FAILED, "without control characters"),
        (
            ("--accept", "threat.l1", "--reject", "threat.l1", "--by", "ada", "--out", "x"),
            cli.FAILED,
            "threat.l1: found two verdicts",
        ),
        (("--examples", "none"), cli.UNREACHED, "a folder of examples"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: tuple[str, ...],
    code: int,
    said: str,
    *,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bundle.parent)
    assert review(bundle, *words) == code
    assert said in capsys.readouterr().err
    assert not Path("x").exists()
