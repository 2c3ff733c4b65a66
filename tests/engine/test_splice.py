"""A body gets its members, however it was cut into events; what is no JSON object is left as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saewatch.engine.splice import Splice

MEMBERS = {"cache_salt": "ours", "request_id": "resp_1"}

texts = st.text(max_size=6)
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
objects = st.dictionaries(texts | st.sampled_from(sorted(MEMBERS)), values, max_size=4)
spaces = st.text(" \t\n\r", max_size=4).map(str.encode)
sizes_of_events = st.lists(st.integers(0, 7), max_size=12)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """An object, and a JSON text of it."""
    made = draw(objects)
    text = json.dumps(made, indent=draw(st.none() | st.integers(1, 3))).encode()
    return made, draw(spaces) + text[:-1] + draw(spaces) + b"}" + draw(spaces)


def through(splice: Splice, *events: bytes) -> bytes:
    """What comes out of a body of these events."""
    last = len(events) - 1
    found = [
        splice.passes({"type": "http.request", "body": body, "more_body": index < last})
        for index, body in enumerate(events)
    ]
    assert [one["more_body"] for one in found] == [*[True] * last, False]
    return b"".join(one["body"] for one in found)


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    """The body in events of these sizes, and of what is left."""
    events = []
    for size in sizes:
        events.append(body[:size])
        body = body[size:]
    return [*events, body]


@given(bodies(), sizes_of_events)
def test_every_object_gets_the_members(made: tuple[dict[str, Any], bytes], sizes: list[int]) -> None:
    expected, body = made
    splice = Splice(MEMBERS)
    assert json.loads(through(splice, *cut(body, sizes))) == {**expected, **MEMBERS}
    assert splice.done


def parsed(body: bytes) -> Any:
    """What vLLM's server makes of a body: not JSON is none of JSON's values."""
    try:
        return json.loads(body)
    except ValueError:
        return NotImplemented


@given(st.binary(max_size=20) | st.text('{}[]",:a1 \\').map(str.encode), sizes_of_events)
def test_what_is_not_json_stays_so_and_what_is_no_object_is_unchanged(body: bytes, sizes: list[int]) -> None:
    splice = Splice(MEMBERS)
    found, expected = through(splice, *cut(body, sizes)), parsed(body)
    assert parsed(found) == ({**expected, **MEMBERS} if isinstance(expected, dict) else expected)
    assert splice.done or found == body


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_another_encoding_is_unchanged(encoding: str) -> None:
    body = json.dumps({"prompt": "x"}).encode(encoding)
    splice = Splice(MEMBERS)
    assert through(splice, body) == body
    assert not splice.done


def test_a_byte_order_mark_is_no_hindrance() -> None:
    splice = Splice(MEMBERS)
    assert json.loads(through(splice, json.dumps({"a": 1}).encode("utf-8-sig"))) == {"a": 1, **MEMBERS}


def test_nothing_waits_for_the_end_but_the_end() -> None:
    """A body of any size costs two bytes, so none is too large."""
    splice = Splice(MEMBERS)
    event = splice.passes({"type": "http.request", "body": b'{"prompt": "' + b"x" * 100_000, "more_body": True})
    assert len(event["body"]) == 100_000 + 12 - 2
    assert through(splice, b'"}').endswith(b"}")


def test_white_space_without_end_is_no_work_without_end() -> None:
    """Each event is looked at once: otherwise these would copy 100 GB."""
    splice = Splice(MEMBERS)
    events = [b'{"a": 1', *[b" " * 4096] * 5_000, b"}", *[b"\n" * 4096] * 5_000]
    assert json.loads(through(splice, *events)) == {"a": 1, **MEMBERS}


def test_a_client_that_leaves_in_the_middle_is_told_of_as_before() -> None:
    splice = Splice(MEMBERS)
    splice.passes({"type": "http.request", "body": b'{"a": 1}', "more_body": True})
    gone = {"type": "http.disconnect"}
    assert splice.passes(gone) is gone
    assert not splice.done


def test_without_members_an_event_is_the_servers_own() -> None:
    event = {"type": "http.request", "body": b"{}", "more_body": False}
    assert Splice({}).passes(event) is event


def test_an_event_without_a_body_ends_it() -> None:
    splice = Splice(MEMBERS)
    splice.passes({"type": "http.request", "body": b"{}", "more_body": True})
    assert json.loads(splice.passes({"type": "http.request"})["body"]) == MEMBERS
