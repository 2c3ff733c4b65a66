"""A bundle is written whole, and the same inputs give the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.core.attestation import Attestation
from saewatch.core.catalogue import Catalogue
from saewatch.core.errors import ManifestError, TensorFileError
from saewatch.dictionary.bundle import Parts, read_parts, write_bundle
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


def test_contents_that_contradict_each_other_are_not_put_in_place(tmp_path: Path) -> None:
    good, other = parts(), parts(seed=1)
    with pytest.raises(ManifestError, match="weights"):
        write_bundle(replace(good, catalogue=other.catalogue), tmp_path / "bundle")
    with pytest.raises(TensorFileError, match=r"encoder.safetensors: W: found sha256"):
        write_bundle(replace(good, tensors=other.tensors), tmp_path / "bundle")
    with pytest.raises(ManifestError, match="It is about another dictionary"):
        write_bundle(replace(good, attestations=other.attestations), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
