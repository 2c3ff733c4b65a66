"""The made-up dictionary."""

from __future__ import annotations

import pytest

from saewatch.client.fake.made import DIRECTIONS, FEATURES, LATENTS, MadeDictionary
from saewatch.core.catalogue import Catalogue, check_catalogue
from saewatch.core.errors import ConfigError
from saewatch.core.manifest import EncoderSheet, Manifest, TensorSheet, expected_tensors
from saewatch.edge.rpc import messages


def test_its_catalogue_is_one_that_the_sidecar_takes() -> None:
    encoder = EncoderSheet(activation="jumprelu", latents=LATENTS, directions=DIRECTIONS, d_in=8, d_out=8)
    tensors = {
        name: TensorSheet(dtype="F32", shape=shape, sha256="sha256:" + "0" * 64)
        for name, shape in expected_tensors(encoder, "sae").items()
    }
    manifest = Manifest(kind="sae", hook_point="resid_post.7", encoder=encoder, tensors=tensors)
    check_catalogue(Catalogue(weights=manifest.digest, features=FEATURES), manifest)


def test_its_messages_are_the_sidecars() -> None:
    made = MadeDictionary()
    table = made.table(3, 2)
    assert [one.feature for one in table.features] == [messages.feature(one) for one in FEATURES]
    assert [list(one.slots) for one in table.features] == [[0, 1], [0], [3], [2]]
    assert list(table.slot_floor) == [0.5, 0.5, 0.0, 0.0]
    assert (table.number, table.stream.number, made.dictionary().features) == (3, 2, 4)


def test_a_slot_of_two_features_has_two_floors() -> None:
    made = MadeDictionary()
    assert [one.id for one in made.fired(0, 0.8)] == ["greeting.g1"]
    assert [one.id for one in made.fired(0, 1.8)] == ["greeting.g1", "hesitation.l1"]


def test_a_feature_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"'violence\.p2', expected one of greeting\.g1"):
        MadeDictionary().slots("violence.p2")


def test_some_of_its_features_are_watched() -> None:
    every = MadeDictionary()
    made = every.watching(["violence.p1", "hesitation.l1"])
    table = made.table(2, 1)
    assert [(one.feature.id, list(one.slots)) for one in table.features] == [
        ("hesitation.l1", [0]),
        ("violence.p1", [1]),
    ]
    assert list(table.slot_floor) == [1.0, 0.0]
    assert (made.slots("greeting.g1"), made.slot_count) == ([], 2)
    assert [one.id for one in made.fired(0, 5.0)] == ["hesitation.l1"]
    assert made.watch_digest != every.watch_digest
    assert made.watching([]).watch_digest == every.watch_digest
    assert made.features == every.features, "the catalogue is the same"
