"""What the sidecar has stored, as plain objects: pages of firings, of counts, or of requests.

A page says what it covers and what the store has lost, since rows alone do not: zero firings of 5000 tokens is a
finding, and no row is none. Pages that would take the sidecar too long end early, even without an item; the sums over
all of them are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from saewatch.client import decode
from saewatch.client.decode import time_ns, word
from saewatch.client.firings import words
from saewatch.client.plain import time_text
from saewatch.client.tables import Request
from saewatch.core import label as labels
from saewatch.edge.pb import common_pb2, history_pb2

Item_co = TypeVar("Item_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFiring:
    """A feature firing: one feature on one token. A position that was computed again is here twice: see ``origin``."""

    time_ns: int
    """When the engine's step ended."""
    feature: str
    label: str
    """As it was then, like the category."""
    label_review: str
    """What had been said of it: unreviewed, accepted, rejected; empty where nothing was recorded."""
    category: str
    value: float
    request: Request | None
    """With what is stored of it: ids, tenant, class and conversation. None when it is not known."""
    position: int
    prompt: bool | None
    """Whether the token is the prompt's; None when the request is not known."""
    origin: str
    """computed, recomputed or reused."""
    unit: str
    """What fired: ``latent 12`` or ``direction 0``."""
    engine: str
    model: str
    hook_point: str
    weights_digest: str
    catalogue_digest: str

    @property
    def shown(self) -> str:
        """The label, marked unless a person accepted it."""
        return labels.shown(self.label, self.label_review)

    def __str__(self) -> str:
        where = "?" if self.prompt is None else "prompt" if self.prompt else "answer"
        who = self.request or "unknown"
        return f"{time_text(self.time_ns)} {who} {where} {self.position} {self.feature} {self.value:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What fired within a stretch of time, for one feature, category, tenant, class or model."""

    start_ns: int
    end_ns: int
    """Not part of it."""
    group: str
    firings: int
    """Of features; positions that were computed again count once."""
    requests: int
    max_value: float | None
    """None without firings."""
    mean_value: float | None
    tokens_seen: int
    """That could have fired: what the firings are a share of."""
    missed: Mapping[str, int]

    def __str__(self) -> str:
        return f"{time_text(self.start_ns)} {self.group}: {self.firings} feature firings on {self.tokens_seen} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFirings:
    """What one feature did in a request."""

    feature: str
    firings: int
    max_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request, with what is stored of it within the asked time, for the chosen streams and features."""

    request: Request
    first_ns: int
    """Of the first step that is stored of it, also outside the asked time."""
    last_ns: int
    state: str
    """open, ended or lost."""
    fed: int
    emitted: int
    tokens_seen: int
    missed: Mapping[str, int]
    firings: int
    """Of features."""
    features: tuple[FeatureFirings, ...]
    """By largest value, at most 32."""
    features_fired: int
    """Listed or not."""

    def __str__(self) -> str:
        fired = ", ".join(f"{one.feature} x{one.firings}" for one in self.features) or "nothing"
        return f"{time_text(self.first_ns)} {self.request} ({self.state}): {fired} on {self.tokens_seen} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """How much there was to see in a page's part of the asked time, for the chosen requests and streams."""

    start_ns: int
    end_ns: int
    """Not part of it."""
    tokens_seen: int
    missed: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.tokens_seen} tokens seen, missed {words(dict(self.missed)) or 'none'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Something that the store does not have: whose it was is not known."""

    cause: str
    start_ns: int
    end_ns: int
    tokens: int
    firings: int
    """Of latents and directions: nobody looked for their features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Item_co]):
    """One page; iterates over its items."""

    items: tuple[Item_co, ...]
    covered: Covered | None
    """None for requests: each has its own."""
    losses: tuple[Loss, ...]
    """Of the asked time, the same on every page; damage is told on the page that met it."""
    kept_since_ns: int
    """What is older may be gone; 0: nothing was stored yet."""

    def __iter__(self) -> Iterator[Item_co]:
        return iter(self.items)


def firings_page(answer: history_pb2.QueryFiringsResponse) -> Page[StoredFiring]:
    """A page of firings."""
    return Page(items=tuple(map(_firing, answer.firings)), covered=_covered(answer.coverage), **_kept(answer.losses))


def buckets_page(answer: history_pb2.QueryFiringsResponse) -> Page[Bucket]:
    """A page of counts."""
    return Page(items=tuple(map(_bucket, answer.buckets)), covered=_covered(answer.coverage), **_kept(answer.losses))


def requests_page(answer: history_pb2.ListRequestsResponse) -> Page[StoredRequest]:
    """A page of requests."""
    return Page(items=tuple(map(_request, answer.requests)), covered=None, **_kept(answer.losses))


def _firing(one: history_pb2.StoredFiring) -> StoredFiring:
    who = Request(
        engine_id=one.engine_id,
        key=one.key,
        client_id=one.client_id,
        tenant=one.tenant,
        traffic_class=word(common_pb2.TrafficClass, one.traffic_class),
        conversation=one.conversation,
        adapter=one.adapter,
        engine=one.engine,
        fit=word(common_pb2.Fit, one.fit),
    )
    return StoredFiring(
        time_ns=time_ns(one.time),
        feature=one.feature_id,
        label=one.label,
        label_review=word(common_pb2.LabelReview, one.label_review),
        category=one.category,
        value=one.value,
        request=who if one.engine_id else None,
        position=one.position,
        prompt=one.prompt if one.engine_id else None,
        origin=word(common_pb2.Origin, one.origin),
        unit=f"{word(common_pb2.UnitKind, one.unit_kind)} {one.unit}",
        engine=one.engine,
        model=one.model_name,
        hook_point=one.hook_point,
        weights_digest=one.weights_digest,
        catalogue_digest=one.catalogue_digest,
    )


def _bucket(one: history_pb2.Bucket) -> Bucket:
    return Bucket(
        start_ns=time_ns(one.start_time),
        end_ns=time_ns(one.end_time),
        group=one.group,
        firings=one.firings,
        requests=one.requests,
        max_value=one.max_value if one.HasField("max_value") else None,
        mean_value=one.mean_value if one.HasField("mean_value") else None,
        tokens_seen=one.tokens_seen,
        missed=_missed(one.missed),
    )


def _request(one: history_pb2.RequestSummary) -> StoredRequest:
    return StoredRequest(
        request=decode.request(one.request),
        first_ns=time_ns(one.first_time),
        last_ns=time_ns(one.last_time),
        state=word(history_pb2.RequestState, one.state),
        fed=one.fed,
        emitted=one.emitted,
        tokens_seen=one.tokens_seen,
        missed=_missed(one.missed),
        firings=one.firings,
        features=tuple(
            FeatureFirings(feature=each.feature_id, firings=each.count, max_value=each.max_value)
            for each in one.features
        ),
        features_fired=one.features_fired,
    )


def _covered(one: history_pb2.HistoryCoverage) -> Covered:
    start_ns, end_ns = time_ns(one.start_time), time_ns(one.end_time)
    return Covered(start_ns=start_ns, end_ns=end_ns, tokens_seen=one.tokens_seen, missed=_missed(one.missed))


def _kept(told: history_pb2.HistoryLosses) -> dict[str, Any]:
    losses = [
        Loss(
            cause=word(history_pb2.LossCause, one.cause),
            start_ns=time_ns(one.start_time),
            end_ns=time_ns(one.end_time),
            tokens=one.tokens,
            firings=one.firings,
        )
        for one in told.losses
    ]
    return {"losses": tuple(losses), "kept_since_ns": time_ns(told.kept_since_time)}


def _missed(tokens: Iterable[common_pb2.MissedTokens]) -> dict[str, int]:
    return {word(common_pb2.MissedReason, one.reason): one.tokens for one in tokens}
