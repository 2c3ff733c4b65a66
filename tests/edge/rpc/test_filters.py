"""What a subscriber wants to see."""

from __future__ import annotations

from typing import Any

import pytest

from saewatch.core.batch import Reason
from saewatch.edge.rpc.filters import Filter
from saewatch.edge.rpc.gather import NO_INDEX, Gathered, gathered
from saewatch.monitor.events import Observed
from tests import fakes
from tests.edge.rpc.test_gather import read
from tests.monitor.stage import Stage, observed


def one() -> Gathered:
    """Requests 7 (acme, live), 8 (other, canary) and an unknown one, each with every slot fired at 1.0 to 4.0."""
    stage = Stage().ready()
    stage.label(7)
    stage.label(8, tenant="other", traffic_class="canary")
    for request in (7, 8):
        stage.start(request)
    firings = [(row, slot, float(slot + 1)) for row in (0, 2, 4) for slot in range(4)]
    missed = [(7, Reason.GAP, 1), (8, Reason.GAP, 2), (0, Reason.GAP, 4)]
    events: list[Observed] = observed(stage.batch([(7, 0, 2), (8, 0, 2), (99, 0, 2)], firings, missed=missed))
    return gathered(events[0].table, events)


def what_is_left(**fields: Any) -> tuple[set[str], set[int], int, int]:
    """Requests and slots of the firings, rows and missed tokens."""
    left = Filter(**fields).apply(one())
    if left is None:
        return set(), set(), 0, 0
    found = read(left)
    return (
        {name for name, *_ in found},
        {slot for _, _, slot, _ in found},
        left.batch.rows,
        int(left.batch.missed_tokens.sum()),
    )


EVERY_SLOT = {0, 1, 2, 3}
CASES: dict[str, tuple[dict[str, Any], tuple[set[str], set[int], int, int]]] = {
    "nothing": ({}, ({"client-7", "client-8", ""}, EVERY_SLOT, 6, 7)),
    "a group": ({"feature_ids": frozenset({"animals.g1"})}, ({"client-7", "client-8", ""}, {0, 1}, 6, 7)),
    "a category": ({"categories": frozenset({"vcr"})}, ({"client-7", "client-8", ""}, {2, 3}, 6, 7)),
    "both": (
        {"categories": frozenset({"vcr"}), "feature_ids": frozenset({"threat.p1", "animals.g1"})},
        ({"client-7", "client-8", ""}, {3}, 6, 7),
    ),
    "a value": ({"min_value": 2.0}, ({"client-7", "client-8", ""}, {2, 3}, 6, 7)),
    "no firing": ({"min_value": 9.0}, (set(), set(), 6, 7)),
    "a tenant": ({"tenants": frozenset({"acme"})}, ({"client-7"}, EVERY_SLOT, 2, 1)),
    "a class": ({"traffic_classes": frozenset({"canary"})}, ({"client-8"}, EVERY_SLOT, 2, 2)),
    "a client's id": ({"request_ids": frozenset({"client-8"})}, ({"client-8"}, EVERY_SLOT, 2, 2)),
    "a key": ({"request_ids": frozenset({fakes.key(7)})}, ({"client-7"}, EVERY_SLOT, 2, 1)),
    "an engine's id": ({"request_ids": frozenset({fakes.engine_id(7)})}, ({"client-7"}, EVERY_SLOT, 2, 1)),
    "an empty id": ({"request_ids": frozenset({""})}, (set(), set(), 0, 0)),
    "nobody": ({"tenants": frozenset({"nobody"})}, (set(), set(), 0, 0)),
    "a foreign tenant": (
        {"tenants": frozenset({"other"}), "allowed_tenants": frozenset({"acme"})},
        (set(), set(), 0, 0),
    ),
    "one's own tenant": ({"allowed_tenants": frozenset({"acme"})}, ({"client-7"}, EVERY_SLOT, 2, 1)),
    "no tenant at all": ({"allowed_tenants": frozenset[str]()}, (set(), set(), 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_left(name: str) -> None:
    fields, expected = CASES[name]
    assert what_is_left(**fields) == expected


def test_no_name_matches_no_request() -> None:
    stage = Stage().ready()
    stage.start(7, name="plain")
    events = observed(stage.batch([(7, 0, 1)]))
    assert Filter(request_ids=frozenset({""})).apply(gathered(events[0].table, events)) is None
    assert Filter(request_ids=frozenset({"plain"})).apply(gathered(events[0].table, events)) is not None


def test_rows_and_requests_are_numbered_anew() -> None:
    left = Filter(tenants=frozenset({"other"})).apply(one())
    assert left is not None
    assert [request.client_id for request in left.requests] == ["client-8"]
    assert (left.batch.request.tolist(), left.batch.span_start.tolist()) == ([0], [0, 2])
    assert left.batch.row.tolist() == [0, 0, 0, 0]


def test_unknown_requests_keep_their_mark() -> None:
    left = Filter(min_value=0.5).apply(one())
    assert left is not None
    assert left.batch.request.tolist() == [0, 1, NO_INDEX]


def test_a_firing_counts_for_a_feature_above_its_own_floor_only() -> None:
    features = (fakes.feature("a.g1", latents=(3,)), fakes.feature("a.l1", latents=(3,), floor=2.0))
    stage = Stage(fakes.dictionary(features)).ready()
    stage.start(7, name="plain")
    events = observed(stage.batch([(7, 0, 2)], [(0, 0, 1.0), (1, 0, 3.0)]))
    left = Filter(feature_ids=frozenset({"a.l1"})).apply(gathered(events[0].table, events))
    assert left is not None
    assert left.batch.value.tolist() == [3.0]
