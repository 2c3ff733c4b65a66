"""Data parallelism for real: two replicas behind one server, each with streams of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_parity import comparison
from benchmarks.oracle import Oracle
from benchmarks.rig import Rig, bundle_of_all, mixed_load, send, text_tokens
from deploy.demo.collect import Collector
from tests.e2e.conftest import FIXTURE, FLOAT32, heard

pytestmark = [pytest.mark.engine, pytest.mark.full]


def test_each_replica_has_streams_of_its_own(tmp_path: Path, oracle: Oracle) -> None:
    rig = Rig(tmp_path, FIXTURE / "model", bundle_of_all(FIXTURE / "source", FIXTURE / "model", tmp_path / "bundle"))
    rig.start_sidecar()
    try:
        rig.start_engine(tap=rig.tap(instance="pair"), extra=(*FLOAT32, "--data-parallel-size", "2"))
        rig.wait()
        with Collector(rig.addresses["grpc"]) as collector:
            answers = send(rig.port, mixed_load(text_tokens(rig.model), 32, seed=4, prefix="replica"), at_once=16)
            streams = sorted(collector.settled().streams, key=lambda one: one.stream.dp_rank)
            heard(collector, answers)
        outcome = comparison(rig, oracle, collector).compare(answers)
    finally:
        killed = rig.stop()
    assert [(one.stream.engine, one.stream.dp_rank) for one in streams] == [("pair", 0), ("pair/dp1", 1)]
    assert all(one.books.fed > 0 for one in streams), "both were given requests"
    assert [(one.books.blind, one.books.imbalance, one.books.in_flight) for one in streams] == [("", 0, 0)] * 2
    fed = sum(len(answer.prompt) + len(answer.tokens) - 1 for answer in answers.values())
    assert sum(one.books.fed for one in streams) == fed
    assert (outcome.tally.mismatched, outcome.duplicates, outcome.missing, outcome.unknown) == (0, 0, 0, 0)
    assert killed == 0
