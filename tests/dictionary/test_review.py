"""The queue of labels, and verdicts on them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from saewatch.core.attestation import Attestation
from saewatch.core.catalogue import Catalogue, Feature
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.label import Counted, Review, Score
from saewatch.dictionary import review
from saewatch.dictionary.review import Decision

WEIGHTS = "sha256:" + "a" * 64
TODAY = dt.date(2026, 3, 1)


def feature(name: str, severity: str = "low", **changes: Any) -> Feature:
    made = Feature(id=name, label=f"label of {name}", category="x.a", severity=severity, floor=0.0, latents=(1,))
    return replace(made, **changes)


def measured(hits: int, n: int) -> Score:
    return Score(precision=Counted(hits=hits, n=n), recall=Counted(hits=hits, n=n))


def decision(name: str, state: str = "accepted", by: str = "ada") -> Decision:
    return Decision(feature=name, label=f"label of {name}", state=state, by=by, reason="read ten", date=TODAY)


@pytest.mark.parametrize(
    ("rate", "reach"),
    [(None, 1.0), (1.0, 1.0), (0.1, 0.75), (0.01, 0.5), (0.001, 0.25), (1e-9, 0.1), (0.0, 0.1), (2.0, 1.0)],
)
def test_reach_goes_by_the_logarithm(rate: float | None, reach: float) -> None:
    assert review.reach(rate) == pytest.approx(reach)


def test_doubt_is_less_only_for_what_was_measured() -> None:
    """The lower ends of 20 in 20: 0.05/2 to the power of 1/20, by Clopper and Pearson's own formula."""
    low = 0.025 ** (1 / 20)
    assert review.doubt(measured(20, 20)) == pytest.approx(1 - low)
    assert review.doubt(measured(2, 2)) > review.doubt(measured(20, 20))
    for unknown in (None, Score(claimed=1.0), measured(0, 9), measured(0, 0)):
        assert review.doubt(unknown) == 1.0


def test_the_queue_is_ordered_by_severity_reach_and_doubt() -> None:
    features = (
        feature("a.l1", "critical"),
        feature("b.l1", "critical", score=measured(60, 60)),
        feature("c.l1", "high"),
        feature("d.l1", "high"),
        feature("e.l1", "critical", review=Review(state="accepted", by="ada")),
        feature("f.l1", "low", review=Review(state="unreviewed")),
    )
    catalogue = Catalogue(weights=WEIGHTS, features=features)
    rates = {"a.l1": 1.0, "b.l1": 1.0, "c.l1": 0.5, "d.l1": 0.9, "f.l1": 0.001}
    found = review.queue(catalogue, rates)
    assert [one.feature.id for one in found] == ["a.l1", "d.l1", "c.l1", "b.l1", "f.l1"]
    assert [one.impact for one in found] == sorted((one.impact for one in found), reverse=True)
    assert (found[0].impact, found[-1].rate) == (8.0, 0.001)
    assert len(review.queue(catalogue, rates, everything=True)) == 6
    unknown = review.queue(catalogue, {})
    assert [one.feature.id for one in unknown][:3] == ["a.l1", "c.l1", "d.l1"], "not known counts as everywhere"


def test_a_verdict_changes_the_review_and_nothing_else() -> None:
    before = Catalogue(weights=WEIGHTS, features=(feature("a.l1"), feature("b.l1")))
    made = review.decided(before, [decision("b.l1", "rejected")])
    assert made.features[1].review == Review(state="rejected", by="ada")
    assert replace(made.features[1], review=None) == before.features[1]
    assert (made.features[0], made.parent) == (before.features[0], before.digest)
    assert review.decided(made, [decision("b.l1", "rejected")]) == made, "the same again is the same catalogue"
    with pytest.raises(ConfigError, match=r"found 'c.l1'"):
        review.decided(before, [decision("c.l1")])
    with pytest.raises(ConfigError, match=r"a.l1: found two verdicts"):
        review.decided(before, [decision("a.l1"), decision("a.l1", "rejected")])


def test_one_attestation_holds_every_decision() -> None:
    other = Attestation(kind="stated", weights=WEIGHTS, body={})
    first = review.attested([other], WEIGHTS, [decision("a.l1")])
    second = review.attested(first, WEIGHTS, [decision("a.l1", "rejected", by="ben"), decision("b.l1")])
    assert [one.kind for one in second] == ["stated", "review"]
    found = review.read_review(second[1])
    assert [(one.feature, one.state, one.by) for one in found] == [
        ("a.l1", "accepted", "ada"),
        ("a.l1", "rejected", "ben"),
        ("b.l1", "accepted", "ada"),
    ]
    assert found[0] == decision("a.l1")


WRONG: dict[str, dict[str, Any]] = {
    "a date that is none": {"date": "2026-02-30"},
    "no verdict": {"state": "unreviewed"},
    "nobody": {"by": ""},
    "a long label": {"label": "x" * 513},
    "an unknown member": {"mood": "good"},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_malformed_review_is_refused(changes: dict[str, Any]) -> None:
    sheet = decision("a.l1").json()
    assert isinstance(sheet, dict)
    body: dict[str, Any] = {"decisions": [{**sheet, **changes}]}
    with pytest.raises(ManifestError, match=r"review: decisions\[0\]"):
        review.read_review(Attestation(kind="review", weights=WEIGHTS, body=body))
