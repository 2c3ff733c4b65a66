"""Which rank reports, under which name, and that ranks with other rows are found at start."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from saewatch.core.errors import SelfTestFailed
from saewatch.core.hookpoint import HookPoint
from saewatch.engine.ranks import Ranks
from saewatch.engine.sink import Place, Sink, Site

POINT = HookPoint("resid_post", 1)


def a_sink(row: torch.Tensor) -> dict[HookPoint, tuple[Place, Sink]]:
    sink = Sink(rows=4, width=len(row), like=row)
    sink.buffer[0] = row
    return {POINT: (Place(torch.nn.Identity(), Site("", "output"), row), sink)}


class Gathering:
    """What ranks say to each other, in one process."""

    def __init__(self, ranks: int) -> None:
        self._said: list[Any] = [None] * ranks
        self._barrier = threading.Barrier(ranks)

    def of(self, rank: int) -> Ranks:
        def gather(mine: Any) -> list[Any]:
            self._said[rank] = mine
            self._barrier.wait(10)
            return self._said

        return Ranks(tp=rank, parallel=True, gather=gather)

    def agree(self, *sinks: dict[HookPoint, tuple[Place, Sink]]) -> list[Exception | None]:
        """What became of each rank."""
        found: list[Exception | None] = [None] * len(sinks)

        def run(rank: int) -> None:
            try:
                self.of(rank).agree(sinks[rank])
            except SelfTestFailed as error:
                found[rank] = error

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(sinks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def test_the_first_rank_of_a_stage_reports() -> None:
    assert Ranks().reports
    assert Ranks(pp=1, dp=1).reports
    assert not Ranks(tp=1).reports


def test_replicas_and_stages_have_names_of_their_own() -> None:
    assert Ranks().named("engine") == "engine"
    assert Ranks(dp=1, pp=2).named("engine") == "engine/dp1/pp2"
    assert Ranks(tp=1).named("engine") == "engine", "one of them speaks"


def test_ranks_with_the_same_rows_agree() -> None:
    row = torch.linspace(-1.0, 1.0, 8)
    assert Gathering(2).agree(a_sink(row), a_sink(row.clone())) == [None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_differs_in_one_bit_stops_the_rank_that_reports(dtype: torch.dtype) -> None:
    row = torch.linspace(-1.0, 1.0, 8).to(dtype)
    other = row.clone()
    other.view(torch.int16 if dtype is torch.bfloat16 else torch.int32)[3] ^= 1
    first, second = Gathering(2).agree(a_sink(row), a_sink(other))
    assert "other rows on rank 1" in str(first)
    assert second is None, "it has nothing to say"


def test_nan_is_nan_whatever_its_bits_are() -> None:
    row = torch.full((8,), torch.nan)
    other = row.clone()
    other.view(torch.int32)[2] ^= 1
    assert Gathering(2).agree(a_sink(row), a_sink(other)) == [None, None]


def test_a_rank_that_watches_nothing_takes_part() -> None:
    assert Gathering(2).agree({}, a_sink(torch.ones(8))) == [None, None]


def test_alone_there_is_nobody_to_disagree_with() -> None:
    Ranks().agree(a_sink(torch.ones(8)))
