"""Our closed lists and the protos' are the same, and messages say what the dataclasses say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from saewatch.core.batch import Origin, Reason, SlotKind
from saewatch.core.catalogue import SEVERITIES
from saewatch.core.errors import RecordError
from saewatch.core.fit import AdapterFit
from saewatch.core.label import STATES
from saewatch.core.records import Outcome, RequestStart, Role, StreamBeat, TrafficClass
from saewatch.core.selftest import CheckState
from saewatch.edge.pb import common_pb2, firing_pb2, tap_pb2
from saewatch.edge.rpc import messages
from saewatch.monitor.monitor import Monitor
from tests import fakes
from tests.monitor.stage import ENGINE, Stage, ended, observed

LISTS = [
    (common_pb2.Role, [one.name for one in Role]),
    (common_pb2.TrafficClass, [one.name for one in TrafficClass]),
    (common_pb2.Origin, [one.name for one in Origin]),
    (common_pb2.MissedReason, [one.name for one in Reason]),
    (common_pb2.UnitKind, [one.name for one in SlotKind]),
    (common_pb2.Severity, [one.upper() for one in SEVERITIES]),
    (common_pb2.LabelReview, [one.upper() for one in STATES]),
    (common_pb2.Fit, [one.name for one in AdapterFit]),
    (tap_pb2.CheckState, [one.name for one in CheckState]),
    (firing_pb2.Outcome, [one.name for one in Outcome if one is not Outcome.OPEN]),
]


@pytest.mark.parametrize(("wrapper", "names"), LISTS, ids=[wrapper.DESCRIPTOR.name for wrapper, _ in LISTS])
def test_a_list_is_the_same_in_both(wrapper: EnumTypeWrapper, names: list[str]) -> None:
    assert [name.partition("_UNSPECIFIED")[0] if i == 0 else name for i, name in enumerate(wrapper.keys())][1:] == [
        f"{wrapper.keys()[0].removesuffix('UNSPECIFIED')}{name}" for name in names
    ]


def test_a_point_in_time() -> None:
    stamp = messages.timestamp(1_500_000_000_123_456_789)
    assert stamp is not None
    assert (stamp.seconds, stamp.nanos) == (1_500_000_000, 123_456_789)
    assert messages.timestamp(0) is None


def test_a_table_is_encoded_once() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    (event,) = observed(stage.batch([(7, 0, 1)]))
    data = messages.feature_table(event.table)
    assert messages.feature_table(event.table) is data
    table = firing_pb2.FeatureTable.FromString(data)
    assert list(table.slot_unit) == [1, 2, 3, 0]
    assert list(table.slot_kind) == [1, 1, 1, 2]
    assert table.stream.epoch == 1000


def test_a_request_is_encoded_once() -> None:
    stage = Stage().ready()
    stage.label(7)
    stage.start(7)
    (first,) = observed(stage.batch([(7, 0, 1)]))
    (second,) = observed(stage.batch([(7, 1, 1)]))
    data = messages.request_field(first.requests[0], frozenset())
    assert messages.request_field(second.requests[0], frozenset()) is data
    assert firing_pb2.FiringBatch.FromString(data).requests[0].key == fakes.key(7)


@pytest.mark.parametrize(
    ("adapter", "fit"),
    [("", common_pb2.FIT_BASE), ("sql", common_pb2.FIT_ATTESTED), ("chat", common_pb2.FIT_UNVERIFIED)],
)
def test_a_requests_fit_is_that_of_its_batchs_dictionary(adapter: str, fit: int) -> None:
    stage = Stage(replace(fakes.dictionary(), adapters=frozenset({"sql"}))).ready()
    stage.put(RequestStart(request=7, engine_id="plain", prompt_len=4, adapter=adapter))
    (event,) = observed(stage.batch([(7, 0, 1)]))
    data = messages.request_field(event.requests[0], event.table.stream.adapters)
    (request,) = firing_pb2.FiringBatch.FromString(data).requests
    assert (request.adapter, request.fit) == (adapter, fit)
    (one,) = stage.monitor.records("plain")
    told = messages.record(one)
    assert (told.request.fit, [one.fit for one in told.streams]) == (fit, [fit])


def test_an_end_means_no_dictionary() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    (event,) = ended(stage.end(7))
    assert messages.ended(event).request.fit == common_pb2.FIT_UNSPECIFIED


def test_books_before_the_first_beat() -> None:
    stage = Stage()
    stage.put(fakes.stream_open(stage.known))
    (state,) = stage.monitor.status(stage.now).streams
    books = messages.books(state)
    assert (books.stream, books.fed, books.coverage, books.HasField("beat_time")) == (1, 0, 1.0, False)


def coverage(stage: Stage) -> float:
    (state,) = stage.monitor.status(stage.now).streams
    return messages.books(state).coverage


def test_what_the_sidecar_could_not_read_is_not_covered() -> None:
    stage = Stage()
    stage.monitor = Monitor(dictionaries={})
    stage.monitor.connect(ENGINE)
    stage.put(fakes.stream_open(stage.known))
    stage.batch([(7, 0, 5), (7, 1, 2, Origin.RECOMPUTED)])
    stage.beat(StreamBeat(stream=1, seq=1, fed=5, encoded=5))
    assert coverage(stage) == 0.0


def test_what_the_sidecar_refused_is_not_covered() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    with pytest.raises(RecordError):
        stage.batch([(7, 0, 2)], [(0, 4, 1.0)], missed=[(7, Reason.GAP, 3)])
    assert coverage(stage) == 1.0, "nothing was fed yet, as far as the books go"
    stage.beat(StreamBeat(stream=1, seq=1, fed=13, encoded=7, reused=3, missed={"gap": 3}))
    assert coverage(stage) == 8 / 13
    stage.beat(StreamBeat(stream=1, seq=1, fed=13, encoded=1, in_flight=12))
    assert coverage(stage) == 0.0, "not negative where the books are older"
