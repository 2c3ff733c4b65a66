"""Names that are spelt nearly alike are found, also among many and for what is no name at all."""

from __future__ import annotations

from saewatch.core.spelling import COMPARED, near


def test_the_nearest_first() -> None:
    """And only those that are near enough."""
    assert near("threat.p1", ["toxic", "threat.p2x", "threat.p"], 2) == ["threat.p", "threat.p2x"]
    assert near("threat.p1", ["toxic"]) == []
    assert near("threat.p1", []) == []


def test_among_more_than_are_compared() -> None:
    """Those that begin alike are looked at, wherever they stand."""
    others = [f"latent-{number}" for number in range(2 * COMPARED)]
    assert near("thraet.violent", [*others, "threat.violent"]) == ["threat.violent"]


def test_what_is_no_name() -> None:
    """A text without end costs no more than a name."""
    assert near("x" * 10**6, [f"{'x' * 60}{number}" for number in range(50)], 1) != []
