"""saewatch policy check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from tests import fakes
from tests.cli.dictionary.shop import Shop
from tests.dictionary.test_calibration import KNOWN, LATENT, PROBE
from tests.edge.test_policies import calibrated, known

RULES: list[dict[str, Any]] = [
    {"id": "asked", "severity": "high", "when": {"feature": PROBE.id}},
    {"id": "tried", "severity": "low", "when": {"feature": LATENT.id, "above": 1.0}},
    {"id": "elsewhere", "severity": "low", "when": {"feature": "other.p1"}},
]


def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: Any, *words: str) -> tuple[int, Any]:
    """Exit code and what it printed as JSON, on a bundle with a calibrated probe."""
    file = tmp_path / "policy.yaml"
    file.write_text(json.dumps({"policy": "trust", "rules": rules}))
    folder = fakes.write_bundle(tmp_path / "bundle", known(calibrated()))
    code = cli.main(["policy", "check", str(file), "--dictionary", str(folder), "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_it_says_what_each_rule_comes_to_and_what_it_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked(tmp_path, capsys, RULES[:2])
    assert code == cli.GOOD
    [on] = said["dictionaries"]
    asked, tried = on["rules"]
    assert (asked["state"], asked["why"], asked["parts"][0]["limit"]) == ("active", "", 1.5)
    assert asked["parts"][0]["basis"]["attestation"] == calibrated().digest
    assert (tried["state"], tried["parts"][0]["basis"]) == ("shadow", None)
    assert tried["why"].startswith(f"{LATENT.id} has no calibrated limit")
    assert 0 < on["steps_per_token"] < 100
    assert 0 < on["bytes_per_request"] < 1000


def test_a_rule_that_nothing_lets_see_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked(tmp_path, capsys, RULES)
    assert (code, said["unseen"]) == (cli.FAILED, ["elsewhere"])
    blind = {"id": "blind", "severity": "low", "when": {"all": [{"feature": PROBE.id}, {"feature": "gone.p1"}]}}
    code, said = checked(tmp_path, capsys, [blind])
    assert (code, said["unseen"]) == (cli.FAILED, ["blind"])
    [rule] = said["dictionaries"][0]["rules"]
    assert (rule["state"], rule["why"]) == ("blind", "lacks gone.p1")


def test_a_misspelt_feature_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = {"id": "r", "severity": "low", "when": {"any": [{"feature": PROBE.id + "x"}, {"category": "thraet"}]}}
    code, said = checked(tmp_path, capsys, [rule])
    assert (code, said["meant"]) == (cli.FAILED, {PROBE.id + "x": PROBE.id})
    [told] = said["dictionaries"][0]["rules"]
    assert (told["state"], told["why"].partition(",")[0]) == (
        "elsewhere",
        f"nothing that it names is here: it lacks {PROBE.id}x",
    )


def a_hostile_rule(number: int) -> dict[str, Any]:
    """64 windows of 64 tokens, each of another limit so that nothing is shared."""
    parts = [
        {"feature": LATENT.id, "statistic": "64of64", "above": 1.0 + number + leaf / 100, "scope": "reply"}
        for leaf in range(64)
    ]
    return {"id": f"r{number}", "severity": "low", "when": {"any": parts}}


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([a_hostile_rule(number) for number in range(40)], "steps a token"),
        ([a_hostile_rule(number) for number in range(9)], "bytes a request"),
        ([{"id": "x", "severity": "low", "when": {"feature": PROBE.id, "statistic": "65of65"}}], "65 tokens"),
        ([{"id": "x", "severity": "low", "when": {"not": {"feature": PROBE.id}}}], "nothing that has to occur"),
        ([{"id": "x", "severity": "low", "when": {"feature": PROBE.id, "above": float("nan")}}], "nan"),
        ([{"id": "x", "severity": "low", "when": {"feature": PROBE.id, "above": 1e31}}], "1e+31"),
    ],
)
def test_hostile_and_broken_ones_are_refused(
    rules: Any, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    text = json.dumps({"policy": "trust", "rules": rules}).replace("NaN", ".nan").replace("1e+31", "1.0e+31")
    file.write_text(text)
    folder = fakes.write_bundle(tmp_path / "bundle", known(calibrated()))
    assert cli.main(["policy", "check", str(file), "--dictionary", str(folder), "--json"]) == cli.FAILED
    error = json.loads(capsys.readouterr().out)["error"]
    assert found in error["found"]
    assert str(file) in error["subject"]


def test_without_a_dictionary_it_reads_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEWATCH_STORE", str(tmp_path / "none"))
    file = tmp_path / "policy.yaml"
    file.write_text(json.dumps({"policy": "trust", "rules": RULES}))
    assert cli.main(["policy", "check", str(file)]) == cli.GOOD
    assert "resolved on no dictionary" in capsys.readouterr().out
    assert cli.main(["policy", "check", str(tmp_path / "absent.yaml")]) == cli.UNREACHED
    assert cli.main(["policy", "check", str(file), "--store", str(tmp_path / "none")]) == cli.UNREACHED, "it was named"
    assert cli.main(["policy", "check", str(file), "--dictionary", str(tmp_path)]) == cli.FAILED


def test_the_stable_ones_of_the_store_are_taken(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.promote(shop.old, "none")
    file = tmp_path / "policy.yaml"
    rules = [{"id": "x", "severity": "low", "when": {"feature": "threat.l1", "above": 2}}]
    file.write_text(json.dumps({"policy": "trust", "rules": rules}))
    assert cli.main(["policy", "check", str(file)]) == cli.GOOD
    text = capsys.readouterr().out
    assert "on demo/resid_post.1@stable" in text
    assert "x v1  low, SHADOW: threat.l1 has no calibrated limit" in text
    assert "max of threat.l1 over 2 in all  (made (unreviewed))" in text
    assert KNOWN.weights_digest not in text
