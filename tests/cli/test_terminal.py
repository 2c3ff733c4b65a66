"""Colour where it is wanted, and nothing that commands the terminal."""

from __future__ import annotations

import io

import pytest

from saewatch.cli import terminal


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "0"}, False), ({"TERM": "dumb"}, False)],
)
def test_colour(environment: dict[str, str], coloured: bool) -> None:
    assert terminal.in_colour(Tty(), environment) is coloured
    assert not terminal.in_colour(io.StringIO(), environment)


def test_a_dumb_terminal_is_not_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.live(Tty())
    assert not terminal.live(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.live(Tty())


def test_what_commands_a_terminal_is_left_out() -> None:
    assert terminal.printable("a\x1b[31mb\x9bc\nd é") == "a?[31mb?c?d é"
