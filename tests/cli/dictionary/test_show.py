"""saewatch dictionary show."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch import cli
from tests.cli.dictionary.shop import SLOT, Shop

FIXTURE = Path(__file__).parent.parent.parent / "fixture"


def test_all_that_is_known_of_a_stored_bundle(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.promote(shop.old, "none")
    code, said = shop.ask("show", shop.old)
    assert code == cli.GOOD
    assert (said["bundle"], said["referenced"]) == (shop.old, [f"{SLOT}@stable"])
    assert (said["encoder"]["activation"], said["encoder"]["latents"]) == ("jumprelu", 96)
    assert said["features"][1] == {
        "id": "threat.l1",
        "label": "made",
        "category": "vcr",
        "severity": "low",
        "source": None,
        "score": None,
        "review": None,
    }
    assert cli.main(["dictionary", "show", f"{SLOT}@stable"]) == cli.GOOD
    text = capsys.readouterr().out
    assert f"bundle     {shop.old}" in text
    assert "  vcr (violent crimes), low:\n    threat.g1  made (unreviewed)\n" in text
    assert "3 unreviewed; 0 ids retired" in text


def test_a_folder_without_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAEWATCH_STORE", str(tmp_path / "none"))
    assert cli.main(["dictionary", "show", str(FIXTURE / "bundle")]) == cli.GOOD
    text = capsys.readouterr().out
    assert "dictionary sae on resid_post.2, jumprelu" in text
    assert "attested   conformance sha256:" in text
    assert ", unsigned: oracle sae-lens" in text
    assert "referenced nowhere" in text
    assert cli.main(["dictionary", "show", "abcdef"]) == cli.FAILED
