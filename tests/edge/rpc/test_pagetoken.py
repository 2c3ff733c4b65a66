"""Page tokens say where to go on, in one query of one principal over one store."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from saewatch.core import limits
from saewatch.edge.access import LOCAL, Principal
from saewatch.edge.history.reading import Snapshot
from saewatch.edge.pb import history_pb2
from saewatch.edge.rpc.pagetoken import PageToken, page_token, query_digest, read_page_token
from saewatch.edge.rpc.refusals import Refusal

SNAPSHOT = Snapshot(start_ns=5, end_ns=9, last_block=3, last_request=2)
ASKED = history_pb2.QueryFiringsRequest(filter=history_pb2.HistoryFilter(tenants=["acme"]), page_size=5)
QUERY = query_digest(ASKED, LOCAL, 77)


def test_it_comes_back() -> None:
    for place, shape in (((7, -3, 0), (int, int, int)), ((7, None), (int, str)), ((7, "acmé"), (int, str))):
        token = PageToken(SNAPSHOT, place)
        assert read_page_token(page_token(QUERY, token), QUERY, shape=shape) == token


def test_a_query_is_everything_but_its_page() -> None:
    same = history_pb2.QueryFiringsRequest(filter=ASKED.filter, page_size=9, page_token="x")
    assert query_digest(same, LOCAL, 77) == QUERY
    other = history_pb2.QueryFiringsRequest(filter=ASKED.filter, descending=True)
    digests = {
        QUERY,
        query_digest(other, LOCAL, 77),
        query_digest(ASKED, LOCAL, 78),
        query_digest(ASKED, Principal(name="local", tenants=frozenset({"acme"})), 77),
        query_digest(ASKED, Principal(name="local", tenants=frozenset()), 77),
    }
    assert len(digests) == 5


def made(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        made(2, QUERY, [5, 9, 3, 2], [1, 2]),
        made(1, "other", [5, 9, 3, 2], [1, 2]),
        made(1, QUERY, [5, 9, 3], [1, 2]),
        made(1, QUERY, [5, 9, 3, -2], [1, 2]),
        made(1, QUERY, [5, 9, 3, True], [1, 2]),
        made(1, QUERY, [5, 9, 3, 2**63], [1, 2]),
        made(1, QUERY, [5, 9, 3, 2], [1]),
        made(1, QUERY, [5, 9, 3, 2], [1, "2"]),
        made(1, QUERY, [5, 9, 3, 2], [1, limits.COUNT_MAX + 1]),
        made(1, QUERY, [5, 9, 3, 2], {"a": 1, "b": 2}),
        made(1, QUERY),
        made(*["x" * 4000]),
        "not base64",
        "",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match=r"page_token: found .* expected the next_page_token of this very query"):
        read_page_token(text, QUERY, shape=(int, int))
