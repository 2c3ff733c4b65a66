"""Resume tokens."""

from __future__ import annotations

import pytest

from saewatch.edge.rpc.places import Owed, Place
from saewatch.edge.rpc.refusals import Refusal
from saewatch.edge.rpc.resume import read_token, token
from saewatch.edge.rpc.ring import Cursor

A, B = "a" * 12, "0123456789ab"


def test_there_and_back() -> None:
    cursor = Cursor(5, 2**40, 0, {A: Place(2**63 - 1, 0), B: Place(3, 4)})
    resumed = read_token(token(2**63 - 1, cursor, Owed({B: Place(1, 2)}, until_s=1_800_000_000)))
    assert (resumed.run, resumed.cursor) == (2**63 - 1, cursor)
    assert resumed.cursor.places == {A: Place(2**63 - 1, 0)}, "what is owed stands in for where it is"
    assert (resumed.owed.places, resumed.owed.until_s) == ({B: Place(1, 2)}, 1_800_000_000)


def test_nothing_is_owed_to_most() -> None:
    text = token(1, Cursor(1, 0, 0), Owed())
    assert text == "2.1.1.0.0"
    assert read_token(text).owed.until_s == 0


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "2.1.1.1",
        "1.1.1.1.1",
        "2.1.0.1.1",
        "2.1.1.1.g",
        "2.1.1.1.1.1",
        "2." + "f" * 99,
        f"2.1.1.1.1~{A}.1",
        f"2.1.1.1.1~{A[:-1]}.1.1",
        "2.1.1.1.1?",
        "2.1.1.1.1" + f"~{A}.1.1" * 129,
    ],
)
def test_what_is_none_of_ours_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="resume_token"):
        read_token(text)
