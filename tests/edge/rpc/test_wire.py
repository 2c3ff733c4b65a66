"""Bytes by hand equal the bytes of the generated classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core.batch import FiringBatch, Origin, Reason
from saewatch.edge.pb import common_pb2, firing_pb2
from saewatch.edge.rpc import messages, wire
from saewatch.edge.rpc.gather import NO_INDEX
from tests import fakes

TABLE, STREAM, FIRST_SEQ, FIRST_TIME_NS = 300, 2, 2**40, 2**60


def by_the_generated_classes(batch: FiringBatch, requests: list[common_pb2.Request]) -> bytes:
    return firing_pb2.FiringBatch(
        table=TABLE,
        stream=STREAM,
        first_seq=FIRST_SEQ,
        last_seq=batch.seq,
        first_time_unix_nano=FIRST_TIME_NS,
        last_time_unix_nano=batch.time_ns,
        requests=requests,
        missed_request=batch.missed_request.tolist(),
        missed_reason=[messages.REASONS[Reason(one).label] for one in batch.missed_reason.tolist()],
        missed_tokens=batch.missed_tokens.tolist(),
        span_request=batch.request.tolist(),
        span_position=batch.position.tolist(),
        span_tokens=np.diff(batch.span_start).tolist(),
        span_origin=[messages.ORIGINS[Origin(one)] for one in batch.origin.tolist()],
        row=batch.row.tolist(),
        slot=batch.slot.tolist(),
        value=batch.value.tolist(),
    ).SerializeToString(deterministic=True)


numbers = st.integers(0, 2**32 - 1)


@given(
    spans=st.lists(st.tuples(numbers, st.integers(0, 2**30), st.integers(1, 9), st.sampled_from(Origin)), max_size=8),
    missed=st.lists(st.tuples(numbers, st.sampled_from(Reason), st.integers(1, 2**31 - 1)), max_size=4),
    firings=st.lists(st.tuples(numbers, st.integers(0, 65_535), st.floats(width=32, allow_nan=False)), max_size=8),
    seq=st.integers(1, 2**60),
)
def test_byte_identical(
    spans: list[fakes.Span], missed: list[fakes.Missed], firings: list[fakes.Firing], seq: int
) -> None:
    batch = fakes.batch(spans, firings, missed=missed, seq=seq)
    requests = [common_pb2.Request(engine_id="a", prompt_len=3), common_pb2.Request()]
    found = wire.firing_batch(
        batch,
        table=TABLE,
        stream=STREAM,
        requests=[wire.request(one.SerializeToString()) for one in requests],
        first_seq=FIRST_SEQ,
        first_time_ns=FIRST_TIME_NS,
    )
    assert found == by_the_generated_classes(batch, requests)


def test_an_unknown_request_is_the_largest_number() -> None:
    batch = fakes.batch([(NO_INDEX, 0, 1)])
    data = wire.firing_batch(batch, table=1, stream=1, requests=[], first_seq=1, first_time_ns=1)
    assert list(firing_pb2.FiringBatch.FromString(data).span_request) == [4294967295]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**64 - 1])
def test_varints(value: int) -> None:
    data = wire.integer(1, value)
    assert firing_pb2.Heartbeat.FromString(data).head_event == value
    assert data == firing_pb2.Heartbeat(head_event=value).SerializeToString()


def test_every_reason_and_origin_is_one_byte() -> None:
    assert max(messages.REASONS.values()) < 128
    assert [messages.REASONS[one.label] for one in Reason] == [one + 1 for one in Reason]
    assert [messages.ORIGINS[one] for one in Origin] == [one + 1 for one in Origin]
