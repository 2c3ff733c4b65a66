"""What the verbs that run a sidecar have in common."""

from __future__ import annotations

import io

import pytest

from saewatch.cli.sidecar import ProgressLine, clock_time, counted
from saewatch.core.recording import Totals


class Terminal(io.StringIO):
    """Somebody looks."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_a_line_of_progress_is_for_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    seen, file = Terminal(), io.StringIO()
    for out in (seen, file):
        line = ProgressLine(out)
        line.show("0:01  frames 3")
        line.clear()
    assert seen.getvalue() == "\r\x1b[K0:01  frames 3\r\r\x1b[K\r"
    assert file.getvalue() == ""


def test_figures_in_words() -> None:
    assert clock_time(3725.9) == "62:05"
    totals = Totals(frames=1234, rows=10, missed=2, firings=5, requests=1)
    assert counted(totals) == "frames 1,234, requests 1, tokens 12, slot firings 5"
