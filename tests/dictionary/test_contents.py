"""What a bundle says, read without its tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch.core.errors import ManifestError
from saewatch.dictionary.contents import read_contents, read_folder
from saewatch.dictionary.convert import import_source
from saewatch.engine.dictionary_file import load_bundle
from tests import made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = made.source(tmp_path / "source", made.saelens("jumprelu"), directions=2)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle", oracle=made.ORACLE)
    return tmp_path / "bundle"


def test_it_is_what_an_engine_reads(folder: Path) -> None:
    found, bundle = read_folder(folder), load_bundle(folder, decoder=True)
    assert (found.sheet, found.manifest, found.catalogue) == (bundle.sheet, bundle.manifest, bundle.catalogue)
    assert found.attestations == bundle.attestations
    assert found.digest == bundle.sheet.digest
    assert found.files().keys() == {path.name for path in folder.glob("*.safetensors")}
    assert set(found.sheets) | {"bundle.json"} == {str(one.relative_to(folder)) for one in folder.rglob("*.json")}
    assert len(found.tensors()) == 6 + 4
    assert len(found.attested("conformance")) == 1


def test_without_tensor_files_it_reads_the_same(folder: Path) -> None:
    before = read_folder(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert read_folder(folder) == before


def test_an_attestation_under_another_name(folder: Path) -> None:
    """The bundle calls a statement of quality a fit."""
    data = (folder / "bundle.json").read_bytes()
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}
    digest = read_folder(folder).attested("stated")[0].digest
    renamed = data.replace(b'"kind":"stated"', b'"kind":"statee"')
    files[f"attestations/statee.{digest[7:19]}.json"] = files[f"attestations/stated.{digest[7:19]}.json"]
    with pytest.raises(ManifestError, match=r"statee.*json: kind: found stated, expected statee"):
        read_contents(renamed, lambda name, _: files[name], where="")
    with pytest.raises(ManifestError, match="It was changed after the bundle was made"):
        read_contents(data, lambda name, _: files[name] + b" ", where="")
