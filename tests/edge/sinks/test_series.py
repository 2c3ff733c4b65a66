"""Counters with a cap."""

from __future__ import annotations

from saewatch.edge.sinks.series import Counter


def test_amounts_add_up_by_labels() -> None:
    counter = Counter("tokens", "Says.", ("a", "b"))
    counter.add(("x", "y"), 2)
    counter.add(("x", "y"), 3)
    counter.add(("x", "z"), 1)
    assert dict(counter.items()) == {("x", "y"): 5, ("x", "z"): 1}
    assert {sample.name for sample in counter.family().samples} == {"saewatch_tokens_total"}


def test_a_million_label_values_are_at_most_the_cap() -> None:
    counter = Counter("tokens", "Says.", ("a",), cap=100)
    for number in range(1_000_000):
        counter.add((str(number),), 1)
    counter.add(("5",), 1)
    series = dict(counter.items())
    assert len(series) == 100
    assert series["5",] == 2, "series that are open go on"
    assert counter.dropped == 100


def test_each_dropped_series_counts_once() -> None:
    counter = Counter("tokens", "Says.", ("a",), cap=1)
    counter.add(("kept",), 1)
    for _ in range(5):
        counter.add(("dropped",), 1)
    assert counter.dropped == 1
