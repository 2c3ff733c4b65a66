"""Folders of bundles for engines, what names them, and what `verify` and `gc` make of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from saewatch.core import served
from saewatch.core.errors import ConfigError
from saewatch.dictionary import serving
from saewatch.dictionary.journal import NOTHING
from saewatch.dictionary.sweep import GRACE_S, sweep
from saewatch.dictionary.verify import verify
from saewatch.engine.dictionary_file import load_bundle
from tests.dictionary.crashing import SLOT, bundle, move, registry


def test_a_folder_is_made_once_and_loads(tmp_path: Path) -> None:
    store = registry(tmp_path / "store").store
    digest = store.add(bundle(tmp_path / "one")).digest
    out = serving.folder(store, digest)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert load_bundle(out, decoder=True).sheet.digest == digest
    assert serving.folder(store, digest) == out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_the_last_one_explains_its_weights(tmp_path: Path) -> None:
    store = registry(tmp_path / "store").store
    first = store.add(bundle(tmp_path / "one"))
    second = store.add(bundle(tmp_path / "two", labels="other"))
    pointer = served.pointer_of(store.root, first.sheet.weights)
    for one in (first, second, first):
        serving.explain(store, one.digest)
        assert served.read_pointer(pointer.read_bytes(), subject="p") == one.digest


def test_what_the_ref_points_to_is_brought(tmp_path: Path) -> None:
    found = registry(tmp_path / "store")
    old, new = (found.store.add(bundle(tmp_path / str(seed), seed=seed)).digest for seed in range(2))
    found.promote(move(), old, expect=NOTHING)
    serving.check_current(found, SLOT, "stable", old)
    found.promote(move(), new, expect=old)
    with pytest.raises(ConfigError, match="Somebody moved it meanwhile"):
        serving.check_current(found, SLOT, "stable", old)


def test_verify_knows_them_and_names_what_is_damaged(tmp_path: Path) -> None:
    found = registry(tmp_path / "store")
    digest = found.store.add(bundle(tmp_path / "one")).digest
    out = serving.folder(found.store, digest)
    serving.explain(found.store, digest)
    assert verify(found).good
    file = out / "encoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (found.store.root / served.SERVED / ("0" * 64)).mkdir()
    pointer = served.pointer_of(found.store.root, "sha256:" + "1" * 64)
    pointer.write_bytes(served.pointer_data(digest))
    pointer.with_name("2" * 64).write_bytes(b"nonsense")
    damage = verify(found).damage
    assert len(damage) == 4
    assert any("encoder.safetensors" in line for line in damage)
    assert any("0" * 64 in line and "no bundle of the store" in line for line in damage)
    assert any("names a bundle of the weights" in line for line in damage)
    assert any("'nonsense'" in line for line in damage)


def test_they_go_with_their_bundles(tmp_path: Path) -> None:
    found = registry(tmp_path / "store")
    kept, gone = (found.store.add(bundle(tmp_path / str(seed), seed=seed)) for seed in range(2))
    found.promote(move(), kept.digest, expect=NOTHING)
    for one in (kept, gone):
        serving.folder(found.store, one.digest)
        serving.explain(found.store, one.digest)
    link, file = (served.folder_of(found.store.root, digit * 64) for digit in "12")
    link.symlink_to(tmp_path, target_is_directory=True)  # what does not belong there, verify names
    file.write_text("nothing of ours")
    now = time.time()
    for path in found.store.root.rglob("*"):
        os.utime(path, (now - GRACE_S - 1,) * 2)
    assert sweep(found, now_s=now, dry_run=True).folders == 1
    assert served.folder_of(found.store.root, gone.digest).is_dir()
    assert sweep(found, now_s=now).folders == 1
    assert not served.folder_of(found.store.root, gone.digest).exists()
    assert not served.pointer_of(found.store.root, gone.sheet.weights).exists()
    assert served.pointer_of(found.store.root, kept.sheet.weights).exists()
    assert load_bundle(served.folder_of(found.store.root, kept.digest)).sheet.digest == kept.digest
    assert len(verify(found).damage) == 2
    link.unlink()
    file.unlink()
    assert verify(found).good
