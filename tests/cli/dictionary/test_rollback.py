"""saewatch dictionary rollback."""

from __future__ import annotations

import pytest

from saewatch import cli
from tests.cli.dictionary.shop import SLOT, Shop


def test_back_to_the_one_before(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.promote(shop.old, "none")
    shop.promote(shop.new, shop.old)
    code, said = shop.ask("rollback", SLOT, "--reason", "false alarms", "--actor", "grace")
    assert (code, said["act"], said["from"], said["to"]) == (cli.GOOD, "rollback", shop.new, shop.old)
    assert (said["actor"], said["reason"]) == ("grace", "false alarms")
    code, said = shop.ask("rollback", SLOT, "--reason", "again")
    assert (code, said["error"]["found"]) == (cli.FAILED, "no earlier bundle")
    assert cli.main(["dictionary", "rollback", SLOT, "--to", shop.new[:15], "--reason", "so it was not"]) == cli.GOOD
    assert f"{SLOT}@stable: {shop.old[:19]} -> {shop.new[:19]}, line 4" in capsys.readouterr().out


def test_what_is_not_rolled_back(shop: Shop) -> None:
    shop.promote(shop.old, "none")
    shop.promote(shop.new, shop.old)
    for words, subject in (
        ([], "--reason"),
        (["--reason", "x", "--expect", shop.old], f"{SLOT}@stable"),
        (["--reason", "x", "--ref", "shadow"], f"{SLOT}@shadow"),
        (["--reason", "x", "--to", shop.new], f"{SLOT}@stable"),
        (["--reason", "x", "--device-budget-mib", "1"], "--device-budget-mib"),
    ):
        code, said = shop.ask("rollback", SLOT, *words)
        assert (code, said["error"]["subject"]) == (cli.FAILED, subject)
