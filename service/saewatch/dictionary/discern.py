"""How well features tell requests that carry their concept from those that carry none, and what else would.

Scores are those of `core.aggregate`. Beside each feature, on the same requests: a bag of words, a linear probe on the
activations, and for latents a dictionary that was never trained, from which as many latents were chosen for the concept
as the feature has. All three are fitted on other requests than they are reported on; so were the features, or they look
better than they are. Requests that rephrase others are kept apart: whoever learned a phrase by heart misses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from saewatch.core.aggregate import Flags
from saewatch.core.batch import F64
from saewatch.core.catalogue import Feature
from saewatch.dictionary.area import Area, Resamples, auroc, interval, resampled
from saewatch.dictionary.baselines import BagOfWords, Pooled
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.calibrate import BUCKETS
from saewatch.dictionary.choose import choose

RESAMPLES = 2000
GOOD = 0.9
"""AUROC from which a concept counts as covered."""
WORDS, PROBE, RANDOM = BASELINES = ("words", "probe", "random")
UNSCORED = -1e9
"""A score for what has none, below all others: a random latent in an empty scope."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scope:
    """What R requests hold in one scope, for the baselines."""

    texts: Sequence[str]
    means: F64  # [R, d_in] of the rows that take part; NaN where there are none
    random: F64  # [R, m] largest value of each latent that was never trained


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """R labelled requests."""

    concepts: Sequence[frozenset[str]]
    clusters: Sequence[str]
    """Template or author."""
    kinds: Sequence[str]
    """As the file says, or nothing."""
    rephrased: Flags  # [R] made from another request
    fitting: Flags  # [R] baselines are fitted on them, and nothing is reported on them
    scopes: Mapping[str, Scope] = field(default_factory=dict)

    def of(self, mask: Flags) -> list[str]:
        """The templates of some."""
        return [self.clusters[row] for row in np.flatnonzero(mask)]

    def carrying(self, concept: str) -> Flags:
        """Those that carry a concept, ``[R]``."""
        return np.array([concept in one for one in self.concepts], bool)

    @property
    def innocent(self) -> Flags:
        """Those that carry none, ``[R]``."""
        return np.array([not one for one in self.concepts], bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some of the requests: by length, by kind, or those that rephrase others."""

    name: str
    positives: int
    negatives: int
    auroc: Area | None
    recall: Share | None
    false_alarms: Share | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A feature on labelled requests. None: not measured, because there is nothing to measure it on."""

    feature: str
    concept: str
    positives: int
    negatives: int
    templates: int
    """Of the positives."""
    unscored: int
    """Requests without a token in the feature's scope."""
    auroc: Area | None = None
    baselines: Mapping[str, Area | None] = field(default_factory=dict)
    lift: Area | None = None
    """AUROC less that of the random dictionary's."""
    limit: float | None = None
    """That the feature's calibration gives it; then it may alert."""
    recall: Share | None = None
    false_alarms: Share | None = None
    precision: Share | None = None
    """Of the requests over the limit. It depends on how many of these requests carry the concept."""
    slices: tuple[Slice, ...] = ()

    @property
    def wins(self) -> str:
        """Whose AUROC is the largest: ``feature`` or a baseline; empty where it was not measured."""
        if self.auroc is None:
            return ""
        rivals = {name: one.value for name, one in self.baselines.items() if one is not None}
        best = max(rivals, key=lambda name: rivals[name], default="")
        return best if best and rivals[best] > self.auroc.value else "feature"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Discerned:
    """All features, and the resamples of what is judged together."""

    told: tuple[Told, ...]
    samples: Mapping[str, F64]
    """By feature: its AUROC in each resample, ``[S]``. The same draws for every feature of a concept and a scope."""
    lifts: Mapping[str, F64]

    @property
    def covered(self) -> Mapping[str, float]:
        """Concepts that were measured, with the best AUROC of a feature."""
        found: dict[str, float] = {}
        for one in self.told:
            if one.auroc is not None:
                found[one.concept] = max(found.get(one.concept, 0.0), one.auroc.value)
        return found

    @property
    def lift(self) -> Area | None:
        """The mean lift of the features that read latents."""
        rows = [one.lift.value for one in self.told if one.lift is not None]
        return interval(float(np.mean(rows)), np.mean(list(self.lifts.values()), axis=0)) if rows else None


def discern(
    features: Sequence[Feature],
    scores: F64,
    lengths: F64,
    requests: Requests,
    limits: Mapping[str, float],
    *,
    step: Callable[[int], None] = lambda _: None,
) -> Discerned:
    """Features by their scores and scored tokens ``[features, R]``.

    ``limits``: of those that have one, by id. ``step`` is told how many features are done.
    """
    rivals = Rivals(requests)
    draws = Resamples(RESAMPLES)
    told, samples, lifts = [], {}, {}
    for number, (feature, row, length) in enumerate(zip(features, scores, lengths, strict=True)):
        one = _Feature(feature, row, length, requests, draws)
        found, sampled, lift = one.told(rivals, limits.get(feature.id))
        told.append(found)
        if sampled is not None:
            samples[feature.id] = sampled
        if lift is not None:
            lifts[feature.id] = lift
        step(number + 1)
    return Discerned(told=tuple(told), samples=samples, lifts=lifts)


class _Feature:
    """One feature's scores, and the requests that it is judged on."""

    def __init__(self, feature: Feature, scores: F64, lengths: F64, requests: Requests, draws: Resamples) -> None:
        self._of, self._scores, self._lengths = feature, scores, lengths
        self._requests, self._draws = requests, draws
        scored = ~np.isnan(scores)
        self._asked = ~requests.fitting
        carrying = requests.carrying(feature.concept) & self._asked
        self.unscored = int((self._asked & ~scored).sum())
        self.positive = carrying & scored & ~requests.rephrased
        self.rephrased = carrying & scored & requests.rephrased
        self.negative = requests.innocent & self._asked & scored

    def told(self, rivals: Rivals, limit: float | None) -> tuple[Told, F64 | None, F64 | None]:
        """The figures, and the resamples of AUROC and lift."""
        plain = Told(
            feature=self._of.id,
            concept=self._of.concept,
            positives=int(self.positive.sum()),
            negatives=int(self.negative.sum()),
            templates=len(set(self._requests.of(self.positive))),
            unscored=self.unscored,
            limit=limit,
        )
        if not plain.positives or not plain.negatives:
            return plain, None, None
        own = self._samples(self._scores, self.positive, self.negative)
        baselines, random = self._baselines(rivals)
        lift = None if random is None else own - random[1]
        shares = {} if limit is None else self._shares(limit, self.positive, self.negative)
        value = self._auroc(self._scores)
        told = replace(
            plain,
            auroc=interval(value, own),
            baselines=baselines,
            lift=None if random is None or lift is None else interval(value - random[0], lift),
            slices=tuple(self._slices(limit)),
            recall=shares.get("recall"),
            false_alarms=shares.get("false_alarms"),
            precision=shares.get("precision"),
        )
        return told, own, lift

    def _baselines(self, rivals: Rivals) -> tuple[dict[str, Area | None], tuple[float, F64] | None]:
        found: dict[str, Area | None] = {}
        random = None
        for name in BASELINES:
            scores = rivals.scores(name, self._of)
            if scores is None:
                found[name] = None
                continue
            value, samples = self._auroc(scores), self._samples(scores, self.positive, self.negative)
            found[name] = interval(value, samples)
            random = (value, samples) if name == RANDOM else random
        return found, random

    def _auroc(self, scores: F64) -> float:
        return auroc(scores[self.positive], scores[self.negative])

    def _samples(self, scores: F64, positive: Flags, negative: Flags, name: str = "") -> F64:
        sides = (("positive", self._of.concept, positive), ("negative", "", negative))
        draws = [
            self._draws.of(f"{side} {concept} {self._of.scope} {name}", self._requests.of(mask))
            for side, concept, mask in sides
        ]
        return resampled(scores[positive], scores[negative], (draws[0], draws[1]))

    def _shares(self, limit: float, positive: Flags, negative: Flags) -> dict[str, Share]:
        over = self._scores > limit
        hits, false = int((over & positive).sum()), int((over & negative).sum())
        return {
            "recall": Share(hits, int(positive.sum())),
            "false_alarms": Share(false, int(negative.sum())),
            "precision": Share(hits, hits + false),
        }

    def _slices(self, limit: float | None) -> Iterator[Slice]:
        bucket = np.searchsorted(BUCKETS, self._lengths, side="right") - 1
        for place, start in enumerate(BUCKETS):
            until = f" to {BUCKETS[place + 1] - 1}" if place + 1 < len(BUCKETS) else " and more"
            inside = bucket == place
            yield from self._slice(f"{start}{until} tokens", self.positive & inside, self.negative & inside, limit)
        yield from self._slice("paraphrases", self.rephrased, self.negative, limit)
        for kind in sorted({self._requests.kinds[row] for row in np.flatnonzero(self.negative)} - {""})[:16]:
            own = self.negative & np.array([one == kind for one in self._requests.kinds], bool)
            yield from self._slice(f"against {kind:.40}", self.positive, own, limit)

    def _slice(self, name: str, positive: Flags, negative: Flags, limit: float | None) -> Iterator[Slice]:
        if not positive.any() and not negative.any():
            return
        area = None
        if positive.any() and negative.any():
            samples = self._samples(self._scores, positive, negative, name)
            area = interval(auroc(self._scores[positive], self._scores[negative]), samples)
        shares = {} if limit is None else self._shares(limit, positive, negative)
        yield Slice(
            name=name,
            positives=int(positive.sum()),
            negatives=int(negative.sum()),
            auroc=area,
            recall=shares.get("recall"),
            false_alarms=shares.get("false_alarms"),
        )


class Rivals:
    """Baselines of concepts and scopes, each fitted once, on the requests that are for fitting."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._kept: dict[tuple[str, str, str, int], F64 | None] = {}

    def scores(self, name: str, feature: Feature) -> F64 | None:
        """Of all requests, ``[R]``; None where the baseline cannot be fitted, or means nothing for the feature."""
        if name == RANDOM and feature.direction is not None:
            return None  # a direction is no choice among latents
        size = len(feature.latents) if name == RANDOM else 0
        key = (name, feature.concept, feature.scope, size)
        if key not in self._kept:
            self._kept[key] = self._fitted(name, feature.concept, feature.scope, size)
        return self._kept[key]

    def _fitted(self, name: str, concept: str, scope: str, size: int) -> F64 | None:
        held = self._requests.scopes.get(scope)
        if held is None:
            return None
        there = ~np.isnan(held.means[:, 0])
        carrying = self._requests.carrying(concept) & ~self._requests.rephrased
        positive = np.flatnonzero(carrying & self._requests.fitting & there)
        negative = np.flatnonzero(self._requests.innocent & self._requests.fitting & there)
        if len(positive) < 2 or len(negative) < 2:
            return None
        if name == WORDS:
            made = BagOfWords([held.texts[i] for i in positive], [held.texts[i] for i in negative])
            return made.score(held.texts)
        if name == PROBE:
            return np.nan_to_num(Pooled(held.means[positive], held.means[negative]).score(held.means), nan=UNSCORED)
        if not held.random.shape[1]:
            return None
        group = choose(held.random[positive], held.random[negative], size)
        return group.single_score(held.random) if size == 1 else group.score(held.random)
