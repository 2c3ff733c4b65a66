"""saewatch policy test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from saewatch.cli.dictionary import stored
from tests import fakes
from tests.cli.policy.taped import POLICY, recording
from tests.dictionary.test_calibration import KNOWN, LATENT, PROBE

CASES: dict[str, Any] = {
    "limits": {PROBE.id: 2.0},
    "cases": [
        {"name": "over", "tokens": [{}, {PROBE.id: 3.0}], "expect": {"probe": [{"active": 1}, {"resolved": 2}]}},
        {"name": "quiet", "tokens": [{"repeat": 9}], "expect": {"probe": []}},
    ],
}


def tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: Any, *words: str, rule: Any = None
) -> tuple[int, Any]:
    """Exit code and what was printed as JSON."""
    policy, file = tmp_path / "policy.yaml", tmp_path / "cases.yaml"
    rules = [rule or {"id": "probe", "severity": "low", "when": {"feature": PROBE.id}}]
    policy.write_text(json.dumps({"policy": "trust", "rules": rules}))
    file.write_text(json.dumps(cases))
    folder = fakes.write_bundle(tmp_path / "bundle", KNOWN)
    told = ["policy", "test", str(policy), "--cases", str(file), "--dictionary", str(folder), *words, "--json"]
    code = cli.main(told)
    return code, json.loads(capsys.readouterr().out)


def test_cases_that_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = tried(tmp_path, capsys, CASES)
    assert (code, said["failed"], [one["case"] for one in said["cases"]]) == (cli.GOOD, 0, ["over", "quiet"])


def test_one_that_does_not_says_what_came_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {"name": "wrong", "tokens": [{PROBE.id: 3.0}], "expect": {"probe": []}}
    code, said = tried(tmp_path, capsys, {**CASES, "cases": [wrong]})
    assert (code, said["failed"]) == (cli.FAILED, 1)
    assert said["cases"][0]["wrong"] == {"probe": {"expected": "inactive", "found": "active at 0, resolved at 1"}}
    words = ["--cases", str(tmp_path / "cases.yaml"), "--dictionary", str(tmp_path / "bundle")]
    assert cli.main(["policy", "test", str(tmp_path / "policy.yaml"), *words]) == cli.FAILED
    assert "FAILED  wrong\n  probe: expected inactive\n         found    active at 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cases", "code", "says"),
    [
        ({"cases": [{"name": "a", "tokens": [{}], "expect": {"nobody": []}}]}, cli.FAILED, "the id of a rule"),
        ({"cases": [{"name": "a", "tokens": [{}], "expect": {"probe": []}}]}, cli.FAILED, "what it reads"),
        ({"cases": [{"name": "a", "request": "r", "expect": {"probe": []}}]}, cli.USAGE, "the recording with"),
        (
            {**CASES, "cases": [{"name": "a", "tokens": [{"x.l1": 1}], "expect": {"probe": []}}]},
            cli.FAILED,
            "catalogue",
        ),
        ({**CASES, "limits": {"prob": 2.0}}, cli.FAILED, "a feature of the dictionary"),
    ],
)
def test_what_makes_no_sense_is_refused(
    cases: Any, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, said = tried(tmp_path, capsys, cases)
    assert found == code
    assert says in said["error"]["expected"]


def test_a_recorded_request_may_stand_for_its_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, policy, cases = recording(tmp_path / "r.frames"), tmp_path / "policy.yaml", tmp_path / "cases.yaml"
    policy.write_text(json.dumps(POLICY))
    case = {"name": "recorded", "request": "client-2", "expect": {"threat": [{"active": 2}, {"resolved": 4}]}}
    cases.write_text(json.dumps({"cases": [case]}))
    words = ["policy", "test", str(policy), "--cases", str(cases), "--on", str(file), "--json"]
    assert cli.main(words) == cli.GOOD, capsys.readouterr().out
    assert json.loads(capsys.readouterr().out)["failed"] == 0
    case["request"] = "client-99"
    cases.write_text(json.dumps({"cases": [case]}))
    assert cli.main(words) == cli.FAILED
    assert "client-99" in capsys.readouterr().out


def test_cases_share_a_recorded_request_and_their_limits_hold_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, policy, cases = recording(tmp_path / "r.frames"), tmp_path / "policy.yaml", tmp_path / "cases.yaml"
    policy.write_text(
        json.dumps({"policy": "p", "rules": [{"id": "r", "severity": "low", "when": {"feature": LATENT.id}}]})
    )
    both = [
        {"name": "one", "request": "client-2", "expect": {"r": [{"active": 2}, {"resolved": 4}]}},
        {"name": "other", "request": "client-2", "expect": {"r": []}},
        {"name": "under", "request": "client-1", "expect": {"r": []}},
    ]
    cases.write_text(json.dumps({"limits": {LATENT.id: 2.0}, "cases": both}))
    words = ["policy", "test", str(policy), "--cases", str(cases), "--on", str(file), "--json"]
    assert cli.main(words) == cli.FAILED
    said = json.loads(capsys.readouterr().out)
    assert [bool(one["wrong"]) for one in said["cases"]] == [False, True, False]


def test_the_bundle_is_read_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits, written cases and recorded ones are all of it."""
    read, taped = [], recording(tmp_path / "r.frames")
    contents_of = stored.contents_of

    def counted(registry: Any, name: str) -> Any:
        read.append(name)
        return contents_of(registry, name)

    monkeypatch.setattr(stored, "contents_of", counted)
    recorded = {"name": "recorded", "request": "client-2", "expect": {"probe": []}}
    cases = {**CASES, "cases": [*CASES["cases"], recorded]}
    code, said = tried(tmp_path, capsys, cases, "--on", str(taped))
    assert (code, len(said["cases"]), len(read)) == (cli.GOOD, 3, 1)
