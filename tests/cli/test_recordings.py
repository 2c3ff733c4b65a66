"""What verbs say of a recording: one meaning of coverage, one wording of damage."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from saewatch import cli
from saewatch.cli import recordings
from tests import sidecar

DEMO = sidecar.ROOT / "recordings" / "demo.frames"
POLICY = sidecar.ROOT / "recordings" / "policy.yaml"


def test_the_share_that_was_seen_of_what_was_fed() -> None:
    assert recordings.coverage(3, 4) == 0.75
    assert recordings.coverage(0, 0) is None
    said = recordings.covered(0.75, {"gap": 1, "cached": 0, "excluded": 1_200})
    assert said == "coverage 0.7500 (missed: 1,200 excluded, 1 gap)"
    assert recordings.covered(1.0, {}) == "coverage 1.0000"
    assert recordings.covered(None, {}) == "no token was fed"


def test_damage_is_one_line() -> None:
    assert recordings.damaged(["a", "b"]) == ["THE RECORDING IS DAMAGED: a; b"]
    assert recordings.damaged([]) == []


def asked(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    cli.main([str(word) for word in words])
    return capsys.readouterr().out


def test_every_verb_tells_the_same_coverage_of_one_recording(capsys: pytest.CaptureFixture[str]) -> None:
    """Also with tokens that the dictionary excludes: the demo's has 72 of them, and no others are missed."""
    preview = ("policy", "preview", POLICY, "--on", DEMO)
    diff = ("diff", "--before", DEMO, "--after", DEMO)
    replayed = json.loads(sidecar.called("replay", DEMO, "--once", "--fast", "--json").stdout)
    previewed, differed = (json.loads(asked(capsys, *words, "--json")) for words in (preview, diff))
    sides = [previewed, differed["before"], differed["after"]]
    assert replayed["missed_by_reason"] == {"excluded": 72}
    assert replayed["coverage"] == replayed["encoded"] / replayed["fed"] < 1.0
    assert [one["coverage"] for one in sides] == [replayed["coverage"]] * 3
    assert [one["missed"] for one in sides] == [{"excluded": 72}] * 3
    assert previewed["incomplete"] == 0, "what is excluded by design makes no request incomplete"
    told = re.escape(recordings.covered(replayed["coverage"], {"excluded": 72}))
    assert len(re.findall(told, asked(capsys, *preview))) == 1
    assert len(re.findall(told, asked(capsys, *diff))) == 2


def test_every_verb_words_damage_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hurt = tmp_path / "hurt.frames"
    hurt.write_bytes(DEMO.read_bytes()[:-20])
    request = "demo-15768-14"
    verbs = {
        "preview": ("policy", "preview", POLICY, "--on", hurt),
        "explain": ("policy", "explain", request, f"{POLICY}:hazard_then_refusal", "--on", hurt),
        "diff": ("diff", "--before", DEMO, "--after", hurt),
    }
    said = {name: asked(capsys, *words) for name, words in verbs.items()}
    said["replay"] = sidecar.called("replay", hurt, "--once", "--fast").stdout
    line = "THE RECORDING IS DAMAGED: its end is missing: the recorder was killed, or the copy is not complete"
    assert {name: text.count(line) for name, text in said.items()} == dict.fromkeys(said, 1)
