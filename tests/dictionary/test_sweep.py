"""What goes and what stays when a store is swept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from saewatch.core.errors import ManifestError, SaewatchError
from saewatch.dictionary.journal import NOTHING
from saewatch.dictionary.registry import Registry
from saewatch.dictionary.store import BUNDLES, SHEETS, TENSORS
from saewatch.dictionary.sweep import GRACE_S, sweep
from saewatch.dictionary.verify import verify
from tests.dictionary.crashing import SLOT, Crash, CrashingDisk, bundle, move, registry

NOW = time.time()


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Registry, list[str]]:
    """Four bundles that are old enough."""
    found = registry(tmp_path / "store")
    digests = [found.store.add(bundle(tmp_path / f"bundle{seed}", seed=seed)).digest for seed in range(4)]
    age(found)
    return found, digests


def age(one: Registry, seconds: float = GRACE_S + 1) -> None:
    for path in one.store.root.rglob("*"):
        os.utime(path, (NOW - seconds, NOW - seconds))


def loadable(one: Registry) -> set[str]:
    return {digest for digest in one.store.digests(BUNDLES) if not one.store.missing(one.store.contents(digest))}


def test_what_is_referred_to_stays(stored: tuple[Registry, list[str]]) -> None:
    one, (a, b, c, d) = stored
    one.promote(move(), a, expect=NOTHING)
    one.promote(move(), b, expect=a)
    one.promote(move("candidate"), c, expect=NOTHING)
    found = sweep(one, now_s=NOW, dry_run=True)
    assert (found.bundles, loadable(one)) == ((d,), {a, b, c, d})
    assert sweep(one, now_s=NOW) == found
    assert found.bytes > 10_000
    assert loadable(one) == {a, b, c}
    one.pin(a)
    assert sweep(one, now_s=NOW, keep=0).tensors == 0
    one.unpin(a)
    assert sweep(one, now_s=NOW, keep=0).bundles == (a,)
    assert loadable(one) == {b, c}
    assert len(one.store.digests(BUNDLES)) == 4
    assert one.store.contents(d).digest == d  # sheets stay
    assert verify(one).without_tensors == tuple(sorted((a, d)))


def test_shared_tensors_stay(stored: tuple[Registry, list[str]], tmp_path: Path) -> None:
    one, (a, *_) = stored
    again = one.store.add(bundle(tmp_path / "again", seed=0, labels="other")).digest
    age(one)
    one.promote(move(), again, expect=NOTHING)
    assert set(sweep(one, now_s=NOW).bundles).isdisjoint({a, again})
    assert loadable(one) == {a, again}


def test_what_is_young_stays(stored: tuple[Registry, list[str]], tmp_path: Path) -> None:
    """Also what an `add` found there: it relies on it from now on."""
    one, _ = stored
    (one.store.root / "tmp" / "half").write_text("x")
    age(one, GRACE_S - 1)
    assert sweep(one, now_s=NOW).tensors == 0
    age(one)
    one.store.add(tmp_path / "bundle0")
    found = sweep(one, now_s=NOW)
    assert (len(found.bundles), found.unfinished) == (3, 1)
    assert list((one.store.root / "tmp").iterdir()) == []


def test_a_crash_at_any_step(stored: tuple[Registry, list[str]]) -> None:
    one, (a, *_) = stored
    one.promote(move(), a, expect=NOTHING)
    sheets = one.store.digests(SHEETS)
    for at in range(1000):
        try:
            sweep(registry(one.store.root, CrashingDisk(at)), now_s=NOW)
            break
        except Crash:
            assert verify(registry(one.store.root)).good
            assert one.store.missing(one.store.contents(a)) == []
    assert 0 < at < 999
    assert loadable(one) == {a}
    assert one.store.digests(SHEETS) == sheets


def test_a_damaged_store_is_not_swept(stored: tuple[Registry, list[str]]) -> None:
    one, (a, b, *_) = stored
    one.promote(move(), a, expect=NOTHING)
    one.promote(move(), b, expect=a)
    before = one.store.digests(TENSORS)
    path = one.store.root / "journal" / "demo" / "resid_post.1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"because", b"becausE", 1))
    with pytest.raises(ManifestError, match="line 1"):
        sweep(one, now_s=NOW)
    path.write_bytes(whole)
    one.store.path(BUNDLES, a).unlink()
    with pytest.raises(SaewatchError):
        sweep(one, now_s=NOW)
    assert one.store.digests(TENSORS) == before
    assert one.current(SLOT) == {"stable": b}
