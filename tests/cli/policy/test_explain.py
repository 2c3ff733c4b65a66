"""saewatch policy explain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from tests.cli.policy.taped import POLICY, recording
from tests.dictionary.test_calibration import LATENT, PROBE


def explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: str, *, when: Any = None, **taped: Any
) -> tuple[int, Any]:
    """Exit code and what was printed as JSON."""
    file = tmp_path / "policy.yaml"
    rule = {**POLICY["rules"][0], **({"when": when} if when else {})}
    file.write_text(json.dumps({**POLICY, "rules": [rule]}))
    path = recording(tmp_path / "r.frames", **taped)
    code = cli.main(["policy", "explain", request, f"{file}:threat", "--on", str(path), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_why_it_fired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = explained(tmp_path, capsys, "client-3")
    assert code == cli.GOOD
    [one] = said["requests"]
    assert (one["fired"], one["fed"], one["seen"], one["missed"]) == (True, 4, 4, {})
    assert one["history"] == [{"state": "active", "position": 2}, {"state": "resolved", "position": 4}]
    [part] = one["parts"]
    assert (part["largest"], part["at"], part["limit"], part["over_at"]) == (5.0, 2, 2.0, [2])


def test_why_it_did_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = explained(tmp_path, capsys, "client-1", missed=2)
    [one] = said["requests"]
    assert (one["fired"], one["history"], one["missed"]) == (False, [], {"no_slot": 2})
    assert (one["parts"][0]["largest"], one["parts"][0]["at"], one["parts"][0]["over"]) == (1.0, 2, 0)


def test_every_part_of_a_condition_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaf, probe = {"feature": LATENT.id, "above": 2.0}, {"feature": PROBE.id, "above": 1.0}
    when = {"all": [leaf, {"not": probe}, {"sequence": [leaf, probe], "within_tokens": 5}]}
    _, said = explained(tmp_path, capsys, "client-3", when=when)
    [one] = said["requests"]
    lines = ["all of", "  part 1", "  not", "    part 2", "  in order within 5 tokens: part 1, then part 2"]
    assert one["condition"] == lines
    assert [part["over"] for part in one["parts"]] == [1, 0]


def test_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explained(tmp_path, capsys, "client-1", missed=2)
    file, path = tmp_path / "policy.yaml", tmp_path / "r.frames"
    assert cli.main(["policy", "explain", "client-1", str(file), "--on", str(path)]) == cli.GOOD
    text = capsys.readouterr().out
    assert "NOT WHOLLY SEEN: 2 no_slot. The rule is silent on those tokens." in text
    assert "it did not fire: 0 of 1 parts were over their limits" in text
    assert "nearest 1 at 2, 1 short" in text
    assert cli.main(["policy", "explain", "client-3", str(file), "--on", str(path)]) == cli.GOOD
    text = capsys.readouterr().out
    assert "it would have fired: active at 2, resolved at 4" in text
    assert "OVER at 1 tokens (2); largest 5 at 2" in text


def test_what_a_request_has_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaf = {"feature": LATENT.id, "above": 2.0}
    mean, gone = (
        {**leaf, "statistic": "mean", "above": 1.0},
        {**leaf, "statistic": "share", "above": 0.9, "scope": "prompt"},
    )
    when = {"any": [leaf, mean, gone]}
    code, said = explained(tmp_path, capsys, "client-3", when=when, unfinished=True)
    [one] = said["requests"]
    assert (code, one["end"], one["fed"]) == (cli.GOOD, "open", 4)
    assert one["history"] == [{"state": "active", "position": 2}]
    assert [(part["so_far"], part["over"], part["largest"]) for part in one["parts"]] == [
        (False, 1, 5.0),
        (True, 0, 1.25),
        (False, 0, 0.0),
    ], "the mean is over its limit and not judged; the prompt has ended"
    file, path = tmp_path / "policy.yaml", tmp_path / "r.frames"
    assert cli.main(["policy", "explain", "client-3", str(file), "--on", str(path)]) == cli.GOOD
    text = capsys.readouterr().out
    assert "NOT FINISHED: the recording ends before it. This is what it has so far." in text
    assert "1.25 so far, over 4 tokens; it is judged when its scope ends" in text
    _, said = explained(tmp_path, capsys, "client-0", when=when, unfinished=True)
    assert said["requests"][0]["end"] == "ended"


def test_silence_is_told_as_silence_so_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, path = tmp_path / "policy.yaml", recording(tmp_path / "r.frames", [1.0], unfinished=True)
    file.write_text(json.dumps(POLICY))
    assert cli.main(["policy", "explain", "client-0", str(file), "--on", str(path)]) == cli.GOOD
    assert "it has not fired so far: 0 of 1 parts were over their limits" in capsys.readouterr().out


def test_a_request_that_is_not_there_is_told_with_what_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = explained(tmp_path, capsys, "client-77")
    assert (code, said["error"]["found"]) == (cli.FAILED, "no request client-77")
    assert "It has 4 requests" in said["error"]["hint"]


def test_a_class_that_is_not_judged_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = explained(tmp_path, capsys, "client-3", traffic_class="canary")
    assert (said["requests"][0]["judged"], said["requests"][0]["fired"]) == (False, False)


def test_one_rule_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(json.dumps({**POLICY, "rules": [{**POLICY["rules"][0], "id": name} for name in ("a", "b")]}))
    words = ["policy", "explain", "x", str(file), "--on", str(tmp_path / "r.frames")]
    assert cli.main(words) == cli.USAGE
    assert "behind a colon" in capsys.readouterr().err
