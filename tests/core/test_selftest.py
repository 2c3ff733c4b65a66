"""What a self-test says survives the way through a `Result`, and what is no self-test is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from saewatch.core import limits
from saewatch.core.errors import RecordError
from saewatch.core.records import Result
from saewatch.core.selftest import CHECKS_READ, FINDING_BYTES, Check, CheckState, SelfTest, read
from saewatch.core.wire import decode, encode

GOOD = Check(name="tap", state=CheckState.GOOD)
FAILED = Check(name="sink", state=CheckState.FAILED, found="no call", expected="one", hint="Restart it.")
UNVERIFIED = Check(name="rows", state=CheckState.UNVERIFIED, found="no step", expected="a step")
FIGURES = {"sink_calls": 9, "calls_since": 7, "steps_since": 8, "rows": 13, "rows_not_finite": 2, "compared": 214}
FULL = SelfTest(
    stream=3, streams=4, checks=(GOOD, FAILED, UNVERIFIED), mismatched=1, error_max=1.25e-7, oracle="lib 6", **FIGURES
)


def sent(test: SelfTest) -> Result:
    """As it arrives."""
    result = decode(encode(test.result(5)))
    assert isinstance(result, Result)
    return result


def test_everything_arrives() -> None:
    result = sent(FULL)
    assert read(result) == FULL
    assert (result.command, result.good) == (5, False)
    assert result.message == "sink: found no call, expected one. Restart it."


def test_what_is_not_verified_is_no_failure() -> None:
    test = replace(FULL, checks=(GOOD, UNVERIFIED))
    assert test.good
    assert sent(test).message == ""
    assert read(sent(test)) == test


@pytest.mark.parametrize("error", [math.inf, math.nan])
def test_an_error_that_is_no_number_arrives(error: float) -> None:
    found = read(sent(replace(FULL, error_max=error)))
    assert found is not None
    assert str(found.error_max) == str(error)


@pytest.mark.parametrize("text", ["x" * 10**6, "\0" * 10**6, "\ud800" * 10**6, "\U0001f600" * 10**6])
def test_whatever_an_exception_says_fits_a_frame(text: str) -> None:
    failed = Check(name="check", state=CheckState.FAILED, found=text, expected=text, hint=text)
    checks = tuple(replace(failed, name=f"check_{letter}") for letter in "abcd")
    test = SelfTest(stream=1, streams=1, checks=checks, oracle=text)
    assert len(encode(test.result(1))) < 40 * limits.KIB
    found = read(sent(test))
    assert found is not None
    assert 0 < len(found.checks[3].hint.encode()) <= FINDING_BYTES


def test_a_refusal_is_about_no_stream() -> None:
    assert read(Result(command=1, good=False, message="self_test: not carried out yet")) is None


def test_what_a_later_engine_says_besides_is_passed_over() -> None:
    result = FULL.result(1)
    more = {"temperature": "warm", "check.sink.severity": "high", "check.hinges": "good"}
    found = read(replace(result, details={**result.details, **more}))
    assert found is not None
    assert found.checks == (*FULL.checks, Check(name="hinges", state=CheckState.GOOD))


BAD = {
    "no number": {"stream": "x"},
    "a negative stream": {"stream": "-1"},
    "too large a stream": {"stream": "65536"},
    "of no streams": {"streams": "0"},
    "a count beyond 64 bits": {"sink_calls": str(limits.COUNT_MAX + 1)},
    "digits without end": {"rows": "9" * 4000},
    "other digits": {"rows": "\u0661"},
    "no error": {"error_max": "large"},
    "another state": {"check.sink": "splendid"},
    "good, and yet a check failed": {"check.tap": "failed"},
    "checks without end": {f"check.a{'b' * number}": "good" for number in range(CHECKS_READ)},
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_no_self_test_is_refused(fault: str) -> None:
    result = replace(FULL, checks=(GOOD, UNVERIFIED)).result(1)
    with pytest.raises(RecordError, match="self_test"):
        read(replace(result, details={**result.details, **BAD[fault]}))


def test_without_checks_nothing_was_tested() -> None:
    with pytest.raises(RecordError, match="checks"):
        read(Result(command=1, good=True, details={"stream": "1", "streams": "1"}))
