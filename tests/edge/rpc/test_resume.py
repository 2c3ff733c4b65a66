"""Resume tokens."""

from __future__ import annotations

import pytest

from saewatch.edge.rpc.refusals import Refusal
from saewatch.edge.rpc.resume import Place, read_token, token
from saewatch.edge.rpc.ring import Cursor


def test_there_and_back() -> None:
    place = Place(2**63 - 1, Cursor(5, 2**40, 0))
    assert read_token(token(place.run, place.cursor)) == place


@pytest.mark.parametrize(
    "text", ["x", "1.1.1.1", "2.1.1.1.1", "1.1.0.1.1", "1.1.1.1.g", "1.1.1.1.1.1", "1." + "f" * 99]
)
def test_what_is_none_of_ours_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="resume_token"):
        read_token(text)
