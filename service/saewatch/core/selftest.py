"""What a self-test found in one stream of a running tap, and how it travels: as a `Result` for each stream.

Four checks, each *good*, *failed*, or *unverified* (there was nothing to check with, and it is said what was missing):

=======  ==============================================================================================
check    good when
=======  ==============================================================================================
tap      the stream is not blind
sink     the device counted a call of the sink for each engine step since the last self-test, or more
rows     the rows that the last step left in the sink's buffer are finite
encoder  stored rows give what the dictionary's own library gave, through the encoder's own path
=======  ==============================================================================================

A self-test is good when no check failed. The details of its `Result` are text: the fields below by their names, and
``check.<name>`` with ``check.<name>.found``, ``.expected`` and ``.hint``. Keys that are not known are passed over, so
that a later engine may say more.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from saewatch.core.checks import count_of, counts, in_range, one_of
from saewatch.core.errors import RecordError
from saewatch.core.records import Result

FINDING_BYTES = 400
"""What a check says of itself, each of three texts; four checks make a `Result` of 40 KiB at most, however spelled."""
CHECKS_READ = 16
"""Checks that are read of one result; there are four."""

_CHECK = re.compile(r"check\.([a-z][a-z_]{0,31})")
_COUNTS = ("sink_calls", "calls_since", "steps_since", "rows", "rows_not_finite", "compared", "mismatched")


class CheckState(enum.StrEnum):
    """What came of a check."""

    GOOD = "good"
    FAILED = "failed"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check."""

    name: str
    state: CheckState
    found: str = ""
    expected: str = ""
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: found {self.found}, expected {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """One stream's."""

    stream: int
    streams: int  # of this engine: as many results come
    checks: tuple[Check, ...]
    sink_calls: int = 0  # since the engine's start
    calls_since: int = 0  # since the last self-test, or since the tap began to report
    steps_since: int = 0  # the same, of engine steps with a forward pass
    rows: int = 0  # of the last step
    rows_not_finite: int = 0
    compared: int = 0  # firings of the encoder or of the oracle
    mismatched: int = 0
    error_max: float = 0.0  # of a value, over its row's largest; not finite where the encoder's values are not
    oracle: str = ""  # what gave the stored answers

    @property
    def good(self) -> bool:
        """Whether no check failed."""
        return not self.named(CheckState.FAILED)

    def named(self, state: CheckState) -> frozenset[str]:
        """The checks of which ``state`` came."""
        return frozenset(check.name for check in self.checks if check.state is state)

    def result(self, command: int) -> Result:
        """As it travels."""
        details = {name: str(getattr(self, name)) for name in ("stream", "streams", *_COUNTS, "error_max")}
        details["oracle"] = _short(self.oracle)
        for check in self.checks:
            key = f"check.{check.name}"
            said = {key: check.state, f"{key}.found": check.found}
            said |= {f"{key}.expected": check.expected, f"{key}.hint": check.hint}
            details |= {name: _short(text) for name, text in said.items() if text}
        failed = "; ".join(str(check) for check in self.checks if check.state is CheckState.FAILED)
        return Result(command=command, good=self.good, message=_short(failed), details=details)


def read(result: Result) -> SelfTest | None:
    """The self-test that ``result`` tells of; None when it is about no stream: the command was refused as a whole.

    Raises `RecordError` for one that says something else than it should.
    """
    details = result.details
    if "stream" not in details:
        return None
    found = SelfTest(
        stream=_integer(details, "stream"),
        streams=_integer(details, "streams"),
        checks=tuple(_checks(details)),
        error_max=_number(details, "error_max"),
        oracle=_short(details.get("oracle", "")),
        **{name: _integer(details, name) for name in _COUNTS},
    )
    in_range("self_test.stream", found.stream, 0, 0xFFFF)
    in_range("self_test.streams", found.streams, 1, 0xFFFF)
    counts("self_test", found, *_COUNTS)
    if not found.checks or found.good != result.good:
        said = f"{len(found.checks)} checks, and good {result.good}"
        raise RecordError("self_test.checks", found=said, expected="a failed one unless it is good")
    return found


def _checks(details: Mapping[str, str]) -> Iterator[Check]:
    names = [match[1] for key in details if (match := _CHECK.fullmatch(key))]
    in_range("self_test.checks", len(names), 0, CHECKS_READ)
    for name in names:
        key = f"check.{name}"
        one_of(f"self_test.{key}", details[key], set(CheckState))
        texts = {part: _short(details.get(f"{key}.{part}", "")) for part in ("found", "expected", "hint")}
        yield Check(name=name, state=CheckState(details[key]), **texts)


def _integer(details: Mapping[str, str], key: str) -> int:
    return count_of(f"self_test.{key}", details.get(key, "0"))


def _number(details: Mapping[str, str], key: str) -> float:
    text = details.get(key, "0")
    try:
        return float(text)
    except ValueError as error:
        raise RecordError(f"self_test.{key}", found=f"{text!r:.80}", expected="a number") from error


def _short(text: str) -> str:
    """``text`` as a frame takes it: an exception may say anything, at any length."""
    return text.encode("utf-8", "replace")[:FINDING_BYTES].decode("utf-8", "ignore")
