"""A bundle's folder is there whole or not at all, and takes nobody else's place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.dictionary.bundle import write_bundle
from saewatch.dictionary.folder import place
from saewatch.engine.dictionary_file import load_bundle
from tests.dictionary.test_bundle import contents, parts


def test_another_bundle_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    write_bundle(parts(), tmp_path / "bundle")
    before = contents(tmp_path / "bundle")
    with pytest.raises(ConfigError, match="found a folder with other contents"):
        write_bundle(parts(seed=1), tmp_path / "bundle")
    assert contents(tmp_path / "bundle") == before
    sheet = write_bundle(parts(seed=1), tmp_path / "bundle", replace=True)
    assert load_bundle(tmp_path / "bundle").sheet == sheet
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="found a folder with other contents"):
        write_bundle(parts(), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_an_interrupted_write_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".bundle.partial").mkdir()
    (tmp_path / ".bundle.partial" / "junk").write_text("half")
    write_bundle(parts(), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_two_that_write_at_a_time_do_not_mix(tmp_path: Path) -> None:
    first = write_bundle(parts(), tmp_path / "first")

    def chunks() -> Iterator[bytes]:
        with pytest.raises(ConfigError, match="found another command that writes it"):
            write_bundle(parts(seed=1), tmp_path / "bundle")
        yield first.data()

    files = {name: [data] for name, data in contents(tmp_path / "first").items()}
    place(tmp_path / "bundle", first, {**files, "bundle.json": chunks()})
    assert contents(tmp_path / "bundle") == contents(tmp_path / "first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "first"]


def test_one_that_was_faster_is_not_written_over(tmp_path: Path) -> None:
    one, two = write_bundle(parts(), tmp_path / "one"), write_bundle(parts(seed=1), tmp_path / "two")
    files = {name: [data] for name, data in contents(tmp_path / "two").items()}

    def faster() -> Iterator[bytes]:
        (tmp_path / "one").rename(tmp_path / "bundle")
        yield two.data()

    with pytest.raises(ConfigError, match="found a folder with other contents"):
        place(tmp_path / "bundle", two, {**files, "bundle.json": faster()})
    assert load_bundle(tmp_path / "bundle").sheet == one


def test_a_place_that_takes_no_bundle_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UnreachableError, match=r"file/sub/bundle: found Not a directory"):
        write_bundle(parts(), tmp_path / "file" / "sub" / "bundle")


@pytest.mark.parametrize("beside", [False, True])
def test_replacing_never_removes_what_is_no_bundle(tmp_path: Path, beside: bool) -> None:
    if beside:
        write_bundle(parts(), tmp_path / "bundle")
    (tmp_path / "bundle").mkdir(exist_ok=True)
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"found 'notes.txt', which is no bundle's"):
        write_bundle(parts(seed=1), tmp_path / "bundle", replace=True)
    assert (tmp_path / "bundle" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_file_is_not_replaced_by_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="no bundle's"):
        write_bundle(parts(), tmp_path / "prompts.jsonl", replace=True)
    assert (tmp_path / "prompts.jsonl").read_text() == "mine"


def test_an_empty_folder_and_a_broken_bundle_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    sheet = write_bundle(parts(), tmp_path / "bundle", replace=True)
    (tmp_path / "bundle" / "bundle.json").unlink()
    assert write_bundle(parts(), tmp_path / "bundle", replace=True) == sheet
    assert load_bundle(tmp_path / "bundle").sheet == sheet
