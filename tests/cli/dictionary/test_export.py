"""saewatch dictionary export."""

from __future__ import annotations

from pathlib import Path

from saewatch import cli
from saewatch.engine.dictionary_file import load_bundle
from tests.cli.dictionary.shop import SLOT, Shop


def test_a_folder_that_an_engine_loads(shop: Shop, tmp_path: Path) -> None:
    shop.promote(shop.old, "none")
    code, said = shop.ask("export", f"{SLOT}@stable", "--out", str(tmp_path / "out"))
    assert (code, said) == (cli.GOOD, {"bundle": shop.old, "out": str(tmp_path / "out")})
    assert load_bundle(tmp_path / "out", decoder=True).sheet.digest == shop.old
    assert shop.ask("export", shop.old, "--out", str(tmp_path / "out"))[0] == cli.GOOD
    assert shop.ask("export", shop.new, "--out", str(tmp_path / "out"))[0] == cli.FAILED
    assert load_bundle(tmp_path / "out").sheet.digest == shop.old
