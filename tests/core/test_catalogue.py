"""The catalogue: features of one dictionary, and the rows that an engine is told to emit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from saewatch.core import canonical
from saewatch.core.catalogue import HAZARDS, PROTECTED, Catalogue, Feature, WatchList, check_category, read_catalogue
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.manifest import EncoderSheet, Manifest

SHEET = Manifest(
    kind="sae",
    hook_point="resid_post.1",
    encoder=EncoderSheet(activation="relu", latents=10, directions=2, d_in=4, d_out=4),
    tensors={},
)


def feature(name: str = "threat.l1", **changes: Any) -> Feature:
    made = Feature(id=name, label="A label", category="vcr", severity="high", floor=0.1, latents=(3,))
    return replace(made, **changes)


GROUP = feature("threat.g1", latents=(3, 7), floor=0.05)
PROBE = feature("threat.p1", latents=(), direction=1)


def catalogue(*features: Feature, **changes: Any) -> Catalogue:
    return replace(Catalogue(weights=SHEET.digest, features=features), **changes)


def test_a_catalogue_reads_back() -> None:
    made = catalogue(GROUP, feature(), PROBE, retired=("threat.l2",), parent=SHEET.digest)
    found = read_catalogue(made.data(), SHEET)
    assert found == made
    assert found.digest == made.digest
    assert found.features[0].concept == "threat"


def test_a_relabel_makes_a_new_catalogue_and_not_a_new_dictionary() -> None:
    made, relabelled = catalogue(feature()), catalogue(feature(label="Another"))
    assert made.digest != relabelled.digest
    assert made.weights == relabelled.weights
    assert made.watch_list(SHEET) == relabelled.watch_list(SHEET)


WRONG = {
    "of another dictionary": (catalogue(feature(), weights="sha256:" + "0" * 64), "weights: found sha256:000"),
    "an id twice": (catalogue(feature(), feature()), "threat.l1: found after threat.l1, expected each id once"),
    "ids out of order": (catalogue(feature(), GROUP), "threat.g1: found after threat.l1"),
    "a retired id": (catalogue(feature(), retired=("threat.l1",)), "threat.l1: found a retired id"),
    "a misspelt id": (catalogue(feature("Threat.l1")), "features[0].id: found 'Threat.l1'"),
    "a kind of no meaning": (catalogue(feature("threat.x1")), "features[0].id"),
    "a category outside the list": (catalogue(feature(category="evil")), "threat.l1.category: found 'evil'"),
    "a severity outside the list": (catalogue(feature(severity="huge")), "features[0].severity: found 'huge'"),
    "a detection claimed": (catalogue(feature(claim="causal")), "features[0].claim: found 'causal'"),
    "a negative floor": (catalogue(feature(floor=-0.5)), "features[0].floor: found -0.5"),
    "more tokens than its window has": (catalogue(feature(aggregation="5of3")), "features[0].aggregation: found 5of3"),
    "an unknown aggregation": (catalogue(feature(aggregation="sum")), "features[0].aggregation: found 'sum'"),
    "a long label": (catalogue(feature(label="x" * 513)), "features[0].label: found 513 bytes"),
    "no label": (catalogue(feature(label="")), "features[0].label"),
    "a latent beyond the last": (catalogue(feature(latents=(10,))), "threat.l1.latents: found 10, expected below 10"),
    "a direction beyond the last": (catalogue(replace(PROBE, direction=2)), "threat.p1.direction: found 2"),
    "two latents in one": (catalogue(feature(latents=(3, 4))), "expected one latent for .l"),
    "a group of none": (catalogue(replace(GROUP, latents=())), "found 0 latents"),
    "a probe with latents": (catalogue(replace(PROBE, latents=(3,))), "expected one latent for .l"),
    "a latent with a direction": (catalogue(feature(direction=1)), "direction 1"),
    "a group out of order": (catalogue(replace(GROUP, latents=(7, 3))), "threat.g1.latents: found repeated"),
    "a head of another length": (catalogue(replace(GROUP, head=(0.5,))), "threat.g1.head: found 1 weights for 2"),
    "a head of a latent": (catalogue(feature(head=(0.5,))), "expected a weight for each latent of a group"),
    "a concept in two categories": (catalogue(GROUP, feature(category="ncr")), "threat.l1.category: found ncr"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_is_named(case: str) -> None:
    made, message = WRONG[case]
    with pytest.raises(ManifestError) as refused:
        read_catalogue(made.data(), SHEET)
    assert message in str(refused.value)


def test_an_unknown_member_is_refused() -> None:
    found = json.loads(catalogue(feature()).data())
    found["features"][0]["colour"] = "red"
    data = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ManifestError, match=r"features\[0\].colour: found an unknown member"):
        read_catalogue(data, SHEET)


@pytest.mark.parametrize("text", [*HAZARDS, *(f"bias.{name}" for name in PROTECTED), "x.override"])
def test_known_categories(text: str) -> None:
    check_category(text, "x")


@pytest.mark.parametrize("text", ["", "age", "bias.", "bias.height", "x.", "x.A", "x.a.b", "xvcr", "vcr\n"])
def test_unknown_categories(text: str) -> None:
    with pytest.raises(ManifestError, match="category"):
        check_category(text, "x")


def test_scope_and_head_stand_where_they_say_something() -> None:
    made = catalogue(replace(GROUP, head=(0.5, -1.25), scope="reply"), feature())
    assert read_catalogue(made.data(), SHEET) == made
    entries = json.loads(made.data())["features"]
    assert entries[0]["head"] == ["0.5", "-1.25"]
    assert "scope" not in entries[1]
    assert "head" not in entries[1]


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("scope", "all", "features[0].scope: found 'all', expected one of prompt, reply"),
        ("scope", "answer", "features[0].scope: found 'answer'"),
        ("head", [], "features[0].head: found no items"),
        ("head", ["0.5", 1], "features[0].head: found int"),
    ],
)
def test_a_wrong_scope_or_head_is_named(member: str, value: Any, message: str) -> None:
    found = json.loads(catalogue(GROUP).data())
    found["features"][0][member] = value
    data = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ManifestError) as refused:
        read_catalogue(data, SHEET)
    assert message in str(refused.value)


@pytest.mark.parametrize("aggregation", ["max", "mean", "top3", "3of10", "run4"])
def test_known_aggregations(aggregation: str) -> None:
    read_catalogue(catalogue(feature(aggregation=aggregation)).data(), SHEET)


def test_rows_are_watched_once_at_the_lowest_floor() -> None:
    found = catalogue(GROUP, feature(floor=0.5), PROBE).watch_list(SHEET)
    assert found.rows == (3, 7, 11)
    assert found.floors == pytest.approx((0.05, 0.05, 0.1))
    assert found.floors[0] == np.float32(0.05)  # as it travels


def test_chosen_features_only() -> None:
    made = catalogue(GROUP, feature(), PROBE)
    assert made.watch_list(SHEET, ["threat.p1"]).rows == (11,)
    assert catalogue().watch_list(SHEET).rows == ()
    with pytest.raises(ConfigError, match=r"feature: found 'fraud.l1', expected an id of .* It has threat.g1"):
        made.watch_list(SHEET, ["fraud.l1"])


def test_the_watch_digest_covers_rows_and_floors() -> None:
    one = WatchList(rows=(1, 2), floors=(0.5, 0.25))
    pairs = b"\1\0\0\0" + b"\0\0\0\x3f" + b"\2\0\0\0" + b"\0\0\x80\x3e"
    assert one.digest == canonical.digest(b"saewatch.watch/1\n" + pairs)
    others = [WatchList(rows=(1, 3), floors=(0.5, 0.25)), WatchList(rows=(1, 2), floors=(0.5, 0.5))]
    assert len({one.digest, *(other.digest for other in others)}) == 3
