from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from saewatch.cli.baseline.build import lines
from saewatch.core import limits
from saewatch.edge import baselines
from tests import deployed


@pytest.fixture(scope="module", autouse=True)
def short_silences() -> Iterator[None]:
    """Between two groups lie three hours in which nothing happens: a minute of those is replayed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "RECORDING_SILENCE_NS", 60 * limits.BEAT_INTERVAL_NS)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("traffic")
    found = {"week": deployed.recording(folder / "week.frames", 8), "day": deployed.recording(folder / "day.frames", 1)}
    return {**found, "bundle": deployed.bundle(folder / "bundle")}


def build(files: dict[str, Path], *words: object, of: str = "week") -> int:
    given = ["baseline", "build", str(files[of]), "--dictionary", str(files["bundle"])]
    return cli.main([*given, *map(str, words)])


@dataclass(frozen=True, slots=True)
class Built:
    """A baseline, and what was said of it."""

    folder: Path
    told: dict[str, Any]


@pytest.fixture(scope="module")
def built(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built") / "b"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert build(files, "--out", folder, "--deployment", "demo", "--json") == cli.GOOD
    return Built(folder, json.loads(said.getvalue()))


def test_a_baseline_of_recorded_traffic(built: Built) -> None:
    requests = 8 * deployed.GROUPS_A_DAY * deployed.GROUP
    assert (built.told["requests"], built.told["days"], built.told["paging"]) == (requests, 8, "list")
    assert built.told["left_out"] == "none"
    found = baselines.read(built.folder)
    assert (found.digest, found.about) == (built.told["digest"], deployed.ABOUT)
    assert found.fitted.baseline.prevalence() == pytest.approx(deployed.CHANCES, rel=0.1)
    body = json.loads((built.folder / baselines.SHEET).read_text())["body"]
    assert sum(one["requests"] for one in body["slices"].values()) == requests
    assert len(body["data"]) == 1


def test_it_says_what_it_came_to(built: Built) -> None:
    said = "\n".join(lines(built.told))
    assert "on 8 days" in said
    assert "smallest visible change" in said


def test_one_day_is_refused_and_nothing_is_written(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(files, "--out", tmp_path / "b", of="day") == cli.FAILED
    assert "at least 7" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_folder_that_is_there_is_refused_at_once(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(files, "--out", tmp_path) == cli.FAILED
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_recording_that_is_not_there(files: dict[str, Path], tmp_path: Path) -> None:
    words = ["baseline", "build", str(tmp_path / "no.frames"), "--dictionary", str(files["bundle"])]
    assert cli.main([*words, "--out", str(tmp_path / "b")]) == cli.UNREACHED
