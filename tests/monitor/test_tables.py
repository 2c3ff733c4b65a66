"""Slots, units and features."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from saewatch.core.batch import SlotKind, WatchSet
from saewatch.core.catalogue import Feature
from saewatch.core.errors import RecordError
from saewatch.monitor.tables import KnownDictionary, StreamIdentity, WatchTable, join
from tests import fakes


def identity(known: KnownDictionary | None = None) -> StreamIdentity:
    known = known or fakes.dictionary()
    return StreamIdentity(number=1, opening=fakes.stream_open(known), dictionary=known)


def table(*features: Feature) -> WatchTable:
    known = fakes.dictionary(sorted(features, key=lambda one: one.id))
    return join([fakes.watch_set(known)], number=1, stream=identity(known))


def fired(one: WatchTable, *firings: tuple[int, float]) -> set[tuple[int, str]]:
    slot = np.array([slot for slot, _ in firings], dtype=np.uint16)
    value = np.array([value for _, value in firings], dtype=np.float32)
    index, feature = one.fired(slot, value)
    return {(int(i), one.features[int(number)].id) for i, number in zip(index, feature, strict=True)}


def test_latents_and_directions_are_told_apart() -> None:
    one = table(fakes.feature("a.l1", latents=(3,)), fakes.feature("b.p1", direction=3))
    assert one.kind.tolist() == [SlotKind.LATENT, SlotKind.DIRECTION]
    assert one.unit.tolist() == [3, 3]
    assert fired(one, (0, 1.0), (1, 1.0)) == {(0, "a.l1"), (1, "b.p1")}
    assert one.direct


def test_a_slot_serves_a_latent_and_its_group() -> None:
    one = table(fakes.feature("a.g1", latents=(3, 4)), fakes.feature("a.l1", latents=(3,)))
    assert fired(one, (0, 1.0), (1, 1.0)) == {(0, "a.g1"), (0, "a.l1"), (1, "a.g1")}
    assert one.feature_slots == ((0, 1), (0,))


def test_each_feature_has_its_own_floor() -> None:
    one = table(fakes.feature("a.g1", latents=(3,), floor=0.5), fakes.feature("a.l1", latents=(3,), floor=2.0))
    assert one.floor.tolist() == [0.5]
    assert fired(one, (0, 1.0)) == {(0, "a.g1")}
    assert fired(one, (0, 2.0)) == {(0, "a.g1")}, "a value at the floor does not fire"
    assert fired(one, (0, 2.5)) == {(0, "a.g1"), (0, "a.l1")}


def test_a_floor_that_was_raised_in_the_catalogue_holds_though_the_engine_sends_more() -> None:
    engine = fakes.dictionary([fakes.feature("a.l1", latents=(3,), floor=0.5)])
    sidecar = fakes.dictionary([fakes.feature("a.l1", latents=(3,), floor=2.0)])
    one = join([fakes.watch_set(engine)], number=1, stream=identity(sidecar))
    assert fired(one, (0, 1.0), (0, 3.0)) == {(1, "a.l1")}


def test_no_firings() -> None:
    assert fired(table(fakes.feature("a.g1", latents=(3, 4)), fakes.feature("a.l1", latents=(3,)))) == set()


def test_a_slot_that_serves_no_feature_fires_none() -> None:
    known = fakes.dictionary([fakes.feature("a.l1", latents=(3,))])
    other = fakes.dictionary([fakes.feature("a.l1", latents=(3,)), fakes.feature("b.l1", latents=(9,))])
    one = join([fakes.watch_set(other)], number=1, stream=identity(known))
    assert [feature.id for feature in one.features] == ["a.l1"]
    assert fired(one, (0, 1.0), (1, 1.0)) == {(0, "a.l1")}


def test_an_unknown_dictionary_has_slots_and_no_features() -> None:
    known = fakes.dictionary()
    nobody = StreamIdentity(number=1, opening=fakes.stream_open(known), dictionary=None)
    one = join([fakes.watch_set(known)], number=1, stream=nobody)
    assert (one.slots, one.features, nobody.catalogue_digest) == (4, (), "")


def parts_of(whole: WatchSet, *cuts: int) -> list[WatchSet]:
    bounds = [0, *cuts, whole.total]
    return [
        replace(
            whole, first=start, row=whole.row[start:stop], floor=whole.floor[start:stop], kind=whole.kind[start:stop]
        )
        for start, stop in itertools.pairwise(bounds)
    ]


def test_continued_watch_sets_are_joined_in_any_order() -> None:
    whole = fakes.watch_set(fakes.dictionary())
    one = join(parts_of(whole, 1, 3)[::-1], number=1, stream=identity())
    assert one.unit.tolist() == whole.row.tolist()


def test_a_missing_part_is_refused() -> None:
    whole = fakes.watch_set(fakes.dictionary())
    with pytest.raises(RecordError, match=r"watch_set\.first"):
        join([parts_of(whole, 1, 3)[0], parts_of(whole, 1, 3)[2]], number=1, stream=identity())


def test_many_features_agree_with_the_slow_way() -> None:
    random = np.random.default_rng(7)
    features = [
        fakes.feature(
            f"f{n:02d}.g1", latents=tuple(sorted(set(random.integers(0, 20, 5).tolist()))), floor=float(n % 3)
        )
        for n in range(15)
    ]
    one = table(*features)
    slot = random.integers(0, one.slots, 400).astype(np.uint16)
    value = random.uniform(0, 4, 400).astype(np.float32)
    expected = {
        (index, feature.id)
        for index in range(400)
        for feature in features
        if int(one.unit[slot[index]]) in feature.latents and value[index] > feature.floor
    }
    assert fired(one, *zip(slot.tolist(), value.tolist(), strict=True)) == expected
    index, feature = one.fired(slot, value)
    units = [
        one.features[number].latents.index(int(one.unit[slot[i]])) for i, number in zip(index, feature, strict=True)
    ]
    assert one.units(feature, slot[index]).tolist() == units
