"""Writing a bundle: the whole folder or none of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.core.attestation import Attestation
from saewatch.core.catalogue import Catalogue
from saewatch.core.errors import ConfigError, ManifestError, TensorFileError, UnreachableError
from saewatch.dictionary.bundle import Parts, read_parts, write_bundle
from saewatch.dictionary.folder import place
from saewatch.engine.dictionary_file import load_bundle
from tests import made

FIXTURE = Path(__file__).resolve().parents[1] / "fixture" / "bundle"


def parts(seed: int = 0, **stated: str) -> Parts:
    one = made.dictionary(seed=seed)
    return Parts(
        manifest=one.manifest,
        tensors=made.tensors_of(one),
        catalogue=Catalogue(weights=one.manifest.digest, features=made.features(one.manifest.encoder)),
        attestations=[Attestation(kind="stated", weights=one.manifest.digest, body=dict(stated))],
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_is_written_whole(tmp_path: Path) -> None:
    sheet = write_bundle(parts(), tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle", decoder=True).sheet == sheet
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("folder", [FIXTURE, None])
def test_what_a_bundle_is_made_of_makes_it_again(folder: Path | None, tmp_path: Path) -> None:
    if folder is None:
        folder = tmp_path / "bundle"
        write_bundle(parts(), folder)
    write_bundle(read_parts(folder), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    write_bundle(parts(), tmp_path / "bundle")
    before = contents(tmp_path / "bundle")
    write_bundle(parts(), tmp_path / "bundle")
    assert contents(tmp_path / "bundle") == before


def test_new_evidence_makes_a_new_bundle_of_the_same_dictionary(tmp_path: Path) -> None:
    one, two = write_bundle(parts(), tmp_path / "one"), write_bundle(parts(fvu="0.1"), tmp_path / "two")
    assert (one.weights, one.catalogue) == (two.weights, two.catalogue)
    assert one.digest != two.digest


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


def test_contents_that_contradict_each_other_are_not_put_in_place(tmp_path: Path) -> None:
    good, other = parts(), parts(seed=1)
    with pytest.raises(ManifestError, match="weights"):
        write_bundle(replace(good, catalogue=other.catalogue), tmp_path / "bundle")
    with pytest.raises(TensorFileError, match=r"encoder.safetensors: W: found sha256"):
        write_bundle(replace(good, tensors=other.tensors), tmp_path / "bundle")
    with pytest.raises(ManifestError, match="It is about another dictionary"):
        write_bundle(replace(good, attestations=other.attestations), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


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
