"""Engines that cannot be watched, for real: one that refuses to start, and one that was told to serve all the same."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from benchmarks.rig import Rig, send
from deploy.demo.collect import Collector
from deploy.demo.servers import ServerError
from saewatch.edge.pb.saewatch.v1 import common_pb2
from tests.e2e.conftest import FIXTURE, FLOAT32

pytestmark = pytest.mark.engine


def a_corrupt_bundle(folder: Path) -> Path:
    copy = folder / "corrupt"
    shutil.copytree(FIXTURE / "bundle", copy)
    file = copy / "encoder.safetensors"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-3] ^= 0xFF
    file.write_bytes(data)
    return copy


def test_a_corrupt_dictionary_stops_the_engine_with_a_reason(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FIXTURE / "model", a_corrupt_bundle(tmp_path))
    rig.start_engine(extra=FLOAT32)
    try:
        with pytest.raises(ServerError, match=r"encoder\.safetensors: .*found sha256:.*expected sha256:"):
            rig.wait()
    finally:
        rig.stop()


def test_told_to_serve_it_serves_blind_and_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, FIXTURE / "model", FIXTURE / "bundle")
    rig.start_sidecar()
    broken = Rig(tmp_path, rig.model, a_corrupt_bundle(tmp_path))
    eager = [*FLOAT32, "--enforce-eager"]  # nothing of ours is in the graph that it would compile
    rig.start_engine(extra=eager, tap=broken.tap(on_failure="serve"))
    try:
        rig.wait()
        asked = {"model": "watched", "prompt": [40, 41, 42], "max_tokens": 4}
        with Collector(rig.addresses["grpc"]) as collector:
            answers = send(rig.port, [("asked", asked)], at_once=1)
            state = collector.settled()
            time.sleep(0.5)
        fed = 2 + len(answers["asked"].tokens)
        (stream,) = state.streams
        assert (stream.books.blind, stream.books.fed, stream.books.encoded) == ("tensor_file_error", fed, 0)
        assert {item.reason: item.tokens for item in stream.books.missed} == {common_pb2.MISSED_REASON_BLIND: fed}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(rig.addresses["ready"])
        assert refused.value.code == 503
        assert "blind" in json.dumps(json.load(refused.value))
    finally:
        rig.stop()
