"""What the events that a fake sidecar keeps come to as a history: stored firings, counts of them, and requests.

What a real sidecar reads from columns is read from lists here, anew for each page, so what comes between two pages is
in the later ones. Only the events of the window and of this run are there: what is older is gone, and not told as lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saewatch.client.fake.made import HOOK_POINT, MODEL
from saewatch.client.fake.rows import Rows, wants
from saewatch.client.fake.state import State
from saewatch.core import limits
from saewatch.core.catalogue import Feature
from saewatch.edge.pb import common_pb2, firing_pb2, history_pb2


@dataclass(frozen=True, slots=True)
class Fired:
    """One feature that fired on one row of a batch."""

    rows: Rows
    row: int
    feature: Feature
    slot: int
    value: float


GROUPS: Mapping[int, Callable[[Fired], str]] = {
    history_pb2.GROUPING_FEATURE: lambda one: one.feature.id,
    history_pb2.GROUPING_CATEGORY: lambda one: one.feature.category,
    history_pb2.GROUPING_TENANT: lambda one: one.rows.request.tenant,
    history_pb2.GROUPING_CLASS: lambda one: _class(one.rows),
    history_pb2.GROUPING_MODEL: lambda _: MODEL,
}


class History:
    """What a filter chooses of the events that are kept now."""

    def __init__(self, state: State, wanted: history_pb2.HistoryFilter) -> None:
        self._wanted = wanted
        every = [entry.item for entry in state.log.entries()]
        batches = [one for one in every if isinstance(one, Rows)]
        self._kept_since_ns = batches[0].time_ns if batches else 0
        self._ended = [one.ended for one in every if isinstance(one, firing_pb2.WatchFiringsResponse)]
        self.rows = [one for one in batches if self._chosen(one)]
        every_feature = (one for made in state.dictionaries.values() for one in made.features.values())
        self.features = [
            one
            for one in sorted(every_feature, key=lambda one: one.id)
            if _in(one.id, wanted.feature_ids) and _in(one.category, wanted.categories)
        ]

    def fired(self, rows: Rows) -> list[Fired]:
        """The chosen features that fired in a batch."""
        return [
            Fired(rows, row, feature, slot, value)
            for row, slot, value in rows.firings
            if self._value(value)
            for feature in rows.of.made.fired(slot, value)
            if feature in self.features
        ]

    @property
    def losses(self) -> history_pb2.HistoryLosses:
        """Since when there is anything."""
        found = history_pb2.HistoryLosses()
        if self._kept_since_ns:
            found.kept_since_time.FromNanoseconds(self._kept_since_ns)
        return found

    def covered(self, rows: Sequence[Rows]) -> history_pb2.HistoryCoverage:
        """What some batches fed."""
        found = history_pb2.HistoryCoverage(tokens_seen=_seen(rows), missed=_missed(rows))
        found.start_time.FromNanoseconds(min((one.time_ns for one in rows), default=0))
        found.end_time.FromNanoseconds(max((one.time_ns + 1 for one in rows), default=0))
        return found

    def buckets(self, asked: history_pb2.Aggregate) -> Iterator[history_pb2.Bucket]:
        """Counts for each group that could have fired, in each stretch of time in which anything was fed."""
        width = asked.bucket.ToNanoseconds()
        spans: dict[int, list[Rows]] = {}
        for one in self.rows:
            spans.setdefault(one.time_ns // width if width else 0, []).append(one)
        for number, rows in sorted(spans.items()):
            of = self.covered(rows)
            start, end = of.start_time.ToNanoseconds(), of.end_time.ToNanoseconds()
            if width:
                start, end = number * width, (number + 1) * width
            for group in self._groups(asked.by, rows):
                bucket = self._bucket(asked.by, group, rows)
                bucket.start_time.FromNanoseconds(start)
                bucket.end_time.FromNanoseconds(end)
                yield bucket

    def summary(self, request: common_pb2.Request) -> history_pb2.RequestSummary:
        """What is stored of one request."""
        rows = [one for one in self.rows if one.request.client_id == request.client_id]
        fired = [one for of in rows if not of.recomputed for one in self.fired(of)]
        largest = {one.feature.id: one.value for one in sorted(fired, key=lambda one: one.value)}
        counts = Counter(one.feature.id for one in fired)
        found = history_pb2.RequestSummary(
            request=request,
            state=history_pb2.REQUEST_STATE_OPEN,
            tokens_seen=_seen(rows),
            missed=_missed(rows),
            firings=len(fired),
            features=[
                history_pb2.FeatureSummary(feature_id=name, count=counts[name], max_value=value)
                for name, value in sorted(largest.items(), key=lambda item: (-item[1], item[0]))
            ][: limits.QUERY_FEATURES],
            features_fired=len(largest),
        )
        found.first_time.FromNanoseconds(rows[0].time_ns)
        found.last_time.FromNanoseconds(rows[-1].time_ns)
        for one in self._ended:
            if one.request.client_id == request.client_id:
                found.state = history_pb2.REQUEST_STATE_LOST if one.lost else history_pb2.REQUEST_STATE_ENDED
                found.fed, found.emitted = one.fed, one.emitted
        return found

    def _chosen(self, rows: Rows) -> bool:
        wanted = self._wanted
        return (
            (not wanted.HasField("start_time") or rows.time_ns >= wanted.start_time.ToNanoseconds())
            and (not wanted.HasField("end_time") or rows.time_ns < wanted.end_time.ToNanoseconds())
            and wants(wanted, rows.request)
            and _in(rows.request.conversation, wanted.conversations)
            and _in(MODEL, wanted.model_names)
            and _in(HOOK_POINT, wanted.hook_points)
            and _in(rows.of.made.weights, wanted.weights_digests)
            and _in(rows.of.made.catalogue, wanted.catalogue_digests)
        )

    def _value(self, value: float) -> bool:
        wanted = self._wanted
        above = not wanted.HasField("min_value") or value > wanted.min_value
        return above and (not wanted.HasField("max_value") or value <= wanted.max_value)

    def _groups(self, by: int, rows: Sequence[Rows]) -> list[str]:
        known: Mapping[int, Callable[[], set[str]]] = {
            history_pb2.GROUPING_FEATURE: lambda: {one.id for one in self.features},
            history_pb2.GROUPING_CATEGORY: lambda: {one.category for one in self.features},
            history_pb2.GROUPING_TENANT: lambda: {one.request.tenant for one in rows},
            history_pb2.GROUPING_CLASS: lambda: {_class(one) for one in rows},
            history_pb2.GROUPING_MODEL: lambda: {MODEL},
        }
        return sorted(known[by]())

    def _bucket(self, by: int, group: str, rows: Sequence[Rows]) -> history_pb2.Bucket:
        if by == history_pb2.GROUPING_TENANT:
            rows = [one for one in rows if one.request.tenant == group]
        elif by == history_pb2.GROUPING_CLASS:
            rows = [one for one in rows if _class(one) == group]
        fired = [one for of in rows if not of.recomputed for one in self.fired(of) if GROUPS[by](one) == group]
        values = [one.value for one in fired]
        return history_pb2.Bucket(
            group=group,
            firings=len(fired),
            requests=len({one.rows.request.client_id for one in fired}),
            max_value=max(values) if values else None,
            mean_value=sum(values) / len(values) if values else None,
            tokens_seen=_seen(rows),
            missed=_missed(rows),
        )


def _class(rows: Rows) -> str:
    return common_pb2.TrafficClass.Name(rows.request.traffic_class).removeprefix("TRAFFIC_CLASS_").lower()


def _seen(rows: Sequence[Rows]) -> int:
    return sum(one.tokens for one in rows if not one.recomputed)


def _missed(rows: Sequence[Rows]) -> list[common_pb2.MissedTokens]:
    found: Counter[common_pb2.MissedReason.ValueType] = Counter()
    for one in rows:
        found.update(dict(one.missed))
    return [common_pb2.MissedTokens(reason=reason, tokens=tokens) for reason, tokens in sorted(found.items())]


def _in(value: Any, wanted: Sequence[Any]) -> bool:
    return not wanted or value in wanted
