"""Findings, and which of two states is worse."""

from __future__ import annotations

from saewatch.cli.checks.finding import State, refused
from saewatch.core.errors import ConfigError


def test_the_worst_state_has_the_highest_rank() -> None:
    assert max(State, key=lambda state: state.rank) is State.FAILED
    assert min(State, key=lambda state: state.rank) is State.GOOD
    assert State.UNVERIFIED.rank < State.WARNING.rank


def test_what_the_program_refuses_keeps_its_words() -> None:
    own = ConfigError("socket", found="a file", expected="a socket", hint="Remove it.")
    found = refused(own, of="tap", hint="Ask somebody.")
    assert (found.subject, found.state, found.found) == ("tap: socket", State.FAILED, "a file")
    assert found.hint == "Remove it."
    assert refused(ConfigError("x", found=1, expected=2), hint="Ask somebody.").hint == "Ask somebody."
