"""An evaluation as an attestation of kind ``quality``: the verdict that `gate` reads, and all that it rests on.

    {"gate": {"verdict": "passed" | "failed", "failed": ["fvu", …], "against": {"bundle", "weights", …} | null},
     "rows": […], "figures": {…}, "features": […], "looks_like": […], "served": {…}, "texts": …, …}

``against`` names the bundle that was in force when the candidate was compared with it. Evidence is about the
dictionary ``weights``, the model that was read and these texts; it promises nothing about others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saewatch.core.attestation import Attestation
from saewatch.core.catalogue import Feature
from saewatch.dictionary.area import Area
from saewatch.dictionary.attest import decimals
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.bounds import Compared, Finding, Measured
from saewatch.dictionary.calibration import Data, Served
from saewatch.dictionary.discern import GOOD, Slice, Told
from saewatch.dictionary.figures import Figures
from saewatch.dictionary.traps import Diagnosis

KIND = "quality"
CAVEATS = (
    "A feature's claim is correlational: it fires with what its label says, and is no proof of it.",
    "Figures are of these texts through this model in this type. Others have figures of their own.",
    "Intervals are of 95 %: of AUROC by a bootstrap over templates, of shares by Clopper and Pearson.",
    "That nothing fires does not say that nothing is there.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A file of texts: its digest, how many, and their tokens."""

    digest: str
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quality:
    """One evaluation of the dictionary ``weights``."""

    weights: str
    catalogue: str
    bundle: str
    """That was evaluated; the attestation makes another one."""
    served: Served
    texts: Texts
    labelled: Data | None
    fitted_on: str
    """What baselines were fitted on, in words."""
    ce_tokens: int
    measured: Measured
    rows: tuple[Finding, ...]
    features: tuple[Feature, ...]
    looks_like: Diagnosis | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> tuple[str, ...]:
        """Metrics outside their bounds."""
        return tuple(one.metric for one in self.rows if one.bad)

    @property
    def passed(self) -> bool:
        """Whether it may raise alerts."""
        return not self.failed

    def plain(self) -> dict[str, Any]:
        """All of it, with numbers as numbers: for programs."""
        of = self.measured
        told = {one.feature: one for one in of.discerned.told} if of.discerned else {}
        lift = of.discerned.lift if of.discerned else None
        return {
            "gate": {
                "verdict": "passed" if self.passed else "failed",
                "failed": list(self.failed),
                "against": _against(of.against),
            },
            "looks_like": None if self.looks_like is None else _diagnosed(self.looks_like),
            "rows": [
                {"metric": one.metric, "verdict": one.verdict, "found": one.found, "bound": one.bound}
                for one in self.rows
            ],
            "figures": figures(of.figures, of.ce, self.ce_tokens),
            "stated": dict(of.stated),
            "concepts": {"covered": _covered(of), "measured": len(of.discerned.covered) if of.discerned else 0},
            "lift": None if lift is None else _area(lift),
            "labels": labels(self.features),
            "features": [_feature(told[one.id], of.against) for one in self.features if one.id in told],
            "served": self.served.json(),
            "texts": {"digest": self.texts.digest, "texts": self.texts.texts, "tokens": self.texts.tokens},
            "labelled": None if self.labelled is None else self.labelled.json(),
            "fitted_on": self.fitted_on,
            "catalogue": self.catalogue,
            "notes": list(self.notes),
            "caveats": list(CAVEATS),
        }

    def attestation(self) -> Attestation:
        """As a bundle keeps it."""
        body = decimals(self.plain())
        assert isinstance(body, dict), "an evaluation is an object"
        return Attestation(kind=KIND, weights=self.weights, body=body)


def labels(features: Sequence[Feature]) -> dict[str, Any]:
    """How many labels a person reviewed, by what they said; and how many have a score of their own."""
    sheets = [one.json() for one in features]
    states: dict[str, int] = {}
    for sheet in sheets:
        review = sheet.get("review") if isinstance(sheet, dict) else None
        state = str(review.get("state", "unreviewed")) if isinstance(review, dict) else "unreviewed"
        states[state] = states.get(state, 0) + 1
    scored = sum(isinstance(sheet, dict) and "score" in sheet for sheet in sheets)
    return {"features": len(features), "review": states, "scored": scored}


def figures(of: Figures, ce: float | None, ce_tokens: int) -> dict[str, Any]:
    """Figures as a program reads them; what rests on how many tokens says so."""
    histograms = {name: getattr(of, name).plain() for name in ("values", "norms", "l0s")}
    plain = ("tokens", "excluded", "outliers", "latents", "l0", "sd_l0", "dead", "dense", "cosine", "mean_norm")
    found = {name: getattr(of, name) for name in plain}
    fvu = {name: value for name, value in of.fvu.items() if value is not None}
    told = {"sparsity": of.sparsity, "fvu": fvu, "ce_recovered": ce, "ce_tokens": ce_tokens}
    return {**found, **told, "histograms": histograms}


def _against(one: Compared | None) -> dict[str, str] | None:
    return None if one is None else {"bundle": one.bundle, "weights": one.weights, "catalogue": one.catalogue}


def _covered(of: Measured) -> list[str]:
    best: Mapping[str, float] = of.discerned.covered if of.discerned else {}
    return sorted(concept for concept, value in best.items() if value >= GOOD)


def _diagnosed(one: Diagnosis) -> dict[str, Any]:
    return {"trap": one.trap, "says": one.says, "evidence": one.evidence, "guess": one.guess}


def _feature(one: Told, against: Compared | None) -> dict[str, Any]:
    counts = ("concept", "positives", "negatives", "templates", "unscored", "limit")
    found = {"id": one.feature, **{name: getattr(one, name) for name in counts}}
    difference = against.differences.get(one.feature) if against else None
    return found | {
        "auroc": None if one.auroc is None else _area(one.auroc),
        "baselines": {name: None if area is None else _area(area) for name, area in one.baselines.items()},
        "wins": one.wins,
        "lift": None if one.lift is None else _area(one.lift),
        "difference": None if difference is None else _area(difference),
        **_shares(one),
        "precision": _share(one.precision),
        "slices": [_slice(part) for part in one.slices],
    }


def _slice(one: Slice) -> dict[str, Any]:
    area = None if one.auroc is None else _area(one.auroc)
    return {"name": one.name, "positives": one.positives, "negatives": one.negatives, "auroc": area, **_shares(one)}


def _shares(one: Told | Slice) -> dict[str, Any]:
    return {"recall": _share(one.recall), "false_alarms": _share(one.false_alarms)}


def _share(one: Share | None) -> dict[str, Any] | None:
    if one is None:
        return None
    low, high = one.interval()
    return {"hits": one.hits, "n": one.n, "low": round(low, 6), "high": round(high, 6)}


def _area(one: Area) -> dict[str, float]:
    return {name: round(getattr(one, name), 6) for name in ("value", "low", "high")}
