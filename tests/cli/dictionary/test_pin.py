"""saewatch dictionary pin."""

from __future__ import annotations

from saewatch import cli
from tests.cli.dictionary.shop import Shop


def test_pinned_and_no_longer(shop: Shop) -> None:
    assert shop.ask("pin", shop.old[:20]) == (cli.GOOD, {"bundle": shop.old, "pinned": True})
    assert shop.ask("show", shop.old)[1]["referenced"] == ["pinned"]
    assert shop.ask("pin", shop.old, "--remove") == (cli.GOOD, {"bundle": shop.old, "pinned": False})
    assert shop.ask("show", shop.old)[1]["referenced"] == []
    assert shop.ask("pin", "0" * 64)[0] == cli.FAILED
