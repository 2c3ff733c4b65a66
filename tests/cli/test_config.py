"""saewatch config check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saewatch import cli
from tests import fakes


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
    ],
)
def test_what_serve_would_refuse(tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, text) == cli.FAILED
    assert said in capsys.readouterr().err


def test_no_such_file(tmp_path: Path) -> None:
    assert cli.main(["config", "check", str(tmp_path / "nowhere")]) == cli.UNREACHED
