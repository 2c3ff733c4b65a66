"""Every row of the gate passes what is good, fails what is bad, and does not pass what nobody measured."""

from __future__ import annotations

from typing import Any

import pytest

from saewatch.dictionary.area import Area
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.bounds import GATE, LEFT_OUT, PASSED, TOO_LITTLE, Measured, judge
from tests.dictionary.measured import compared, discerned, figures, good, told

BAD: dict[str, list[dict[str, Any]]] = {
    "fvu": [{"figures": figures(fvu={"kept": 0.36}), "stated": {}}],
    "fvu.stated": [{"figures": figures(fvu={"kept": 0.166})}],
    "l0.stated": [{"figures": figures(l0=36.5)}, {"figures": figures(l0=23.9)}],
    "sd_l0": [{"figures": figures(sd_l0=0.0)}, {"competes": True, "stated": {}}, {"stated": {"sd_l0": 0.0}}],
    "ce": [{"ce": 0.89}],
    "dead": [{"figures": figures(dead=0.21)}, {"figures": figures(dead=0.21, tokens=99_000)}],
    "dense": [{"figures": figures(dense=0.11)}],
    "outliers": [{"far": 0.5}],
    "auroc": [
        {"discerned": discerned(told(auroc=Area(0.92, 0.89, 0.95)))},
        {"discerned": None},
        {"discerned": discerned(told("fraud.l1"))},
    ],
    "recall": [{"discerned": discerned(told(recall=Share(50, 100)))}, {"discerned": discerned(told(recall=None))}],
    "lift": [
        {"discerned": discerned(told(lift=Area(0.01, -0.02, 0.04)))},
        {"discerned": discerned(told(lift=Area(0.2, -0.1, 0.4)))},
    ],
    "fvu.regression": [{"figures": figures(fvu={"kept": 0.171}), "stated": {}}],
    "l0.regression": [{"figures": figures(l0=36.5), "stated": {}}],
    "ce.regression": [{"ce": 0.965}],
    "dead.regression": [{"figures": figures(dead=0.07)}],
    "dense.regression": [{"figures": figures(dense=0.08)}],
    "coverage.regression": [{"against": compared(gone=("fraud",))}],
    "auroc.regression": [{"against": compared(mean=Area(-0.05, -0.07, -0.03))}],
    "features.regression": [
        {"against": compared(worse=("threat.l1",))},
        {"against": compared(differences={"threat.l1": Area(0.0, -0.06, 0.06)})},
        {"against": compared(differences={})},
    ],
}
CASES = [(name, changes) for name, listed in BAD.items() for changes in listed]


def verdicts(measured: Measured) -> dict[str, str]:
    return {one.metric: one.verdict for one in judge(measured)}


def test_a_good_dictionary_passes_every_row() -> None:
    assert set(verdicts(good()).values()) == {PASSED}
    assert BAD.keys() == GATE.keys(), "a row without a bad case is no row"


@pytest.mark.parametrize(("metric", "changes"), CASES, ids=[name for name, _ in CASES])
def test_a_bad_one_fails_the_row_that_it_should(metric: str, changes: dict[str, Any]) -> None:
    found = {one.metric: one for one in judge(good(**changes))}
    assert found[metric].bad
    assert found[metric].found
    assert found[metric].bound
    others = {name for name, one in found.items() if one.bad} - {metric}
    assert len(others) <= 1, f"{others} fail too"


def test_too_little_to_tell_is_told_apart_from_bad() -> None:
    assert verdicts(good(figures=figures(dead=0.21, tokens=99_000)))["dead"] == TOO_LITTLE
    assert verdicts(good(discerned=None))["auroc"] == TOO_LITTLE
    wide = compared(differences={"threat.l1": Area(0.0, -0.06, 0.06)})
    assert verdicts(good(against=wide))["features.regression"] == TOO_LITTLE


def test_what_does_not_apply_is_left_out() -> None:
    found = verdicts(good(against=None, stated={}, discerned=None, alerting=(), ce=None))
    assert {name for name, one in found.items() if one == PASSED} == {"fvu", "sd_l0", "dead", "dense", "outliers"}
    assert {one for one in found.values() if one != PASSED} == {LEFT_OUT}
    probes = figures(latents=0, l0=None, sd_l0=None, dead=None, dense=None, fvu={"kept": None})
    found = verdicts(
        good(kind="probes", figures=probes, against=None, discerned=discerned(told("threat.p1", lift=None)))
    )
    assert not {name for name, one in found.items() if one == PASSED} & {"fvu", "l0.stated", "dead", "lift"}
