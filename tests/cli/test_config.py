"""saewatch config check."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from saewatch import cli
from tests import fakes

README = Path(__file__).resolve().parents[2] / "README.md"


def check(tmp_path: Path, text: str, *more: str) -> int:
    file = tmp_path / "saewatch.yaml"
    file.write_text(text)
    return cli.main(["config", "check", str(file), *more])


def test_a_good_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = fakes.dictionary()
    fakes.write_bundle(tmp_path / "demo", known)
    assert check(tmp_path, "dictionaries: [demo]", "--json") == cli.GOOD
    found = json.loads(capsys.readouterr().out)
    assert found["good"] is True
    assert found["dictionaries"] == [str(tmp_path / "demo")]
    assert found["weights"] == [known.weights_digest]
    assert check(tmp_path, "dictionaries: [demo]") == cli.GOOD
    assert "1 dictionaries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sockets: /x", "sockets: found an unknown key"),
        ('grpc: {listen: "0.0.0.0:1"}', "grpc.listen: found 0.0.0.0"),
        ("dictionaries: [nowhere]", "bundle.json"),
        ("baselines: [.]", "baseline.json"),
        ("canaries: {file: gone.jsonl, model: m}", "gone.jsonl"),
        ("canaries: {file: c.jsonl, model: m, url: 'http://192.0.2.1/v1'}", "canaries.url"),
        ("canaries: {file: c.jsonl}", "canaries.model"),
        ("canaries: {panel: c.jsonl}", "canaries.panel: found a panel alone"),
        ("canaries: {file: c.jsonl, model: m, panel: c.jsonl}", "line 1: feature: found an unknown key"),
        ("policies: p.yaml", "expected a list"),
        ("grpc: 7", "expected a mapping of keys to values"),
    ],
)
def test_what_serve_would_refuse(tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.jsonl").write_text('{"id": "a", "feature": "f.p1", "fires": true, "prompt": "x"}\n')
    assert check(tmp_path, text) in {cli.FAILED, cli.UNREACHED}
    assert said in capsys.readouterr().err


def test_a_canary_of_a_feature_that_no_dictionary_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.write_bundle(tmp_path / "demo", fakes.dictionary())
    text = "dictionaries: [demo]\nstore: ''\ncanaries: {file: c.jsonl, model: m}\n"
    line = {"id": "a", "feature": "threat.l1", "fires": True, "prompt": "x"}
    for feature, code in (("threat.l1", cli.GOOD), ("threat.l7", cli.FAILED)):
        (tmp_path / "c.jsonl").write_text(json.dumps({**line, "feature": feature}) + "\n")
        assert check(tmp_path, text) == code
    said = capsys.readouterr().err
    assert "c.jsonl: canary 'a': feature: found threat.l7, expected a feature of a dictionary: threat.l1" in said


def test_what_the_readme_tells_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = README.read_text().split("## Watch your own server")[1].split("\n## ")[0]
    settings, commands = re.findall(r"```(?:yaml)?\n(.*?)```", section, re.DOTALL)[1:3]
    monkeypatch.chdir(tmp_path)
    fakes.write_bundle(tmp_path / "BUNDLE", fakes.dictionary())
    assert check(tmp_path, settings, "--json") == cli.GOOD
    taken = json.loads(capsys.readouterr().out)
    typed = [shlex.split(line, comments=True)[1:] for line in commands.splitlines()]
    assert [words[0] for words in typed] == ["config", "serve", "vllm-args", "status", "tap", "doctor"]
    assert cli.main(typed[0]) == cli.GOOD
    capsys.readouterr()
    assert cli.main([*typed[2], "--json"]) == cli.GOOD
    told = json.loads(capsys.readouterr().out)
    assert told["environment"]["SAEWATCH_SOCKET"] == taken["socket"], "both meet there"
    assert taken["dictionaries"][0] in " ".join(told["arguments"]), "both know it"


def test_no_such_file(tmp_path: Path) -> None:
    assert cli.main(["config", "check", str(tmp_path / "nowhere")]) == cli.UNREACHED


RULE = "policy: p\nrules:\n  - {id: a, severity: low, when: {feature: threat.l1, above: 1}}\n"


def test_policies_are_read_with_the_dictionaries_that_they_are_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.write_bundle(tmp_path / "demo", fakes.dictionary())
    (tmp_path / "p.yaml").write_text(RULE)
    text = "dictionaries: [demo]\npolicies: [p.yaml]\n"
    assert check(tmp_path, text) == cli.GOOD
    assert "1 rules" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (RULE.replace("above: 1", "above: high"), "p.yaml: rules[0].when.above"),
        (RULE.replace("id: a,", "id: a, colour: red,"), "rules[0].colour: found an unknown key"),
        (RULE.replace("policy: p", "policy: P!"), "p.yaml: policy"),
        ("", "p.yaml"),
        (
            json.dumps(
                {
                    "policy": "p",
                    "rules": [
                        {
                            "id": f"r{rule}",
                            "severity": "low",
                            "when": {
                                "any": [
                                    {"feature": "threat.l1", "statistic": "64of64", "above": 100 * rule + leaf}
                                    for leaf in range(64)
                                ]
                            },
                        }
                        for rule in range(30)
                    ],
                }
            ),
            "steps a token",
        ),
    ],
)
def test_a_wrong_policy_is_refused_with_file_and_field(
    rules: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.write_bundle(tmp_path / "demo", fakes.dictionary())
    (tmp_path / "p.yaml").write_text(rules)
    assert check(tmp_path, "dictionaries: [demo]\npolicies: [p.yaml]\n") == cli.FAILED
    assert said in capsys.readouterr().err


def test_a_policy_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, "policies: [absent.yaml]") == cli.UNREACHED
    assert "absent.yaml" in capsys.readouterr().err
