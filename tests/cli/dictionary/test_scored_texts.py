"""Files of requests as scores; what limits they give is in test_calibrate.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch import cli

FIXTURE = Path(__file__).resolve().parents[2] / "fixture"


def test_benign_texts_need_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benign = tmp_path / "benign.jsonl"
    benign.write_text('{"text": "hello"}\n')
    assert cli.main(["dictionary", "calibrate", str(FIXTURE / "bundle"), "--benign", str(benign)]) == cli.USAGE
    assert "--model: found nothing" in capsys.readouterr().err


def test_one_source_at_a_time(tmp_path: Path) -> None:
    words = ["dictionary", "calibrate", str(FIXTURE / "bundle"), "--benign", "a", "--recording", "b"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == cli.USAGE
