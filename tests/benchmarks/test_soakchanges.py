"""What a soak commands: in turn, one at a time, and what came of it."""

from __future__ import annotations

from benchmarks.soakchanges import Changes
from saewatch.core.records import Command, Result

BUNDLES = [("/first", "sha256:1"), ("/second", "sha256:2")]


def due(changes: Changes) -> Command:
    """The next command, which is due at every request."""
    command = changes.request_ended()
    assert command is not None
    return command


def test_a_cycle_has_every_kind_and_ends_as_it_began() -> None:
    changes = Changes(BUNDLES, every=1)
    in_force, asked = "sha256:1", []
    for _ in range(12):
        command = due(changes)
        command.check()
        asked.append(command.verb)
        if command.verb == "load":
            assert command.arguments["replace"] == in_force
            in_force = command.arguments["weights"]
        elif command.verb == "watch":
            assert command.arguments["weights"] == in_force
        changes.answered(Result(command=command.command, good=True))
        assert changes.off == (command.verb == "off")
    assert asked == 2 * ["load", "watch", "watch", "load", "off", "on"]
    assert (in_force, changes.off, changes.refused) == ("sha256:1", False, [])
    assert changes.made == {"load": 4, "watch": 4, "off": 2, "on": 2}


def test_nothing_is_asked_before_it_is_due_or_while_an_answer_is_awaited() -> None:
    changes = Changes(BUNDLES, every=3)
    asked = [changes.request_ended() for _ in range(9)]
    assert [number for number, command in enumerate(asked) if command] == [2]
    assert asked[2] is not None
    changes.answered(Result(command=asked[2].command, good=True))
    assert [bool(changes.request_ended()) for _ in range(3)] == [False, False, True]


def test_what_is_refused_or_was_never_asked_is_kept() -> None:
    changes = Changes(BUNDLES, every=1)
    changes.answered(Result(command=due(changes).command, good=False, message="no room"))
    changes.answered(Result(command=77, good=True))
    assert changes.refused == ["load: no room", "an answer to command 77, which nobody waits for"]
    assert not changes.made
