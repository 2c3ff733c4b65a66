"""Examine an installation: environment, machine, configuration, socket, dictionaries and the running sidecar.

Each line says what was found; what is not good comes again at the end, the worst last, with what to do. Exit 0: nothing
failed; 2: something did; 3: the sidecar that was named with --address gives no answer. A part that needs a package
which is not there is not verified. Nothing is changed; the socket is looked at and not connected to, and the taps of
connected engines carry out a self-test.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saewatch import cli
from saewatch.cli.checks.finding import Finding, Setup, State, failed, unverified
from saewatch.cli.terminal import in_colour, printable


@dataclass(frozen=True, slots=True)
class Group:
    """A module of checks, and whether it was asked for by name."""

    module: str
    asked: Callable[[Setup], bool] = lambda _: False


GROUPS: Mapping[str, Group] = {
    "environment": Group("saewatch.cli.checks.environment"),
    "machine": Group("saewatch.cli.checks.machine"),
    "configuration": Group("saewatch.cli.checks.configuration", lambda setup: setup.config is not None),
    "socket": Group("saewatch.cli.checks.sockets"),
    "dictionaries": Group("saewatch.cli.checks.bundles", lambda setup: bool(setup.dictionaries)),
    "sidecar": Group("saewatch.cli.checks.sidecar", lambda setup: setup.named),
}
"""In the order in which one looks: each is of use only where those before it are good."""

MARKS: Mapping[State, tuple[str, str, str]] = {
    State.GOOD: ("✓", "+", "32"),
    State.UNVERIFIED: ("?", "?", "2"),
    State.WARNING: ("!", "!", "33"),
    State.FAILED: ("✗", "x", "31"),
}
"""For people: a mark, the same in ASCII, and a colour."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to examine."""
    parser.add_argument("-c", "--config", type=Path, help="saewatch.yaml; without it: the sidecar's defaults")
    parser.add_argument("--address", default="", help="of the sidecar's gRPC service; then there has to be one")
    parser.add_argument("--dictionary", type=Path, action="append", default=[], help="one more bundle; repeatable")
    parser.add_argument("--model", type=Path, help="the served model's folder, or its config.json")


def run(options: argparse.Namespace) -> int:
    """Examines and prints."""
    asked = Setup(
        config=options.config,
        dictionaries=tuple(options.dictionary),
        model=options.model,
        address=options.address,
        named=bool(options.address),
    )
    found = diagnose(asked)
    every = [finding for findings in found.values() for finding in findings]
    if options.json:
        print(json.dumps(_plain(found)))
    else:
        print("\n".join(report(found, terminal=sys.stdout, environment=os.environ)))
    if any(finding.unreached for finding in every):
        return cli.UNREACHED
    return cli.FAILED if any(finding.state is State.FAILED for finding in every) else cli.GOOD


def diagnose(asked: Setup) -> dict[str, list[Finding]]:
    """The findings of each group."""
    try:
        setup: Setup = importlib.import_module(GROUPS["configuration"].module).settle(asked)
    except ImportError:  # its group tells
        setup = asked
    return {name: list(_examined(name, group, asked, setup)) for name, group in GROUPS.items()}


def _examined(name: str, group: Group, asked: Setup, setup: Setup) -> Iterator[Finding]:
    try:
        module: Any = importlib.import_module(group.module)
    except ImportError as error:
        found, expected = f"no {(error.name or str(error)).split('.')[0]}", "the extra `serve`"
        hint = "Install it here: `pip install 'saewatch[serve]'`; or run this command where the sidecar runs."
        missing = failed if group.asked(asked) else unverified
        yield missing(name, found, expected=expected, hint=hint)
        return
    yield from module.examine(setup)


# --- for people and for programs --------------------------------------------------------------------------------------
def report(found: Mapping[str, Sequence[Finding]], *, terminal: Any, environment: Mapping[str, str]) -> Iterator[str]:
    """The lines for people: each group, and then what is not good, the worst last."""
    shown = _Shown(terminal, environment)
    for name, findings in found.items():
        yield name
        yield from (f"  {shown.mark(one)} {printable(f'{one.subject}: {one.found}')}" for one in findings)
        yield ""
    rest = [(name, one) for name, findings in found.items() for one in findings if one.state is not State.GOOD]
    for name, one in sorted(rest, key=lambda item: item[1].state.rank):
        expected = f", expected {one.expected}" if one.expected else ""
        said = f"{one.state}: {name}, {one.subject}: found {one.found}{expected}"
        yield f"{shown.mark(one)} {printable(said)}"
        yield from ([f"    {printable(one.hint)}"] if one.hint else [])
    counts = {state: sum(one.state is state for findings in found.values() for one in findings) for state in State}
    yield ", ".join(f"{count} {state}" for state, count in counts.items() if count)


class _Shown:
    """How a terminal shows a state."""

    def __init__(self, terminal: Any, environment: Mapping[str, str]) -> None:
        self._colour = in_colour(terminal, environment)
        try:
            "".join(mark for mark, _, _ in MARKS.values()).encode(terminal.encoding or "ascii")
            self._plain = False
        except UnicodeEncodeError:
            self._plain = True

    def mark(self, one: Finding) -> str:
        mark, plain, colour = MARKS[one.state]
        text = plain if self._plain else mark
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _plain(found: Mapping[str, Sequence[Finding]]) -> dict[str, Any]:
    every = [one for findings in found.values() for one in findings]
    listed = [{"group": name, **dataclasses.asdict(one)} for name, findings in found.items() for one in findings]
    worst = max((one.state for one in every), key=lambda state: state.rank)
    return {"good": worst is not State.FAILED, "worst": worst, "findings": listed}
