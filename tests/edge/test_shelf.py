"""What a sidecar knows: its configuration, what was applied, and what it reads when an engine has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.core import limits, served
from saewatch.core.errors import ManifestError, UnreachableError
from saewatch.edge import dictionaries
from saewatch.edge.shelf import Shelf
from saewatch.monitor.tables import KnownDictionary
from tests import fakes

ONE, RELABELLED, OTHER = (
    fakes.dictionary(),
    fakes.dictionary([replace(feature, label="better") for feature in fakes.FEATURES]),
    fakes.dictionary(seed=1),
)


def put(store: Path, known: KnownDictionary) -> KnownDictionary:
    """As if it had been applied."""
    made = dictionaries.load_one(fakes.write_bundle(store / "made" / known.catalogue_digest[7:], known))
    folder = served.folder_of(store, made.bundle_digest)
    fakes.write_bundle(folder, known)
    pointer = served.pointer_of(store, known.weights_digest)
    pointer.parent.mkdir(exist_ok=True)
    pointer.write_bytes(served.pointer_data(made.bundle_digest))
    return dictionaries.load_one(folder)


def test_it_meets_weights_that_were_applied(tmp_path: Path) -> None:
    shelf = Shelf({}, store=tmp_path)
    shelf.meet(OTHER.weights_digest)
    assert len(shelf) == 0
    put(tmp_path, OTHER)
    shelf.meet(OTHER.weights_digest)
    assert shelf[OTHER.weights_digest] == replace(OTHER, bundle_digest=shelf[OTHER.weights_digest].bundle_digest)
    shelf.meet("../../made")
    shelf.meet("")
    assert [*shelf] == [OTHER.weights_digest]


def test_within_reach_is_what_is_known_and_what_was_applied(tmp_path: Path) -> None:
    put(tmp_path, OTHER)
    put(tmp_path, RELABELLED)
    broken = served.pointer_of(tmp_path, "sha256:" + "0" * 64)
    broken.write_bytes(b"nonsense")
    shelf = Shelf({ONE.weights_digest: ONE}, store=tmp_path)
    assert {one.catalogue_digest for one in shelf.within_reach()} == {
        OTHER.catalogue_digest,
        RELABELLED.catalogue_digest,
    }
    assert [*shelf] == [ONE.weights_digest], "nothing was kept"
    assert [*Shelf({}, store=tmp_path / "none").within_reach()] == [*Shelf({}).within_reach()] == []


def test_what_was_applied_is_newer_than_the_configuration(tmp_path: Path) -> None:
    configured = {ONE.weights_digest: ONE}
    assert Shelf(configured, store=tmp_path)[ONE.weights_digest].catalogue_digest == ONE.catalogue_digest
    put(tmp_path, RELABELLED)
    assert Shelf(configured, store=tmp_path)[ONE.weights_digest].catalogue_digest == RELABELLED.catalogue_digest
    assert Shelf(configured)[ONE.weights_digest].catalogue_digest == ONE.catalogue_digest, "without a store"


def test_a_damaged_store_leaves_it_unknown(tmp_path: Path) -> None:
    found = put(tmp_path, OTHER)
    (Path(found.folder) / "features.json").write_bytes(b"{}")
    shelf = Shelf({}, store=tmp_path)
    shelf.meet(OTHER.weights_digest)
    assert len(shelf) == 0
    with pytest.raises(ManifestError):
        shelf.read(found.bundle_digest)


def test_a_folder_under_another_name_is_refused(tmp_path: Path) -> None:
    found = put(tmp_path, OTHER)
    lying = "sha256:" + "0" * 64
    Path(found.folder).rename(served.folder_of(tmp_path, lying))
    with pytest.raises(ManifestError, match=f"expected {lying}"):
        Shelf({}, store=tmp_path).read(lying)


@pytest.mark.parametrize("bundle", ["", "sha256:" + "0" * 64, "../made"])
def test_a_bundle_that_is_not_there(tmp_path: Path, bundle: str) -> None:
    for store in (None, tmp_path):
        with pytest.raises(UnreachableError):
            Shelf({}, store=store).read(bundle)


def test_a_bundle_of_the_configuration_is_read_without_a_store(tmp_path: Path) -> None:
    known = dictionaries.load_one(fakes.write_bundle(tmp_path, ONE))
    assert Shelf({known.weights_digest: known}).read(known.bundle_digest) is known


def test_it_keeps_so_many_and_what_is_configured(tmp_path: Path) -> None:
    shelf = Shelf({ONE.weights_digest: ONE}, store=tmp_path)
    for number in range(limits.DICTIONARIES_KEPT + 3):
        shelf.keep(replace(OTHER, weights_digest=f"w{number}"))
    assert len(shelf) == limits.DICTIONARIES_KEPT + 1
    assert ONE.weights_digest in shelf
    assert "w2" not in shelf
    assert "w3" in shelf
