"""Prompts of a file; what each line may be is shown by the tests of saewatch score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saewatch.cli import prompts
from saewatch.core.errors import ConfigError


def test_what_a_verb_reads_besides_the_prompt_is_kept_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    path.write_text(json.dumps({"text": "a", "concept": "threat"}) + "\n\n" + json.dumps({"tokens": [1]}))
    assert prompts.entries(str(path)) == [
        (f"{path}:1", {"text": "a", "concept": "threat"}),
        (f"{path}:3", {"tokens": [1]}),
    ]


def test_plain_text_is_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('{"text": "a"}\n')
    assert prompts.entries(str(path)) == [(f"{path}:1", {"text": '{"text": "a"}'})]


def test_a_line_that_is_no_prompt_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a"}\n{"concept": "threat"}')
    with pytest.raises(ConfigError, match=r"prompts\.jsonl:2: found"):
        prompts.entries(str(path))


def test_as_the_scorer_takes_them() -> None:
    score = prompts.scoring()
    messages = [{"role": "user", "content": "a"}]
    assert prompts.given({"text": "a"}, score, chat=False) == "a"
    assert prompts.given({"text": "a"}, score, chat=True) == prompts.given({"messages": messages}, score, chat=False)
    assert prompts.given({"tokens": [1], "answer": [2]}, score, chat=True) == score.Exchange([1], [2])


def test_a_line_ends_where_jsonl_has_it_end(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    said = ["one\u2028two\u0085three", "four"]
    path.write_text("".join(json.dumps({"text": one}, ensure_ascii=False) + "\r\n" for one in said), encoding="utf-8")
    assert [(where[-1], entry["text"]) for where, entry in prompts.entries(str(path))] == [
        ("1", said[0]),
        ("2", said[1]),
    ]


@pytest.mark.parametrize("lie", ["[" * 100_000, "9" * 5_000], ids=["too deep", "too long a number"])
def test_json_that_python_cannot_hold_is_refused(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a", "note": ' + lie + "}")
    with pytest.raises(ConfigError, match=r"prompts\.jsonl:1: found .*expected a JSON object"):
        prompts.entries(str(path))
