"""Which atoms a firing touches."""

from __future__ import annotations

from typing import Any

import numpy as np

from saewatch.monitor.policy import statistic as statistics
from saewatch.monitor.policy.condition import Atom
from saewatch.monitor.policy.wiring import Tokens, wire
from tests import fakes
from tests.monitor.stage import Stage, observed

GROUP, LATENT, PROBE = (one.id for one in fakes.FEATURES)


def an_atom(*features: str, spelt: str = "max", scope: str = "all", limit: float = 1.0, **fields: Any) -> Atom:
    return Atom(features=features, statistic=statistics.read(spelt, "x"), scope=scope, limit=limit, **fields)


def touched(atoms: list[Atom], firings: list[tuple[int, int, float]], reply: list[bool]) -> list[tuple[Any, ...]]:
    """Entries as (token, atom, unit, value), for tokens of one subject."""
    stage = Stage().ready()
    stage.start(7, name="plain")
    [event] = observed(stage.batch([(7, 0, len(reply))], firings))
    rows = np.arange(len(reply))
    tokens = Tokens(
        row=rows.astype(np.intp),
        place=np.full(len(rows), 3),
        position=rows,
        reply=np.array(reply),
        rank=rows,
        rank_part=rows,
    )
    found = wire(event.table, atoms).touched(event, tokens)
    assert set(found.place.tolist()) <= {3}
    columns = (found.token, found.atom, found.unit, found.value)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_a_firing_touches_every_atom_over_its_feature() -> None:
    atoms = [an_atom(LATENT), an_atom(PROBE), an_atom(LATENT, PROBE, spelt="count")]
    found = touched(atoms, [(0, 2, 3.0), (1, 3, 2.0)], [False, False])
    assert found == [(0, 0, 0, 3.0), (0, 2, 0, 3.0), (1, 1, 0, 2.0), (1, 2, 0, 2.0)]


def test_values_at_a_limit_touch_only_what_looks_below_it() -> None:
    atoms = [an_atom(LATENT), an_atom(LATENT, spelt="2of3"), an_atom(LATENT, spelt="top2")]
    assert touched(atoms, [(0, 2, 1.0)], [False]) == [(0, 2, 0, 1.0)]


def test_scopes_take_part_where_they_are() -> None:
    atoms = [an_atom(LATENT, scope="prompt"), an_atom(LATENT, scope="reply"), an_atom(LATENT)]
    found = touched(atoms, [(0, 2, 3.0), (1, 2, 3.0)], [False, True])
    assert [one[:2] for one in found] == [(0, 0), (0, 2), (1, 1), (1, 2)]


def test_a_head_is_told_which_latent_it_was() -> None:
    atoms = [an_atom(GROUP, head=(0.5, 0.5))]
    assert touched(atoms, [(0, 0, 3.0), (0, 1, 4.0)], [False]) == [(0, 0, 0, 3.0), (0, 0, 1, 4.0)]


def test_what_no_atom_reads_touches_nothing() -> None:
    assert touched([an_atom(PROBE)], [(0, 0, 3.0), (0, 2, 4.0)], [False]) == []
