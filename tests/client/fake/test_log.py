"""Events with places."""

from __future__ import annotations

import pytest

from saewatch.client.fake.log import Log, Place, read_token
from saewatch.edge.pb import firing_pb2

ITEM = firing_pb2.WatchFiringsResponse()


def log(events: int, *, window: int = 100) -> Log:
    found = Log(window)
    for _ in range(events):
        found.append(ITEM, tokens=2, firings=1)
    return found


def test_events_in_order() -> None:
    found = log(3)
    place, seen = found.tail, 0
    while (entry := found.next(place)) is not None:
        assert entry.at == place
        place, seen = entry.after, seen + 1
    assert (seen, place, found.head) == (3, Place(1, 4, 6, 3), Place(1, 4, 6, 3))


def test_a_place_that_was_overtaken_goes_on_at_the_oldest() -> None:
    found = log(10, window=4)
    assert found.tail == Place(1, 7, 12, 6)
    entry = found.next(Place(1, 2, 2, 1))
    assert entry is not None
    assert entry.at == found.tail
    assert len(found.entries()) == 4


def test_a_new_run_goes_on_counting_tokens() -> None:
    found = log(3)
    found.next_run()
    assert found.head == found.tail == Place(2, 1, 6, 3)
    assert found.next(found.head) is None


def test_tokens() -> None:
    place = Place(2, 5, 70, 9)
    assert read_token(place.token) == place


@pytest.mark.parametrize("text", ["", "1.7.1.0.0", "fake-1-2-3", "fake-1-2-3-4-5", "fake-1-2-3--4"])
def test_what_is_none(text: str) -> None:
    assert read_token(text) is None
