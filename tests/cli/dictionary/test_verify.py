"""saewatch dictionary verify."""

from __future__ import annotations

import pytest

from saewatch import cli
from tests.cli.dictionary.shop import Shop


def test_a_whole_store_and_a_damaged_one(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.promote(shop.old, "none")
    code, said = shop.ask("verify")
    assert (code, said["good"], said["damage"], said["bundles"], said["journal_lines"]) == (cli.GOOD, True, [], 2, 1)
    assert cli.main(["dictionary", "verify"]) == cli.GOOD
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is damaged"
    path = max((shop.root / "tensors").glob("*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    assert cli.main(["dictionary", "verify"]) == cli.FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"DAMAGED: tensors/{path.parent.name}/{path.name}: its bytes have the digest sha256:")
    assert lines[-1] == "1 damaged"
    code, said = shop.ask("verify")
    assert (code, said["good"], len(said["damage"])) == (cli.FAILED, False, 1)
