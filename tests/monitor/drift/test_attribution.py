from __future__ import annotations

import numpy as np
import pytest

from saewatch.monitor.drift import panel
from saewatch.monitor.drift.attribution import (
    BOTH,
    CANNOT_TELL,
    CAUSES,
    DICTIONARY,
    DIRECT,
    INDIRECT,
    MODEL,
    SHOWN,
    TRAFFIC,
    Effect,
    attributed,
    ranked,
)
from saewatch.monitor.drift.detector import Moved
from saewatch.monitor.drift.overall import STATISTICS
from saewatch.monitor.drift.panel import PanelMove, Round

EXERCISED = np.array([True, True, True, False])


def alarm(subject: int, *, effect: float = 2.0, of: str = "n") -> Moved:
    return Moved(
        kind="feature",
        subject=subject,
        of=of,
        direction="up",
        score=20.0,
        began_block=1,
        opened_ns=1,
        changed_ns=1,
        times=1,
        told=True,
        effect=effect,
        low=0.8 * effect,
        high=1.2 * effect,
    )


def whole(name: str, direction: str = "up") -> Moved:
    return Moved(
        kind="overall",
        subject=STATISTICS.index(name),
        of=name,
        direction=direction,
        score=12.0,
        began_block=1,
        opened_ns=1,
        changed_ns=1,
        times=1,
        told=True,
    )


def a_round(state: str, *moved: PanelMove) -> Round:
    return Round(state=state, overlap=0.9, usual=0.99, score=-20.0, moved=moved)


K = PanelMove(1, 0.5, 0.45, 0.55)
X, UNEXPLAINED = whole("traffic"), whole("unexplained")
TABLE = [
    ([alarm(0)], None, CANNOT_TELL, ""),
    ([X], None, CANNOT_TELL, ""),
    ([], a_round(panel.COLLAPSED), DICTIONARY, ""),
    ([X, alarm(0)], a_round(panel.COLLAPSED, K), DICTIONARY, ""),
    ([X, alarm(0)], a_round(panel.CHANGED, K), BOTH, ""),
    ([alarm(0)], a_round(panel.CHANGED, K), MODEL, ""),
    ([], a_round(panel.CHANGED, K), MODEL, ""),
    ([alarm(0)], a_round(panel.NUMERICS), panel.NUMERICS, ""),
    ([X, alarm(0)], a_round(panel.CLEAN), TRAFFIC, ""),
    ([alarm(0), alarm(2)], a_round(panel.CLEAN), TRAFFIC, DIRECT),
    ([alarm(0), alarm(3)], a_round(panel.CLEAN), TRAFFIC, INDIRECT),
    ([UNEXPLAINED], a_round(panel.CLEAN), TRAFFIC, INDIRECT),
    ([alarm(1)], a_round(panel.CLEAN, K), MODEL, DIRECT),
    ([alarm(0)], a_round(panel.CLEAN, K), TRAFFIC, DIRECT),
    ([whole("shift"), whole("l0"), whole("census_l0")], a_round(panel.CLEAN), CANNOT_TELL, ""),
    ([whole("l0"), whole("mass")], a_round(panel.CLEAN), TRAFFIC, INDIRECT),
    ([whole("divergence")], a_round(panel.CLEAN), TRAFFIC, INDIRECT),
    ([whole("divergence")], a_round(panel.CHANGED), MODEL, ""),
    ([whole("unexplained", "down")], a_round(panel.CLEAN), CANNOT_TELL, ""),
]


@pytest.mark.parametrize(("alarms", "last", "cause", "exercised"), TABLE)
def test_the_first_row_that_matches_decides(
    alarms: list[Moved], last: Round | None, cause: str, exercised: str
) -> None:
    found = attributed(alarms, last, EXERCISED)
    assert found is not None
    assert (found.cause, found.exercised) == (cause, exercised)
    assert found.reason


def test_every_cause_has_a_row() -> None:
    assert {row[2] for row in TABLE} == set(CAUSES)


@pytest.mark.parametrize("last", [None, a_round(panel.CLEAN, K), a_round(panel.NUMERICS)])
def test_where_nothing_alarms_nothing_is_explained(last: Round | None) -> None:
    assert attributed([], last, EXERCISED) is None


def test_why_the_panel_says_nothing_is_the_reason() -> None:
    found = attributed([alarm(0)], None, EXERCISED, "the panel was last read whole 4000 s ago")
    assert found is not None
    assert found.reason == "the panel was last read whole 4000 s ago"
    assert [one.feature for one in found.moved] == [0], "what moved is told all the same"


def test_a_model_names_what_moved_on_the_panel_and_traffic_what_alarms() -> None:
    model = attributed([alarm(0)], a_round(panel.CHANGED, K), EXERCISED)
    traffic = attributed([alarm(0)], a_round(panel.CLEAN, K), EXERCISED)
    assert model is not None
    assert traffic is not None
    assert model.moved == (Effect(1, "panel", 0.5, 0.45, 0.55),)
    assert [(one.feature, one.of, one.value) for one in traffic.moved] == [(0, "n", 2.0)]


def test_effects_are_ranked_by_what_they_are_at_least() -> None:
    large_and_vague, small_and_sure = Effect(1, "n", 5.0, 0.9, 30.0), Effect(2, "w", 0.5, 0.4, 0.6)
    shift, other_shift = Effect(3, "z", 0.4, 0.3, 0.5), Effect(4, "az", -0.9, -1.0, -0.8)
    found = ranked([large_and_vague, shift, small_and_sure, other_shift])
    assert [one.feature for one in found] == [4, 2, 3, 1]
    assert len(ranked([small_and_sure] * 99)) == SHOWN
