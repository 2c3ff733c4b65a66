"""From scores to limits, and what they are worth: false alarms, recall, precision, alerts a day.

Scores are those of `core.aggregate`, one for each feature and request. The limit is an order statistic of the benign
ones (`promise`); what it does is measured on requests that had no part in choosing it. A request without a score is
neither benign nor caught: it is counted apart.

The promise is about requests that are drawn as the benign ones were. It is kept for each feature, not for all of them
together, unless it was made for a family.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from saewatch.core.aggregate import Flags
from saewatch.core.batch import F64
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.calibration import Calibration, Data, Experimental, HeldOut, Limit, Served, reads
from saewatch.dictionary.promise import Promise

BUCKETS = (0, 32, 128, 512)
"""Scored tokens from which a bucket of lengths begins: longer requests have more chances to fire."""
CORNERS = 0.975
"""Confidence of each of two intervals, so that what is made from their ends holds with 95 % at least."""


def choose(feature: Feature, benign: F64, promise: Promise) -> Limit | Experimental:
    """The limit of a feature from its scores ``benign [R]``; NaN: no score. Too few scores give none."""
    scored = np.sort(benign[~np.isnan(benign)])[::-1]
    n, unscored = len(scored), int(np.isnan(benign).sum())
    j = promise.rank(n)
    if j == 0:
        why = f"{n} of {promise.needed} benign requests with a score" if n else "no benign request has a score"
        return Experimental(feature=feature.id, n=n, unscored=unscored, why=why, supported=promise.supported(n))
    point95 = float(scored[n // 20])
    return Limit(
        feature=feature.id,
        reads=reads(feature),
        aggregation=feature.aggregation,
        scope=feature.scope,
        n=n,
        unscored=unscored,
        j=j,
        limit=float(scored[j - 1]),
        point95=point95,
        over95=int((scored > point95).sum()),
    )


def tested(limit: float, scores: F64, *, positive: Flags, negative: Flags, lengths: F64) -> HeldOut:
    """What a limit does on other requests ``[R]``: those that carry the concept, and those that carry none.

    ``lengths``: scored tokens of each.
    """
    scored, fires = ~np.isnan(scores), scores > limit
    negative, positive = negative & scored, positive & scored
    bucket = np.searchsorted(BUCKETS, lengths, side="right") - 1
    return HeldOut(
        false_alarms=_share(fires, negative),
        recall=_share(fires, positive),
        lengths=tuple((start, _share(fires, negative & (bucket == place))) for place, start in enumerate(BUCKETS)),
    )


def _share(fires: Flags, among: Flags) -> Share:
    return Share(int((fires & among).sum()), int(among.sum()))


# --- a calibration ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """Requests that limits are tested on."""

    data: Data
    concepts: Sequence[Collection[str]]
    """Of each request; none: it carries none."""
    scores: F64  # [features, R]
    lengths: F64  # [features, R] scored tokens in each feature's scope


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Benign requests as scores, wherever these came from, and what was read."""

    weights: str
    served: Served
    features: Sequence[Feature]
    data: Data
    scores: F64  # [features, R]
    tested: Tested | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    """By feature, why it can have no limit from these."""


def aggregated(feature: Feature, aggregation: str | None) -> Feature:
    """The same feature with another aggregation, which makes it another one for limits; None: its own."""
    return feature if aggregation is None else replace(feature, aggregation=aggregation)


def calibrated(given: Scores, promise: Promise, date: dt.date) -> Calibration:
    """The limits of all features, with what they do on the requests that they are tested on."""
    chosen = [_chosen(given, number, promise) for number in range(len(given.features))]
    return Calibration(
        weights=given.weights,
        promise=promise,
        served=given.served,
        date=date,
        scores=scores_digest(given.features, given.scores),
        benign=given.data,
        held_out=given.tested.data if given.tested else None,
        limits=tuple(one for one in chosen if isinstance(one, Limit)),
        experimental=tuple(one for one in chosen if isinstance(one, Experimental)),
    )


def _chosen(given: Scores, number: int, promise: Promise) -> Limit | Experimental:
    feature, seen = given.features[number], given.tested
    if why := given.refused.get(feature.id):
        return Experimental(feature=feature.id, n=0, unscored=given.scores.shape[1], why=why, supported=1.0)
    one = choose(feature, given.scores[number], promise)
    if isinstance(one, Experimental) or seen is None:
        return one
    positive = np.array([feature.concept in concepts for concepts in seen.concepts], bool)
    negative = np.array([not concepts for concepts in seen.concepts], bool)
    found = tested(one.limit, seen.scores[number], positive=positive, negative=negative, lengths=seen.lengths[number])
    return replace(one, held_out=found)


# --- what it comes to -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the ends of its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


def precision(held_out: HeldOut, prevalence: float) -> Estimate:
    """Of the alerts, how many are right, where ``prevalence`` of the requests carry the concept.

    ``r p / (r p + f (1 - p))`` with recall r and false alarms f; its ends are those of r low, f high and r high, f low.
    """
    (r_low, r_high), (f_low, f_high) = _ends(held_out)
    recall, false = held_out.recall.value, held_out.false_alarms.value
    pairs = ((recall, false), (r_low, f_high), (r_high, f_low))
    return Estimate(*(_right(r * prevalence, f * (1.0 - prevalence)) for r, f in pairs))


def alerts(held_out: HeldOut, prevalence: float, requests: float) -> Estimate:
    """Alerts among ``requests`` requests; its ends are those of both rates."""
    (r_low, r_high), (f_low, f_high) = _ends(held_out)
    recall, false = held_out.recall.value, held_out.false_alarms.value
    pairs = ((recall, false), (r_low, f_low), (r_high, f_high))
    return Estimate(*(requests * (r * prevalence + f * (1.0 - prevalence)) for r, f in pairs))


def promised(held_out: HeldOut, prevalence: float, requests: float, alpha: float) -> float:
    """Alerts among ``requests`` requests where false alarms come as often as the promise allows."""
    return requests * (held_out.recall.value * prevalence + alpha * (1.0 - prevalence))


def _ends(held_out: HeldOut) -> tuple[tuple[float, float], tuple[float, float]]:
    return held_out.recall.interval(CORNERS), held_out.false_alarms.interval(CORNERS)


def _right(right: float, wrong: float) -> float:
    return right / (right + wrong) if right + wrong else math.nan


# --- what it was made from --------------------------------------------------------------------------------------------
def scores_digest(features: Sequence[Feature], scores: F64) -> str:
    """SHA-256 over each feature's id and its scores ``[features, R]`` as little-endian float64, in the order given."""
    state = hashlib.sha256(b"saewatch.scores/1\n")
    for feature, row in zip(features, scores, strict=True):
        state.update(f"{feature.id} {len(row)}\n".encode() + row.astype("<f8").tobytes())
    return f"sha256:{state.hexdigest()}"


def check_apart(sets: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses sets that share a text, template or author: what was chosen on it looks better on it than it is.

    ``sets``: by name, what each of its requests is told apart by, and where that stands. Raises `ConfigError`.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, keys in sets.items():
        for key, where in keys.items():
            other, place = seen.setdefault(key, (name, where))
            if other != name:
                kind = key.partition(":")[0]
                hint = "Split by template or author, never by request."
                raise ConfigError(where, found=f"the {kind} of {place}", expected=f"another {kind}", hint=hint)
