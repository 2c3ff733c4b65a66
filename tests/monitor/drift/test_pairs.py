from __future__ import annotations

import numpy as np
import pytest

from saewatch.monitor.drift import pairs
from saewatch.monitor.drift.counts import DRAWN
from saewatch.monitor.drift.pairs import BUCKETS, STRONGEST, bucket_of, counted, drawn, key_of, strongest, votes


def row(*features: int) -> list[int]:
    return [*features, *[pairs.NOBODY] * (DRAWN - len(features))]


def test_the_strongest_are_taken_and_of_few_all() -> None:
    feature, mark = np.arange(100), np.where(np.arange(100) % 3 == 0, 2.0, -1.0)
    assert sorted(strongest(feature, mark[:100])[:STRONGEST].tolist()) == [n for n in range(100) if n % 3 == 0][:32]
    assert strongest(feature[:5], mark[:5]).tolist() == [0, 1, 2, 3, 4]


def test_who_is_drawn_depends_on_the_request_and_on_nothing_else() -> None:
    many = np.arange(STRONGEST) * 7
    first, other = drawn([many, many[::-1].copy(), many[:3]], [5, 5, 5]), drawn([many], [6])
    assert first[0].tolist() == first[1].tolist() == sorted(first[0])
    assert len(set(first[0])) == DRAWN
    assert first[0].tolist() != other[0].tolist()
    assert first[2].tolist() == row(0, 7, 14)


def test_each_feature_and_pair_is_drawn_as_often() -> None:
    found = drawn([np.arange(STRONGEST)] * 20_000, list(range(20_000)))
    times = np.bincount(found.ravel(), minlength=STRONGEST)
    assert times == pytest.approx(np.full(STRONGEST, 20_000 * DRAWN / STRONGEST), rel=0.05)
    together = ((found == 3).any(axis=1) & (found == 17).any(axis=1)).mean()
    assert together == pytest.approx(DRAWN * (DRAWN - 1) / (STRONGEST * (STRONGEST - 1)), rel=0.1)


def test_a_request_has_one_vote_for_each_pair() -> None:
    found = votes(np.array([row(2, 5, 9), row(2, 5), row()], np.int32))
    told = sorted(zip(found.request.tolist(), found.first.tolist(), found.second.tolist(), strict=True))
    assert told == [(0, 2, 5), (0, 2, 9), (0, 5, 9), (1, 2, 5)]
    assert (found.bucket == bucket_of(found.first, found.second)).all()


def test_two_pairs_of_a_request_in_one_bucket_are_one_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "bucket_of", lambda first, _: np.zeros(len(first), np.int64))
    assert len(votes(np.array([row(2, 5, 9)] * 4, np.int32)).bucket) == 4


def test_pairs_spread_over_all_buckets() -> None:
    first, second = (one.astype(np.int32) for one in np.triu_indices(2000, 1))
    times = np.bincount(bucket_of(first, second), minlength=BUCKETS)
    assert len(times) == BUCKETS
    assert times.var() == pytest.approx(times.mean(), rel=0.02), "as if at random"


def test_what_fires_more_often_is_worth_less() -> None:
    usual = np.array([9.0, 9.0, 9.0])
    weight = pairs.weights(np.array([0, 13, 59]), usual)
    assert weight.tolist() == [1.0, 1.0, 0.25], "up to half as often again is a pair's own doing"
    _, worth = counted(np.array([row(0, 1), row(0, 2)], np.int32), weight)
    assert worth.tolist() == [1.0, 0.25]


def test_keys_tell_children_apart() -> None:
    assert key_of("r1", 0) == key_of("r1", 0) != key_of("r1", 1)
    assert key_of("r11", 0) != key_of("r1", 10) >= 0
