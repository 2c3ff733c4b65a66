"""How stores and bundles are named on the command line."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path

import pytest

from saewatch import cli
from saewatch.cli.dictionary import stored
from saewatch.core.errors import ConfigError
from saewatch.dictionary.journal import NOTHING
from tests.cli.dictionary.shop import SLOT, Shop


def options(**told: object) -> argparse.Namespace:
    return argparse.Namespace(**{"store": None, "actor": None, **told})


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAEWATCH_STORE", "/a")
    assert stored.place(options(store=Path("/b"))) == Path("/b")
    assert stored.place(options()) == Path("/a")
    monkeypatch.delenv("SAEWATCH_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert stored.place(options()) == tmp_path / "saewatch" / "dictionaries"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert stored.place(options()) == tmp_path / ".local" / "share" / "saewatch" / "dictionaries"


def test_a_bundle_is_named_by_digest_prefix_or_ref(shop: Shop) -> None:
    registry = stored.opened(options())
    shop.promote(shop.old, "none")
    for text in (shop.old, shop.old[7:], shop.old[7:13], shop.old[:20], f"{SLOT}@stable"):
        assert stored.digest_of(registry, text) == shop.old
    assert stored.expected(registry, "none") == NOTHING
    assert stored.expected(registry, "sha256:" + "0" * 64) == "sha256:" + "0" * 64
    for text, says in (
        ("abcde", "found 'abcde', expected a digest"),
        ("../../etc", "expected a digest, its first 6 digits"),
        ("0" * 12, "0 that begin with 000000000000"),
        (f"{SLOT}@shadow", "found no bundle, expected a ref that points to one"),
        (f"{SLOT}@best", "ref: found 'best'"),
        ("demo@stable", "slot: found 'demo'"),
    ):
        with pytest.raises(ConfigError, match=says):
            stored.digest_of(registry, text)


def test_who_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored.actor(options(actor="ada")) == "ada"
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    assert stored.actor(options()) == "root"

    def nobody() -> str:
        raise KeyError("uid")

    monkeypatch.setattr(getpass, "getuser", nobody)
    with pytest.raises(ConfigError, match="--actor: found no user of a name"):
        stored.actor(options())


def test_a_folder_is_a_bundle_too(shop: Shop, tmp_path: Path) -> None:
    assert stored.contents_of(None, str(tmp_path / "old")).digest == shop.old
    with pytest.raises(ConfigError, match=r"expected a folder with bundle.json in it; there is no store"):
        stored.contents_of(None, shop.old)


def test_what_a_crash_left_is_recovered_and_said(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.promote(shop.old, "none")
    journal = shop.root / "journal" / "demo" / "resid_post.1.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"act"')
    code = cli.main(["dictionary", "pin", shop.old])
    assert code == cli.GOOD
    said = "recovered: journal of demo/resid_post.1: a line of 6 bytes was never finished, and was cut off"
    assert said in capsys.readouterr().err


def test_what_names_no_bundle_is_told_what_would(shop: Shop, tmp_path: Path) -> None:
    registry = stored.opened(options())
    assert stored.contents_of(registry, shop.old[:20]).digest == shop.old
    lacks = "expected a folder with bundle.json in it"
    for text, found in ((str(tmp_path), "a folder without it"), ("nowhere", "no such folder")):
        with pytest.raises(ConfigError, match=f"found {found}, {lacks}; or a digest"):
            stored.contents_of(registry, text)
        with pytest.raises(ConfigError, match=f"found {found}, {lacks}; there is no store"):
            stored.contents_of(None, text)
