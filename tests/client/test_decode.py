"""From messages to events."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from saewatch.client import decode
from saewatch.client.filters import chosen, firing_filter
from saewatch.client.tables import Request, Stream, Table
from saewatch.core.batch import Origin, Reason
from saewatch.core.errors import RecordError
from saewatch.core.label import Review, Source
from saewatch.core.records import Role, TrafficClass
from saewatch.edge.pb import common_pb2, firing_pb2
from saewatch.edge.rpc import messages
from saewatch.monitor.tables import StreamIdentity
from tests import fakes
from tests.client.messages import NOT_KNOWN, batch, table

EVERYTHING = chosen(firing_filter())
TABLES: dict[int, Table] = {1: decode.feature_table(table().table, EVERYTHING)}


def test_rows_become_requests_and_positions() -> None:
    spans, firings = [(0, 2, 3), (1, 9, 2), (NOT_KNOWN, 0, 1)], [(0, 2, 1.0), (2, 3, 2.0), (3, 2, 3.0), (5, 2, 4.0)]
    found = decode.firings(
        batch(spans, firings, names=("r1", "r2"), missed=[(1, 1, 4), (NOT_KNOWN, 6, 5)]), TABLES, "t"
    )
    assert found.request.tolist() == [0, 0, 1, -1]
    assert found.position.tolist() == [2, 4, 9, 0]
    assert [TABLES[1].features[one].id for one in found.feature] == [
        "violence.p1",
        "medical.p1",
        "violence.p1",
        "violence.p1",
    ]
    assert found.value.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert (found.tokens, found.missed, found.recomputed, found.slot_firings) == (6, {"cached": 4, "gap": 5}, 0, 4)
    assert found.missed_request.tolist() == [1, -1]
    assert found.prompt.tolist() == [True, False, False, False]
    assert found.resume_token == "t"


def test_a_slot_of_two_features_is_two_firings_of_one() -> None:
    found = decode.firings(batch([(0, 0, 2)], [(0, 0, 2.0), (1, 0, 0.75)]), TABLES, "")
    assert [one.feature for one in found] == ["greeting.g1", "hesitation.l1", "greeting.g1"]
    assert (len(found), found.slot_firings) == (3, 2)


def test_a_batch_without_rows_or_firings() -> None:
    found = decode.firings(batch([], missed=[(0, 8, 7)]), TABLES, "")
    assert (len(found), found.tokens, found.missed, list(found)) == (0, 0, {"excluded": 7}, [])


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (batch([(0, 0, 1)], table=2), "batch.table: found table 2, expected a table that was sent before"),
        (batch([(0, 0, 1)], [(1, 0, 1.0)]), "batch.row: found 1, expected below 1"),
        (batch([], [(0, 0, 1.0)]), "batch.row: found 0, expected below 0"),
        (batch([(0, 0, 1)], [(0, 4, 1.0)]), "batch.slot: found 4, expected below 4"),
        (batch([(1, 0, 1)]), "batch requests: found request 1, expected below 1"),
        (batch([(0, 0, 1)], missed=[(5, 1, 1)]), "batch requests"),
        (batch([(0, 0, 1)], origins=[1, 1]), "batch spans: found columns of [1, 2] items"),
    ],
)
def test_what_no_sidecar_should_send_is_refused(message: firing_pb2.FiringBatch, named: str) -> None:
    with pytest.raises(RecordError) as caught:
        decode.firings(message, TABLES, "")
    assert named in str(caught.value)
    assert "A fault of the sidecar" in str(caught.value)


def test_a_table_whose_columns_do_not_fit() -> None:
    broken = table().table
    broken.slot_unit.append(9)
    with pytest.raises(RecordError, match="table slots"):
        decode.feature_table(broken, EVERYTHING)
    broken = table().table
    broken.features[0].slots[:] = [0, 4]
    with pytest.raises(RecordError, match=r"greeting\.g1.*found 4, expected below 4"):
        decode.feature_table(broken, EVERYTHING)


def test_numbers_of_a_newer_sidecar_survive() -> None:
    found = decode.firings(batch([(0, 0, 2)], origins=[77], missed=[(0, 99, 3)]), TABLES, "")
    assert (found.missed, found.span_origin, found.recomputed) == ({"reason_99": 3}, ("origin_77",), 0)
    gap = firing_pb2.Gap.FromString(firing_pb2.Gap(tokens=3).SerializeToString() + b"\x08\x2a")
    assert decode.gap(gap, "").reason == "reason_42"
    request = common_pb2.Request.FromString(b"\x28\x63")
    assert decode.request(request).traffic_class == "class_99"


def test_every_known_word_is_ours() -> None:
    assert [decode.word(common_pb2.MissedReason, one + 1) for one in Reason] == [one.label for one in Reason]
    assert [decode.word(common_pb2.Origin, one + 1) for one in Origin] == [one.name.lower() for one in Origin]
    assert {decode.word(common_pb2.TrafficClass, number) for number in messages.TRAFFIC_CLASSES.values()} == set(
        TrafficClass
    )
    assert {decode.word(common_pb2.Role, number) for number in messages.ROLES.values()} == set(Role)
    assert decode.word(common_pb2.Severity, 0) == ""


def test_a_large_batch_needs_no_python_object_for_each_firing() -> None:
    rows = 100_000
    firings = [(row, 2, 1.0) for row in range(rows)]
    found = decode.firings(batch([(0, 0, rows)], firings), TABLES, "")
    assert (len(found), found.tokens, int(found.position[-1])) == (rows, rows, rows - 1)
    assert all(isinstance(getattr(found, name), np.ndarray) for name in ("feature", "request", "position", "value"))


def complete(message: Any, **but: Any) -> Any:
    """A message with something in every field."""
    fields = {field.name: field for field in message.DESCRIPTOR.fields}
    for number, (name, field) in enumerate(fields.items(), 1):
        if name in but:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, name)["a"] = f"{number}"
        elif field.type == field.TYPE_STRING:
            setattr(message, name, f"{name}-{number}")
        elif field.enum_type is not None:
            setattr(message, name, 1)
        else:
            setattr(message, name, number)
    return message


@pytest.mark.parametrize(
    ("ours", "message", "read"),
    [(Stream, common_pb2.Stream(), decode.stream), (Request, common_pb2.Request(), decode.request)],
)
def test_no_field_is_forgotten(ours: Any, message: Any, read: Any) -> None:
    names = {field.name for field in message.DESCRIPTOR.fields}
    assert {field.name for field in dataclasses.fields(ours)} == names
    found = read(complete(message))
    assert all(getattr(found, name) for name in names)


def test_a_feature_is_what_the_sidecar_was_configured_with() -> None:
    features = [
        fakes.feature("a.g1", latents=(3, 4), floor=1.5, head=(0.25, -0.5), scope="prompt", aggregation="top3"),
        fakes.feature("b.p1", direction=0),
        fakes.feature("c.p1", direction=1, review=Review(state="rejected"), source=Source(kind="auto", model="m")),
    ]
    assert [decode.feature(messages.feature(one)) for one in features] == features


def test_a_stream_is_the_one_that_the_sidecar_has() -> None:
    known = fakes.dictionary()
    identity = StreamIdentity(
        number=4, opening=fakes.stream_open(known, dp_rank=1, excluded={"bos": "id"}), dictionary=known
    )
    found = decode.stream(messages.stream(identity))
    assert (found.number, found.dp_rank, found.excluded) == (4, 1, {"bos": "id"})
    assert (found.weights_digest, found.catalogue_digest) == (known.weights_digest, known.catalogue_digest)
