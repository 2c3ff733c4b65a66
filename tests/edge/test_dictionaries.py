"""What the sidecar knows of its dictionaries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.edge import dictionaries
from tests import fakes


def test_a_bundle_without_its_tensors_is_enough(tmp_path: Path) -> None:
    known = fakes.dictionary()
    found = dictionaries.load([fakes.write_bundle(tmp_path / "a", known)])
    assert list(found) == [known.weights_digest]
    one = found[known.weights_digest]
    assert (one.manifest, one.catalogue) == (known.manifest, known.catalogue)
    assert one.bundle_digest.startswith("sha256:")
    assert one.folder == str(tmp_path / "a")


def test_the_model_comes_from_its_attestation(tmp_path: Path) -> None:
    known = fakes.dictionary()
    folder = fakes.write_bundle(tmp_path / "a", known, model="demo/model")
    assert dictionaries.load_one(folder).model_id == "demo/model"


def test_adapters_come_from_attestations_of_their_own(tmp_path: Path) -> None:
    folder = fakes.write_bundle(tmp_path / "a", fakes.dictionary(), model="demo/model", adapters=("sql", "chat"))
    assert dictionaries.load_one(folder).adapters == {"sql", "chat"}
    assert dictionaries.known(dictionaries.files(folder), where="").adapters == {"sql", "chat"}, "of a recording too"


def test_the_same_dictionary_twice(tmp_path: Path) -> None:
    known = fakes.dictionary()
    relabelled = replace(known, catalogue=replace(known.catalogue, features=known.catalogue.features[:1]))
    folders = [fakes.write_bundle(tmp_path / "a", known), fakes.write_bundle(tmp_path / "b", relabelled)]
    with pytest.raises(ConfigError, match=r"dictionaries\[1\]"):
        dictionaries.load(folders)


def test_an_engine_can_be_told_its_folder_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.write_bundle(tmp_path / "a", fakes.dictionary())
    monkeypatch.chdir(tmp_path)
    assert dictionaries.load_one(Path("a")).folder == str(tmp_path / "a")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"bundle\.json") as caught:
        dictionaries.load_one(tmp_path / "nowhere")
    assert "folder of a bundle" in caught.value.hint


@pytest.mark.parametrize("name", ["dictionary.json", "features.json"])
def test_a_sheet_that_is_not_the_one_of_the_bundle(tmp_path: Path, name: str) -> None:
    folder = fakes.write_bundle(tmp_path / "a", fakes.dictionary())
    other = fakes.write_bundle(tmp_path / "b", fakes.dictionary(fakes.FEATURES[:1], seed=1))
    (folder / name).write_bytes((other / name).read_bytes())
    with pytest.raises(ManifestError, match=name):
        dictionaries.load_one(folder)


def test_a_file_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fakes.write_bundle(tmp_path / "a", fakes.dictionary())
    monkeypatch.setattr(limits, "MANIFEST_BYTES", 10)
    with pytest.raises(ManifestError, match="at most 10 bytes"):
        dictionaries.load_one(folder)


def test_its_files_alone_make_it_known(tmp_path: Path) -> None:
    known = fakes.dictionary()
    folder = fakes.write_bundle(tmp_path / "a", known, model="demo/model")
    (folder / "encoder.safetensors").write_bytes(b"tensors")
    files = dictionaries.files(folder)
    assert sorted(name.split(".")[0] for name in files) == ["attestations/fit", "bundle", "dictionary", "features"]
    assert dictionaries.known(files, where="") == dictionaries.load_one(folder)


@pytest.mark.parametrize("name", ["bundle.json", "dictionary.json", "features.json", "attestations/fit"])
def test_files_are_checked_wherever_they_come_from(tmp_path: Path, name: str) -> None:
    files = dict(dictionaries.files(fakes.write_bundle(tmp_path / "a", fakes.dictionary(), model="demo/model")))
    name = next(one for one in files if one.startswith(name))
    with pytest.raises(ManifestError, match="a recording, features.json: found sha256" if name[0] == "f" else name):
        dictionaries.known({**files, name: files[name][:-1]}, where="a recording, ")
    del files[name]
    with pytest.raises(ManifestError, match=f"a recording, {name}: found nothing"):
        dictionaries.known(files, where="a recording, ")
