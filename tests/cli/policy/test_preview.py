"""saewatch policy preview."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from tests import fakes
from tests.cli.policy.taped import POLICY, recording
from tests.dictionary.test_calibration import KNOWN, LATENT, PROBE


def previewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str, policy: Any = None, **taped: Any
) -> tuple[int, Any]:
    """Exit code and what was printed as JSON."""
    file = tmp_path / "policy.yaml"
    file.write_text(json.dumps(policy or POLICY))
    path = recording(tmp_path / "r.frames", **taped)
    code = cli.main(["policy", "preview", str(file), "--on", str(path), *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_how_often_it_would_have_fired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = previewed(tmp_path, capsys)
    assert code == cli.GOOD
    assert (said["requests"], said["coverage"], said["incomplete"], said["seconds"]) == (4, 1.0, 0, 60.0)
    [rule] = said["rules"]
    assert (rule["state"], rule["fired"], rule["delivered"], rule["held_back"]) == ("shadow", 2, 0, {"shadow": 2})
    assert (rule["share"], round(rule["share_low"], 4), round(rule["share_high"], 4)) == (0.5, 0.0676, 0.9324)
    assert rule["per_day"] == pytest.approx(2 * 86_400 / 60)
    assert rule["per_day_low"] == pytest.approx(0.2422 * 1440, rel=1e-3)  # Garwood's interval of 2: 0.2422 to 7.2247
    assert rule["per_day_high"] == pytest.approx(7.2247 * 1440, rel=1e-3)
    assert [(one["request"], one["margin"]) for one in rule["examples"]] == [("client-3", 1.5), ("client-2", 0.5)]
    assert rule["examples"][0]["parts"][0]["at"] == 2


def test_alerts_a_day_of_other_traffic_and_fewer_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = previewed(tmp_path, capsys, "--requests-per-day", "1000", "--top", "1")
    [rule] = said["rules"]
    assert rule["per_day"] == 500.0
    assert rule["per_day_high"] == pytest.approx(1000 * rule["share_high"])
    assert [one["request"] for one in rule["examples"]] == ["client-3"]


def test_what_was_not_seen_is_told_and_judged_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = previewed(tmp_path, capsys, missed=4)
    assert (said["requests"], said["incomplete"], said["coverage"]) == (4, 4, 0.5)
    assert said["rules"][0]["fired"] == 2


def test_a_damaged_recording_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was lost with a frame is neither seen nor told as missed."""
    path, file = recording(tmp_path / "r.frames"), tmp_path / "policy.yaml"
    file.write_text(json.dumps(POLICY))
    whole = path.read_bytes()
    lost = whole.index(fakes.engine_id(2).encode())  # with its batch, which follows under the same mark
    path.write_bytes(whole[:lost] + b"!" + whole[lost + 1 : -20])
    for words in (["preview", str(file)], ["explain", "client-1", str(file)]):
        assert cli.main(["policy", *words, "--on", str(path), "--json"]) == cli.GOOD
        ended, damaged = json.loads(capsys.readouterr().out)["defects"]
        assert ended.startswith("its end is missing")
        assert "damaged frames" in damaged
        assert cli.main(["policy", *words, "--on", str(path)]) == cli.GOOD
        assert "THE RECORDING IS DAMAGED: its end is missing" in capsys.readouterr().out


def test_tokens_that_went_with_a_frame_are_not_wholly_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, path = tmp_path / "policy.yaml", recording(tmp_path / "r.frames", fed=6)
    file.write_text(json.dumps(POLICY))
    assert cli.main(["policy", "preview", str(file), "--on", str(path), "--json"]) == cli.GOOD
    said = json.loads(capsys.readouterr().out)
    assert (said["incomplete"], said["coverage"]) == (4, pytest.approx(4 / 6))


def test_traffic_of_ones_own_is_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = previewed(tmp_path, capsys, traffic_class="test")
    assert (code, said["requests"], said["not_judged"]) == (cli.GOOD, 0, {"test": 4})
    assert said["rules"][0]["share"] is None


def test_rules_over_what_was_not_recorded_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = replace(KNOWN, catalogue=replace(KNOWN.catalogue, features=(PROBE,)))
    code, said = previewed(tmp_path, capsys, watch=fakes.watch_set(part))
    assert code == cli.FAILED
    assert f"threat reads {LATENT.id}: latent 3 is not in the recording's watch set" in said["error"]["found"]
    blind = {"policy": "b", "rules": [{"id": "b", "severity": "low", "when": {"feature": "gone.l1"}}]}
    code, said = previewed(tmp_path, capsys, policy=blind)
    assert (code, said["error"]["found"]) == (cli.FAILED, "b lacks gone.l1")


def test_one_rule_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blind = {"id": "b", "severity": "low", "when": {"feature": "gone.l1"}}
    file = tmp_path / "policy.yaml"
    file.write_text(json.dumps({**POLICY, "rules": [*POLICY["rules"], blind]}))
    path = recording(tmp_path / "r.frames")
    assert cli.main(["policy", "preview", f"{file}:threat", "--on", str(path)]) == cli.GOOD
    text = capsys.readouterr().out
    assert "4 requests in 1:00, coverage 1.0000, 0 not wholly seen" in text
    assert "fired in 2 of 4 requests, [67.6, 932.4] of 1,000; 0 delivered, 2 held back (shadow)" in text
    assert "+150%  client-3  from 2  threat.l1 5 of 2 at 2" in text
    assert cli.main(["policy", "preview", f"{file}:gone", "--on", str(path)]) == cli.FAILED
    assert cli.main(["policy", "preview", str(file), "--on", str(tmp_path / "none")]) == cli.UNREACHED


def test_a_recording_of_another_dictionary_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = fakes.write_bundle(tmp_path / "other", fakes.dictionary(seed=9))
    code, said = previewed(tmp_path, capsys, "--dictionary", str(other))
    assert code == cli.FAILED
    assert "no request of it" in said["error"]["found"]
