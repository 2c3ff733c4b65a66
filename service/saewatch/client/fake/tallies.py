"""What the events that a fake sidecar keeps came to for one request."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from saewatch.client.fake.made import Meaning
from saewatch.client.fake.rows import Rows
from saewatch.client.fake.state import State
from saewatch.edge.pb import common_pb2, firing_pb2


def record(state: State, name: str) -> firing_pb2.RequestRecord | None:
    """The record of a request by any of its names; None for one that was not seen."""
    request = next((one for one in state.requests.values() if name in {one.client_id, one.engine_id, one.key}), None)
    if request is None or not name:
        return None
    items = [entry.item for entry in state.log.entries()]
    rows = [one for one in items if isinstance(one, Rows) and one.request.client_id == request.client_id]
    meant = {one.of.table: one.of for one in rows} or {state.of.table: state.of}
    streams = [_stream(of, [one for one in rows if one.of is of]) for of in meant.values()]
    found = firing_pb2.RequestRecord(request=request, streams=streams)
    if rows:
        found.start_time.FromNanoseconds(rows[0].time_ns)
    for item in items:
        if isinstance(item, firing_pb2.WatchFiringsResponse) and item.ended.request.client_id == request.client_id:
            found.end_time.GetCurrentTime()
            found.fed, found.emitted, found.lost = item.ended.fed, item.ended.emitted, item.ended.lost
            found.outcome, found.status = firing_pb2.OUTCOME_COMPLETED, 200
    return found


def _stream(of: Meaning, rows: list[Rows]) -> firing_pb2.StreamRecord:
    """Rows that came again are left out: the real one keeps the last."""
    fresh = [one for one in rows if not one.recomputed]
    prompt = sum(max(min(one.position + one.tokens, one.request.prompt_len) - one.position, 0) for one in fresh)
    missed: Counter[common_pb2.MissedReason.ValueType] = Counter()
    for one in fresh:
        missed.update(dict(one.missed))
    return firing_pb2.StreamRecord(
        stream=of.made.stream(of.stream),
        watch_digest=of.made.watch_digest,
        prompt_tokens=prompt,
        answer_tokens=sum(one.tokens for one in fresh) - prompt,
        missed=[common_pb2.MissedTokens(reason=reason, tokens=tokens) for reason, tokens in missed.items()],
        recomputed_tokens=sum(one.tokens for one in rows if one.recomputed),
        features=_features(fresh),
    )


def _features(rows: list[Rows]) -> list[firing_pb2.FeatureRecord]:
    fired: dict[str, dict[bool, list[tuple[int, float]]]] = defaultdict(lambda: {True: [], False: []})
    for one in rows:
        for row, slot, value in one.firings:
            position = one.position + row
            for feature in one.of.made.fired(slot, value):
                fired[feature.id][position < one.request.prompt_len].append((position, value))
    return [
        firing_pb2.FeatureRecord(feature_id=name, prompt=_tally(sides[True]), answer=_tally(sides[False]))
        for name, sides in sorted(fired.items())
    ]


def _tally(firings: list[tuple[int, float]]) -> firing_pb2.Tally | None:
    if not firings:
        return None
    peak, largest = max(firings, key=lambda one: one[1])
    return firing_pb2.Tally(
        count=len(firings),
        max_value=largest,
        log_sum=sum(math.copysign(math.log1p(abs(value)), value) for _, value in firings),
        first_position=min(position for position, _ in firings),
        peak_position=peak,
    )
