"""What differs between two bundles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from saewatch.core.attestation import Attestation
from saewatch.core.catalogue import Catalogue
from saewatch.core.manifest import Exclusions
from saewatch.dictionary.bundle import Parts, write_bundle
from saewatch.dictionary.contents import Contents, read_folder
from saewatch.dictionary.difference import difference
from saewatch.engine.dictionary_file import sheet_of
from tests import made
from tests.dictionary.crashing import bundle


def test_the_same_bundle(tmp_path: Path) -> None:
    one = read_folder(bundle(tmp_path / "one"))
    found = difference(one, one)
    assert found.nothing
    assert [*found.lines()] == ["the same bundle"]


def test_a_relabel_touches_no_weights(tmp_path: Path) -> None:
    old = read_folder(bundle(tmp_path / "old"))
    new = read_folder(bundle(tmp_path / "new", labels="better", gate="passed"))
    found = difference(old, new)
    assert (found.same_weights, found.meaning) == (True, {})
    assert found.features_changed["threat.l1"] == {"label": ("made", "better")}
    digest = new.attestations[0].digest[:19]
    assert [*found.lines()] == [
        "weights: the same; no engine is touched",
        "feature threat.g1: label 'made' -> 'better'",
        "feature threat.l1: label 'made' -> 'better'",
        "feature threat.p1: label 'made' -> 'better'",
        f"attestation quality {digest}: added",
    ]
    assert f"attestation quality {digest}: removed" in [*difference(new, old).lines()]


def changed(folder: Path) -> Contents:
    """Another dictionary: thresholds, exclusions, features."""
    one = made.dictionary(exclusions=Exclusions(exclude_first=2, max_norm=7.5))
    lim = one.limits.lim + 1
    tensors = {**made.tensors_of(one), "lim": torch.from_numpy(lim)}
    sheets = {**one.manifest.tensors, "lim": sheet_of("lim", tensors["lim"])}
    manifest = replace(one.manifest, tensors=sheets)
    group, latent, probe = made.features(one.manifest.encoder)
    latent = replace(latent, severity="high", floor=0.75)
    fresh = replace(latent, id="threat.l2", latents=(9,))
    catalogue = Catalogue(weights=manifest.digest, features=(latent, fresh, probe), retired=(group.id,))
    stated = [Attestation(kind="stated", weights=manifest.digest, body={"fvu": "0.1"})]
    write_bundle(Parts(manifest=manifest, tensors=tensors, catalogue=catalogue, attestations=stated), folder)
    return read_folder(folder)


def test_other_numbers_and_what_they_mean(tmp_path: Path) -> None:
    found = difference(read_folder(bundle(tmp_path / "old")), changed(tmp_path / "new"))
    assert not found.nothing
    assert found.meaning == {"tokens.exclude_first": (0, 2), "tokens.max_norm": (None, "7.5")}
    assert {name for name, state in found.tensors.items() if state == "other"} == {"lim"}
    assert (found.features_added, found.features_removed, found.retired) == (
        ("threat.l2",),
        ("threat.g1",),
        ("threat.g1",),
    )
    lines = [*found.lines()]
    assert lines[0] == "weights: OTHER; firings may differ"
    for line in (
        "  tokens.max_norm: nothing -> '7.5'",
        "  tensor W: same",
        "  tensor lim: other",
        "feature threat.l2: added",
        "feature threat.g1: removed",
        "feature threat.l1: severity 'low' -> 'high'",
        "feature threat.l1: floor 0.5 -> 0.75",
        "feature id threat.g1: retired",
    ):
        assert line in lines


def test_a_decoder_that_is_not_there_any_more(tmp_path: Path) -> None:
    old = read_folder(bundle(tmp_path / "old"))
    tensors = {name: sheet for name, sheet in old.manifest.tensors.items() if name != "W_dec"}
    new = replace(old, manifest=replace(old.manifest, tensors=tensors), sheet=replace(old.sheet, weights="other"))
    assert difference(old, new).tensors["W_dec"] == "removed"
    assert difference(new, old).tensors["W_dec"] == "added"
