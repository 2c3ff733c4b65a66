"""saewatch dictionary conformance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saewatch import cli

FIXTURE = Path(__file__).parent.parent.parent / "fixture"
WORDS = ["dictionary", "conformance", str(FIXTURE / "bundle"), "--source", str(FIXTURE / "source")]


def test_the_fixture_is_read_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*WORDS, "--against", "saelens", "--rows", "64", "--json"]) == cli.GOOD
    said = json.loads(capsys.readouterr().out)
    assert (said["index_mismatch"], said["rows"], said["good"]) == (0, 64, True)
    assert said["compared"] > 1000
    assert said["max_rel_error"] < 1e-5


def test_another_source_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = json.loads((FIXTURE / "source" / "cfg.json").read_text())
    assert cfg["architecture"] == "jumprelu"
    cfg["apply_b_dec_to_input"] = not cfg["apply_b_dec_to_input"]
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    (tmp_path / "sae_weights.safetensors").symlink_to(FIXTURE / "source" / "sae_weights.safetensors")
    words = [*WORDS[:-1], str(tmp_path), "--against", "saelens", "--rows", "32"]
    assert cli.main(words) == cli.FAILED
    assert "NOT READ RIGHT" in capsys.readouterr().out


def test_wrong_usage_and_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*WORDS, "--against", "saelens", "--rows", "0"]) == cli.USAGE
    assert cli.main([*WORDS[:-1], "nowhere", "--against", "saelens"]) == cli.UNREACHED
    assert cli.main([*WORDS, "--against", "dictionary_learning"]) == cli.FAILED
    assert "--allow-pickle" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main([*WORDS, "--against", "nobody"])
    assert caught.value.code == cli.USAGE
