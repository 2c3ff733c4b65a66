"""The made-up dictionary of a fake sidecar: features, the slots that they get, and the messages that explain them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError
from saewatch.core.label import STATES
from saewatch.edge.pb import common_pb2, dictionary_pb2, firing_pb2

ENGINE = "fake-engine"
MODEL = "fake-model"
HOOK_POINT = "resid_post.7"
WEIGHTS = "sha256:" + "0" * 64
CATALOGUE = "sha256:" + "1" * 64
WATCH = "sha256:" + "2" * 64
LATENTS, DIRECTIONS, D_IN = 4096, 8, 256

FEATURES = (
    Feature(
        id="greeting.g1",
        label="Polite openings",
        category="x.greeting",
        severity="low",
        floor=0.5,
        latents=(12, 40),
    ),
    Feature(
        id="hesitation.l1",
        label="Hedging and hesitation",
        category="x.hesitation",
        severity="low",
        floor=1.0,
        latents=(12,),
    ),
    Feature(
        id="medical.p1",
        label="Medical advice",
        category="spc_hlt",
        severity="medium",
        floor=0.0,
        direction=1,
    ),
    Feature(
        id="violence.p1",
        label="Threats of violence",
        category="vcr",
        severity="high",
        floor=0.0,
        direction=0,
    ),
)
"""By id. Latent 12 serves two of them, with different floors: a client has to tell them apart."""


LABEL_REVIEWS = {"": common_pb2.LABEL_REVIEW_UNSPECIFIED} | {
    one: common_pb2.LabelReview.Value(f"LABEL_REVIEW_{one.upper()}") for one in STATES
}


class MadeDictionary:
    """``features`` as a sidecar shows them; those with the ids ``watched`` have slots, or all without any."""

    def __init__(
        self,
        features: Sequence[Feature] = FEATURES,
        *,
        weights: str = WEIGHTS,
        catalogue: str = CATALOGUE,
        watched: Collection[str] = (),
    ) -> None:
        self.features = {one.id: one for one in features}
        self.weights = weights
        self.catalogue = catalogue
        self.watched = {name: one for name, one in self.features.items() if not watched or name in watched}
        units = sorted({unit for one in self.watched.values() for unit in _units(one)})
        self._slot = {unit: slot for slot, unit in enumerate(units)}
        self._units = units

    def watching(self, ids: Collection[str]) -> MadeDictionary:
        """The same dictionary, of which these features are watched; none: all."""
        every = list(self.features.values())
        return MadeDictionary(every, weights=self.weights, catalogue=self.catalogue, watched=ids)

    @property
    def watch_digest(self) -> str:
        """Of what is watched."""
        if self.watched.keys() == self.features.keys():
            return WATCH
        return f"sha256:{hashlib.sha256(repr(self._units).encode()).hexdigest()}"

    @property
    def slot_count(self) -> int:
        """Slots of what is watched."""
        return len(self._units)

    def feature(self, name: str) -> Feature:
        """One feature. Raises `ConfigError` for an id that there is not."""
        found = self.features.get(name)
        if found is None:
            raise ConfigError("feature", found=repr(name), expected=f"one of {', '.join(self.features)}")
        return found

    def slots(self, name: str) -> list[int]:
        """The slots of a feature, ascending; none of one that is not watched."""
        return [self._slot[unit] for unit in _units(self.feature(name)) if name in self.watched]

    def unit(self, slot: int) -> tuple[common_pb2.UnitKind.ValueType, int]:
        """What a slot reads: latent or direction, and which one."""
        kind, number = self._units[slot]
        return (common_pb2.UNIT_KIND_DIRECTION if kind else common_pb2.UNIT_KIND_LATENT), number

    def fired(self, slot: int, value: float) -> list[Feature]:
        """The features that fire when a slot has a value."""
        return [one for name, one in self.watched.items() if slot in self.slots(name) and value > one.floor]

    def stream(self, number: int) -> common_pb2.Stream:
        """The stream of that number, which has this dictionary."""
        return common_pb2.Stream(
            number=number,
            engine=ENGINE,
            epoch=1,
            model_name=MODEL,
            hook_point=HOOK_POINT,
            weights_digest=self.weights,
            catalogue_digest=self.catalogue,
            mode="exact",
            role=common_pb2.ROLE_STABLE,
        )

    def table(self, number: int, stream: int) -> firing_pb2.FeatureTable:
        """What the slots of a stream read, and whom they serve."""
        return firing_pb2.FeatureTable(
            number=number,
            stream=self.stream(stream),
            watch_digest=self.watch_digest,
            slot_kind=[self.unit(slot)[0] for slot in range(len(self._units))],
            slot_unit=[unit for _, unit in self._units],
            slot_floor=[min(one.floor for one in self.watched.values() if unit in _units(one)) for unit in self._units],
            features=[
                firing_pb2.WatchedFeature(feature=message(one), slots=self.slots(one.id))
                for one in self.watched.values()
            ],
        )

    def dictionary(self) -> dictionary_pb2.Dictionary:
        """Its data sheet."""
        return dictionary_pb2.Dictionary(
            weights_digest=self.weights,
            catalogue_digest=self.catalogue,
            kind="sae",
            hook_point=HOOK_POINT,
            activation="jumprelu",
            latents=LATENTS,
            directions=DIRECTIONS,
            d_in=D_IN,
            modes=["exact"],
            features=len(self.features),
            model_id=MODEL,
        )


@dataclass(frozen=True, slots=True)
class Meaning:
    """What batches mean: the numbers of a stream and of its table, and the dictionary that they are of."""

    stream: int
    table: int
    made: MadeDictionary


def message(one: Feature) -> common_pb2.Feature:
    """A feature as a message."""
    return common_pb2.Feature(
        id=one.id,
        label=one.label,
        category=one.category,
        severity=common_pb2.Severity.Value(f"SEVERITY_{one.severity.upper()}"),
        floor=one.floor,
        aggregation=one.aggregation,
        latents=one.latents,
        direction=one.direction,
        claim=one.claim,
        scope=one.scope,
        head=one.head,
        label_review=LABEL_REVIEWS[one.review_state],
        label_source=one.source.kind if one.source else "",
    )


def _units(one: Feature) -> list[tuple[int, int]]:
    """Latents, then directions: (0, latent) and (1, direction)."""
    return [(1, one.direction)] if one.direction is not None else [(0, latent) for latent in one.latents]
