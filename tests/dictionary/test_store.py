"""The store: what is added comes out again, is shared, and is whole or not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saewatch.core import canonical
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError, ManifestError, SaewatchError, TensorFileError, UnreachableError
from saewatch.dictionary.contents import read_folder
from saewatch.dictionary.convert import import_source
from saewatch.dictionary.store import BUNDLES, SHEETS, TENSORS, Store
from saewatch.dictionary.verify import verify
from saewatch.engine.dictionary_file import load_bundle, sheet_of
from tests import made
from tests.dictionary.crashing import Crash, CrashingDisk, bundle, registry


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_added_comes_out_byte_for_byte(tmp_path: Path) -> None:
    """With conformance rows, attestations, float16 and integers."""
    sae = made.saelens("jumprelu", apply_b_dec_to_input=True)
    source = made.source(tmp_path / "source", sae, directions=2, half=True)
    import_source(source, made.model(tmp_path / "model"), tmp_path / "bundle", oracle=made.ORACLE)
    store = registry(tmp_path / "store").store
    added = store.add(tmp_path / "bundle")
    assert store.digests(BUNDLES) == [added.digest]
    assert store.export(added.digest, tmp_path / "out") == added.sheet
    assert contents(tmp_path / "out") == contents(tmp_path / "bundle")
    assert len(contents(tmp_path / "out")) == 10
    store.export(added.digest, tmp_path / "out")  # it is there already
    with pytest.raises(ConfigError, match="other contents"):
        store.export(added.digest, tmp_path / "source")
    assert load_bundle(tmp_path / "out", decoder=True).sheet == added.sheet


def test_adding_again_changes_nothing(tmp_path: Path) -> None:
    store = registry(tmp_path / "store").store
    store.add(bundle(tmp_path / "one"))
    before = contents(tmp_path / "store")
    store.add(tmp_path / "one")
    assert contents(tmp_path / "store") == before


def test_a_relabelled_bundle_shares_its_tensors(tmp_path: Path) -> None:
    """10,000 features: only sheets are new."""
    one = made.dictionary(latents=10_000, d_in=16)
    features = tuple(
        Feature(id=f"a{at:05}.l1", label="x", category="x.a", severity="low", floor=0.5, latents=(at,))
        for at in range(10_000)
    )
    for name in ("old", "new"):
        bundle(tmp_path / name, one=one, features=features, labels=name)
    store = registry(tmp_path / "store").store
    store.add(tmp_path / "old")
    tensors, sheets = store.digests(TENSORS), store.digests(SHEETS)
    ages = {digest: store.path(TENSORS, digest).stat().st_ino for digest in tensors}
    store.add(tmp_path / "new")
    assert {digest: store.path(TENSORS, digest).stat().st_ino for digest in store.digests(TENSORS)} == ages
    assert len(store.digests(SHEETS)) == len(sheets) + 1
    assert len(store.digests(BUNDLES)) == 2


def test_other_thresholds_share_the_rest(tmp_path: Path) -> None:
    one = made.dictionary()
    store = registry(tmp_path / "store").store
    store.add(bundle(tmp_path / "one", one=one))
    before = set(store.digests(TENSORS))
    lim = one.limits.lim + 1
    sheet = sheet_of("lim", torch.from_numpy(lim))
    manifest = replace(one.manifest, tensors={**one.manifest.tensors, "lim": sheet})
    store.add(bundle(tmp_path / "two", one=replace(one, manifest=manifest, limits=replace(one.limits, lim=lim))))
    assert set(store.digests(TENSORS)) - before == {sheet.sha256}


def steps(tmp_path: Path) -> int:
    disk = CrashingDisk()
    Store(tmp_path / "counted", disk=disk, create=True).add(tmp_path / "one")
    return disk.steps


def test_a_crash_at_any_step_of_the_first_add(tmp_path: Path) -> None:
    """From no store at all; then it is opened and verified, and the same add ends."""
    bundle(tmp_path / "one")
    digest = read_folder(tmp_path / "one").digest
    count, states = steps(tmp_path), set()
    for at in range(count):
        root = tmp_path / f"store{at}"
        with pytest.raises(Crash):
            Store(root, disk=CrashingDisk(at), create=True).add(tmp_path / "one")
        again = registry(root)
        found = verify(again)
        assert found.damage == (), at
        states.add(tuple(again.store.digests(BUNDLES)))
        again.store.add(tmp_path / "one")
        assert again.store.digests(BUNDLES) == [digest]
        again.store.export(digest, root / ".." / f"out{at}")
    assert count > 40
    assert states <= {(), (digest,)}


def test_a_crash_at_any_step_of_another_add(tmp_path: Path) -> None:
    bundle(tmp_path / "one")
    bundle(tmp_path / "two", seed=1)
    first = registry(tmp_path / "store").store.add(tmp_path / "one").digest
    second = read_folder(tmp_path / "two").digest
    for at in range(1000):
        try:
            Store(tmp_path / "store", disk=CrashingDisk(at)).add(tmp_path / "two")
            break
        except Crash:
            again = registry(tmp_path / "store")
            assert verify(again).damage == ()
            assert set(again.store.digests(BUNDLES)) in ({first}, {first, second})
    assert 5 < at < 999
    assert set(registry(tmp_path / "store").store.digests(BUNDLES)) == {first, second}


# --- what is refused --------------------------------------------------------------------------------------------------
def change(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def rebuilt(folder: Path, name: str, old: bytes, new: bytes) -> Path:
    """A bundle whose sheet says something else, with every digest made good again."""
    path = folder / name
    before = canonical.digest(path.read_bytes())
    change(path, old, new)
    change(folder / "bundle.json", before.encode(), canonical.digest(path.read_bytes()).encode())
    return folder


def test_hostile_bundles_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    store = registry(tmp_path / "store").store
    cases = [
        ("features.json", b'"threat.l1"', b'"threat.g1"', "threat.g1: found after threat.g1, expected each id once"),
        ("features.json", b"saewatch.catalogue/1", b"saewatch.catalogue/2", "expected one of saewatch.catalogue/1"),
        ("features.json", b'"latents":[3]', b'"latents":[96]', "found 96, expected below 96"),
        ("features.json", b'"threat.l1"', b'"../../.l1"', "text like"),
        ("dictionary.json", b"saewatch.dictionary/1", b"saewatch.dictionary/2", "one of saewatch.dictionary/1"),
        ("dictionary.json", b'"kind":"sae"', b'"kind":"sae","more":1', "an unknown member"),
    ]
    for number, (name, old, new, message) in enumerate(cases):
        folder = rebuilt(bundle(tmp_path / f"bundle{number}"), name, old, new)
        with pytest.raises(ManifestError, match=message.replace("[", r"\[")):
            store.add(folder)
    folder = bundle(tmp_path / "newer")
    change(folder / "bundle.json", b"saewatch.bundle/1", b"saewatch.bundle/9")
    with pytest.raises(ManifestError, match=r"found 'saewatch.bundle/9'"):
        store.add(folder)
    assert [store.digests(kind) for kind in (BUNDLES, SHEETS, TENSORS)] == [[], [], []]


def test_tensors_that_are_not_those_of_the_sheet(tmp_path: Path) -> None:
    store = registry(tmp_path / "store").store
    folder = bundle(tmp_path / "flipped")
    data = bytearray((folder / "encoder.safetensors").read_bytes())
    data[-7] ^= 1
    (folder / "encoder.safetensors").write_bytes(data)
    with pytest.raises(TensorFileError, match=r"encoder.safetensors: .*: found sha256"):
        store.add(folder)
    folder = bundle(tmp_path / "missing")
    (folder / "decoder.safetensors").unlink()
    with pytest.raises(TensorFileError, match=r"decoder.safetensors: found No such file"):
        store.add(folder)
    assert store.digests(BUNDLES) == []
    assert verify(registry(tmp_path / "store")).good


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"found no store, expected one. `saewatch dictionary add` makes one"):
        Store(tmp_path / "none")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="a folder of something else"):
        Store(tmp_path, create=True)
    root = registry(tmp_path / "store").store.root
    change(root / "store.json", b"/1", b"/2")
    (root / "store.json").chmod(0o600)
    with pytest.raises(ManifestError, match=r"found 'saewatch.store/2', expected one of saewatch.store/1"):
        Store(root, create=True)
    other = registry(tmp_path / "other").store.root
    (other / "tmp").rmdir()
    (other / "tmp").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="tmp: found no folder of the store's own"):
        Store(other)


def test_a_damaged_tensor_is_not_exported(tmp_path: Path) -> None:
    store = registry(tmp_path / "store").store
    digest = store.add(bundle(tmp_path / "one")).digest
    tensor = store.path(TENSORS, store.contents(digest).manifest.tensors["s"].sha256)
    flip(tensor)
    with pytest.raises(TensorFileError, match=r"tensors/.*expected sha256.*Remove that file, and add the bundle again"):
        store.export(digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    tensor.unlink()
    with pytest.raises(TensorFileError, match="Its tensors were collected"):
        store.export(digest, tmp_path / "out")
    store.add(tmp_path / "one")
    store.export(digest, tmp_path / "out")


def test_links_in_the_store_are_not_followed(tmp_path: Path) -> None:
    store = registry(tmp_path / "store").store
    digest = store.add(bundle(tmp_path / "one")).digest
    path = store.path(SHEETS, store.contents(digest).sheet.catalogue)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="found a symbolic link, expected a regular file"):
        store.contents(digest)


def flip(path: Path, at: int = -7) -> None:
    """One bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def test_files_are_read_only_and_the_store_its_owners(tmp_path: Path) -> None:
    store = registry(tmp_path / "store").store
    digest = store.add(bundle(tmp_path / "one")).digest
    assert store.path(BUNDLES, digest).stat().st_mode & 0o777 & ~0o444 == 0
    assert store.root.stat().st_mode & 0o777 == 0o700
    with pytest.raises(SaewatchError):
        store.contents("sha256:" + "0" * 64)
