"""What is written is whole, and its owner's."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from saewatch.cli.output import check_place, whole
from saewatch.core.errors import UnreachableError


def test_a_file_is_its_owners_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    with whole(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_what_stood_there_stays_when_something_goes_wrong(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    with pytest.raises(RuntimeError), whole(path):
        raise RuntimeError
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_pipe_is_written_to_itself() -> None:
    with whole(Path("/dev/null")) as path:
        assert path == Path("/dev/null")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="nowhere"), whole(tmp_path / "nowhere" / "out"):
        pass


def test_a_place_is_looked_at_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("before")
    for fine in (None, tmp_path / "new", tmp_path / "there", Path("/dev/null")):
        check_place(fine)
    for wrong in (tmp_path, tmp_path / "nowhere" / "out", tmp_path / "there" / "out"):
        with pytest.raises(UnreachableError, match="expected a file that can be written"):
            check_place(wrong)
    assert [one.name for one in tmp_path.iterdir()] == ["there"]
