"""Who has to look at which label first, and what they said.

The queue is ordered by impact, from 0 to 8:

    impact = severity * reach * doubt

    severity   low 1, medium 2, high 4, critical 8
    reach      a quarter for 1 request in 1,000, half for 1 in 100, three quarters for 1 in 10, 1 for all, by the
               logarithm in between; never under a tenth, since rare is not harmless; 1 where it is not known
    doubt      1 less the harmonic mean of the lower ends of precision's and recall's 95 % intervals; 1 where nothing
               was measured. A score that is only claimed takes away no doubt

A review is an attestation: who, what of which label, when, and why. One holds all that was ever decided.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from saewatch.core import limits
from saewatch.core.attestation import Attestation
from saewatch.core.canonical import Json
from saewatch.core.catalogue import Catalogue, Feature
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.fields import Fields
from saewatch.core.label import ACCEPTED, REJECTED, STATES, Review, Score
from saewatch.dictionary.binomial import Share

KIND = "review"
WEIGHTS: Mapping[str, int] = {"low": 1, "medium": 2, "high": 4, "critical": 8}
_DECADES = 4  # from 1 request in 10,000 to all
_REACH_MIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A feature whose label waits for a person."""

    feature: Feature
    impact: float
    rate: float | None
    """The share of requests in which it fired; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one person said of one label."""

    feature: str
    label: str
    state: str
    by: str
    reason: str
    date: dt.date

    def json(self) -> Json:
        """As in the file."""
        told = {"id": self.feature, "label": self.label, "state": self.state, "by": self.by, "reason": self.reason}
        return {**told, "date": self.date.isoformat()}


def reach(rate: float | None) -> float:
    """How much of the traffic a feature touches, from 0 to 1, by the logarithm of its share of requests."""
    if rate is None:
        return 1.0
    return max(_REACH_MIN, 1.0 + math.log10(min(rate, 1.0)) / _DECADES) if rate > 0 else _REACH_MIN


def doubt(score: Score | None) -> float:
    """How little is known for a label, from 0 to 1."""
    if score is None or score.precision is None or score.recall is None:
        return 1.0
    low = [Share(one.hits, one.n).interval()[0] for one in (score.precision, score.recall)]
    return 1.0 - (2.0 * low[0] * low[1] / sum(low) if sum(low) else 0.0)


def impact(feature: Feature, rate: float | None) -> float:
    """What a wrong label of it would do."""
    return WEIGHTS[feature.severity] * reach(rate) * doubt(feature.score)


def queue(catalogue: Catalogue, rates: Mapping[str, float], *, everything: bool = False) -> list[Waiting]:
    """Features whose label nobody accepted or rejected, the greatest impact first; ``everything``: all features."""
    found = [
        Waiting(feature=one, impact=impact(one, rates.get(one.id)), rate=rates.get(one.id))
        for one in catalogue.features
        if everything or one.review_state not in {ACCEPTED, REJECTED}
    ]
    return sorted(found, key=lambda one: (-one.impact, one.feature.id))


def decided(catalogue: Catalogue, decisions: Sequence[Decision]) -> Catalogue:
    """The catalogue with these decisions in it. ConfigError for a feature that it does not have, or decided twice."""
    said: dict[str, Decision] = {}
    for one in decisions:
        if said.setdefault(one.feature, one) != one:
            raise ConfigError(one.feature, found="two verdicts", expected="one")
    catalogue.chosen(tuple(said))
    features = tuple(
        replace(one, review=Review(state=said[one.id].state, by=said[one.id].by)) if one.id in said else one
        for one in catalogue.features
    )
    return (
        catalogue if features == catalogue.features else replace(catalogue, features=features, parent=catalogue.digest)
    )


def attested(before: Iterable[Attestation], weights: str, decisions: Sequence[Decision]) -> list[Attestation]:
    """A bundle's attestations with these decisions: one review, which holds the earlier ones too, and all others."""
    kept = list(before)
    earlier = [decision for one in kept if one.kind == KIND for decision in read_review(one)]
    body: Json = [one.json() for one in (*earlier, *decisions)]
    made = Attestation(kind=KIND, weights=weights, body={"decisions": body})
    return [*(one for one in kept if one.kind != KIND), made]


def read_review(attestation: Attestation) -> tuple[Decision, ...]:
    """The body of a ``review``: every decision, the oldest first."""
    body = Fields(attestation.body, "review: ")
    found = tuple(_read_decision(one) for one in body.objects("decisions", limits.DECISIONS))
    body.close()
    return found


def _read_decision(sheet: Fields) -> Decision:
    text = sheet.text("date", pattern=r"\d{4}-\d\d-\d\d")
    try:
        date = dt.date.fromisoformat(text)
    except ValueError as error:
        raise ManifestError(f"{sheet.subject}.date", found=text, expected="a date") from error
    found = Decision(
        feature=sheet.text("id", limit=64),
        label=sheet.text("label", limit=limits.LABEL_BYTES),
        state=sheet.choice("state", STATES[1:]),
        by=sheet.text("by", limit=limits.NAME_BYTES),
        reason=sheet.text("reason", empty=True),
        date=date,
    )
    sheet.close()
    return found
