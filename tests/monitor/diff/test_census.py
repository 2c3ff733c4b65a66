"""Census records added up."""

from __future__ import annotations

import numpy as np

from saewatch.core.batch import Census
from saewatch.monitor.diff.census import CensusSums


def part(first: int, count: list[int], *, tokens: int = 100, error: float = 5.0, overflowed: int = 0) -> Census:
    return Census(
        stream=1,
        time_ns=1,
        tokens=tokens,
        latents=4,
        first=first,
        l0_mean=2.0,
        squared_error=error,
        squared_total=50.0,
        total=np.zeros(len(count)),
        count=np.array(count, np.uint64),
        overflowed=overflowed,
    )


def test_parts_of_a_census_count_their_tokens_once() -> None:
    assert CensusSums().figures is None
    sums = CensusSums()
    for one in (part(0, [0, 11]), part(2, [0, 3]), part(0, [0, 11], error=10.0), part(2, [0, 0])):
        sums.add(one)
    found = sums.figures
    assert found is not None
    assert (found.tokens, found.l0, found.unexplained) == (200, 2.0, 0.15)
    assert (found.latents, found.dead, found.dense) == (4, 2, 1)
    assert "2 latents dead and 1 dense of 4" in str(found)


def test_without_a_decoder_nothing_is_said_of_variance() -> None:
    sums = CensusSums()
    sums.add(part(0, [1, 1, 1, 1], error=0.0))
    assert sums.figures is not None
    assert sums.figures.json()["unexplained"] is None


def test_tokens_that_were_left_out_are_told_once_for_each_census() -> None:
    sums = CensusSums()
    for one in (part(0, [1, 1], overflowed=3), part(2, [1, 1], overflowed=3), part(0, [1, 1], overflowed=1)):
        sums.add(one)
    found = sums.figures
    assert found is not None
    assert (found.tokens, found.overflowed) == (200, 4)
    assert str(found).endswith("; 4 tokens more had too many firings to be counted")
