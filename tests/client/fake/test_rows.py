"""What a filter leaves: the same as the sidecar's own, for which the real services are asked."""

from __future__ import annotations

import pytest

from saewatch.client.fake.made import MadeDictionary, Meaning
from saewatch.client.fake.rows import Rows, batch, wants
from saewatch.client.filters import firing_filter
from saewatch.edge.pb import common_pb2

OF = Meaning(1, 1, MadeDictionary())
REQUEST = common_pb2.Request(
    engine_id="e", key="k", client_id="c", tenant="acme", traffic_class=common_pb2.TRAFFIC_CLASS_LIVE
)
ROWS = Rows(
    of=OF,
    request=REQUEST,
    position=5,
    tokens=3,
    recomputed=False,
    firings=[(0, 0, 0.8), (1, 0, 1.5), (2, 2, 2.0)],
    missed=[(common_pb2.MISSED_REASON_CACHED, 4)],
    seq=9,
    time_ns=7,
)


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        ({}, [0, 1, 2]),
        ({"feature": "hesitation.l1"}, [1]),
        ({"category": ["x.greeting", "vcr"]}, [0, 1, 2]),
        ({"feature": "violence.p1", "category": "x.greeting"}, []),
        ({"min_value": 0.8}, [1, 2]),
        ({"min_value": 1.5, "category": "vcr"}, [2]),
    ],
)
def test_firings(wanted: dict[str, object], rows: list[int]) -> None:
    found = batch(ROWS, firing_filter(**wanted))  # type: ignore[arg-type]  # texts, and one number
    assert found is not None
    assert list(found.row) == rows
    assert (list(found.span_tokens), list(found.missed_tokens)) == ([3], [4]), "covered all the same"


@pytest.mark.parametrize(
    ("wanted", "yes"),
    [
        ({"tenant": "acme"}, True),
        ({"tenant": ""}, False),
        ({"request": ["x", "k"]}, True),
        ({"request": "c", "traffic_class": "canary"}, False),
    ],
)
def test_requests(wanted: dict[str, object], yes: bool) -> None:
    asked = firing_filter(**wanted)  # type: ignore[arg-type]  # a case is texts only
    assert wants(asked, REQUEST) is yes
    assert (batch(ROWS, asked) is not None) is yes


def test_tokens_as_gaps_count_them() -> None:
    assert ROWS.tokens_told == 7
