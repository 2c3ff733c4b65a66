"""Calibrations: limits with the promise that they were chosen under, as an attestation says it.

A calibration is about one dictionary (its weights digest), what each feature reads, how that becomes one number, and
the model that was read. It does not name the catalogue: a new label keeps its limit, while other latents, another
floor, aggregation, scope or head are another feature (`reads`), without one.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from saewatch.core import aggregate, canonical, limits
from saewatch.core.attestation import Attestation
from saewatch.core.canonical import Json
from saewatch.core.catalogue import SCOPES, Feature
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.fields import Fields
from saewatch.core.fit import PROOFS
from saewatch.core.manifest import MODES
from saewatch.core.records import StreamOpen
from saewatch.dictionary.binomial import Share
from saewatch.dictionary.promise import Promise

KIND = "calibration"
_READS = ("latents", "direction", "floor", "aggregation", "scope", "head")
NUMBER_MAX = 1e300
COUNT_MAX = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What was read, as its stream said."""

    model: str
    """Model digest; empty: not known."""
    proof: str
    quantisation: str
    mode: str
    excluded: Mapping[str, str]
    reader: str
    """What computed it: ``vllm 0.32.0``, or transformers and a type."""

    @classmethod
    def of(cls, opening: StreamOpen, reader: str = "") -> Served:
        """Of a stream; ``reader`` where no engine did."""
        return cls(
            model=opening.model_digest,
            proof=opening.model_proof,
            quantisation=opening.quantisation,
            mode=opening.mode,
            excluded=opening.excluded,
            reader=reader or f"vllm {opening.versions.get('vllm', '')}".strip(),
        )

    def json(self) -> Json:
        """As in the file."""
        plain = {name: getattr(self, name) for name in ("model", "proof", "quantisation", "mode", "reader")}
        return {**plain, "excluded": dict(self.excluded)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A set of requests: the digest of the file that they came from, and how many templates, authors or texts."""

    digest: str
    requests: int
    distinct: int

    def json(self) -> Json:
        """As in the file."""
        return {"digest": self.digest, "requests": self.requests, "distinct": self.distinct}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A limit on requests that it was not chosen on."""

    false_alarms: Share
    recall: Share
    lengths: tuple[tuple[int, Share], ...]
    """False alarms by the fewest scored tokens of a bucket, ascending."""

    def json(self) -> Json:
        """As in the file."""
        buckets: list[Json] = [{"tokens": tokens, **_share(share)} for tokens, share in self.lengths]
        return {"false_alarms": _share(self.false_alarms), "recall": _share(self.recall), "lengths": buckets}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A feature's limit: it fires in a request where ``score > limit``."""

    feature: str
    reads: str
    aggregation: str
    scope: str
    n: int
    """Benign requests with a score."""
    unscored: int
    """Benign requests without one, which say nothing."""
    j: int
    limit: float
    point95: float
    """At most 5 % of the benign scores are greater."""
    over95: int
    """How many are."""
    held_out: HeldOut | None = None

    def json(self) -> Json:
        """As in the file."""
        plain: dict[str, Json] = {
            name: getattr(self, name) for name in ("reads", "aggregation", "scope", "n", "unscored", "j", "over95")
        }
        tested = None if self.held_out is None else self.held_out.json()
        decimals = {name: canonical.decimal_text(getattr(self, name)) for name in ("limit", "point95")}
        return {"id": self.feature, "held_out": tested, **plain, **decimals}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experimental:
    """A feature without a limit: it may rank and be shown, and may not alert."""

    feature: str
    n: int
    unscored: int
    why: str
    supported: float
    """The smallest alpha that n benign scores support."""

    def json(self) -> Json:
        """As in the file."""
        plain: dict[str, Json] = {"id": self.feature, "n": self.n, "unscored": self.unscored, "why": self.why}
        return {**plain, "supported": canonical.decimal_text(self.supported)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What an attestation of kind ``calibration`` says about the dictionary ``weights``."""

    weights: str
    promise: Promise
    served: Served
    date: dt.date
    scores: str
    """Digest of the benign scores."""
    benign: Data
    held_out: Data | None
    limits: tuple[Limit, ...]
    experimental: tuple[Experimental, ...] = ()

    def attestation(self) -> Attestation:
        """As a bundle keeps it."""
        body: dict[str, Json] = {
            "alpha": canonical.decimal_text(self.promise.alpha),
            "delta": canonical.decimal_text(self.promise.delta),
            "family": self.promise.family,
            "served": self.served.json(),
            "date": self.date.isoformat(),
            "scores": self.scores,
            "benign": self.benign.json(),
            "held_out": None if self.held_out is None else self.held_out.json(),
            "limits": [one.json() for one in self.limits],
            "experimental": [one.json() for one in self.experimental],
        }
        return Attestation(kind=KIND, weights=self.weights, body=body)

    def limit_of(self, feature: Feature) -> Limit | None:
        """The limit of a catalogue's feature, if it is still what was calibrated."""
        found = next((one for one in self.limits if one.feature == feature.id), None)
        return found if found is not None and found.reads == reads(feature) else None


def reads(feature: Feature) -> str:
    """A digest of what a feature's score depends on: what it reads, its floor, and how that becomes one number."""
    sheet = feature.json()
    assert isinstance(sheet, dict), "a feature is an object"
    kept = {name: sheet[name] for name in _READS if name in sheet}
    return canonical.digest(canonical.dump(kept))


# --- reading ----------------------------------------------------------------------------------------------------------
def read_calibration(attestation: Attestation) -> Calibration:
    """The body of a ``calibration``. ManifestError for members that are wrong, or promise what n does not support."""
    body = Fields(attestation.body, "calibration: ")
    promise = Promise(
        alpha=body.decimal("alpha", 1e-9, 1 - 1e-9),
        delta=body.decimal("delta", 1e-9, 1 - 1e-9),
        family=body.integer("family", 1, limits.FEATURES),
    )
    found = Calibration(
        weights=attestation.weights,
        promise=promise,
        served=read_served(body.section("served")),
        date=read_date(body),
        scores=body.digest("scores"),
        benign=read_data(body.section("benign")),
        held_out=None if body.absent("held_out") else read_data(body.section("held_out")),
        limits=tuple(_read_limit(one, promise) for one in body.objects("limits", limits.FEATURES)),
        experimental=tuple(_read_experimental(one) for one in body.objects("experimental", limits.FEATURES)),
    )
    body.close()
    named = Counter([*(one.feature for one in found.limits), *(one.feature for one in found.experimental)])
    for name in sorted(name for name, times in named.items() if times > 1):
        raise ManifestError(f"calibration: {name}", found="twice", expected="each feature once")
    return found


def read_served(sheet: Fields) -> Served:
    """What was read."""
    excluded = sheet.section("excluded")
    found = Served(
        model="" if not (text := sheet.text("model", empty=True)) else _digest(sheet, text),
        proof=sheet.choice("proof", ("", *PROOFS)),
        quantisation=sheet.text("quantisation", empty=True),
        mode=sheet.choice("mode", MODES),
        excluded={name: excluded.text(name, empty=True) for name in excluded.names()},
        reader=sheet.text("reader", empty=True),
    )
    sheet.close()
    return found


def _digest(sheet: Fields, text: str) -> str:
    if not canonical.is_digest(text):
        raise ManifestError(f"{sheet.subject}.model", found=repr(text), expected="a digest, or nothing")
    return text


def read_date(body: Fields) -> dt.date:
    """The member ``date`` of an attestation's body."""
    text = body.text("date", pattern=r"\d{4}-\d\d-\d\d")
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise ManifestError(f"{body.subject}date", found=text, expected="a date") from error


def read_data(sheet: Fields) -> Data:
    """A set of requests."""
    requests = sheet.integer("requests", 0, COUNT_MAX)
    found = Data(digest=sheet.digest("digest"), requests=requests, distinct=sheet.integer("distinct", 0, requests))
    sheet.close()
    return found


def _read_limit(sheet: Fields, promise: Promise) -> Limit:
    n = sheet.integer("n", 1, COUNT_MAX)
    held_out = None if sheet.absent("held_out") else _read_held_out(sheet.section("held_out"))
    found = Limit(
        feature=sheet.text("id", limit=64),
        reads=sheet.digest("reads"),
        aggregation=sheet.text("aggregation", limit=16),
        scope=sheet.choice("scope", SCOPES),
        n=n,
        unscored=sheet.integer("unscored", 0, COUNT_MAX),
        j=sheet.integer("j", 1, n),
        limit=sheet.decimal("limit", -NUMBER_MAX, NUMBER_MAX),
        point95=sheet.decimal("point95", -NUMBER_MAX, NUMBER_MAX),
        over95=sheet.integer("over95", 0, n),
        held_out=held_out,
    )
    sheet.close()
    try:
        aggregate.read(found.aggregation)
    except ConfigError as error:
        raise ManifestError(f"{sheet.subject}.aggregation", found=error.found, expected=error.expected) from error
    if found.j > (allowed := promise.rank(n)):
        hint = "A limit so low promises more than the data can."
        raise ManifestError(f"{sheet.subject}.j", found=found.j, expected=f"at most {allowed} of {n}", hint=hint)
    return found


def _read_held_out(sheet: Fields) -> HeldOut:
    buckets = sheet.objects("lengths", 64)
    found = HeldOut(
        false_alarms=_read_share(sheet.section("false_alarms")),
        recall=_read_share(sheet.section("recall")),
        lengths=tuple((one.integer("tokens", 0, limits.POSITION_MAX), _read_share(one)) for one in buckets),
    )
    sheet.close()
    return found


def _read_share(sheet: Fields) -> Share:
    n = sheet.integer("n", 0, COUNT_MAX)
    found = Share(sheet.integer("hits", 0, n), n)
    sheet.close()
    return found


def _read_experimental(sheet: Fields) -> Experimental:
    found = Experimental(
        feature=sheet.text("id", limit=64),
        n=sheet.integer("n", 0, COUNT_MAX),
        unscored=sheet.integer("unscored", 0, COUNT_MAX),
        why=sheet.text("why", limit=limits.LABEL_BYTES),
        supported=sheet.decimal("supported", 0.0, 1.0),
    )
    sheet.close()
    return found


def _share(share: Share) -> dict[str, Json]:
    return {"hits": share.hits, "n": share.n}
