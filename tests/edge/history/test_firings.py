"""Pages of firings against plain Python over what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.edge.history import firings
from saewatch.edge.history.firings import FiringPage, Place, Row
from saewatch.edge.history.reading import Reader, Span
from saewatch.edge.history.wanted import Wanted
from tests import fakes
from tests.edge.history.kept import FEATURES, MS, T0, Fed, Fired, Kept, Life, Who, kept, live

KNOWN = [fakes.dictionary(FEATURES), fakes.dictionary(FEATURES, seed=1)]


@pytest.fixture(scope="module", params=[1, 2])
def lived(request: Any, tmp_path_factory: Any) -> Iterator[tuple[Kept, Life]]:
    with kept(tmp_path_factory.mktemp("history") / "h.db", known=KNOWN) as one:
        yield one, live(one, seed=request.param)


def some(*items: str) -> Any:
    return st.frozensets(st.sampled_from(items), max_size=2)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "feature_ids": some("threat.l1", "threat.g1", "animals.g1", "gone.l1"),
        "categories": some("vcr", "x.animals", "x.gone"),
        "min_value": st.sampled_from([0.5, 1.0, 2.0]),
        "max_value": st.sampled_from([1.0, 2.5]),
        "tenants": some("", "acme", "nobody"),
        "traffic_classes": some("live", "test", "unlabelled"),
        "request_ids": some("client-1", "client-2", "plain-3", fakes.key(5), fakes.engine_id(7), ""),
        "conversations": some("", "c1", "c2"),
        "model_names": some("demo-model", "other"),
        "weights_digests": some(KNOWN[0].weights_digest, "sha256:gone"),
        "catalogue_digests": some(KNOWN[1].catalogue_digest),
        "hook_points": some("resid_post.1", "resid_post.2"),
        "allowed_tenants": st.one_of(st.none(), some("", "acme")),
    },
)
TIMES = st.tuples(st.none() | st.integers(-1000, 30_000), st.none() | st.integers(-1000, 30_000))


def wants_request(wanted: Wanted, who: Who | None) -> bool:
    if who is None:
        return not wanted.chooses_requests
    names = {who.engine_id, who.key, who.client_id} - {""}
    return (
        (not wanted.tenants or who.tenant in wanted.tenants)
        and (wanted.allowed_tenants is None or who.tenant in wanted.allowed_tenants)
        and (not wanted.traffic_classes or who.traffic_class in wanted.traffic_classes)
        and (not wanted.conversations or who.conversation in wanted.conversations)
        and (not wanted.request_ids or bool(names & wanted.request_ids))
    )


def wants_stream(wanted: Wanted, stream: int) -> bool:
    known = KNOWN[stream - 1]
    return (
        (not wanted.model_names or "demo-model" in wanted.model_names)
        and (not wanted.weights_digests or known.weights_digest in wanted.weights_digests)
        and (not wanted.catalogue_digests or known.catalogue_digest in wanted.catalogue_digests)
        and (not wanted.hook_points or f"resid_post.{stream}" in wanted.hook_points)
    )


def wants(wanted: Wanted, one: Fired) -> bool:
    return (
        wants_request(wanted, one.who)
        and wants_stream(wanted, one.stream)
        and (not wanted.feature_ids or one.feature in wanted.feature_ids)
        and (not wanted.categories or one.category in wanted.categories)
        and (wanted.min_value is None or one.value > wanted.min_value)
        and (wanted.max_value is None or one.value <= wanted.max_value)
    )


def fed_by(wanted: Wanted, fed: list[Fed], start_ns: int, end_ns: int) -> tuple[int, dict[int, int]]:
    seen, missed = 0, Counter[int]()
    for one in fed:
        if start_ns <= one.time_ns < end_ns and wants_request(wanted, one.who) and wants_stream(wanted, one.stream):
            if one.reason is not None:
                missed[one.reason] += one.tokens
            elif not one.again:
                seen += one.tokens
    return seen, dict(missed)


def plain(row: Row) -> tuple[Any, ...]:
    feature = row.table.features[row.feature]
    who = row.request
    ids = (who.engine_id, who.key, who.client_id, who.tenant, who.traffic_class, who.conversation)
    stream = int(row.stream.opening.hook_point[-1])
    what = (feature.id, feature.category, row.value, row.position, row.origin, int(row.table.unit[row.slot]))
    return (row.time_ns, *ids, stream, *what)


def expected(one: Fired) -> tuple[Any, ...]:
    who = one.who or Who(0, 0, "")
    ids = (who.engine_id, who.key, who.client_id, who.tenant, who.traffic_class, who.conversation)
    return (one.time_ns, *ids, one.stream, one.feature, one.category, one.value, one.position, one.origin, one.unit)


def pages(
    one: Kept, wanted: Wanted, times: tuple[int | None, int | None], size: int, *, down: bool
) -> list[FiringPage]:
    start_ns, end_ns = (None if time is None else T0 + time * MS for time in times)
    with Reader(one.path, wanted=wanted) as reader:
        snapshot = reader.snapshot(start_ns, end_ns)
    span = Span.of(snapshot.start_ns, max(snapshot.end_ns, snapshot.start_ns), descending=down)
    found, after = [], Place.before(span.low)
    while True:
        with Reader(one.path, wanted=wanted) as reader:
            page = firings.page(reader, snapshot, span, after, size)
        found.append(page)
        if page.following is None:
            return found
        assert page.following > after, "a page goes on"
        after = page.following


@settings(max_examples=40)
@given(filters=FILTERS, times=TIMES, size=st.sampled_from([250, 2000]), down=st.booleans())
def test_pages_have_what_happened(
    lived: tuple[Kept, Life], filters: dict[str, Any], times: tuple[int | None, int | None], size: int, down: bool
) -> None:
    one, life = lived
    wanted = Wanted(**filters)
    found = pages(one, wanted, times, size, down=down)
    rows = [row for page in found for row in page.rows]
    low = T0 + times[0] * MS if times[0] is not None else 0
    high = T0 + times[1] * MS if times[1] is not None else 2**62
    truth = [expected(fact) for fact in life.fired if low <= fact.time_ns < high and wants(wanted, fact)]
    assert Counter(map(plain, rows)) == Counter(truth)
    times_found = [row.time_ns for row in rows]
    assert times_found == sorted(times_found, reverse=down)
    assert all(len(page.rows) <= size for page in found)
    seen, missed = fed_by(wanted, life.fed, low, high)
    assert sum(page.covered.seen for page in found) == seen
    told = sum((Counter(dict(enumerate(page.covered.missed.tolist()))) for page in found), Counter[int]())
    assert {reason: tokens for reason, tokens in told.items() if tokens} == missed


def test_a_page_of_one_row_at_a_time(tmp_path: Path) -> None:
    with kept(tmp_path / "h.db", known=KNOWN) as one:
        life = live(one, seed=7, steps=12)
        for down in (False, True):
            found = pages(one, Wanted(), (None, None), 1, down=down)
            rows = [plain(row) for page in found for row in page.rows]
            assert Counter(rows) == Counter(map(expected, life.fired))
            assert sum(page.covered.seen for page in found) == fed_by(Wanted(), life.fed, 0, 2**62)[0]


@pytest.mark.parametrize("blocks", [1, 3])
def test_pages_that_end_early_have_the_same(
    lived: tuple[Kept, Life], monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    one, life = lived
    wanted = Wanted(tenants=frozenset({"acme"}), min_value=1.5)
    monkeypatch.setattr(limits, "QUERY_BLOCKS", blocks)
    monkeypatch.setattr(limits, "QUERY_REQUESTS", 2)
    found = pages(one, wanted, (None, None), 500, down=blocks == 3)
    assert len(found) > 5
    truth = [expected(fact) for fact in life.fired if wants(wanted, fact)]
    assert Counter(plain(row) for page in found for row in page.rows) == Counter(truth)
    assert sum(page.covered.seen for page in found) == fed_by(wanted, life.fed, 0, 2**62)[0]


def test_an_answer_holds_what_a_client_takes(lived: tuple[Kept, Life], monkeypatch: pytest.MonkeyPatch) -> None:
    one, life = lived
    monkeypatch.setattr(limits, "QUERY_BYTES", 5000)
    found = pages(one, Wanted(max_value=0.5), (None, None), 2000, down=False)
    assert max(len(page.rows) for page in found) < 20
    assert sum(len(page.rows) for page in found) == sum(fact.value <= 0.5 for fact in life.fired)
