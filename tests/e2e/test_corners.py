"""The corners of the engine (benchmarks/corners.py): every play in every configuration, beside the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from benchmarks import corners
from benchmarks.bench_matrix import RUNNERS
from benchmarks.corners import CORNERS
from benchmarks.quantised import METHOD

pytestmark = pytest.mark.engine

Rows = Callable[[str], dict[tuple[str, str], dict[str, Any]]]


AT_ONCE = 2
"""Engines of one thread each."""


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    """Of a configuration, by play and hook point: one engine for all of them, ahead of the tests that ask for it."""
    mine = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    names = dict.fromkeys(str(item.callspec.params["name"]) for item in mine)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = {name: pool.submit(corners.run, name, tmp_path_factory.mktemp("c")) for name in names}

        def run(name: str) -> dict[tuple[str, str], dict[str, Any]]:
            return {(row["play"], row["hook_point"]): row for row in found[name].result()}

        yield run
        pool.shutdown(cancel_futures=True)


SEVERAL = "vllm.v1.executor.multiproc_executor.MultiprocExecutor"
"""Of ranks in processes of their own."""

CASES = [
    pytest.param(name, play, str(point), id=f"{name}-{play}-{point}", marks=() if corner.everyday else pytest.mark.full)
    for name, corner in CORNERS.items()
    for play in (*corner.scenarios, "books")
    for point in corner.points
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "play", "point"), CASES)
def test_corner(rows: Rows, name: str, play: str, point: str) -> None:
    row = rows(name)[play, point]
    assert not row["why"]
    assert row["fed"] > 0
    assert row["ahead"] == CORNERS[name].ahead
    assert row["runner"] in {RUNNERS[CORNERS[name].runner], SEVERAL}
    if play == "books":
        calls = row["sink_calls"] - row["counted"]["forwards"]
        warm = 0 if CORNERS[name].mode == "eager" else 8
        assert 0 < calls <= 3 + warm, "the proof's own; a draft model's passes are not among them"
        assert row["quantisation"] == (METHOD if CORNERS[name].quantised else "")
        if CORNERS[name].connector:
            assert row["missed"]["external"] > 0
            assert row["reused"] == 0
        return
    assert row["compared"] > 0
    if play == "crowded":
        assert row["recomputed"] > 0, "nothing was preempted"
    if play == "looping" and "speculative_config" in CORNERS[name].arguments:
        assert row["counted"]["accepted"] < row["counted"]["drafted"]
        assert row["counted"]["accepted"] > 0 or CORNERS[name].drafter == "eagle", "a random head"
        assert row["counted"]["rejected"] > 0
