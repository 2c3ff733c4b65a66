from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saewatch.core.errors import RecordError
from saewatch.monitor.drift.counts import COLUMNS, TOTALS, Counts, exposure_of, nothing
from saewatch.monitor.drift.reducer import REQUESTS_KEPT, Reducer, summed

Request = tuple[list[int], list[int], list[float], int]
REQUESTS: list[Request] = [
    ([0, 2], [3, 40], [0.5, 9.0], 100),
    ([1], [1], [0.25], 16),
    ([], [], [], 81),
    ([0, 1, 2], [1, 1, 1], [-0.5, 0.0, 0.1], 256),
]


def reducer() -> Reducer:
    return Reducer(np.zeros(3), np.array([1.0, 1.0, 0.5]))


def add(one: Reducer, request: Request, *, encoded: int | None = None) -> None:
    feature, count, mean, tokens = request
    seen = tokens if encoded is None else encoded
    one.add(
        np.array(feature, np.intp), np.array(count, np.int64), np.array(mean), seen=tokens, encoded=seen, key=tokens
    )


def same(left: Counts, right: Counts) -> bool:
    columns = all((getattr(left, name) == getattr(right, name)).all() for name in (*COLUMNS, "exposure"))
    columns = columns and sorted(left.drawn.tolist()) == sorted(right.drawn.tolist())
    return columns and all(getattr(left, name) == getattr(right, name) for name in TOTALS)


def test_a_request_counts_once_however_often_it_fires() -> None:
    one = reducer()
    add(one, REQUESTS[0])
    counts = one.close()
    assert counts.n.tolist() == [1, 0, 1]
    assert counts.w.tolist() == [3, 0, 32], "at most 32 firings of a request"
    assert counts.z.tolist() == [512, 0, 3 * 1024], "cut at three scales"
    assert (counts.requests, counts.firings, counts.encoded) == (1, 43, 100)
    assert counts.exposures.tolist() == pytest.approx([1, 100**0.25, 10, 100**0.75, 100], rel=1e-3)


def test_below_the_centre_the_sign_is_in_z_only() -> None:
    one = reducer()
    add(one, REQUESTS[3])
    counts = one.close()
    assert (counts.z[0], counts.az[0]) == (-512, 512)


def test_only_encoded_tokens_are_exposure() -> None:
    one = reducer()
    add(one, REQUESTS[1], encoded=4)
    add(one, REQUESTS[2], encoded=0)
    counts = one.close()
    assert (counts.seen, counts.encoded, counts.whole, counts.requests) == (97, 4, 0, 2)
    assert counts.exposure[4] == 4000
    assert exposure_of(0) == (0,) * 5, "a request of which nothing was encoded is no chance to fire"


def test_a_block_begins_at_nothing() -> None:
    one = reducer()
    add(one, REQUESTS[0])
    one.close()
    assert one.requests == 0
    assert same(one.close(), nothing(3))


def test_a_value_that_is_no_number_is_refused_whole() -> None:
    one = reducer()
    with pytest.raises(RecordError, match="no number"):
        add(one, ([0, 1], [1, 1], [0.5, float("nan")], 10))
    assert same(one.close(), nothing(3))


def test_scales_that_divide_by_nothing_are_refused() -> None:
    with pytest.raises(RecordError):
        Reducer(np.zeros(2), np.array([1.0, 0.0]))


def test_the_census_is_a_mean_over_its_tokens() -> None:
    one = reducer()
    one.census(l0=10.0, unexplained=0.2, tokens=100)
    one.census(l0=20.0, unexplained=0.4, tokens=300)
    one.census(l0=30.0, unexplained=float("nan"), tokens=400)
    counts = one.close()
    assert counts.unexplained / counts.census == pytest.approx(0.35e6), "where there is a decoder"
    assert counts.l0 / counts.sampled == pytest.approx(23.75e6)
    assert nothing(3).nbytes == 3 * 16 + 40


def test_firings_are_summed_by_feature() -> None:
    feature, count, mean = summed(np.array([7, 2, 7, 7]), np.array([1.0, 3.0, -1.0, 0.0], np.float32))
    assert (feature.tolist(), count.tolist()) == ([2, 7], [1, 3])
    assert mean.tolist() == pytest.approx([np.log(4.0), 0.0])
    assert [len(one) for one in summed(np.zeros(0, np.intp), np.zeros(0, np.float32))] == [0, 0, 0]


def test_a_request_that_was_half_seen_counts_and_says_nothing() -> None:
    one = reducer()
    one.partial()
    assert same(one.close(), replace(nothing(3), requests=1))


def test_of_many_requests_those_that_were_added_last_are_counted_too() -> None:
    one, count = reducer(), 2 * REQUESTS_KEPT + 3
    for _ in range(count):
        add(one, REQUESTS[0])
    counts = one.close()
    assert (counts.n.tolist(), counts.requests, counts.firings) == ([count, 0, count], count, 43 * count)
    assert counts.drawn[:, :3].tolist() == [[0, 2, -1]] * count


def test_pairs_are_of_a_bounded_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saewatch.monitor.drift.reducer.PAIR_REQUESTS", 70)
    one = reducer()
    for _ in range(100):
        add(one, REQUESTS[1])
        add(one, REQUESTS[3])
    counts = one.close()
    assert counts.requests == 200
    assert counts.drawn[:, :4].tolist() == [[0, 1, 2, -1]] * 70, "one feature is no pair"
