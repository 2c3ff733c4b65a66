"""When a condition holds, from the positions at which its parts occurred."""

from __future__ import annotations

import pytest

from saewatch.monitor.policy.condition import (
    FOREVER,
    NEVER,
    AtLeast,
    InOrder,
    Node,
    Not,
    Occurred,
    One,
    holding,
    nodes,
    passes,
    recurring,
    sequences,
)


def after(**last: int) -> Occurred:
    """Atoms a, b and c occurred last at these positions."""
    return Occurred(last={"abc".index(name): at for name, at in last.items()})


A, B, C = One(0), One(1, within=3), One(2)


@pytest.mark.parametrize(
    ("node", "seen", "until"),
    [
        (A, after(), NEVER),
        (A, after(a=5), FOREVER),
        (B, after(b=5), 8),
        (Not(A), after(), FOREVER),
        (Not(A), after(a=1), NEVER),
        (Not(B), after(b=5), FOREVER),  # at 9 it counts no more
        (AtLeast(2, (A, B)), after(a=1, b=8), 11),
        (AtLeast(1, (A, B)), after(b=8), 11),
        (AtLeast(2, (A, B, C)), after(b=8, c=2), 11),
        (AtLeast(2, (A, B)), after(a=1), NEVER),
    ],
)
def test_up_to_where_it_holds(node: Node, seen: Occurred, until: int) -> None:
    assert node.until(9, seen) == until


def test_a_sequence_keeps_the_latest_beginning_of_each_step() -> None:
    found, seen = InOrder(0, ((0,), (1, 2)), within=5), Occurred()
    for at, atoms in ((1, [0]), (3, [0]), (4, [1])):
        found.advance(at, atoms, seen)
    assert seen.runs == {0: [3, 3]}
    assert found.until(4, seen) == 9, "the later beginning fits longer"
    found.advance(20, [2], seen)
    assert found.until(20, seen) == 9, "too late for the beginning that there is"


def test_a_step_follows_strictly() -> None:
    found, seen = InOrder(0, ((0,), (0,)), within=0), Occurred()
    found.advance(1, [0], seen)
    assert found.until(1, seen) == NEVER
    found.advance(2, [0], seen)
    assert found.until(2, seen) == FOREVER


def test_what_an_alert_shows_are_the_parts_that_hold() -> None:
    node = AtLeast(1, (AtLeast(2, (A, Not(B))), C))
    assert list(holding(node, 9, after(a=4))) == [0]
    assert list(holding(node, 9, after(a=4, b=8, c=9))) == [2], "what is under not is no evidence"
    assert list(holding(node, 9, after(b=8))) == []


def test_its_size() -> None:
    node = AtLeast(1, (A, Not(B), InOrder(0, ((0, 1), (2,)))))
    assert nodes(node) == 1 + 1 + 2 + 4
    assert [one.number for one in sequences(AtLeast(1, (Not(node), InOrder(1, ((0,), (1,))))))] == [0, 1]


def test_only_what_may_pass_counts_again() -> None:
    node = AtLeast(1, (A, B, InOrder(0, ((0, 1), (2,)))))
    assert list(recurring(node)) == [1, 0, 1, 2]
    assert list(recurring(AtLeast(2, (A, Not(C))))) == []
    assert passes(AtLeast(2, (A, Not(B)))), "it ends of itself, and the rule holds again"
    assert not passes(AtLeast(2, (A, Not(C))))
