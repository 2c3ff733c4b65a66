"""Commands: what is carried out, what is not yet, and what breaks on the way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from saewatch.core.records import Command, Result
from saewatch.engine.commands import carry_out


def works(command: Command) -> Sequence[Result]:
    return [Result(command=command.command, good=True, message=f"part {part}") for part in (1, 2)]


def breaks(_: Command) -> Sequence[Result]:
    raise RuntimeError("the device is gone")


def test_a_command_may_have_several_results() -> None:
    found = carry_out(Command(command=7, verb="self_test"), {"self_test": works})
    assert [(one.command, one.good, one.message) for one in found] == [(7, True, "part 1"), (7, True, "part 2")]


@pytest.mark.parametrize("verb", ["load", "watch", "on", "off"])
def test_other_verbs_are_not_carried_out_yet(verb: str) -> None:
    (found,) = carry_out(Command(command=7, verb=verb), {"self_test": works})
    assert (found.command, found.good, found.message) == (7, False, f"{verb}: not carried out yet")


def test_one_that_breaks_is_a_failed_result(caplog: pytest.LogCaptureFixture) -> None:
    (found,) = carry_out(Command(command=7, verb="self_test"), {"self_test": breaks})
    assert not found.good
    assert "RuntimeError" in found.message
    assert "the device is gone" in caplog.text
