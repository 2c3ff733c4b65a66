"""A request counts once for each feature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from saewatch.monitor.firsts import TABLES_KEPT, Firsts
from saewatch.monitor.tables import StreamIdentity, WatchTable, join
from tests import fakes


def table(number: int = 1) -> WatchTable:
    known = fakes.dictionary()
    stream = StreamIdentity(number=number, opening=fakes.stream_open(known), dictionary=known)
    return join([fakes.watch_set(known)], number=number, stream=stream)


def new(firsts: Firsts, one: WatchTable, *pairs: tuple[int, int]) -> list[int]:
    place, feature = zip(*pairs, strict=True)
    return [int(one) for one in firsts.new(one, np.array(place, np.int64), np.array(feature, np.int32))]


def test_once_for_each_request_and_feature() -> None:
    firsts, one = Firsts(), table()
    left, right = 0, 1
    assert new(firsts, one, (left, 0), (left, 0), (right, 0), (left, 2)) == [0, 2, 0]
    assert new(firsts, one, (left, 0), (right, 2)) == [2]


def test_tables_are_apart() -> None:
    firsts, one, other = Firsts(), table(1), table(2)
    place = 3
    assert new(firsts, one, (place, 1)) == [1]
    assert new(firsts, other, (place, 1)) == [1]


def test_another_watch_set_of_a_stream_goes_on_where_the_last_was() -> None:
    """Features 0, 1 and 2 become one, and then all again: by their ids."""
    firsts, one = Firsts(), table(1)
    known = one.stream.dictionary
    assert known is not None
    fewer = replace(known, catalogue=replace(known.catalogue, features=known.catalogue.features[1:2]))
    other = join([fakes.watch_set(fewer)], number=2, stream=one.stream)
    again = join([fakes.watch_set(known)], number=3, stream=one.stream)
    left, right = 3, 100
    assert new(firsts, one, (left, 1), (left, 2)) == [1, 2]
    assert new(firsts, other, (left, 0), (right, 0)) == [0]
    assert new(firsts, again, (left, 0), (left, 1), (left, 2), (right, 1)) == [0]


def test_a_place_that_is_given_again_is_empty() -> None:
    firsts, one = Firsts(), table()
    place = 3
    assert new(firsts, one, (place, 1)) == [1]
    firsts.clear(place)
    assert new(firsts, one, (place, 1)) == [1]


def test_it_grows_and_forgets_nothing() -> None:
    firsts, one = Firsts(), table()
    places = list(range(50))
    assert new(firsts, one, *((place, 0) for place in places)) == [0] * 50
    more = list(range(50, 550))
    assert new(firsts, one, *((place, 0) for place in places + more)) == [0] * 500


def test_tables_are_bounded() -> None:
    firsts = Firsts()
    place = 3
    tables = [table(number) for number in range(TABLES_KEPT + 1)]
    for one in tables:
        new(firsts, one, (place, 0))
    assert new(firsts, tables[-1], (place, 0)) == []
    assert new(firsts, tables[0], (place, 0)) == [0], "the oldest was given up"
