"""Events shared by cursors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from saewatch.edge.rpc.ring import Cursor, Ring


def test_a_cursor_gets_every_event_in_order() -> None:
    ring: Ring[str] = Ring(1000)
    cursor = ring.head
    for name in "abc":
        ring.append(name, size=10, tokens=1, firings=2)
    found = []
    while (entry := ring.next(cursor)) is not None:
        found.append(entry.item)
        cursor = entry.after
    assert found == ["a", "b", "c"]
    assert cursor == ring.head == Cursor(4, 3, 6)


def test_an_overtaken_cursor_is_told_exactly_what_it_missed() -> None:
    ring: Ring[int] = Ring(30)
    cursor = ring.head
    for number in range(1, 11):
        ring.append(number, size=10, tokens=number, firings=100 * number)
    missing = ring.missing(cursor)
    assert missing is not None
    assert (missing.first, missing.last) == (1, 7)
    assert (missing.tokens, missing.firings) == (sum(range(1, 8)), 100 * sum(range(1, 8)))
    entry = ring.next(ring.tail)
    assert entry is not None
    assert entry.item == 8


def test_the_last_event_stays_however_large() -> None:
    ring: Ring[str] = Ring(30)
    ring.append("large", size=1000)
    assert ring.missing(Cursor(1, 0, 0)) is None
    assert ring.bytes == 1000
    ring.append("next", size=1)
    assert ring.bytes == 1


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=60), st.sets(st.integers(0, 59)))
def test_what_is_read_and_what_is_missing_is_everything(events: list[tuple[int, int]], read_after: set[int]) -> None:
    ring: Ring[int] = Ring(100)
    cursor, seen = ring.head, 0
    for number, (size, tokens) in enumerate(events):
        ring.append(tokens, size=size, tokens=tokens)
        if number in read_after or number == len(events) - 1:
            missing = ring.missing(cursor)
            if missing is not None:
                seen += missing.tokens
                cursor = ring.tail
            while (entry := ring.next(cursor)) is not None:
                seen += entry.item
                cursor = entry.after
        assert ring.bytes <= 100 or ring.tail.event == ring.head.event - 1
    assert seen == sum(tokens for _, tokens in events)
