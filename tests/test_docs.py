"""Holds the docs to the code: links, commands, make targets, words, tables and numbers.

Every checker is also run over a bad sample, so that it is known to bite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import render
from saewatch.cli import VERBS

ROOT = Path(__file__).resolve().parent.parent

DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text() for path in render.documents()}

WORDS_OF_THE_DESIGN = """
hook point, residual stream, dictionary, catalogue, latent, direction, feature, pre-activation, threshold, value, limit,
firing, L0, firing rate, watched, census, coverage, blind, tap, slab, span, frame, batch, stream, baseline, drift,
canary, calibration, attestation, ref, promote, rollback, checkpoint, receipt
"""

GROUPS = {name.split()[0] for name in VERBS if " " in name}
"""First words of verbs that have two."""
NOT_VERBS = {"is", "watches", "does", "will", "package"}
"""What follows the name in a sentence; only code counts, but a sentence may be code too."""


def prose(text: str) -> str:
    """A document without its code blocks, inline code and comments' contents."""
    return re.sub(r"```.*?```|`[^`\n]*`|<!-- from: .*?<!-- /from -->", "", text, flags=re.DOTALL)


# --- links ----------------------------------------------------------------------------------------------------------
def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(name: str, text: str) -> Iterator[str]:
    """Links inside the repository that lead nowhere."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / name).parent / path if path else ROOT / name
        if not found.exists():
            yield f"{name}: no {target}"
        elif anchor and anchor not in anchors(found.read_text()):
            yield f"{name}: no heading for {target}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    assert list(broken_links(name, DOCUMENTS[name])) == []


def test_broken_link_is_found() -> None:
    text = "# A b\n[a](no/such.md) [b](README.md#no-such) [c](#see-it) [d](https://example.org) [e](docs/limits.md)"
    assert len(list(broken_links("README.md", text))) == 2


# --- commands -------------------------------------------------------------------------------------------------------
def named_verbs(text: str) -> set[str]:
    """Verbs of ``saewatch VERB`` in code."""
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    found = re.findall(r"(?:^|[`\s/])saewatch ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", "\n".join(code))
    return {f"{first} {second}" if first in GROUPS else first for first, second in found} - NOT_VERBS


def planned_verbs(text: str) -> set[str]:
    """Verbs that a line calls planned."""
    return {verb for line in text.splitlines() if "planned" in line for verb in named_verbs(line)}


def test_commands_in_the_docs_are_those_of_the_command_line() -> None:
    there = set(VERBS)
    named: set[str] = set()
    for name, text in DOCUMENTS.items():
        unknown = named_verbs(text) - planned_verbs(text) - there
        assert not unknown, f"{name} names {unknown}, which the command line does not have"
        named |= named_verbs(text)
    assert not there - named, f"no document names {there - named}"


def test_unknown_verb_is_found() -> None:
    text = (
        "`saewatch serve -c a.yaml`, or\n```\nsaewatch fly --high\n```\nsaewatch is good. `saewatch soar` is planned."
    )
    assert named_verbs(text) == {"serve", "fly", "soar"}
    assert planned_verbs(text) == {"soar"}


def targets() -> set[str]:
    """The targets of the Makefile that have a description."""
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def named_targets(text: str) -> set[str]:
    """Targets of ``make TARGET`` in code."""
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    return set(re.findall(r"(?:^|[`\s])make ([a-z][a-z-]*)", "\n".join(code)))


def test_make_targets_in_the_docs_are_real() -> None:
    for name, text in DOCUMENTS.items():
        assert not named_targets(text) - targets(), name
    assert {"setup", "demo", "test", "full", "bench"} <= targets()


def test_unknown_target_is_found() -> None:
    assert named_targets("`make demo ARGS=x` and\n```\nmake fly\n```\nmake sense") == {"demo", "fly"}


# --- words ----------------------------------------------------------------------------------------------------------
def glossary() -> list[str]:
    """The words of the glossary, in its order."""
    rows = re.findall(r"^\| ([^|]+) \|", DOCUMENTS["docs/glossary.md"], re.MULTILINE)
    return [word.strip() for word in rows if word.strip() not in {"word", "---"}]


def test_glossary_has_the_words_of_the_design_in_order() -> None:
    words = glossary()
    split = {part for word in words for part in re.sub(r" \(.*\)", "", word).split(", ")}
    assert {word.strip() for word in WORDS_OF_THE_DESIGN.split(",")} <= split
    assert words == sorted(words, key=str.lower)


def test_every_decision_is_listed_and_says_what_was_given_up() -> None:
    pages = {name: text for name, text in DOCUMENTS.items() if re.match(r"docs/decisions/\d{4}-", name)}
    assert pages
    for name, text in pages.items():
        assert f"({Path(name).name})" in DOCUMENTS["docs/decisions/README.md"], name
        assert all(part in text for part in ("**Decided.**", "**Why.**", "**Given up.**")), name


# --- what is taken from code and benchmarks -------------------------------------------------------------------------
@pytest.mark.parametrize("name", DOCUMENTS)
def test_tables_and_numbers_are_current(name: str) -> None:
    assert render.rendered(DOCUMENTS[name]) == DOCUMENTS[name], "run `make docs`"


def test_stale_table_or_number_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "a.json").write_text('{"facts": {"compared": 20114}}')
    monkeypatch.setattr(render, "ROOT", tmp_path)
    assert "20,114<!-- /from -->" in render.rendered("<!-- from: a.json facts.compared , -->7<!-- /from -->")
    assert "| `cached` |" in render.rendered("<!-- table: reasons -->\nold\n<!-- end -->")


MEASURED = re.compile(r"(?<![\w.\-])\d[\d,.]*\s?(?:%|ms|µs|s|min|[kMG]B|[KMG]iB|tokens/s|tok/s|times|\u00d7)(?!\w)")


def typed_numbers(text: str) -> list[str]:
    """Measured numbers that stand in a document without a benchmark behind them."""
    return MEASURED.findall(prose(text))


def test_no_measured_number_in_the_readme_is_typed_by_hand() -> None:
    assert typed_numbers(DOCUMENTS["README.md"]) == []


def test_typed_number_is_found() -> None:
    text = (
        "It takes 52 µs, 1.5 % or 3,000 tokens/s. <!-- from: a.json b -->7 ms<!-- /from --> Python 3.11, 16 features."
    )
    assert typed_numbers(text) == ["52 µs", "1.5 %", "3,000 tokens/s"]
