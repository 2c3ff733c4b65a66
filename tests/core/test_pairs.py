"""Which features fire with which slots."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core import pairs

SLOTS = st.lists(st.lists(st.integers(0, 3), max_size=3, unique=True), max_size=4)
FIRINGS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.25, 0.5, 1.0, 3.0])), max_size=8)


@given(slots=SLOTS, floors=st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=4, max_size=4), firings=FIRINGS)
def test_the_slow_way_says_the_same(
    slots: list[list[int]], floors: list[float], firings: list[tuple[int, float]]
) -> None:
    columns = pairs.by_slot(slots, floors[: len(slots)], 4)
    slot = np.array([one for one, _ in firings], dtype=np.uint16)
    value = np.array([one for _, one in firings], dtype=np.float32)
    firing, feature = pairs.fired(columns, slot, value)
    found = list(zip(firing.tolist(), feature.tolist(), strict=True))
    assert found == [
        (index, number)
        for index, (one, height) in enumerate(firings)
        for number, own in enumerate(slots)
        if one in own and height > floors[number]
    ]


def test_the_last_slot_of_the_widest_table() -> None:
    columns = pairs.by_slot([[65535]], [0.0], 65536)
    firing, feature = pairs.fired(columns, np.array([65535], np.uint16), np.array([1.0], np.float32))
    assert (firing.tolist(), feature.tolist()) == ([0], [0])
