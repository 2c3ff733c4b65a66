"""Which stored firings a query wants: as a condition for SQL on requests, and as masks over a block's columns."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F32
from saewatch.core.records import TrafficClass
from saewatch.edge.history.watched import StoredStream
from saewatch.monitor.tables import WatchTable

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request's row."""

    id: int
    engine: str
    epoch: int
    engine_id: str
    key: str
    client_id: str
    tenant: str
    traffic_class: str
    conversation: str
    trace_id: str
    child: int
    prompt_len: int
    cached: int
    adapter: str
    first_ns: int
    last_ns: int
    last_block: int
    state: int
    fed: int
    emitted: int


NOBODY = StoredRequest(
    id=0,
    engine="",
    epoch=0,
    engine_id="",
    key="",
    client_id="",
    tenant="",
    traffic_class=TrafficClass.UNLABELLED,
    conversation="",
    trace_id="",
    child=0,
    prompt_len=0,
    cached=0,
    adapter="",
    first_ns=0,
    last_ns=0,
    last_block=0,
    state=0,
    fed=0,
    emitted=0,
)
"""A request that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Empty sets do not filter."""

    feature_ids: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    min_value: float | None = None
    max_value: float | None = None
    tenants: frozenset[str] = frozenset()
    traffic_classes: frozenset[str] = frozenset()
    request_ids: frozenset[str] = frozenset()
    conversations: frozenset[str] = frozenset()
    model_names: frozenset[str] = frozenset()
    weights_digests: frozenset[str] = frozenset()
    catalogue_digests: frozenset[str] = frozenset()
    hook_points: frozenset[str] = frozenset()
    allowed_tenants: frozenset[str] | None = None
    """Tenants that the principal may see; None: all."""

    @property
    def chooses_firings(self) -> bool:
        """Whether it leaves firings out."""
        values = self.min_value is not None or self.max_value is not None
        return bool(self.feature_ids or self.categories or values)

    @property
    def chooses_requests(self) -> bool:
        """Whether it leaves requests out; those that are not known go with them."""
        named = self.tenants or self.traffic_classes or self.request_ids or self.conversations
        return bool(named) or self.allowed_tenants is not None

    @property
    def chooses_streams(self) -> bool:
        """Whether it leaves streams out."""
        return bool(self.model_names or self.weights_digests or self.catalogue_digests or self.hook_points)

    def stream(self, stream: StoredStream) -> bool:
        """Whether a stream is chosen."""
        opening = stream.opening
        return (
            _in(opening.model_name, self.model_names)
            and _in(opening.weights_digest, self.weights_digests)
            and _in(opening.hook_point, self.hook_points)
            and _in(stream.catalogue_digest, self.catalogue_digests)
        )

    def features(self, table: WatchTable) -> Mask:
        """Which features of a table are chosen, ``[F]``."""
        chosen = [_in(one.id, self.feature_ids) and _in(one.category, self.categories) for one in table.features]
        return np.array(chosen, np.bool_)

    def values(self, value: F32) -> Mask:
        """Which values are chosen."""
        low = value > np.float32(-np.inf if self.min_value is None else self.min_value)
        return low & (value <= np.float32(np.inf if self.max_value is None else self.max_value))

    def requests(self) -> tuple[str, list[object]]:
        """The chosen requests as a condition on rows of `request`, and its parameters."""
        columns: list[tuple[str, Collection[str]]] = [
            ("tenant", self.tenants),
            ("traffic_class", self.traffic_classes),
            ("conversation", self.conversations),
        ]
        columns = [(name, wanted) for name, wanted in columns if wanted]
        if self.allowed_tenants is not None:
            columns.append(("tenant", self.allowed_tenants))
        parts = [f"{name} IN (SELECT value FROM json_each(?))" for name, _ in columns]
        values: list[object] = [listed(wanted) for _, wanted in columns]
        if self.request_ids:
            names = (f"SELECT id FROM request WHERE {name} IN (SELECT value FROM json_each(?))" for name in _NAMES)
            parts.append(f"id IN ({' UNION ALL '.join(names)})")
            values += [listed(self.request_ids - {""})] * len(_NAMES)
        return " AND ".join(parts) or "true", values


_NAMES = ("engine_id", "key", "client_id")


def listed(items: Collection[object]) -> str:
    """For SQL's ``json_each``."""
    return json.dumps(sorted(items, key=repr))


def _in(value: str, wanted: Collection[str]) -> bool:
    return not wanted or value in wanted
