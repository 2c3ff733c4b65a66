"""The log's form."""

from __future__ import annotations

import json

import pytest
import structlog

from saewatch import logs


def test_json_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    structlog.get_logger().info("blind", reason="no_beat")
    structlog.get_logger().debug("not this")
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["event"], found["reason"], found["level"]) == ("blind", "no_beat", "info")
    assert found["timestamp"].endswith("Z")


def test_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    structlog.get_logger().info("x", subject='a\nb\r\x1b[31m{"event": "forged"}')
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "x"
    assert "\x1b" not in line


def test_text_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug", terminal=True)
    structlog.get_logger().debug("blind", reason="no_beat")
    assert "no_beat" in capsys.readouterr().err
