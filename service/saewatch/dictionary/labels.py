"""Labels for features of a catalogue: who may replace whose, what a relabel changes, and what is attested of it.

A relabel makes a new catalogue, whose parent is the one before; ids, what features read, and the dictionary stay. A
label that changed is unreviewed again. What a person wrote or accepted is replaced by what a person writes, and by
nothing else unless that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from saewatch.core import limits
from saewatch.core.attestation import Attestation
from saewatch.core.canonical import Json
from saewatch.core.catalogue import SEVERITIES, Catalogue, Feature, check_catalogue
from saewatch.core.errors import ManifestError
from saewatch.core.label import ACCEPTED, REJECTED, UNREVIEWED, Counted, Review, Score, Source
from saewatch.core.manifest import Manifest
from saewatch.dictionary.binomial import Share

KIND = "label"
MACHINES = ("neuronpedia", "auto")
_NUMBER_MAX = 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A label that somebody proposes, for a feature or for a latent, and what else is said of it. Empty: not said.

    Without a label it says what the one that is there is worth.
    """

    where: str
    source: Source
    label: str
    feature: str = ""
    latent: int | None = None
    score: Score | None = None
    concept: str = ""
    category: str = ""
    severity: str = ""
    floor: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelled:
    """A new catalogue, and what became of each proposal, by feature id."""

    catalogue: Catalogue
    changed: tuple[str, ...]
    added: tuple[str, ...]
    kept: tuple[str, ...]
    """A person's label stands, and was left."""
    unnamed: int
    """Proposals for latents without a feature, where none was to be made."""


def relabelled(
    catalogue: Catalogue,
    manifest: Manifest,
    proposals: Iterable[Proposal],
    *,
    concept: str = "",
    overwrite: bool = False,
) -> Relabelled:
    """The catalogue with the proposed labels.

    Args:
        catalogue: the one before.
        manifest: of its dictionary.
        proposals: at most one for each feature or latent.
        concept: of new features, for latents that have none; empty: a proposal makes none unless it names one itself.
        overwrite: replace what a person wrote or accepted as well.

    Raises:
        ManifestError: two proposals for one feature, a feature or latent that there is not, a category that contradicts
            the concept's, more features than a catalogue takes.
    """
    made = _Made(catalogue, manifest, overwrite=overwrite)
    for one in proposals:
        made.take(one, concept)
    return made.done()


class _Made:
    """A catalogue in the making."""

    def __init__(self, catalogue: Catalogue, manifest: Manifest, *, overwrite: bool) -> None:
        self._before, self._manifest, self._overwrite = catalogue, manifest, overwrite
        self._features = {one.id: one for one in catalogue.features}
        self._by_latent: dict[int, list[str]] = {}
        for one in catalogue.features:
            if _single(one):
                self._by_latent.setdefault(one.latents[0], []).append(one.id)
        self._numbers: dict[str, int] = {}
        for name in (*self._features, *catalogue.retired):
            stem, _, number = name.rpartition(".")
            if number.startswith("l"):
                self._numbers[stem] = max(self._numbers.get(stem, 0), int(number[1:]))
        self._seen: dict[str, str] = {}
        self._changed: list[str] = []
        self._added: list[str] = []
        self._kept: list[str] = []
        self._unnamed = 0

    def take(self, one: Proposal, concept: str) -> None:
        """Applies one proposal."""
        if one.latent is not None and not 0 <= one.latent < self._manifest.encoder.latents:
            expected = f"below {self._manifest.encoder.latents}"
            raise ManifestError(f"{one.where}: latent", found=one.latent, expected=expected)
        names = self._named(one)
        for name in names:
            self._once(name, one.where)
            self._relabel(name, one)
        if not names:
            self._add(one, concept)

    def done(self) -> Relabelled:
        """All of it, checked as a reader checks it."""
        touched = bool(self._changed or self._added)
        features = tuple(self._features[name] for name in sorted(self._features))
        made = replace(self._before, features=features, parent=self._before.digest) if touched else self._before
        check_catalogue(made, self._manifest)
        return Relabelled(
            catalogue=made,
            changed=tuple(sorted(self._changed)),
            added=tuple(sorted(self._added)),
            kept=tuple(sorted(self._kept)),
            unnamed=self._unnamed,
        )

    def _named(self, one: Proposal) -> list[str]:
        if not one.feature:
            return self._by_latent.get(one.latent, []) if one.latent is not None else []
        known = self._features.get(one.feature)
        if known is None and one.latent is None:
            hint = "Name its latent too, and a new feature is made."
            raise ManifestError(f"{one.where}: {one.feature}", found="no such feature", expected="an id", hint=hint)
        if known is not None and one.latent is not None and known.latents != (one.latent,):
            found = f"latents {', '.join(map(str, known.latents[:8]))}" if known.latents else "a direction"
            raise ManifestError(f"{one.where}: {one.feature}", found=found, expected=f"latent {one.latent}")
        return [one.feature] if known is not None else []

    def _once(self, name: str, where: str) -> None:
        first = self._seen.setdefault(name, where)
        if first != where:
            raise ManifestError(f"{where}: {name}", found=f"a label at {first} already", expected="one for a feature")

    def _relabel(self, name: str, one: Proposal) -> None:
        feature = self._features[name]
        if not one.label:
            self._put(name, replace(feature, score=one.score))
            return
        if not (self._overwrite or yields(feature, one.source)):
            self._kept.append(name)
            return
        same = feature.label == one.label
        new = replace(
            feature,
            label=one.label,
            source=feature.source if same and feature.source else one.source,
            score=one.score if one.score or not same else feature.score,
            review=feature.review if same else Review(state=UNREVIEWED),
            category=one.category or feature.category,
            severity=one.severity or feature.severity,
        )
        if one.floor not in {None, feature.floor}:
            hint = "Another floor is another feature: it needs another id, and limits of its own."
            raise ManifestError(f"{one.where}: floor", found=one.floor, expected=feature.floor, hint=hint)
        self._put(name, new)

    def _put(self, name: str, new: Feature) -> None:
        if new != self._features[name]:
            self._features[name] = new
            self._changed.append(name)

    def _add(self, one: Proposal, concept: str) -> None:
        stem = one.feature.partition(".")[0] or one.concept or concept
        if one.latent is None or not stem:
            self._unnamed += 1
            return
        self._once(f"latent {one.latent}", one.where)
        name = one.feature or self._next(stem, one.where)
        self._once(name, one.where)
        if len(self._features) >= limits.FEATURES or name in self._before.retired:
            found = "a retired id" if name in self._before.retired else f"more than {limits.FEATURES} features"
            raise ManifestError(f"{one.where}: {name}", found=found, expected="a new id, and room for it")
        sibling = next((known for known in self._features.values() if known.concept == stem), None)
        self._features[name] = Feature(
            id=name,
            label=one.label,
            category=one.category or (sibling.category if sibling else f"x.{stem}"),
            severity=one.severity or SEVERITIES[0],
            floor=one.floor or 0.0,
            latents=(one.latent,),
            source=one.source,
            score=one.score,
            review=Review(state=UNREVIEWED),
        )
        self._added.append(name)

    def _next(self, concept: str, where: str) -> str:
        number = self._numbers[concept] = self._numbers.get(concept, 0) + 1
        if number > _NUMBER_MAX:
            hint = "Spread them over several concepts."
            raise ManifestError(f"{where}: {concept}", found="more features", expected=f"{_NUMBER_MAX}", hint=hint)
        return f"{concept}.l{number}"


def _single(feature: Feature) -> bool:
    return len(feature.latents) == 1 and feature.id.rpartition(".")[2].startswith("l")


def yields(feature: Feature, source: Source) -> bool:
    """Whether a feature's label may be replaced by one from ``source`` without asking."""
    if feature.review_state in {ACCEPTED, REJECTED}:
        return feature.review_state == REJECTED
    return source.kind not in MACHINES or (feature.source is not None and feature.source.kind in MACHINES)


def attestation(weights: str, catalogue: Catalogue, method: str, data: str, **told: Json) -> Attestation:
    """What is known of how labels came about: the method, its data's digest, the catalogue before and after."""
    body: dict[str, Json] = {"method": method, "data": data, "from": catalogue.parent, "catalogue": catalogue.digest}
    return Attestation(kind=KIND, weights=weights, body={**body, **told})


# --- what a score says ------------------------------------------------------------------------------------------------
def worth(score: Score | None) -> str:
    """A score in words, measured ones with n and their 95 % interval."""
    if score is None:
        return "not scored"
    if score.precision is None or score.recall is None:
        return str(score)
    return f"precision {interval_text(score.precision)}, recall {interval_text(score.recall)}"


def interval_text(one: Counted) -> str:
    """``0.90 [0.55, 1.00] of 10``."""
    share = Share(one.hits, one.n)
    low, high = share.interval()
    value = "-" if math.isnan(share.value) else f"{share.value:.2f}"
    return f"{value} [{low:.2f}, {high:.2f}] of {one.n}"


def told(feature: Feature) -> str:
    """A feature's label, marked, with where it comes from and what it is worth, as far as that is known."""
    parts: Sequence[str] = [feature.shown]
    parts = [*parts, *([f"from {feature.source}"] if feature.source else [])]
    return "; ".join([*parts, *([worth(feature.score)] if feature.score else [])])
