"""The history of a fake sidecar, through the client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from saewatch.client import Client
from saewatch.client.fake import FakeServer
from saewatch.client.fake.made import HOOK_POINT, MODEL, WEIGHTS


@pytest.fixture
def server(saewatch_server: FakeServer) -> FakeServer:
    """r1 of acme has ended; r2, a test of nobody's, was computed again in part."""
    saewatch_server.request("r1", tenant="acme", prompt_len=2, conversation="c1")
    firings = [(0, "violence.p1", 2.5), (2, "greeting.g1", 1.5)]
    saewatch_server.tokens(3, request="r1", missed={"cached": 2}, firings=firings)
    saewatch_server.request("r2", traffic_class="test")
    saewatch_server.tokens(2, request="r2", firings=[(1, "medical.p1", 0.5)])
    saewatch_server.tokens(2, request="r2", position=0, firings=[(1, "medical.p1", 0.75)], recomputed=True)
    saewatch_server.ends("r1", emitted=2)
    return saewatch_server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def test_firings_page_by_page(client: Client) -> None:
    for latest in (False, True):
        pages = list(client.query_firings(page_size=1, latest=latest))
        found = [(one.feature, one.value, str(one.request), one.position, one.prompt, one.origin) for [one] in pages]
        expected = [
            ("violence.p1", 2.5, "r1", 0, True, "computed"),
            ("greeting.g1", 1.5, "r1", 2, False, "computed"),
            ("hesitation.l1", 1.5, "r1", 2, False, "computed"),
            ("medical.p1", 0.5, "r2", 1, True, "computed"),
            ("medical.p1", 0.75, "r2", 1, True, "recomputed"),
        ]
        assert found == (expected[::-1] if latest else expected)
        covered = [page.covered for page in pages if page.covered is not None]
        parts = [0, 2, 0, 0, 3] if latest else [0, 0, 3, 2, 0]  # a batch is covered with the last of its firings
        assert [one.tokens_seen for one in covered] == parts
        assert [dict(one.missed) for one in covered if one.missed] == [{"cached": 2}]
        assert pages[0].kept_since_ns > 0
    firing = next(iter(pages[-1]))
    assert (firing.unit, firing.model, firing.hook_point, firing.engine) == (
        "direction 0",
        MODEL,
        HOOK_POINT,
        "fake-engine",
    )


@pytest.mark.parametrize(
    ("wanted", "values"),
    [
        ({"feature": "violence.p1"}, [2.5]),
        ({"category": ["vcr", "x.hesitation"]}, [2.5, 1.5]),
        ({"min_value": 0.75, "max_value": 1.5}, [1.5, 1.5]),
        ({"tenant": "acme"}, [2.5, 1.5, 1.5]),
        ({"traffic_class": "test"}, [0.5, 0.75]),
        ({"request": "chatcmpl-r2", "max_value": 0.5}, [0.5]),
        ({"conversation": "c1", "feature": "greeting.g1"}, [1.5]),
        ({"model": "another"}, []),
        ({"weights": WEIGHTS, "hook_point": HOOK_POINT, "catalogue": "sha256:x"}, []),
        ({"until": 10**9}, []),
        ({"since": time.time_ns() + 3600 * 10**9}, []),
    ],
)
def test_every_filter(client: Client, wanted: Any, values: list[float]) -> None:
    (page,) = client.query_firings(**wanted)
    assert [one.value for one in page] == values


def test_counts(client: Client) -> None:
    (page,) = client.count_firings()
    assert {one.group: (one.firings, one.tokens_seen) for one in page} == {
        "greeting.g1": (1, 5),
        "hesitation.l1": (1, 5),
        "medical.p1": (1, 5),
        "violence.p1": (1, 5),
    }
    first = next(iter(page))
    assert (first.max_value, first.mean_value, first.requests, first.missed) == (1.5, 1.5, 1, {"cached": 2})
    told = {}
    for by in ("category", "tenant", "class", "model"):
        pages = list(client.count_firings(by, page_size=1, min_value=1.0))
        told[by] = {one.group: one.firings for page in pages for one in page}
        assert sum(page.covered.tokens_seen for page in pages if page.covered) == 5
    assert told == {
        "category": {"spc_hlt": 0, "vcr": 1, "x.greeting": 1, "x.hesitation": 1},
        "tenant": {"": 0, "acme": 3},
        "class": {"live": 3, "test": 0},
        "model": {MODEL: 3},
    }


def test_buckets_begin_at_multiples_of_their_length(client: Client) -> None:
    (page,) = client.count_firings("model", bucket_s=86_400.0)
    assert all(one.start_ns % 86_400 == 0 and one.end_ns - one.start_ns == 86_400 * 10**9 for one in page)
    assert sum(one.firings for one in page) == 4


def test_requests(client: Client) -> None:
    pages = list(client.list_requests(page_size=1))
    first, second = (one for page in pages for one in page)
    assert (first.request.client_id, first.state, first.emitted, first.tokens_seen) == ("r1", "ended", 2, 3)
    assert [(one.feature, one.firings, one.max_value) for one in first.features] == [
        ("violence.p1", 1, 2.5),
        ("greeting.g1", 1, 1.5),
        ("hesitation.l1", 1, 1.5),
    ]
    assert (second.request.client_id, second.state, second.firings, second.tokens_seen) == ("r2", "open", 1, 2)
    assert [one.request.client_id for page in client.list_requests(latest=True) for one in page] == ["r2", "r1"]
    assert [one.request.client_id for page in client.list_requests(min_value=2.0) for one in page] == ["r1"]
