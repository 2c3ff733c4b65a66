"""Control records: their rules, the books' equality, and the key inside the engine's ids."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits, records
from saewatch.core.errors import RecordError
from saewatch.core.records import Beat, Record, StreamBeat, key_of, same
from tests.core.frames import make
from tests.core.strategies import BY_KIND, RECORDS, STREAM_BEATS

EXAMPLES: dict[str, Any] = {type(record).__name__: record for record in make.records()} | {"StreamBeat": make.BEAT}
BIG = limits.COUNT_MAX + 1


@given(RECORDS)
def test_sound_records_pass(record: Record) -> None:
    record.check()


def test_every_record_is_known_frozen_and_slotted() -> None:
    kinds = set(get_args(Record))
    assert kinds == set(BY_KIND)
    for kind in kinds:
        assert is_dataclass(kind)
        assert "__slots__" in vars(kind)
    for example in EXAMPLES.values():
        with pytest.raises(FrozenInstanceError):
            setattr(example, fields(example)[0].name, 1)


BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("StreamOpen", "stream_open.stream", {"stream": 65_536}),
    ("StreamOpen", "stream_open.epoch", {"epoch": -1}),
    ("StreamOpen", "stream_open.dp_rank", {"dp_rank": -1}),
    ("StreamOpen", "stream_open.pp_rank", {"pp_rank": BIG}),
    ("StreamOpen", "stream_open.tp_rank", {"tp_rank": -1}),
    ("StreamOpen", "stream_open.role", {"role": "candidate"}),
    ("StreamOpen", "stream_open.mode", {"mode": "fast"}),
    ("RequestStart", "request_start.request", {"request": 0}),
    ("RequestStart", "request_start.request", {"request": 2**32}),
    ("RequestStart", "request_start.prompt_len", {"prompt_len": -1}),
    ("RequestStart", "request_start.cached", {"cached": 2**31}),
    ("RequestStart", "request_start.cached_from", {"cached_from": "disk"}),
    ("RequestStart", "request_start.child", {"child": -1}),
    ("RequestStart", "request_start.time_ns", {"time_ns": BIG}),
    ("RequestEnd", "request_end.request", {"request": 0}),
    ("RequestEnd", "request_end.fed", {"fed": -1}),
    ("RequestEnd", "request_end.emitted", {"emitted": 2**31}),
    ("RequestEnd", "request_end.time_ns", {"time_ns": -1}),
    ("StreamBeat", "stream_beat.stream", {"stream": -1}),
    ("StreamBeat", "stream_beat.seq", {"seq": -1}),
    ("StreamBeat", "stream_beat.fed", {"fed": -1}),
    ("StreamBeat", "stream_beat.encoded", {"encoded": BIG}),
    ("StreamBeat", "stream_beat.reused", {"reused": -1}),
    ("StreamBeat", "stream_beat.in_flight", {"in_flight": -1}),
    ("StreamBeat", "stream_beat.firings", {"firings": -1}),
    ("StreamBeat", "stream_beat.sink_calls", {"sink_calls": -1}),
    ("StreamBeat", "stream_beat.missed", {"missed": {"bored": 1}}),
    ("StreamBeat", "stream_beat.missed", {"missed": {"CACHED": 1}}),
    ("StreamBeat", "stream_beat.missed[gap]", {"missed": {"gap": -1}}),
    ("StreamBeat", "stream_beat.accounted", {"encoded": limits.COUNT_MAX, "reused": 1}),
    ("StreamBeat", "stream_beat.accounted", {"missed": {"gap": limits.COUNT_MAX, "excluded": limits.COUNT_MAX}}),
    ("StreamBeat", "stream_beat.accounted", {"in_flight": limits.COUNT_MAX, "encoded": limits.COUNT_MAX}),
    ("Beat", "beat.epoch", {"epoch": -1}),
    ("Beat", "beat.time_ns", {"time_ns": -1}),
    ("Beat", "beat.queue_bytes", {"queue_bytes": -1}),
    ("Beat", "beat.stage_seconds", {"stage_seconds": {"lunch": 1.0}}),
    ("Beat", "beat.stage_seconds[ship]", {"stage_seconds": {"ship": -1.0}}),
    ("Beat", "beat.stage_seconds[ship]", {"stage_seconds": {"ship": float("nan")}}),
    ("Beat", "stream_beat.fed", {"streams": (make.BEAT, replace(make.BEAT, fed=-1))}),
    ("StreamEnd", "stream_end.stream", {"stream": 65_536}),
    ("StreamEnd", "stream_end.reason", {"reason": "boredom"}),
    ("StreamEnd", "stream_beat.fed", {"final": replace(make.BEAT, fed=-1)}),
    ("RequestLabel", "request_label.key", {"key": ""}),
    ("RequestLabel", "request_label.traffic_class", {"traffic_class": "gold"}),
    ("RequestLabel", "request_label.outcome", {"outcome": "fine"}),
    ("RequestLabel", "request_label.status", {"status": 1000}),
    ("RequestLabel", "request_label.time_ns", {"time_ns": -1}),
    ("Ack", "ack.stream", {"stream": 65_536}),
    ("Ack", "ack.epoch", {"epoch": -1}),
    ("Ack", "ack.seq", {"seq": -1}),
    ("Command", "command.command", {"command": -1}),
    ("Command", "command.verb", {"verb": "dance"}),
    ("Result", "result.command", {"command": -1}),
]


@pytest.mark.parametrize(("kind", "subject", "change"), BROKEN, ids=[f"{row[1]}-{row[2]}" for row in BROKEN])
def test_each_broken_rule_is_refused_by_name(kind: str, subject: str, change: dict[str, Any]) -> None:
    EXAMPLES[kind].check()
    with pytest.raises(RecordError) as caught:
        replace(EXAMPLES[kind], **change).check()
    assert caught.value.subject == subject


@pytest.mark.parametrize("kind", ["RequestStart", "RequestEnd"])
def test_the_first_and_the_last_request_number_pass(kind: str) -> None:
    for request in (1, 2**32 - 1):
        replace(EXAMPLES[kind], request=request).check()


def test_a_refusal_shows_little_of_a_long_value_and_no_control_characters() -> None:
    with pytest.raises(RecordError) as caught:
        replace(EXAMPLES["Command"], verb="\x1b[31m\r\n" * 1000).check()
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


def test_stages_are_a_closed_list() -> None:
    assert {"sink", "snapshot", "encode", "host", "ship"} == records.STAGES


@given(STREAM_BEATS, st.integers(-5, 5))
def test_imbalance_is_what_the_books_do_not_account_for(beat: StreamBeat, off: int) -> None:
    accounted = beat.encoded + beat.reused + sum(beat.missed.values()) + beat.in_flight
    assert replace(beat, fed=accounted + off).imbalance == off


@given(STREAM_BEATS)
def test_sound_books_have_an_imbalance_that_an_int64_holds(beat: StreamBeat) -> None:
    beat.check()
    assert abs(beat.imbalance) <= limits.COUNT_MAX


@settings(max_examples=50)
@given(st.data(), RECORDS)
def test_same_means_the_same_in_every_field(data: st.DataObject, record: Record) -> None:
    assert same(record, replace(record))
    other = data.draw(BY_KIND[type(record)])
    for item in fields(record):
        mixed = replace(record, **{item.name: getattr(other, item.name)})
        left, right = getattr(record, item.name), getattr(other, item.name)
        equal = left.tobytes() == right.tobytes() if hasattr(left, "tobytes") else left == right
        assert same(record, mixed) == equal
    assert not same(record, Beat(engine="", epoch=0, time_ns=0, queue_bytes=123_456_789))


KEY = make.KEY


@pytest.mark.parametrize(
    ("engine_id", "key"),
    [
        (f"chatcmpl-{KEY}-5f", KEY),
        (f"0_cmpl-{KEY}-0-abc", KEY),
        (KEY, KEY),
        ("", ""),
        ("chatcmpl-0123456789abcdef0123456789abcdef", ""),
        (f"chatcmpl-{KEY[:-1]}", ""),
        (f"chatcmpl-{KEY.upper()}", ""),
    ],
)
def test_the_key_is_found_inside_the_engines_id(engine_id: str, key: str) -> None:
    assert key_of(engine_id) == key
