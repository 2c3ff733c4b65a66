"""What a filter may list."""

from __future__ import annotations

import pytest

from saewatch.edge.pb import firing_pb2
from saewatch.edge.rpc.bounded import FILTER_ITEM_BYTES, FILTER_ITEMS, bounded
from saewatch.edge.rpc.refusals import Refusal

TEXTS, OTHERS = ("tenants", "request_ids"), ("traffic_classes",)


def asked(**lists: list[object]) -> firing_pb2.FiringFilter:
    return firing_pb2.FiringFilter(**lists)  # type: ignore[arg-type]  # each list has its type


def test_what_is_within_the_bounds() -> None:
    bounded(asked(tenants=["x" * FILTER_ITEM_BYTES], request_ids=["x"] * FILTER_ITEMS), TEXTS, OTHERS)


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"request_ids": ["x"] * 1001}, "filter.request_ids: found 1001 items, expected at most 1000"),
        ({"traffic_classes": [1] * 1001}, "filter.traffic_classes: found 1001 items, expected at most 1000"),
        ({"tenants": ["a", "é" * 129]}, r"filter.tenants\[1\]: found 258 bytes, expected at most 256"),
        ({"tenants": ["x" * 200] * 328}, "filter.tenants: found 65600 bytes with it, expected at most 65536 in all"),
        (
            {"tenants": ["x" * 200] * 200, "request_ids": ["x" * 200] * 200},
            "filter.request_ids: found 80000 bytes with it, expected at most 65536",
        ),
    ],
)
def test_what_is_beyond_them(lists: dict[str, list[object]], says: str) -> None:
    with pytest.raises(Refusal, match=says):
        bounded(asked(**lists), TEXTS, OTHERS)
