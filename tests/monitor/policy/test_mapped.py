"""A mapping of YAML, read member by member."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from saewatch.core.errors import ConfigError
from saewatch.monitor.policy.mapped import Mapped


def read(value: Any) -> Mapped:
    return Mapped(value, "p.yaml")


def test_members_are_named_below_their_file() -> None:
    fields = read({"rules": [{"id": "a"}]})
    [rule] = fields.each("rules", 3)
    assert rule.path("id") == "p.yaml: rules[0].id"
    assert fields.path("rules") == "p.yaml: rules"


def test_what_nobody_asked_for_is_refused() -> None:
    fields = read({"a": 1, "b": 2})
    assert fields.take("a") == 1
    assert (fields.has("a"), fields.has("b"), fields.members()) == (False, True, ["b"])
    with pytest.raises(ConfigError, match=r"p\.yaml: b: found an unknown key"):
        fields.close()


def test_a_misspelt_member_is_asked_about() -> None:
    fields = read({"severty": "high", "id": "a"})
    with pytest.raises(ConfigError, match=r"severity: found nothing.*Is severty meant to be severity\?"):
        fields.take("severity")
    assert fields.text("id") == "a"
    assert fields.integer("version", 1, 2, default=1) == 1
    with pytest.raises(ConfigError, match=r"severty: found an unknown key, expected one of severity, id, version"):
        fields.close()
    assert not read({"x" * 10**6: 1}).misspelt(["x" * 30]), "a long one is not compared"


def test_names_differ() -> None:
    with pytest.raises(ConfigError, match="found 'x' twice"):
        read({"a": ["x", "y", "x"]}).names("a")


def test_defaults_and_values() -> None:
    fields = read({"text": "x", "count": 3, "yes": True, "above": 2, "names": ["a"], "part": {"x": 1}})
    assert fields.text("text") == "x"
    assert fields.text("absent", default="d") == "d"
    assert fields.integer("count", 0, 5) == 3
    assert fields.flag("yes") is True
    assert fields.flag("absent") is False
    assert (fields.above("above"), fields.above("absent")) == (2.0, None)
    assert fields.names("names") == ("a",)
    section = fields.section("part")
    assert section is not None
    assert section.take("x") == 1
    assert fields.section("absent") is None
    assert list(fields.each("absent", 3, optional=True)) == []


@pytest.mark.parametrize(
    "told",
    [
        "2026-11-22T18:00:00Z",
        "2026-11-22T19:30:00+01:30",
        "2026-11-22T13:00:00-05:00",
        dt.datetime(2026, 11, 22, 18, tzinfo=dt.UTC),
    ],
)
def test_times_have_a_zone(told: Any) -> None:
    assert read({"until": told}).time_ns("until") == 1_795_370_400 * 10**9


@pytest.mark.parametrize(
    ("value", "ask"),
    [
        (7, lambda fields: fields),
        ({}, lambda fields: fields.take("a")),
        ({"a": 1}, lambda fields: fields.text("a")),
        ({"a": ""}, lambda fields: fields.text("a")),
        ({"a": "x\ud800"}, lambda fields: fields.text("a")),
        ({"a": ["x", "\udc80"]}, lambda fields: fields.names("a")),
        ({"a": "low"}, lambda fields: fields.choice("a", ("high",))),
        ({"a": ["low"]}, lambda fields: fields.choice("a", ("high",))),
        ({"a": True}, lambda fields: fields.integer("a", 0, 5)),
        ({"a": 2.0}, lambda fields: fields.integer("a", 0, 5)),
        ({"a": 10**30}, lambda fields: fields.integer("a", 0, 5)),
        ({"a": 1}, lambda fields: fields.flag("a")),
        ({"a": float("inf")}, lambda fields: fields.above("a")),
        ({"a": -1}, lambda fields: fields.above("a")),
        ({"a": False}, lambda fields: fields.above("a")),
        ({"a": "x"}, lambda fields: fields.items("a", 3)),
        ({"a": [1] * 4}, lambda fields: fields.items("a", 3)),
        ({"a": []}, lambda fields: fields.names("a")),
        ({"a": [1]}, lambda fields: fields.names("a")),
        ({"a": "2026-11-22"}, lambda fields: fields.time_ns("a")),
        ({"a": "2026-02-31T18:00:00Z"}, lambda fields: fields.time_ns("a")),
        ({"a": "2026-11-22T18:00:00"}, lambda fields: fields.time_ns("a")),
        ({"a": "soon"}, lambda fields: fields.time_ns("a")),
        ({"a": dt.date(2026, 11, 22)}, lambda fields: fields.time_ns("a")),
    ],
)
def test_what_is_of_another_kind_is_refused(value: Any, ask: Any) -> None:
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        ask(read(value))


def test_a_number_that_yaml_takes_for_text_is_told_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match=r"found '1e5', .*write 1\.0e\+5"):
        read({"a": "1e5"}).above("a")
    with pytest.raises(ConfigError) as caught:
        read({"a": "high"}).above("a")
    assert not caught.value.hint
