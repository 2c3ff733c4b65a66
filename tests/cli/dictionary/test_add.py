"""saewatch dictionary add."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch import cli
from tests.cli.dictionary.shop import Shop
from tests.dictionary.crashing import bundle


def test_it_tells_the_digests_and_whether_it_is_new(shop: Shop, tmp_path: Path) -> None:
    code, said = shop.ask("add", str(tmp_path / "old"))
    assert code == cli.GOOD
    assert said.keys() == {"bundle", "weights_digest", "catalogue_digest", "hook_point", "new"}
    assert (said["bundle"], said["new"], said["hook_point"]) == (shop.old, False, "resid_post.1")
    code, said = shop.ask("add", str(bundle(tmp_path / "third", seed=7)), "--store", str(tmp_path / "another"))
    assert (code, said["new"]) == (cli.GOOD, True)
    assert (tmp_path / "another" / "store.json").is_file()


def test_what_is_no_bundle(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dictionary", "add", str(tmp_path / "none")]) == cli.UNREACHED
    (tmp_path / "old" / "features.json").write_text("{}")
    assert cli.main(["dictionary", "add", str(tmp_path / "old")]) == cli.FAILED
    assert "features.json: found sha256:" in capsys.readouterr().err
    assert cli.main(["dictionary", "add", str(tmp_path / "new"), "--store", str(tmp_path / "new")]) == cli.FAILED
    assert "found a folder of something else, expected a store" in capsys.readouterr().err
