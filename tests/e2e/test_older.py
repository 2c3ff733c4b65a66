"""The oldest vLLM that is supported, in an environment of its own: the same firings as in this one."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from benchmarks.bench_parity import comparison
from benchmarks.oracle import Oracle
from benchmarks.rig import Rig, bundle_of_all, mixed_load, send, text_tokens
from deploy.demo.collect import Collector
from deploy.setup_older import PYTHON
from tests.e2e.conftest import FIXTURE, FLOAT32, heard

pytestmark = [pytest.mark.engine, pytest.mark.full]


def test_the_oldest_version_is_watched_as_this_one(tmp_path: Path, oracle: Oracle) -> None:
    assert PYTHON.exists(), "make setup-older makes this environment; make full calls it"
    rig = Rig(tmp_path, FIXTURE / "model", bundle_of_all(FIXTURE / "source", FIXTURE / "model", tmp_path / "bundle"))
    rig.start_sidecar()
    try:
        rig.start_engine(extra=FLOAT32, python=PYTHON)
        rig.wait()
        with urllib.request.urlopen(f"http://127.0.0.1:{rig.port}/version") as answer:
            assert json.load(answer)["version"].startswith("0.31.0")
        with Collector(rig.addresses["grpc"]) as collector:
            answers = send(rig.port, mixed_load(text_tokens(rig.model), 32, seed=3, prefix="older"), at_once=32)
            (stream,) = collector.settled().streams
            heard(collector, answers)
        outcome = comparison(rig, oracle, collector).compare(answers)
    finally:
        killed = rig.stop()
    assert (stream.books.blind, stream.books.imbalance, stream.books.in_flight) == ("", 0, 0)
    assert outcome.tally.compared > 20_000
    assert (outcome.tally.mismatched, outcome.duplicates, outcome.missing, outcome.unknown) == (0, 0, 0, 0)
    assert killed == 0
