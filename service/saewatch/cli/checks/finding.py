"""What a check gives: what was examined, what was found, what is expected, and what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from saewatch.core import limits
from saewatch.core.errors import SaewatchError


class State(enum.StrEnum):
    """What came of a check, the worst last."""

    GOOD = "good"
    UNVERIFIED = "not verified"
    WARNING = "warning"
    FAILED = "failed"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return list(State).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    subject: str
    state: State
    found: str
    expected: str = ""
    hint: str = ""
    unreached: bool = False
    """A sidecar that was asked for by name gave no answer."""


def good(subject: str, found: object) -> Finding:
    """Nothing is wrong."""
    return Finding(subject=subject, state=State.GOOD, found=str(found))


def unverified(subject: str, found: object, *, expected: object = "", hint: str = "") -> Finding:
    """There was nothing to check with."""
    return Finding(subject=subject, state=State.UNVERIFIED, found=str(found), expected=str(expected), hint=hint)


def warning(subject: str, found: object, *, expected: object, hint: str) -> Finding:
    """It works, and somebody should look."""
    return Finding(subject=subject, state=State.WARNING, found=str(found), expected=str(expected), hint=hint)


def failed(subject: str, found: object, *, expected: object, hint: str) -> Finding:
    """It does not work, or does not see."""
    return Finding(subject=subject, state=State.FAILED, found=str(found), expected=str(expected), hint=hint)


def refused(error: SaewatchError, *, of: str = "", hint: str = "") -> Finding:
    """What the program itself refuses, in its own words; ``of`` what, and ``hint`` where it has none."""
    subject = f"{of}: {error.subject}" if of else error.subject
    return failed(subject, error.found, expected=error.expected, hint=error.hint or hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is to be examined: what was asked for, and what the configuration adds. Empty: not known."""

    config: Path | None = None
    dictionaries: tuple[Path, ...] = ()
    model: Path | None = None
    address: str = ""
    """Of the sidecar's gRPC service."""
    web: str = ""
    """Of its pages."""
    named: bool = False
    """The address was asked for: then there has to be a sidecar."""
    socket: str = ""
    allowed_users: tuple[int, ...] = ()
    series: int = limits.SERIES_DEFAULT
    replay_bytes: int = limits.REPLAY_BYTES
    history: str = ""
    """Where the history is kept, if it is configured."""
