"""saewatch version."""

from __future__ import annotations

import json

import pytest

from saewatch import __version__, cli


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["saewatch"] == __version__
