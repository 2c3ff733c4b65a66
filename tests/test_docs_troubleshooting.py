"""docs/troubleshooting.md names every reason that the program can show, with what to do about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from saewatch.cli.checks.streams import COUNTERS, MISSED
from saewatch.cli.checks.tables import ENGINE, table
from saewatch.core import errors
from saewatch.core.batch import Reason
from saewatch.core.errors import SaewatchError
from saewatch.monitor.blindness import HINTS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()

AT_START = (errors.ConfigError, errors.DictionaryError, errors.HookPointError, errors.EngineError, errors.RecordError)
"""What opening or proving a tap raises; with ``on_failure: serve`` its code becomes the reason."""


def with_descendants(of: type[SaewatchError]) -> Iterator[type[SaewatchError]]:
    yield of
    for one in of.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from with_descendants(one)


def codes() -> list[str]:
    return sorted({one("x", found=1, expected=2).code for of in AT_START for one in with_descendants(of)})


def engine_reasons(text: str) -> set[str]:
    """Words that a module of engine/ gives as the reason of a blind stream."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"blind", "disable"}
        ):
            found |= {one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)}
        if isinstance(node, ast.FunctionDef) and node.name == "_to_serve_blind":
            returned = [
                one for statement in node.body if isinstance(statement, ast.Return) for one in ast.walk(statement)
            ]
            found |= {one.value for one in returned if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return found


def told_by_engines() -> set[str]:
    return {reason for file in ENGINE.glob("*.py") for reason in engine_reasons(file.read_text())}


def checks() -> set[str]:
    """Names of the self-test's checks."""
    text = (ENGINE / "selftest.py").read_text()
    return {"engine", *re.findall(r'name="(\w+)"', text), *re.findall(r'_guarded\("(\w+)"', text)}


def rows(text: str) -> dict[str, str]:
    """What the tables say beside each word in backticks of their first column."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            first, _, rest = line[2:].partition(" | ")
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", first), rest)
    return found


def test_engines_tell_what_is_looked_for() -> None:
    assert told_by_engines() == {"fault", "shipper_behind", "shipper_fault", "start_fault", "step_lost"}
    assert {"misfit_error", "unsupported_mode", "self_test_failed"} <= set(codes())


@pytest.mark.parametrize("reason", [*HINTS, *sorted(told_by_engines()), *codes(), "reported"])
def test_every_blind_reason(reason: str) -> None:
    said = rows(PAGE)[reason]
    assert len(said) > 20
    if reason in HINTS:
        assert HINTS[reason] in PAGE


@pytest.mark.parametrize("name", COUNTERS)
def test_every_counter(name: str) -> None:
    assert COUNTERS[name] in rows(PAGE)[name]


@pytest.mark.parametrize("reason", [one.label for one in Reason])
def test_every_reason_for_a_token_that_was_not_seen(reason: str) -> None:
    assert f"`{reason}`" in PAGE
    assert MISSED[reason] in PAGE


@pytest.mark.parametrize("mode", table("modes", "MODES"))
def test_every_refused_mode(mode: str) -> None:
    modes = PAGE.partition("| mode | what to do |")[2].partition("\n\n")[0]
    assert mode in modes


@pytest.mark.parametrize("check", sorted(checks()))
def test_every_check_of_the_self_test(check: str) -> None:
    assert f"- `{check}`: " in PAGE


@pytest.mark.parametrize("reason", ["swap", "reload", "sleep", "shutdown", "fault", "replaced", "lost"])
def test_why_a_stream_has_ended(reason: str) -> None:
    assert f"`{reason}`" in PAGE.rpartition("A stream that has *ended*")[2]


def test_the_symptoms_are_there() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert {
        "No firings arrive",
        "Coverage is below 1",
        "The stream is blind",
        "vLLM refuses to start",
        "Labels are missing",
        "Metrics have no series",
        "Gaps",
        "The sidecar does not start",
    } <= set(headings)


def test_a_reason_that_is_missing_is_found() -> None:
    assert engine_reasons('self._shipper.blind("new_reason")') == {"new_reason"}
    assert rows("| `a`, `b` | do this |\nno row `c`") == {"a": "do this |", "b": "do this |"}
