"""saewatch dictionary diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch import cli
from tests.cli.dictionary.shop import Shop
from tests.dictionary.crashing import bundle


def test_two_stored_ones(shop: Shop) -> None:
    code, said = shop.ask("diff", shop.old, shop.new)
    assert code == cli.GOOD
    assert (said["a"], said["b"], said["same"], said["same_weights"]) == (shop.old, shop.new, False, False)
    assert said["tensors"]["W"] == "other"
    assert said["tensors"]["lim"] == "same"
    assert said["features_changed"] == {}
    assert shop.ask("diff", shop.old, shop.old)[1]["same"] is True


def test_a_folder_beside_a_stored_one(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle(tmp_path / "relabelled", seed=0, labels="better")
    assert cli.main(["dictionary", "diff", shop.old, str(folder)]) == cli.GOOD
    text = capsys.readouterr().out
    assert text.startswith("weights: the same; no engine is touched\nfeature threat.g1: label 'made' -> 'better'\n")
    words = ["dictionary", "diff", str(tmp_path / "old"), str(folder), "--store", str(tmp_path / "none")]
    assert cli.main(words) == cli.GOOD
