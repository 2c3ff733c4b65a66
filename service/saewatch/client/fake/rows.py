"""A made-up batch, and what a filter leaves of it: what the sidecar does with numpy, here with plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saewatch.client.fake.made import Meaning
from saewatch.edge.pb import common_pb2, firing_pb2, history_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one request: ``tokens`` from ``position`` on, the firings in them, and tokens that were missed."""

    of: Meaning
    request: common_pb2.Request
    position: int
    tokens: int
    recomputed: bool
    firings: Sequence[tuple[int, int, float]]
    """Row from 0 on, slot, value; by row."""
    missed: Sequence[tuple[common_pb2.MissedReason.ValueType, int]]
    seq: int
    time_ns: int

    @property
    def tokens_told(self) -> int:
        """Rows and missed tokens: as gaps count them."""
        return self.tokens + sum(tokens for _, tokens in self.missed)


def wants(wanted: firing_pb2.FiringFilter | history_pb2.HistoryFilter, request: common_pb2.Request) -> bool:
    """Whether a filter chooses a request."""
    names = {request.key, request.engine_id, request.client_id} - {""}
    return (
        (not wanted.tenants or request.tenant in wanted.tenants)
        and (not wanted.request_ids or bool(names & set(wanted.request_ids)))
        and (not wanted.traffic_classes or request.traffic_class in wanted.traffic_classes)
    )


def batch(rows: Rows, wanted: firing_pb2.FiringFilter) -> firing_pb2.FiringBatch | None:
    """What a filter leaves of ``rows``; None for nothing."""
    if not wants(wanted, rows.request):
        return None
    firings = [one for one in rows.firings if _chosen(one[1], one[2], wanted, rows.of)]
    origin = common_pb2.ORIGIN_RECOMPUTED if rows.recomputed else common_pb2.ORIGIN_COMPUTED
    spans = [0] if rows.tokens else []
    return firing_pb2.FiringBatch(
        table=rows.of.table,
        stream=rows.of.stream,
        first_seq=rows.seq,
        last_seq=rows.seq,
        first_time_unix_nano=rows.time_ns,
        last_time_unix_nano=rows.time_ns,
        requests=[rows.request],
        missed_request=[0 for _ in rows.missed],
        missed_reason=[reason for reason, _ in rows.missed],
        missed_tokens=[tokens for _, tokens in rows.missed],
        span_request=spans,
        span_position=[rows.position for _ in spans],
        span_tokens=[rows.tokens for _ in spans],
        span_origin=[origin for _ in spans],
        row=[row for row, _, _ in firings],
        slot=[slot for _, slot, _ in firings],
        value=[value for _, _, value in firings],
    )


def _chosen(slot: int, value: float, wanted: firing_pb2.FiringFilter, of: Meaning) -> bool:
    if wanted.HasField("min_value") and not value > wanted.min_value:
        return False
    if not wanted.feature_ids and not wanted.categories:
        return True
    return any(
        (not wanted.feature_ids or one.id in wanted.feature_ids)
        and (not wanted.categories or one.category in wanted.categories)
        for one in of.made.fired(slot, value)
    )
