"""Lists of requests against plain Python over what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.edge.history import requests
from saewatch.edge.history.reading import Reader, Span
from saewatch.edge.history.requests import Summary
from saewatch.edge.history.wanted import Wanted
from tests.edge.history.kept import MS, T0, Kept, Life, kept, live
from tests.edge.history.test_firings import FILTERS, KNOWN, TIMES, wants, wants_request, wants_stream


@pytest.fixture(scope="module")
def lived(tmp_path_factory: Any) -> Iterator[tuple[Kept, Life]]:
    with kept(tmp_path_factory.mktemp("history") / "h.db", known=KNOWN) as one:
        yield one, live(one, seed=5)


def listed(one: Kept, wanted: Wanted, times: Any, size: int, *, down: bool) -> list[Summary]:
    start_ns, end_ns = (None if time is None else T0 + time * MS for time in times)
    with Reader(one.path, wanted=wanted) as reader:
        snapshot = reader.snapshot(start_ns, end_ns)
    span = Span.of(snapshot.start_ns, snapshot.end_ns, descending=down)
    found: list[Summary] = []
    after = None
    while True:
        with Reader(one.path, wanted=wanted) as reader:
            page = requests.page(reader, snapshot, span, after, size)
        assert len(page.requests) <= size
        found += page.requests
        after = page.following
        if after is None:
            return found


def expected(life: Life, wanted: Wanted, low: int, high: int) -> dict[str, Any]:
    found = {}
    for who in life.who:
        told = [fed for fed in life.fed if fed.who == who]
        times = [fed.time_ns for fed in told]
        if not wants_request(wanted, who) or not times or min(times) >= high or max(times) < low:
            continue
        mine = [fed for fed in told if low <= fed.time_ns < high and wants_stream(wanted, fed.stream)]
        fired = [one for one in life.fired if one.who == who and low <= one.time_ns < high and wants(wanted, one)]
        fresh = [fed for fed in mine if fed.reason is not None or not fed.again]
        if (wanted.chooses_firings and not fired) or (wanted.chooses_streams and not fresh and not fired):
            continue
        first = [one for one in fired if one.origin != 1]
        found[who.engine_id] = {
            "seen": sum(fed.tokens for fed in fresh if fed.reason is None),
            "missed": sum(fed.tokens for fed in fresh if fed.reason is not None),
            "times": (min(times), max(times)),
            "counts": dict(Counter(one.feature for one in first)),
            "largest": {
                name: max(one.value for one in first if one.feature == name) for name in {one.feature for one in first}
            },
        }
    return found


@settings(max_examples=40)
@given(filters=FILTERS, times=TIMES, size=st.sampled_from([3, 100]), down=st.booleans())
def test_requests_have_what_happened(
    lived: tuple[Kept, Life], filters: dict[str, Any], times: Any, size: int, down: bool
) -> None:
    one, life = lived
    wanted = Wanted(**filters)
    found = listed(one, wanted, times, size, down=down)
    with one.reader() as reader:
        every = reader.snapshot(None, None)
    low = T0 + times[0] * MS if times[0] is not None else every.start_ns
    high = T0 + times[1] * MS if times[1] is not None else every.end_ns
    truth = expected(life, wanted, low, max(low, high))
    fed = {told.who.engine_id for told in life.fed if told.who}
    found = [row for row in found if row.request.engine_id in fed]  # one that ended unfed is listed when it ended
    assert sorted(row.request.engine_id for row in found) == sorted(truth)
    first = [row.request.first_ns for row in found]
    assert first == sorted(first, reverse=down)
    for row in found:
        told = truth[row.request.engine_id]
        assert (row.seen, int(row.missed.sum())) == (told["seen"], told["missed"])
        assert (row.request.first_ns, row.request.last_ns) == told["times"]
        assert {name: count for name, (count, _) in row.features.items()} == told["counts"]
        assert {name: value for name, (_, value) in row.features.items()} == told["largest"]
        assert row.firings == sum(told["counts"].values())


def test_requests_are_looked_at_a_few_at_a_time(lived: tuple[Kept, Life], monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = lived
    whole = [row.request.id for row in listed(one, Wanted(), (None, None), 1000, down=False)]
    monkeypatch.setattr(requests, "CHUNK", 4)
    monkeypatch.setattr(limits, "QUERY_BLOCKS", 1)
    assert [row.request.id for row in listed(one, Wanted(), (None, None), 1000, down=False)] == whole
    assert len(whole) > 20
