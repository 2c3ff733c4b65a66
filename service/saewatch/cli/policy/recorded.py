"""A policy over a recording: the requests in it, with the alerts that the sidecar would have raised for them.

The dictionary is the one in the recording, or the one that `--dictionary` names, with its calibrations. A rule over
what was not recorded would be silent for the wrong reason: it is refused with the first batch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from saewatch import logs
from saewatch.cli import recordings
from saewatch.cli.dictionary import stored
from saewatch.cli.dictionary.scored_recording import lacking
from saewatch.cli.policy import resolved
from saewatch.cli.sidecar import clock_time
from saewatch.cli.terminal import ProgressLine
from saewatch.core.errors import ConfigError, SaewatchError
from saewatch.core.recording import Recording
from saewatch.edge import dictionaries, policies
from saewatch.edge.requests import RecordedRequest, RecordedRequests
from saewatch.monitor.alerts import LimitsOf
from saewatch.monitor.policy.condition import Atom
from saewatch.monitor.policy.machine import ACTIVE
from saewatch.monitor.policy.resolve import Programme, resolve
from saewatch.monitor.policy.rule import Policy
from saewatch.monitor.policy.trace import Played
from saewatch.monitor.tables import KnownDictionary, WatchTable


def arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Which recording, of what."""
    parser.add_argument("--on", type=Path, required=required, metavar="RECORDING", help="a recording")
    says = f"{stored.NAMED}, or a bundle's folder: its labels and calibrations are taken (those in the recording)"
    parser.add_argument("--dictionary", metavar="B", help=says)
    stored.store_argument(parser)


def known_in(recording: Recording, options: argparse.Namespace) -> KnownDictionary:
    """The dictionary that was named, or the only one in the recording. `ConfigError` for none and for several."""
    if options.dictionary:
        contents = stored.contents_of(stored.opened_if_any(options), options.dictionary)
        return resolved.known_of(contents, options.dictionary)
    found = [dictionaries.known(files, where=f"{options.on}: ") for files in recording.sheets.values()]
    if len(found) != 1:
        hint = "Name one with --dictionary."
        names = ", ".join(one.weights_digest[:19] for one in found) or "none"
        raise ConfigError(str(options.on), found=f"dictionaries {names}", expected="one", hint=hint)
    return found[0]


@dataclass(slots=True)
class Replayed:
    """A policy's rules over one recording. To be gone over once with `requests`."""

    options: argparse.Namespace
    policy: Policy
    limits_of: LimitsOf = field(default=policies.limits_of(resolved.today))
    programme: Programme | None = None
    """On the recording's stream, once its first batch came."""
    known: KnownDictionary | None = None
    """Looked for where it is not given."""
    left_out: dict[str, int] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)
    """What is wrong with the file, in words."""
    seconds: float = 0.0
    """From its first record to its last."""
    told: int = 0
    """Requests so far."""
    alerts: int = 0
    _checked: set[int] = field(default_factory=set)

    def requests(self, *, unfinished: bool = False) -> Iterator[RecordedRequest]:
        """Requests as they ended, whole or not, then ``unfinished`` ones.

        `ConfigError` for rules over what was not recorded.
        """
        logs.set_up("warning")
        line, path = ProgressLine(sys.stderr), self.options.on
        with recordings.opened(path) as recording:
            self.known = self.known or known_in(recording, self.options)

            def progress(seconds: float) -> None:
                self.seconds = seconds
                line.show(f"{path.name}: {clock_time(seconds)}, {self.told} requests, {self.alerts} alerts")

            found = RecordedRequests(
                recording,
                self.known,
                policies=[self.policy],
                limits_of=self.limits_of,
                whole=False,
                unfinished=unfinished,
                on_progress=progress,
            )
            for one in found:
                for table in found.tables.values():
                    self._check(table)
                self.told += 1
                self.alerts += sum(alert.state == ACTIVE for alert in one.alerts)
                yield one
            self.seconds = max(self.seconds, recording.index.duration_ns / 1e9 if recording.index else 0.0)
        line.clear()
        self.defects = recording.defects()
        self.left_out = dict(found.left_out)
        if self.programme is None:
            there = ", ".join(one[:19] for one in found.weights) or "none"
            reasons = ", ".join(f"{count} ({why})" for why, count in self.left_out.items()) or "none"
            said = f"no request of it; streams of dictionaries {there}; left out: {reasons}"
            raise ConfigError(str(path), found=said, expected=f"requests of {self.known.weights_digest[:19]}")

    def _check(self, table: WatchTable) -> None:
        """Every rule sees under this watch set."""
        if table.number in self._checked:
            return
        self._checked.add(table.number)
        assert self.known is not None, "a table is of a known dictionary"
        try:
            self.programme = resolve(self.policy, self.known.catalogue.features, self.limits_of(table.stream))
        except SaewatchError as error:
            subject = f"{self.options.on}: {error.subject}"
            raise type(error)(subject, found=error.found, expected=error.expected, hint=error.hint) from error
        refused = [*unseen(self.programme, table)]
        if refused:
            hint = "Record with what it reads in the tap's watch set, or name a rule that sees: FILE:RULE."
            raise ConfigError(str(self.options.on), found="; ".join(refused), expected="rules that see here", hint=hint)


def unseen(programme: Programme, table: WatchTable) -> Iterator[str]:
    """Rules that cannot be judged under a watch set, each with what it lacks."""
    by_id = {one.id: one for one in table.stream.dictionary.catalogue.features} if table.stream.dictionary else {}
    for rule in programme.rules:
        if rule.condition is None:
            yield f"{rule.rule.id} lacks {', '.join(rule.missing)}"
            continue
        read = dict.fromkeys(name for number in rule.atoms for name in programme.atoms[number].features)
        why = [f"{name}: {words}" for name in read if (words := lacking(by_id[name], table))]
        if why:
            yield f"{rule.rule.id} reads {'; '.join(why)}"


def played(request: RecordedRequest, atom: Atom) -> Played:
    """What of a request an atom looks at."""
    own = np.array([one.id in atom.features for one in request.table.features], np.bool_)[request.feature]
    return Played(
        seen=request.seen,
        prompt_len=request.identity.prompt_len,
        position=request.position[own].astype(np.int64),
        unit=request.table.units(request.feature[own], request.slot[own]),
        value=request.value[own].astype(np.float64),
    )
