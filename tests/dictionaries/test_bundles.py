"""The bundles that ship are the ones that their sources give."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from dictionaries.bundles import SHIPPED, make

REMADE = "run `python -m dictionaries.bundles`"


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("what", SHIPPED)
def test_a_bundle_names_its_sources_as_they_are(what: str) -> None:
    shipped = SHIPPED[what]
    [path] = (shipped.bundle / "attestations").glob("provenance.*.json")
    body = json.loads(path.read_text())["body"]
    assert body["name"] == shipped.name
    found = {one["name"]: one["sha256"] for one in body["files"]}
    assert found == {name: f"sha256:{digests(shipped.source)[name]}" for name in found}, REMADE
    assert {"cfg.json", "probes.safetensors", "sae_weights.safetensors"} <= found.keys()


def test_the_fixture_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    shipped = SHIPPED["fixture"]
    make(shipped, tmp_path / "bundle")
    assert digests(tmp_path / "bundle") == digests(shipped.bundle), REMADE


@pytest.mark.parametrize("what", SHIPPED)
def test_nothing_was_rounded_at_import(what: str) -> None:
    sheet = json.loads((SHIPPED[what].bundle / "dictionary.json").read_text())
    assert sheet["folded"] == [], "what SAELens and a notebook compute from the source is what the engine computes"
