"""Verifying a store: each kind of damage is named with its file, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.dictionary.journal import NOTHING
from saewatch.dictionary.registry import Registry
from saewatch.dictionary.store import BUNDLES, SHEETS, TENSORS
from saewatch.dictionary.verify import verify
from tests.dictionary.crashing import SLOT, bundle, move, registry


@pytest.fixture
def one(tmp_path: Path) -> Registry:
    """Two bundles, two moves of the stable ref, one of the candidate, and a pin."""
    found = registry(tmp_path / "store")
    a, b = (found.store.add(bundle(tmp_path / f"bundle{seed}", seed=seed)).digest for seed in range(2))
    found.promote(move(), a, expect=NOTHING)
    found.promote(move("candidate"), b, expect=NOTHING)
    found.promote(move(), b, expect=a)
    found.pin(a)
    return found


def tensor(one: Registry, name: str = "c") -> Path:
    store = one.store
    return store.path(TENSORS, store.contents(store.digests(BUNDLES)[0]).manifest.tensors[name].sha256)


def sheet(one: Registry) -> Path:
    store = one.store
    return store.path(SHEETS, store.contents(store.digests(BUNDLES)[0]).sheet.catalogue)


def journal(one: Registry) -> Path:
    return one.store.root / "journal" / "demo" / "resid_post.1.jsonl"


def write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    write(path, bytes(data))


def linked(path: Path) -> None:
    path.rename(path.parent.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent.parent / "elsewhere")


def changed(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    write(path, data.replace(old, new, 1))


DAMAGE: list[tuple[str, Callable[[Registry], object], str]] = [
    ("a flipped byte of a tensor", lambda one: flip(tensor(one)), "{tensor}: its bytes have the digest"),
    ("a flipped byte of a sheet", lambda one: flip(sheet(one)), "{sheet}: its bytes have the digest"),
    ("a tensor that is gone", lambda one: tensor(one).unlink(), "bundle {bundle}: no tensor sha256:"),
    ("a sheet that is gone", lambda one: sheet(one).unlink(), "{sheet}: found No such file"),
    ("a tensor that is a link", lambda one: linked(tensor(one)), "{tensor}: a symbolic link, which does not belong"),
    ("a ref of garbage", lambda one: write(one.ref_path(SLOT, "stable"), b"\0\xff garbage"), "stable: says b'"),
    ("a ref elsewhere", lambda one: changed(one.ref_path(SLOT, "stable"), b" 3 ", b" 9 "), "stable: says"),
    ("a ref that is a link", lambda one: linked(one.ref_path(SLOT, "stable")), "stable: a symbolic link"),
    ("a ref of nobody", lambda one: write(one.ref_path(SLOT, "stable").with_name("mine"), b"x"), "mine: a ref without"),
    ("a changed line", lambda one: changed(journal(one), b"because", b"becausE"), "jsonl: line 1: found sha256"),
    (
        "a changed last line",
        lambda one: write(journal(one), journal(one).read_bytes()[::-1].replace(b"ada"[::-1], b"eve"[::-1], 1)[::-1]),
        "stable: says b'",
    ),
    ("a line that is gone", lambda one: write(journal(one), journal(one).read_bytes().partition(b"\n")[2]), "line 1: "),
    ("another slot's", lambda one: changed(journal(one), b"demo/", b"dem0/"), "found line 1 of dem0/resid_post.1"),
    ("a line of garbage", lambda one: changed(journal(one), b'"act"', b'"a\x00t"'), "line 1: found "),
    ("a newer line", lambda one: changed(journal(one), b"journal/1", b"journal/2"), "found 'saewatch.journal/2'"),
    ("a journal that is gone", lambda one: journal(one).unlink(), "stable: a ref without a journal"),
    ("a cut journal", lambda one: write(journal(one), journal(one).read_bytes().rpartition(b'{"act"')[0]), "says"),
    ("a journal of no slot", lambda one: write(journal(one).with_name("x.jsonl"), b""), "x.jsonl: not named"),
    ("a pin of nothing", lambda one: write(one.store.root / "pins" / ("0" * 64), b""), "no bundle of the store"),
    ("a pin with a path", lambda one: write(one.store.root / "pins" / "..x", b""), "pins/..x: no bundle of the store"),
    ("a file that is none", lambda one: write(one.store.root / "sheets" / "ab" / "x", b""), "ab/x: not named after"),
    ("a folder too deep", lambda one: write(one.store.root / "tensors" / "ab" / "cd" / "x", b""), "ab/cd: a folder"),
    ("a file beside", lambda one: write(one.store.root / "mine", b""), "mine: does not belong here"),
]


@pytest.mark.parametrize(("act", "says"), [pytest.param(act, says, id=name) for name, act, says in DAMAGE])
def test_each_damage_is_named(one: Registry, act: Callable[[Registry], object], says: str) -> None:
    names = {"tensor": tensor(one).name, "sheet": sheet(one).name, "bundle": one.store.digests(BUNDLES)[0][:19]}
    assert verify(one).damage == ()
    act(one)
    found = verify(registry(one.store.root))
    assert not found.good
    assert any(says.format(**names) in text for text in found.damage), found.damage


def test_what_is_not_damage_is_counted(one: Registry, tmp_path: Path) -> None:
    c = one.store.add(bundle(tmp_path / "c", seed=5))
    path = one.store.path(BUNDLES, c.digest)
    path.unlink()  # as if the add had been interrupted before its last step
    found = verify(one)
    assert (found.good, found.bundles, found.journal_lines) == (True, 2, 3)
    assert found.unreferenced == 2 + 2  # its sheets, W and W_dec: the others are shared
    one.store.add(tmp_path / "c")
    one.store.path(TENSORS, c.manifest.tensors["W"].sha256).unlink()
    found = verify(one)
    assert (found.good, found.without_tensors, found.unreferenced) == (True, (c.digest,), 0)
    one.store.add(tmp_path / "c")
    assert verify(one).without_tensors == ()


def test_a_crash_is_recovered_and_told_once(one: Registry) -> None:
    with journal(one).open("ab") as file:
        file.write(b'{"act":"prom')
    one.ref_path(SLOT, "candidate").unlink()
    found = verify(one)
    assert found.good
    assert found.recovered == (
        "journal of demo/resid_post.1: a line of 12 bytes was never finished, and was cut off",
        "demo/resid_post.1@candidate: was behind its journal, and was brought to line 2",
    )
    assert verify(one).recovered == ()


def test_damage_does_not_hide_damage(one: Registry) -> None:
    flip(tensor(one))
    flip(tensor(one, "s"))
    flip(sheet(one))
    changed(journal(one), b"because", b"becausE")
    assert len(verify(registry(one.store.root)).damage) == 2 + 2 + 1  # the sheet, and the bundle that it is of


def test_a_garbled_ref_is_written_anew_by_the_next_move(one: Registry) -> None:
    write(one.ref_path(SLOT, "stable"), b"garbage")
    a = one.journal(SLOT).lines[0].after
    one.rollback(replace(move(), reason="back"))
    assert one.current(SLOT)["stable"] == a
    assert verify(one).good
