"""saewatch dictionary history."""

from __future__ import annotations

import re

import pytest

from saewatch import cli
from tests.cli.dictionary.shop import SLOT, Shop


def test_who_moved_what_when_and_why(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dictionary", "history", SLOT]) == cli.GOOD
    assert capsys.readouterr().out == "no ref of this slot was ever moved\n"
    shop.promote(shop.old, "none")
    shop.promote(shop.new, "none", ref="candidate")
    shop.promote(shop.new, shop.old)
    code, said = shop.ask("history", SLOT)
    assert (code, said["unfinished_bytes"]) == (cli.GOOD, 0)
    assert [(one["seq"], one["ref"], one["to"]) for one in said["moves"]] == [
        (1, "stable", shop.old),
        (2, "candidate", shop.new),
        (3, "stable", shop.new),
    ]
    assert said["moves"][2]["previous"] == said["moves"][1]["line"]
    assert [one["seq"] for one in shop.ask("history", SLOT, "--ref", "stable")[1]["moves"]] == [1, 3]
    assert cli.main(["dictionary", "history", SLOT]) == cli.GOOD
    line = capsys.readouterr().out.splitlines()[1]
    assert re.fullmatch(
        r"   2  20[-\d]{8}T[\d:]{8}Z  promote   candidate nothing -> sha256:\w{12}  by ada, gate not asked. because",
        line,
    )


def test_a_changed_journal_is_named(shop: Shop) -> None:
    shop.promote(shop.old, "none")
    shop.promote(shop.new, shop.old)
    path = shop.root / "journal" / "demo" / "resid_post.1.jsonl"
    path.write_bytes(path.read_bytes().replace(b"because", b"by mistake", 1))
    code, said = shop.ask("history", SLOT)
    assert (code, said["error"]["subject"]) == (cli.FAILED, "journal/demo/resid_post.1.jsonl: line 1")
    assert shop.ask("history", "demo")[0] == cli.FAILED
