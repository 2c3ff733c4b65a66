"""Buckets against plain Python over what happened."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.edge.history import buckets
from saewatch.edge.history.buckets import BucketPage, Buckets, Grouping
from saewatch.edge.history.reading import Reader, Span
from saewatch.edge.history.wanted import Wanted
from tests.edge.history.kept import FEATURES, MS, T0, Fed, Fired, Kept, Life, kept, live
from tests.edge.history.test_firings import FILTERS, KNOWN, TIMES, fed_by, wants, wants_request, wants_stream

S = 10**9


@pytest.fixture(scope="module")
def lived(tmp_path_factory: Any) -> Iterator[tuple[Kept, Life]]:
    with kept(tmp_path_factory.mktemp("history") / "h.db", known=KNOWN) as one:
        yield one, live(one, seed=4)


def pages(one: Kept, wanted: Wanted, times: Any, counted: tuple[int, Grouping], size: int) -> list[BucketPage]:
    start_ns, end_ns = (None if time is None else T0 + time * MS for time in times)
    with Reader(one.path, wanted=wanted) as reader:
        snapshot = reader.snapshot(start_ns, end_ns)
    found: list[BucketPage] = []
    after = None
    while True:
        with Reader(one.path, wanted=wanted) as reader:
            asked = Buckets(Span.of(snapshot.start_ns, snapshot.end_ns), *counted)
            found.append(buckets.page(reader, snapshot, asked, after, size))
        assert len(found[-1].buckets) <= size
        after = found[-1].following
        if after is None:
            return found


def group_of(by: Grouping, one: Fired) -> str:
    if by in (Grouping.FEATURE, Grouping.CATEGORY):
        return one.feature if by == Grouping.FEATURE else one.category
    return fed_group(by, one)


def fed_group(by: Grouping, one: Fed | Fired) -> str:
    if by == Grouping.MODEL:
        return "demo-model"
    if by == Grouping.TENANT:
        return one.who.tenant if one.who else ""
    return one.who.traffic_class if one.who else "unlabelled"


def could_fire(wanted: Wanted) -> list[Any]:
    return [
        one
        for one in FEATURES
        if (not wanted.feature_ids or one.id in wanted.feature_ids)
        and (not wanted.categories or one.category in wanted.categories)
    ]


def expected(life: Life, wanted: Wanted, asked: Span, width: int, by: Grouping) -> dict[Any, dict[str, Any]]:
    low, high = asked.low, asked.high
    found: dict[Any, dict[str, Any]] = {}

    def entry(number: int, group: str) -> dict[str, Any]:
        fresh = {"values": [], "requests": set(), "seen": 0, "missed": Counter()}
        return found.setdefault((number, group), fresh)

    chosen = could_fire(wanted)
    for fed in life.fed:
        if not (low <= fed.time_ns < high and wants_request(wanted, fed.who) and wants_stream(wanted, fed.stream)):
            continue
        if (fed.again and fed.reason is None) or not chosen:
            continue
        if by in (Grouping.FEATURE, Grouping.CATEGORY):
            groups = {one.id if by == Grouping.FEATURE else one.category for one in chosen}
        else:
            groups = {fed_group(by, fed)}
        for group in groups:
            one = entry(fed.time_ns // width if width else 0, group)
            if fed.reason is None:
                one["seen"] += fed.tokens
            else:
                one["missed"][fed.reason] += fed.tokens
    for fired in life.fired:
        if low <= fired.time_ns < high and wants(wanted, fired) and fired.origin != 1:
            one = entry(fired.time_ns // width if width else 0, group_of(by, fired))
            one["values"].append(fired.value)
            one["requests"] |= {fired.who} - {None}
    return found


@settings(max_examples=40)
@given(
    filters=FILTERS,
    times=TIMES,
    counted=st.tuples(st.sampled_from([0, 700 * MS, S, 10 * S]), st.sampled_from(list(Grouping))),
    size=st.sampled_from([3, 40, 1000]),
)
def test_buckets_have_what_happened(
    lived: tuple[Kept, Life], filters: dict[str, Any], times: Any, counted: tuple[int, Grouping], size: int
) -> None:
    one, life = lived
    width, by = counted
    wanted = Wanted(**filters)
    found = pages(one, wanted, times, counted, size)
    with one.reader() as reader:
        every = reader.snapshot(None, None)
    low = T0 + times[0] * MS if times[0] is not None else every.start_ns
    high = T0 + times[1] * MS if times[1] is not None else every.end_ns
    truth = expected(life, wanted, Span(low, high), width, by)
    rows = [row for page in found for row in page.buckets]
    numbers = [(span.low // width if width else 0, group) for span, group, _ in rows]
    assert numbers == sorted(truth)
    for number, (span, _, row) in zip(numbers, rows, strict=True):
        told = truth[number]
        assert (row.firings, row.requests, row.seen) == (len(told["values"]), len(told["requests"]), told["seen"])
        assert {reason: count for reason, count in enumerate(row.missed.tolist()) if count} == dict(told["missed"])
        assert row.total == pytest.approx(sum(told["values"]))
        assert not told["values"] or row.largest == max(told["values"])
        assert low <= span.low < span.high <= high
    seen, missed = fed_by(wanted, life.fed, low, high)
    assert sum(page.covered.seen for page in found) == seen
    assert sum(page.covered.missed.sum() for page in found) == sum(missed.values())
    ends = [(page.covered.start_ns, page.covered.end_ns) for page in found]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))


def test_a_page_that_has_done_its_share_ends_between_two_buckets(
    lived: tuple[Kept, Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = lived
    whole = pages(one, Wanted(), (None, None), (S, Grouping.FEATURE), 1000)
    monkeypatch.setattr(limits, "QUERY_BLOCKS", 1)
    parts = pages(one, Wanted(), (None, None), (S, Grouping.FEATURE), 1000)
    assert len(whole) == 1
    assert len(parts) > 5
    told = [
        [(span, group, row.firings, row.seen) for page in some for span, group, row in page.buckets]
        for some in (whole, parts)
    ]
    assert told[0] == told[1]


def test_requests_are_told_once_however_often_they_fire(
    lived: tuple[Kept, Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, life = lived
    monkeypatch.setattr(buckets, "COMPACT", 2)
    (page,) = pages(one, Wanted(), (None, None), (0, Grouping.MODEL), 1)
    assert page.buckets[0][2].requests == len({fired.who for fired in life.fired if fired.origin != 1} - {None})
