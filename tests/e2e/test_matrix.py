"""A fixed slice of the matrix (benchmarks/bench_matrix.py): V2, the GPU's compile path, and a warm cache."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.bench_matrix import RUNNERS, judged
from benchmarks.cells import Bench
from benchmarks.tiny import TINY

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("matrix"), "gemma2", "v2")


@pytest.fixture(scope="module")
def cold(bench: Bench) -> dict[str, Any]:
    """Six streams of one V2 engine, compiled as on a GPU."""
    return bench.run("forced", [bench.watch(point) for point in TINY["gemma2"].points])


def test_every_hook_point_is_right_on_v2_compiled_as_on_a_gpu(cold: dict[str, Any]) -> None:
    assert cold["runner"] == RUNNERS["v2"]
    assert cold["mode"] == "VLLM_COMPILE"
    row = judged("gemma2", "v2", "cold", cold, plain=cold, artifact="compiled")
    assert not row["why"]
    assert row["points"] == [str(point) for point in TINY["gemma2"].points]
    assert row["rows"] > 6 * 1000


@pytest.mark.full
def test_v1_loads_the_graph_that_v2_left_for_other_dictionaries_on_the_same_points(
    bench: Bench, cold: dict[str, Any]
) -> None:
    """What the graph holds is its key: neither the runner nor the dictionary."""
    bench.runner = "v1"
    found = bench.run("forced", [bench.watch(point, seed=3) for point in TINY["gemma2"].points])
    row = judged("gemma2", "v1", "warm", found, plain=cold, artifact="loaded")
    assert not row["why"]
