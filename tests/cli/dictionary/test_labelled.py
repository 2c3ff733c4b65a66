from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from saewatch.cli.dictionary import labelled
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.dictionary.calibration import Data

KNOWN = {"threat", "fraud"}


def written(path: Path, *entries: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


def test_what_requests_carry_and_share(tmp_path: Path) -> None:
    name = written(
        tmp_path / "a.jsonl",
        {"text": "one", "template": "t1"},
        {"text": "two", "template": "t1", "concept": "threat"},
        {"text": "three", "author": "ada", "concept": ["fraud", "threat"]},
        {"text": "four", "concept": None},
        {"text": "four"},
    )
    found = labelled.read(name, KNOWN)
    assert [sorted(concepts) for concepts in found.concepts] == [[], ["threat"], ["fraud", "threat"], [], []]
    digest = f"sha256:{hashlib.sha256(Path(name).read_bytes()).hexdigest()}"
    assert found.data == Data(digest=digest, requests=5, distinct=3), "one template, one author, one text twice"
    assert found.keys["template:t1"] == f"{name}:1"
    assert found.keys["author:ada"] == f"{name}:3"
    assert sum(key.startswith("text:") for key in found.keys) == 4


def test_the_same_request_in_another_file_has_the_same_key(tmp_path: Path) -> None:
    one = labelled.read(written(tmp_path / "a.jsonl", {"text": "x"}, {"tokens": [1], "answer": [2]}), KNOWN)
    two = labelled.read(written(tmp_path / "b.jsonl", {"tokens": [1], "answer": [3]}, {"text": "x", "note": 1}), KNOWN)
    assert len(one.keys.keys() & two.keys.keys()) == 1


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"text": "a", "concept": "thraet"}, r"a\.jsonl:1: concept: found 'thraet', expected null, or one of fraud"),
        ({"text": "a", "concept": ["threat", 7]}, r"a\.jsonl:1: concept: found 7"),
        ({"text": "a", "concept": {"name": "threat"}}, r"a\.jsonl:1: concept: found {'name'"),
        ({"text": "a", "concept": [["threat"]]}, r"a\.jsonl:1: concept: found \['threat'\]"),
        ({"text": "a", "template": 7}, r"a\.jsonl:1: template: found 7, expected a name"),
    ],
)
def test_labels_that_mean_nothing_are_refused(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        labelled.read(written(tmp_path / "a.jsonl", entry), KNOWN)


def test_a_request_that_carries_what_is_calibrated_is_not_benign(tmp_path: Path) -> None:
    found = labelled.read(written(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b", "concept": "threat"}), KNOWN)
    labelled.check_benign(found, {"fraud"})
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: concept: found threat, expected a benign request"):
        labelled.check_benign(found, {"threat"})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        labelled.read(str(tmp_path / "none.jsonl"), KNOWN)
