"""Fidelity certificates: which features survived serving, as an attestation says it.

A dictionary was made and labelled on reference numerics. What serves is bfloat16, quantised, tuned or adapted, and
each feature survives that in its own way, while FVU hardly moves. So each feature has figures of its own, and rules say
what they come to. A feature is

    good         as far as the texts can tell
    quarantined  it breaks a rule of `rules.QUARANTINE`: it may be shown, and may not back an alert
    unmeasured   the texts say too little of it: no alert either

and the certificate as a whole is refused by a rule of `rules.REFUSAL`. A good certificate says nothing about limits:
requests near one fall to the other side long before a feature breaks. Limits are to be calibrated on what serves.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saewatch.core import canonical, limits
from saewatch.core.attestation import Attestation
from saewatch.core.canonical import Json
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.calibration import (
    COUNT_MAX,
    NUMBER_MAX,
    Data,
    Served,
    read_data,
    read_date,
    read_served,
    reads,
)
from saewatch.dictionary.rules import Rule, read_rules

KIND = "certificate"
MEASURED = 30
"""Tokens that a feature must have fired on in the reference: a Jaccard of fewer is good to 0.2 at best."""
MEASURED_TEXTS = 10
"""Texts over its 95 % point, on either side: of fewer, a single one moves their agreement by more than a tenth."""
GOOD, QUARANTINED, UNMEASURED = "good", "quarantined", "unmeasured"
PASSED, REFUSED = "passed", "refused"
SCOPES = ("dictionary", "watched")
"""What was compared: all latents, or only what an engine was told to emit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """One feature: what became of it."""

    feature: str
    reads: str
    reference: int
    """Tokens on which it fired there."""
    served: int
    both: int
    corr: float
    shift: float | None
    """Median change of its value where both fired, as a share; None: they never did."""
    scored: int
    """Texts with a score on both sides."""
    point95: float
    """At most 5 % of the reference's scores are greater."""
    point95_served: float
    over_both: int
    """Texts over the reference's point on both sides,"""
    over_either: int
    """and on either."""

    @property
    def firings(self) -> Share:
        """Tokens on which both fired, of those on which either did: the Jaccard index."""
        return Share(self.both, self.reference + self.served - self.both)

    @property
    def requests(self) -> Share:
        """The same of texts over the 95 % point."""
        return Share(self.over_both, self.over_either)

    @property
    def figures(self) -> dict[str, float | None]:
        """What rules read."""
        agreement = self.requests.value if self.over_either >= MEASURED_TEXTS else None
        ratio = self.served / self.reference if self.reference else None
        jaccard = self.firings.value if self.firings.n else None
        return {"corr": self.corr, "jaccard": jaccard, "rate_ratio": ratio, "agreement": agreement}

    @property
    def unmeasured(self) -> str:
        """Why nothing can be said of it; empty where something can."""
        if self.reference < MEASURED:
            return f"it fired on {self.reference} tokens of the reference, {MEASURED} are needed"
        if not self.scored:
            return "no text has a score in its scope"
        if self.over_either < MEASURED_TEXTS:
            return f"{self.over_either} texts are over its 95 % point, {MEASURED_TEXTS} are needed"
        return ""

    def json(self) -> Json:
        """As in the file."""
        names = ("reads", "reference", "served", "both", "scored", "over_both", "over_either")
        plain: dict[str, Json] = {name: getattr(self, name) for name in names}
        decimals = {name: canonical.decimal_text(getattr(self, name)) for name in ("corr", "point95", "point95_served")}
        shift = None if self.shift is None else canonical.decimal_text(self.shift)
        return {"id": self.feature, "shift": shift, **plain, **decimals}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """All latents that fired often enough, together: most of them have no label, and all of them are the dictionary."""

    count: int
    """Latents of the dictionary; 0: they were not seen."""
    live: int
    quarantined: int
    both: int
    either: int
    points: Mapping[str, str]
    """Median and 5 % or 5 and 95 % of the figures over live latents, as decimals."""

    def json(self) -> Json:
        """As in the file."""
        counts: dict[str, Json] = {name: getattr(self, name) for name in LATENT_COUNTS}
        return {**counts, "points": dict(self.points)}


LATENT_COUNTS = ("count", "live", "quarantined", "both", "either")
POINTS: Mapping[str, tuple[str, int]] = {
    "corr_median": ("corr", 50),
    "corr_5": ("corr", 5),
    "jaccard_median": ("jaccard", 50),
    "jaccard_5": ("jaccard", 5),
    "rate_ratio_5": ("rate_ratio", 5),
    "rate_ratio_95": ("rate_ratio", 95),
    "shift_median": ("shift", 50),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What an attestation of kind ``certificate`` says about the dictionary ``weights`` on a served model."""

    weights: str
    scope: str
    reference: Served
    served: Served
    versions: Mapping[str, str]
    kv_cache: str
    """Type of the keys and values; empty: not known."""
    date: dt.date
    texts: Data
    tokens: int
    excluded_apart: int
    not_finite: int
    fvu: float | None
    fvu_served: float | None
    latents: Latents
    features: tuple[Survival, ...]
    rules: Mapping[str, Sequence[Rule]]

    @property
    def figures(self) -> dict[str, float | None]:
        """What the rules for the whole read."""
        live, quarantined = self.latents.live, self.latents.quarantined
        if not self.latents.count:
            judged = [self.judged(one) for one in self.features]
            live, quarantined = len(judged) - judged.count(UNMEASURED), judged.count(QUARANTINED)
        ratio = self.fvu_served / self.fvu if self.fvu and self.fvu_served is not None else None
        share = quarantined / live if live else None
        return {"quarantined": share, "fvu_ratio": ratio, "not_finite": self.not_finite, "measured": live}

    @property
    def why(self) -> tuple[Rule, ...]:
        """The rules that it breaks as a whole."""
        return tuple(rule for rule in self.rules["refusal"] if rule.broken(self.figures[rule.figure]))

    @property
    def verdict(self) -> str:
        """passed | refused."""
        return REFUSED if self.why else PASSED

    def broken(self, one: Survival) -> tuple[Rule, ...]:
        """The rules that a feature breaks."""
        return tuple(rule for rule in self.rules["quarantine"] if rule.broken(one.figures[rule.figure]))

    def judged(self, one: Survival) -> str:
        """good | quarantined | unmeasured."""
        if one.reference >= MEASURED and self.broken(one):
            return QUARANTINED
        return UNMEASURED if one.unmeasured else GOOD

    @property
    def without_alert(self) -> tuple[str, ...]:
        """Features that may not back an alert: all of a refused certificate."""
        return tuple(one.feature for one in self.features if self.why or self.judged(one) != GOOD)

    def survival_of(self, feature: Feature) -> Survival | None:
        """Of a catalogue's feature, if it is still what was compared."""
        found = next((one for one in self.features if one.feature == feature.id), None)
        return found if found is not None and found.reads == reads(feature) else None

    def attestation(self) -> Attestation:
        """As a bundle keeps it."""
        whole = {name: getattr(self, name) for name in ("scope", "kv_cache", "tokens", "excluded_apart", "not_finite")}
        fvu = {name: None if (value := getattr(self, name)) is None else canonical.decimal_text(value) for name in FVU}
        features: list[Json] = []
        for one in self.features:
            sheet = one.json()
            assert isinstance(sheet, dict), "a feature is an object"
            features.append({**sheet, "verdict": self.judged(one)})
        body: dict[str, Json] = {
            **whole,
            **fvu,
            "reference": self.reference.json(),
            "served": self.served.json(),
            "versions": dict(self.versions),
            "date": self.date.isoformat(),
            "texts": self.texts.json(),
            "latents": self.latents.json(),
            "features": features,
            "rules": {name: [rule.json() for rule in rules] for name, rules in self.rules.items()},
            "verdict": self.verdict,
        }
        return Attestation(kind=KIND, weights=self.weights, body=body)


FVU = ("fvu", "fvu_served")


# --- reading ----------------------------------------------------------------------------------------------------------
def read_certificate(attestation: Attestation) -> Certificate:
    """The body of a ``certificate``. ManifestError for wrong members, or verdicts that its rules do not give."""
    body = Fields(attestation.body, "certificate: ")
    sheets = body.objects("features", limits.FEATURES)
    judged = [(sheet.choice("verdict", (GOOD, QUARANTINED, UNMEASURED)), _read_survival(sheet)) for sheet in sheets]
    found = Certificate(
        weights=attestation.weights,
        scope=body.choice("scope", SCOPES),
        reference=read_served(body.section("reference")),
        served=read_served(body.section("served")),
        versions=_read_texts(body.section("versions")),
        kv_cache=body.text("kv_cache", empty=True),
        date=read_date(body),
        texts=read_data(body.section("texts")),
        tokens=body.integer("tokens", 0, COUNT_MAX),
        excluded_apart=body.integer("excluded_apart", 0, COUNT_MAX),
        not_finite=body.integer("not_finite", 0, COUNT_MAX),
        fvu=_read_fvu(body, "fvu"),
        fvu_served=_read_fvu(body, "fvu_served"),
        latents=_read_latents(body.section("latents")),
        features=tuple(one for _, one in judged),
        rules=read_rules(body.section("rules")),
    )
    said = body.choice("verdict", (PASSED, REFUSED))
    body.close()
    _check_verdicts(found, [("certificate", said, found.verdict)])
    _check_verdicts(found, [(f"certificate: {one.feature}", said, found.judged(one)) for said, one in judged])
    return found


def _check_verdicts(found: Certificate, verdicts: Sequence[tuple[str, str, str]]) -> None:
    for name, times in Counter(one.feature for one in found.features).items():
        if times > 1:
            raise ManifestError(f"certificate: {name}", found="twice", expected="each feature once")
    for subject, said, is_so in verdicts:
        if said != is_so:
            hint = "Its figures and its rules say otherwise."
            raise ManifestError(f"{subject}: verdict", found=said, expected=is_so, hint=hint)


def _read_survival(sheet: Fields) -> Survival:
    counts = {name: sheet.integer(name, 0, COUNT_MAX) for name in ("reference", "served", "scored", "over_either")}
    found = Survival(
        feature=sheet.text("id", limit=64),
        reads=sheet.digest("reads"),
        both=sheet.integer("both", 0, min(counts["reference"], counts["served"])),
        over_both=sheet.integer("over_both", 0, counts["over_either"]),
        corr=sheet.decimal("corr", -1.0, 1.0),
        shift=None if sheet.absent("shift") else sheet.decimal("shift", -1.0, NUMBER_MAX),
        point95=sheet.decimal("point95", -NUMBER_MAX, NUMBER_MAX),
        point95_served=sheet.decimal("point95_served", -NUMBER_MAX, NUMBER_MAX),
        **counts,
    )
    sheet.close()
    return found


def _read_latents(sheet: Fields) -> Latents:
    count = sheet.integer("count", 0, limits.LATENTS)
    live = sheet.integer("live", 0, count)
    either = sheet.integer("either", 0, COUNT_MAX)
    points = sheet.section("points")
    found = Latents(
        count=count,
        live=live,
        quarantined=sheet.integer("quarantined", 0, live),
        both=sheet.integer("both", 0, either),
        either=either,
        points={
            name: canonical.decimal_text(points.decimal(name, -NUMBER_MAX, NUMBER_MAX))
            for name in POINTS
            if points.has(name)
        },
    )
    points.close()
    sheet.close()
    return found


def _read_fvu(body: Fields, name: str) -> float | None:
    return None if body.absent(name) else body.decimal(name, 0.0, NUMBER_MAX)


def _read_texts(sheet: Fields) -> Mapping[str, str]:
    return {name: sheet.text(name, empty=True) for name in sheet.names()}
