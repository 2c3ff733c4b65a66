from __future__ import annotations

import json
from pathlib import Path

import pytest

from saewatch import cli
from saewatch.edge import baselines
from tests import deployed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return deployed.written(tmp_path / "b")


def accept(folder: Path, *words: str, reason: str = "a new product") -> int:
    return cli.main(["baseline", "accept", str(folder), "--actor", "ada", "--reason", reason, *words])


def test_a_level_is_accepted_and_the_next_one_amends_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = baselines.read(folder).digest
    assert accept(folder, "--level", "demo02.l1=2.5", "--json") == cli.GOOD
    told = json.loads(capsys.readouterr().out)
    assert (told["amends"], told["version"], told["actor"]) == (before, 2, "ada")
    assert told["digest"] == baselines.read(folder).digest
    assert accept(folder, "--level", "demo02.l1=0.4", "--level", "demo03.l1=3") == cli.GOOD
    said = capsys.readouterr().out
    assert "demo03.l1: 3 times as often is as usual now" in said
    assert "version 3" in said


@pytest.mark.parametrize(
    "words",
    [["demo02.l1"], ["demo02.l1=nan"], ["demo02.l1=0"], ["=2"], ["nobody.l1=2"], ["demo02.l1=2", "demo02.l1=3"]],
)
def test_a_level_that_makes_no_sense_is_refused(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert accept(folder, *(part for one in words for part in ("--level", one))) == cli.FAILED
    assert capsys.readouterr().err
    assert not list(folder.glob("accepted-*"))


def test_without_a_reason_nothing_is_accepted(folder: Path) -> None:
    assert accept(folder, "--level", "demo02.l1=2", reason=" ") == cli.FAILED


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert accept(tmp_path / "gone", "--level", "demo02.l1=2") == cli.UNREACHED
