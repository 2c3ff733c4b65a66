"""saewatch dictionary gc."""

from __future__ import annotations

import os

import pytest

from saewatch import cli
from tests.cli.dictionary.shop import Shop


def test_what_nothing_refers_to_goes(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.promote(shop.new, "none")
    assert shop.ask("gc")[1]["tensors"] == 0  # too young
    for path in shop.root.rglob("*"):
        os.utime(path, (0, 0))
    code, said = shop.ask("gc", "--dry-run")
    assert (code, said["dry_run"], said["bundles"]) == (cli.GOOD, True, [shop.old])
    assert cli.main(["dictionary", "gc"]) == cli.GOOD
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 tensors of ")
    assert lines[1] == f"no longer loadable: {shop.old}"
    assert shop.ask("gc")[1]["tensors"] == 0
    listed = {one["bundle"]: one["loadable"] for one in shop.ask("list")[1]["bundles"]}
    assert listed == {shop.old: False, shop.new: True}
    code, said = shop.promote(shop.old, shop.new)
    assert (code, "were collected" in said["error"]["hint"]) == (cli.FAILED, True)
