from __future__ import annotations

import numpy as np
import pytest

from saewatch.monitor.alert import SliceMoved
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
    attributed,
    ranked,
)
from saewatch.monitor.drift.detector import Moved
from saewatch.monitor.drift.effect import Effect
from saewatch.monitor.drift.matched import PERSISTS, UNDECIDED, VANISHES, Matched, Ratio
from saewatch.monitor.drift.overall import STATISTICS
from saewatch.monitor.drift.panel import VALUES, Round

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


def a_round(state: str, *moved: Effect) -> Round:
    return Round(state=state, overlap=0.9, usual=0.99, score=-20.0, moved=moved)


K = Effect(1, VALUES, 0.5, 0.45, 0.55)
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
    assert model.moved == (Effect(1, VALUES, 0.5, 0.45, 0.55),)
    assert [(one.feature, one.of, one.value) for one in traffic.moved] == [(0, "n", 2.0)]


def test_effects_are_ranked_by_what_they_are_at_least() -> None:
    large_and_vague, small_and_sure = Effect(1, "n", 5.0, 0.9, 30.0), Effect(2, "w", 0.5, 0.4, 0.6)
    shift, other_shift = Effect(3, "z", 0.4, 0.3, 0.5), Effect(4, "az", -0.9, -1.0, -0.8)
    found = ranked([large_and_vague, shift, small_and_sure, other_shift])
    assert [one.feature for one in found] == [4, 2, 3, 1]
    assert len(ranked([small_and_sure] * 99)) == SHOWN


# --- slices -----------------------------------------------------------------------------------------------------------
GROWN = SliceMoved(slice="long", share=0.5, requests=900, before=0.1, low=0.05, high=0.2)


def within(*verdicts: str, slices: tuple[SliceMoved, ...] = (GROWN,), alarms: int = 0) -> Matched:
    ratios = (
        Ratio(feature=number, raw=1.8, within=1.0, low=0.95, high=1.05, requests=400, verdict=one)
        for number, one in enumerate(verdicts)
    )
    return Matched(alarms=alarms or len(verdicts), ratios=tuple(ratios), slices=slices)


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (within(VANISHES, VANISHES), ""),
        (within(VANISHES, VANISHES, alarms=3), ""),
        (within(VANISHES, alarms=2), DIRECT),
        (within(VANISHES, PERSISTS), DIRECT),
        (within(VANISHES, UNDECIDED), DIRECT),
        (within(VANISHES, slices=()), DIRECT),
        (within(), DIRECT),
    ],
)
def test_slices_explain_what_most_of_and_all_that_can_be_compared_do_not_show_within_them(
    found: Matched, shown: str
) -> None:
    cause = attributed([alarm(0), alarm(2)], a_round(panel.CLEAN), EXERCISED, within=found)
    assert cause is not None
    assert (cause.cause, cause.exercised) == (TRAFFIC, shown)
    assert cause.slices == (() if shown else (GROWN,)), "they are part of what is said of a mix, and of nothing else"
    assert ("another mix" in cause.reason) == (not shown)


def test_how_many_were_compared_is_said() -> None:
    mixed = attributed([alarm(0)], a_round(panel.CLEAN), EXERCISED, within=within(VANISHES, VANISHES, alarms=3))
    fewer = attributed([alarm(0)], a_round(panel.CLEAN), EXERCISED, within=within(PERSISTS, UNDECIDED))
    assert mixed is not None
    assert fewer is not None
    assert "2 of 3 could be compared: 0.95 to 1.05 times as often there, and over all up to 1.80 times" in mixed.reason
    assert fewer.reason.endswith("; 1 of them moved within slices too")


@pytest.mark.parametrize(
    ("last", "cause"),
    [
        (None, CANNOT_TELL),
        (a_round(panel.COLLAPSED), DICTIONARY),
        (a_round(panel.CHANGED), MODEL),
        (a_round(panel.NUMERICS), panel.NUMERICS),
        (a_round(panel.CLEAN, Effect(0, VALUES, 0.5, 0.45, 0.55)), MODEL),
    ],
)
@pytest.mark.parametrize("verdict", [VANISHES, PERSISTS])
def test_slices_alone_say_nothing_of_what_the_panel_says(last: Round | None, cause: str, verdict: str) -> None:
    found = attributed([alarm(0)], last, EXERCISED, within=within(verdict))
    assert found is not None
    assert (found.cause, found.slices) == (cause, ())


@pytest.mark.parametrize("last", [None, a_round(panel.CHANGED), a_round(panel.CLEAN)])
def test_what_has_grown_is_named_with_every_alarm_of_the_traffics_state(last: Round | None) -> None:
    found = attributed([X, alarm(0)], last, EXERCISED, within=within(PERSISTS))
    assert found is not None
    assert found.slices == (GROWN,)
