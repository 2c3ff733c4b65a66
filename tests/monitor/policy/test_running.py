"""The state of atoms: once or again, at the end, and in which order."""

from __future__ import annotations

from typing import Any

import numpy as np

from saewatch.monitor.policy import statistic as statistics
from saewatch.monitor.policy.condition import Atom
from saewatch.monitor.policy.running import Occurrences, Running
from saewatch.monitor.policy.wiring import Tokens, Touched

PLACES = 8


def running(*spelt: str, limit: float = 1.0, once: bool = False, scope: str = "all") -> Running:
    atoms = [Atom(features=("a.l1",), statistic=statistics.read(one, "x"), scope=scope, limit=limit) for one in spelt]
    made = Running(atoms, np.full(len(atoms), once))
    made.grow(PLACES)
    return made


def add(to: Running, *entries: tuple[int, int, float], place: int = 2, first: int = 0, tokens: int = 9) -> list[Any]:
    """Entries (token, atom, value) of one subject whose tokens begin at ``first``; gives (atom, position, value)."""
    rows = np.arange(tokens)
    made = Tokens(
        row=rows.astype(np.intp),
        place=np.full(tokens, place),
        position=rows + first,
        reply=np.zeros(tokens, np.bool_),
        rank=rows + first,
        rank_part=rows + first,
    )
    token, atom, value = (np.array(column) for column in zip(*entries, strict=True))
    touched = Touched(
        place=np.full(len(token), place),
        atom=atom.astype(np.int64),
        token=token.astype(np.int64),
        unit=np.zeros(len(token), np.int64),
        value=value.astype(np.float64),
    )
    return told(to.add(touched, made))


def told(found: Occurrences) -> list[Any]:
    return list(zip(found.atom.tolist(), found.position.tolist(), found.value.tolist(), strict=True))


def test_of_one_token_and_atom_the_largest_value_counts() -> None:
    made = running("count", "max")
    found = add(made, (0, 0, 1.0), (0, 0, 3.0), (0, 1, 2.0), (0, 1, 5.0), (1, 0, 1.0))
    assert found == [(1, 0, 5.0), (0, 1, 2.0)], "the count is of tokens: it passes 1 with the second one"


def test_they_are_told_in_the_order_of_positions_whatever_the_kinds() -> None:
    found = add(running("run1", "max"), (4, 0, 2.0), (1, 1, 3.0), (1, 0, 2.5))
    assert found == [(0, 1, 2.5), (1, 1, 3.0), (0, 4, 2.0)]


def test_what_matters_once_is_told_once() -> None:
    made = running("max", once=True)
    assert add(made, (1, 0, 2.0), (3, 0, 4.0)) == [(0, 1, 2.0)]
    assert add(made, (0, 0, 9.0), first=9) == []
    assert add(made, (0, 0, 9.0), place=5) == [(0, 0, 9.0)], "of another subject it was never told"
    made.clear([2])
    assert add(made, (0, 0, 9.0)) == [(0, 0, 9.0)], "nor of the next one in its place"


def test_state_survives_growth() -> None:
    made = running("2of5")
    assert add(made, (0, 0, 2.0)) == []
    before = made.nbytes
    made.grow(4 * PLACES)
    assert made.nbytes == 4 * before
    assert add(made, (0, 0, 2.0), first=3) == [(0, 3, 2.0)]


def test_what_is_judged_at_the_end_is_told_there() -> None:
    made = running("mean", "share", "max", limit=0.4)
    assert add(made, (0, 0, 3.0), (0, 1, 3.0), (2, 1, 3.0)) == []
    assert told(made.at_end(2, 7, (2, 3), "all")) == [(0, 7, 0.6)], "2 of 5 tokens are not more than 0.4"
    assert told(made.at_end(2, 7, (2, 1), "all")) == [(0, 7, 1.0), (1, 7, 2 / 3)]
    assert told(made.at_end(2, 7, (2, 1), "prompt")) == []


def test_a_limit_below_zero_is_passed_where_nothing_fired() -> None:
    assert told(running("mean", limit=-0.5).at_end(3, 7, (2, 3), "all")) == [(0, 7, 0.0)]
    assert told(running("mean", limit=0.4).at_end(3, 7, (2, 3), "all")) == []
