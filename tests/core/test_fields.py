"""Strict reading: every refusal names the member, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from saewatch.core.errors import ManifestError
from saewatch.core.fields import Fields


def fields(**members: Any) -> Fields:
    return Fields(members, "sheet.json: ")


REFUSALS: dict[str, Callable[[], object]] = {
    "sheet.json: a: found nothing, expected this member": lambda: fields().take("a"),
    "sheet.json: a: found an unknown member": lambda: fields(a=1).close(),
    "sheet.json: a: found 1, expected text": lambda: fields(a=1).text("a"),
    "sheet.json: a: found , expected text": lambda: fields(a="").text("a"),
    "sheet.json: a: found 'B', expected text like": lambda: fields(a="B").text("a", pattern="[a-z]"),
    "sheet.json: a: found 3 bytes, expected at most 2": lambda: fields(a="abc").text("a", limit=2),
    "sheet.json: a: found 'c', expected one of a, b": lambda: fields(a="c").choice("a", ("b", "a")),
    "sheet.json: a: found bool, expected an integer": lambda: fields(a=True).integer("a", 0, 9),
    "sheet.json: a: found null, expected an integer": lambda: fields(a=None).integer("a", 0, 9),
    "sheet.json: a: found 10, expected 0 to 9": lambda: fields(a=10).integer("a", 0, 9),
    "sheet.json: a: found 11, expected 0 to 9": lambda: fields(a=[1, 11]).integers("a", 0, 9, 4),
    "sheet.json: a: found 2 items, expected at most 1": lambda: fields(a=[1, 1]).integers("a", 0, 9, 1),
    "sheet.json: a: found int, expected a decimal as text": lambda: fields(a=1).decimal("a", 0, 1),
    "sheet.json: a: found 1.5, expected 0 to 1": lambda: fields(a="1.5").decimal("a", 0, 1),
    "sheet.json: a: found 'sha256:0', expected sha256: and 64": lambda: fields(a="sha256:0").digest("a"),
    "sheet.json: a: found dict, expected a list": lambda: fields(a={}).items("a", 1),
    "sheet.json: a: found list, expected an object": lambda: fields(a=[]).section("a"),
    "sheet.json: a.b: found nothing": lambda: fields(a={}).section("a").take("b"),
    "sheet.json: a[0].b: found nothing": lambda: fields(a=[{}]).objects("a", 1)[0].take("b"),
    "sheet.json: a.x.b: found nothing": lambda: fields(a={"x": {}}).mapping("a")["x"].take("b"),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_a_refusal_names_the_member(message: str) -> None:
    with pytest.raises(ManifestError) as refused:
        REFUSALS[message]()
    assert str(refused.value).startswith(message)


def test_a_member_is_taken_once() -> None:
    one = fields(a=1)
    assert one.integer("a", 0, 9) == 1
    one.close()
    with pytest.raises(ManifestError):
        one.take("a")


def test_null_is_absent_and_anything_else_is_left() -> None:
    assert fields(a=None).absent("a")
    one = fields(a=3)
    assert not one.absent("a")
    assert one.integer("a", 0, 9) == 3
