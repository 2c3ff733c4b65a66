"""What a watch wants to see: as the message that the sidecar filters by, and as the choice among a slot's features.

The sidecar leaves out firings of which no chosen feature fires. Which of a latent's features it was chosen for, the
client says: a latent that serves a chosen feature and another one is shown for the chosen one alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saewatch.core.catalogue import Feature
from saewatch.core.errors import SaewatchError
from saewatch.core.records import TrafficClass
from saewatch.edge.pb import common_pb2, firing_pb2

Several = str | Iterable[str] | None
"""One text, several, or none for everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Features by id and by category; nothing named: all."""

    feature_ids: frozenset[str]
    categories: frozenset[str]

    @property
    def features_only(self) -> bool:
        """Whether firings of other features are left out."""
        return bool(self.feature_ids or self.categories)

    def shows(self, feature: Feature) -> bool:
        """Whether a feature is chosen."""
        return (not self.feature_ids or feature.id in self.feature_ids) and (
            not self.categories or feature.category in self.categories
        )


def chosen(wanted: firing_pb2.FiringFilter) -> Chosen:
    """The features that a filter chooses."""
    return Chosen(feature_ids=frozenset(wanted.feature_ids), categories=frozenset(wanted.categories))


def firing_filter(
    *,
    feature: Several = None,
    category: Several = None,
    min_value: float | None = None,
    tenant: Several = None,
    request: Several = None,
    traffic_class: Several = None,
) -> firing_pb2.FiringFilter:
    """The filter as a message. Raises `SaewatchError` for a traffic class that there is not."""
    return firing_pb2.FiringFilter(
        feature_ids=listed(feature),
        categories=listed(category),
        min_value=min_value,
        tenants=listed(tenant),
        request_ids=listed(request),
        traffic_classes=classes(traffic_class),
    )


def listed(several: Several) -> list[str]:
    """Several as a list."""
    if several is None:
        return []
    return [several] if isinstance(several, str) else list(several)


def classes(several: Several) -> list[common_pb2.TrafficClass.ValueType]:
    """Numbers of traffic classes. Raises `SaewatchError` for one that there is not."""
    return [_class(name) for name in listed(several)]


def _class(name: str) -> common_pb2.TrafficClass.ValueType:
    if name not in set(TrafficClass):
        raise SaewatchError("traffic_class", found=repr(name), expected=f"one of {', '.join(TrafficClass)}")
    return common_pb2.TrafficClass.Value(f"TRAFFIC_CLASS_{name.upper()}")
