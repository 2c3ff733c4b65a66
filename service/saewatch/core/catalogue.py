"""The catalogue (``features.json``): labelled features defined on one dictionary, and what to watch for them.

A feature is a latent, a group of latents or a direction, under an id ``<concept>.<l|p|g><n>`` that is chosen once and
never reused. The catalogue names the weights digest that its row numbers belong to; its own digest changes with every
relabel, which touches no engine. Every feature is a correlational claim: a firing is evidence, not a detection.

Categories are a closed list: the hazard codes of MLCommons' AILuminate benchmark (v1; modelbench,
``BaseSafeTestVersion1.hazards``, and the finer ones of its released prompt sets), ``bias.<attribute>`` for protected
attributes, ``x.<name>`` for behaviours of the model.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from saewatch.core import canonical, limits
from saewatch.core import label as labels
from saewatch.core.canonical import Json
from saewatch.core.errors import ConfigError, ManifestError
from saewatch.core.fields import Fields
from saewatch.core.label import Review, Score, Source
from saewatch.core.manifest import CATALOGUE_FILE, EncoderSheet, Manifest

SCHEMA = "saewatch.catalogue/1"
SEVERITIES = ("low", "medium", "high", "critical")
CLAIMS = ("correlational",)
SCOPES = ("all", "prompt", "reply")
"""Tokens that a feature is aggregated over. Those that the data sheet excludes take no part in any."""
HAZARDS: Mapping[str, str] = {
    "vcr": "violent crimes",
    "ncr": "non-violent crimes",
    "src": "sex-related crimes",
    "cse": "child sexual exploitation",
    "dfm": "defamation",
    "spc": "specialised advice",
    "spc_ele": "specialised advice: elections",
    "spc_fin": "specialised advice: financial",
    "spc_hlt": "specialised advice: health",
    "spc_lgl": "specialised advice: legal",
    "prv": "privacy violations",
    "ipv": "intellectual property violations",
    "iwp": "indiscriminate weapons (CBRNE)",
    "hte": "hate",
    "ssh": "suicide and self-harm",
    "sxc": "sexual content",
    "sxc_prn": "sexual content: pornographic",
}
PROTECTED = (
    "age",
    "disability",
    "gender",
    "gender_identity",
    "marital_status",
    "nationality",
    "physical_appearance",
    "pregnancy",
    "race",
    "religion",
    "sexual_orientation",
    "socioeconomic",
)
"""Protected attributes: the nine of the BBQ benchmark (Parrish et al. 2022), and of the UK Equality Act 2010,
section 4, those that it lacks (gender, marriage, pregnancy)."""

_ID = r"(?P<concept>[a-z0-9][a-z0-9_]{0,47})\.(?P<kind>[lpg])(?P<number>[1-9][0-9]{0,3})"
_BEHAVIOUR = re.compile(r"x\.[a-z0-9][a-z0-9_]{0,47}")
_AGGREGATION = r"max|mean|top[1-9][0-9]{0,2}|[1-9][0-9]{0,2}of[1-9][0-9]{0,2}|run[1-9][0-9]{0,2}"
_FLOOR_MAX = 1e30
_HEAD_MAX = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One labelled feature: ``latents`` (one for ``l``, several for ``g``) or a ``direction`` (``p``)."""

    id: str
    label: str
    category: str
    severity: str
    floor: float
    """Emission floor: its rows are sent where their value is greater."""
    latents: tuple[int, ...] = ()
    direction: int | None = None
    aggregation: str = "max"
    scope: str = "all"
    head: tuple[float, ...] = ()
    """Of a group with a linear head, a weight for each latent: its score is the sum of weight * log1p(aggregate)."""
    claim: str = "correlational"
    source: Source | None = None
    """Where the label comes from; None: not recorded, as in catalogues of before."""
    score: Score | None = None
    """What the label is worth, as far as anybody says."""
    review: Review | None = None
    """None: not recorded, which is shown as unreviewed."""

    @property
    def review_state(self) -> str:
        """unreviewed | accepted | rejected; empty where nothing is recorded."""
        return self.review.state if self.review else ""

    @property
    def shown(self) -> str:
        """The label, marked unless a person accepted it."""
        return labels.shown(self.label, self.review_state)

    @property
    def concept(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    def rows(self, encoder: EncoderSheet) -> tuple[int, ...]:
        """Rows of ``W`` that it reads."""
        return self.latents if self.direction is None else (encoder.latents + self.direction,)

    def json(self) -> Json:
        """As in the file, where scope, head and what is known of the label stand only if they say something."""
        optional: dict[str, Json] = {}
        if self.scope != "all":
            optional["scope"] = self.scope
        if self.head:
            optional["head"] = [canonical.decimal_text(weight) for weight in self.head]
        told = {"source": self.source, "score": self.score, "review": self.review}
        optional |= {name: one.json() for name, one in told.items() if one is not None}
        return optional | {
            "id": self.id,
            "label": self.label,
            "category": self.category,
            "severity": self.severity,
            "floor": canonical.decimal_text(self.floor),
            "latents": list(self.latents),
            "direction": self.direction,
            "aggregation": self.aggregation,
            "claim": self.claim,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchList:
    """What an engine is told to emit: slot ``i`` reads row ``rows[i]`` of ``W`` above ``floors[i]``."""

    rows: tuple[int, ...]
    """Ascending; directions lie behind the latents."""
    floors: tuple[float, ...]
    """Each a float32."""

    @property
    def digest(self) -> str:
        """The watch digest: over the pairs, each as little-endian ``u32`` and ``f32``."""
        pairs = b"".join(struct.pack("<If", row, floor) for row, floor in zip(self.rows, self.floors, strict=True))
        return "sha256:" + hashlib.sha256(b"saewatch.watch/1\n" + pairs).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Features of one dictionary, by id ascending, and the ids that were used before."""

    weights: str
    features: tuple[Feature, ...]
    retired: tuple[str, ...] = ()
    parent: str | None = None

    def data(self) -> bytes:
        """The file's bytes."""
        sheet: Json = {
            "schema": SCHEMA,
            "weights": self.weights,
            "parent": self.parent,
            "retired": list(self.retired),
            "features": [feature.json() for feature in self.features],
        }
        return canonical.dump(sheet, subject=CATALOGUE_FILE)

    @property
    def digest(self) -> str:
        """The catalogue digest."""
        return canonical.digest(self.data())

    def chosen(self, ids: Collection[str] = ()) -> tuple[Feature, ...]:
        """The features named by ``ids`` (none: all). ConfigError for an id that the catalogue does not have."""
        known = {feature.id for feature in self.features}
        for name in ids:
            if name not in known:
                hint = f"It has {', '.join(sorted(known)[:8])} …" if known else "It has no features."
                raise ConfigError("feature", found=f"{name!r:.80}", expected="an id of the catalogue", hint=hint)
        return tuple(feature for feature in self.features if not ids or feature.id in ids)

    def watch_list(self, manifest: Manifest, ids: Collection[str] = ()) -> WatchList:
        """The rows that the features named by ``ids`` (none: all) read, each once, at its lowest floor."""
        floors: dict[int, float] = {}
        for feature in self.chosen(ids):
            for row in feature.rows(manifest.encoder):
                floors[row] = min(_float32(feature.floor), floors.get(row, _FLOOR_MAX))
        rows = tuple(sorted(floors))
        if len(rows) > limits.WATCH_SLOTS:
            raise ConfigError("watch", found=f"{len(rows)} rows", expected=f"at most {limits.WATCH_SLOTS}")
        return WatchList(rows=rows, floors=tuple(floors[row] for row in rows))


def read_catalogue(data: bytes, manifest: Manifest, *, subject: str = CATALOGUE_FILE) -> Catalogue:
    """The catalogue in ``data``, checked against its dictionary; ManifestError naming the entry that is wrong."""
    sheet = Fields(canonical.parse(data, subject=subject), f"{subject}: ")
    sheet.choice("schema", (SCHEMA,))
    entries = sheet.objects("features", limits.FEATURES)
    catalogue = Catalogue(
        weights=sheet.digest("weights"),
        features=tuple(_read_feature(entry) for entry in entries),
        retired=tuple(str(name) for name in sheet.items("retired", limits.FEATURES)),
        parent=None if sheet.absent("parent") else sheet.digest("parent"),
    )
    sheet.close()
    check_catalogue(catalogue, manifest, subject=subject)
    return catalogue


def check_catalogue(catalogue: Catalogue, manifest: Manifest, *, subject: str = CATALOGUE_FILE) -> None:
    """Refuses a catalogue for another dictionary, repeated or retired ids and rows that do not exist."""
    if catalogue.weights != manifest.digest:
        hint = "Its row numbers mean nothing on another dictionary."
        raise ManifestError(f"{subject}: weights", found=catalogue.weights, expected=manifest.digest, hint=hint)
    ids = [feature.id for feature in catalogue.features]
    for left, right in itertools.pairwise(ids):
        if left >= right:
            raise ManifestError(f"{subject}: {right}", found=f"after {left}", expected="each id once, ascending")
    for name in sorted(set(ids) & set(catalogue.retired)):
        raise ManifestError(f"{subject}: {name}", found="a retired id", expected="a new id", hint="Ids are not reused.")
    for feature in catalogue.features:
        _check_feature(feature, manifest.encoder, f"{subject}: {feature.id}")
    _check_concepts(catalogue.features, subject)


def check_category(text: str, subject: str) -> None:
    """ManifestError unless ``text`` is a hazard code, ``bias.<attribute>`` or ``x.<name>``."""
    known = text in HAZARDS or (text.startswith("bias.") and text.removeprefix("bias.") in PROTECTED)
    if not known and _BEHAVIOUR.fullmatch(text) is None:
        expected = f"one of {', '.join(HAZARDS)}, bias.<{'|'.join(PROTECTED)}> or x.<name>"
        raise ManifestError(f"{subject}.category", found=repr(text), expected=expected)


def _aggregation(entry: Fields) -> str:
    text = entry.text("aggregation", pattern=_AGGREGATION)
    k, of, n = text.partition("of")
    if of and int(k) > int(n):
        raise ManifestError(f"{entry.subject}.aggregation", found=text, expected="KofN with K up to N")
    return text


def _read_feature(entry: Fields) -> Feature:
    feature = Feature(
        id=entry.text("id", pattern=_ID),
        label=entry.text("label", limit=limits.LABEL_BYTES),
        category=entry.text("category"),
        severity=entry.choice("severity", SEVERITIES),
        floor=entry.decimal("floor", 0.0, _FLOOR_MAX),
        latents=entry.integers("latents", 0, limits.LATENTS, limits.WATCH_SLOTS),
        direction=None if entry.absent("direction") else entry.integer("direction", 0, limits.WATCH_SLOTS),
        aggregation=_aggregation(entry),
        scope=entry.choice("scope", SCOPES[1:]) if entry.has("scope") else "all",
        head=entry.decimals("head", -_HEAD_MAX, _HEAD_MAX, limits.WATCH_SLOTS) if entry.has("head") else (),
        claim=entry.choice("claim", CLAIMS),
        source=labels.read_source(entry.section("source")) if entry.has("source") else None,
        score=labels.read_score(entry.section("score")) if entry.has("score") else None,
        review=labels.read_review(entry.section("review")) if entry.has("review") else None,
    )
    entry.close()
    return feature


def _check_feature(feature: Feature, encoder: EncoderSheet, subject: str) -> None:
    check_category(feature.category, subject)
    match = re.fullmatch(_ID, feature.id)
    kind = match["kind"] if match else ""
    shape = {"l": len(feature.latents) == 1, "g": len(feature.latents) > 0, "p": not feature.latents}
    if not shape.get(kind, False) or (kind == "p") != (feature.direction is not None):
        found = f"{len(feature.latents)} latents, direction {feature.direction}"
        raise ManifestError(subject, found=found, expected="one latent for .l, latents for .g, a direction for .p")
    if feature.head and (kind != "g" or len(feature.head) != len(feature.latents)):
        found = f"{len(feature.head)} weights for {len(feature.latents)} latents"
        raise ManifestError(f"{subject}.head", found=found, expected="a weight for each latent of a group")
    if list(feature.latents) != sorted(set(feature.latents)):
        raise ManifestError(f"{subject}.latents", found="repeated or unordered", expected="ascending")
    if feature.latents and feature.latents[-1] >= encoder.latents:
        raise ManifestError(f"{subject}.latents", found=feature.latents[-1], expected=f"below {encoder.latents}")
    if feature.direction is not None and feature.direction >= encoder.directions:
        raise ManifestError(f"{subject}.direction", found=feature.direction, expected=f"below {encoder.directions}")


def _check_concepts(features: tuple[Feature, ...], subject: str) -> None:
    categories: dict[str, str] = {}
    for feature in features:
        first = categories.setdefault(feature.concept, feature.category)
        if first != feature.category:
            hint = "A concept's features share its category; another concept needs another prefix."
            raise ManifestError(f"{subject}: {feature.id}.category", found=feature.category, expected=first, hint=hint)


def _float32(value: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)
