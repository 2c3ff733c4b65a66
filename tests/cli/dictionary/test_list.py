"""saewatch dictionary list."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch import cli
from tests.cli.dictionary.shop import SLOT, Shop


def test_bundles_and_refs(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.promote(shop.old, "none")
    shop.promote(shop.new, "none", ref="shadow")
    code, said = shop.ask("list")
    assert code == cli.GOOD
    assert said["slots"] == {SLOT: {"stable": shop.old, "shadow": shop.new}}
    one = next(one for one in said["bundles"] if one["bundle"] == shop.old)
    assert (one["features"], one["latents"], one["directions"], one["loadable"]) == (3, 96, 2, True)
    assert one["referenced"] == [f"{SLOT}@stable"]
    assert cli.main(["dictionary", "list"]) == cli.GOOD
    lines = capsys.readouterr().out.splitlines()
    assert f"{shop.old[:19]}  resid_post.1 jumprelu 96+2, 3 features, 0 accepted; {SLOT}@stable" in lines


def test_no_store_and_an_empty_one(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dictionary", "list", "--store", str(tmp_path / "none")]) == cli.UNREACHED
    assert "`saewatch dictionary add` makes one" in capsys.readouterr().err
    for path in (shop.root / "bundles").glob("*/*"):
        path.unlink()
    assert cli.main(["dictionary", "list"]) == cli.GOOD
    assert capsys.readouterr().out == "the store has no bundles\n"


def test_a_damaged_bundle_is_a_line_among_the_others(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    path = shop.root / "bundles" / shop.old[7:9] / shop.old[9:]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"weights", b"weight5"))
    code, said = shop.ask("list")
    assert (code, len(said["bundles"])) == (cli.GOOD, 2)
    assert "Its bytes changed" in next(one["damaged"] for one in said["bundles"] if one["bundle"] == shop.old)
    assert cli.main(["dictionary", "list"]) == cli.GOOD
    assert f"{shop.old[:19]}  DAMAGED: " in capsys.readouterr().out


def test_a_damaged_journal_hides_no_bundle(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.promote(shop.old, "none")
    path = shop.root / "journal" / f"{SLOT}.jsonl"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"seq", b"sek"))
    code, said = shop.ask("list")
    assert (code, len(said["bundles"]), said["slots"]) == (cli.GOOD, 2, {})
    assert list(said["damaged"]) == [SLOT]
    for words in (["list"], ["show", shop.old]):
        assert cli.main(["dictionary", *words]) == cli.GOOD
        assert f"{SLOT}: where it points is not known, its journal is DAMAGED: " in capsys.readouterr().out
    assert shop.ask("gc")[0] == cli.FAILED, "what it refers to is not known"
