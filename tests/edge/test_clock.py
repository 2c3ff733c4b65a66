"""The clock goes on from the wall's time, and never back."""

from __future__ import annotations

from saewatch.edge.clock import Clock


def test_the_clock_begins_with_the_wall_and_never_goes_back() -> None:
    clock = Clock()
    times = [clock() for _ in range(100)]
    assert times == sorted(times)
    assert abs(times[0] - 1.8e18) < 4e17
