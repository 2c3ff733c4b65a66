"""Engines that cannot be watched, for real: one that refuses to start, and one that was told to serve all the same."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.rig import Rig, send
from deploy.demo.collect import Collector
from deploy.demo.servers import ServerError
from saewatch.edge.pb.saewatch.v1 import common_pb2
from tests.e2e.conftest import ANY_CORE, FIXTURE, FLOAT32

pytestmark = pytest.mark.engine


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Two engines with a dictionary that was damaged: one may serve without it, and tells a sidecar."""

    stops: Rig
    serves: Rig


def a_corrupt_bundle(folder: Path) -> Path:
    copy = folder / "corrupt"
    shutil.copytree(FIXTURE / "bundle", copy)
    file = copy / "encoder.safetensors"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-3] ^= 0xFF
    file.write_bytes(data)
    return copy


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corrupt]:
    """Started at once: each needs a core, and most of it is spent before the dictionary is read."""
    bundle = a_corrupt_bundle(tmp_path_factory.mktemp("c"))
    stops = Rig(tmp_path_factory.mktemp("n"), FIXTURE / "model", bundle)
    serves = Rig(tmp_path_factory.mktemp("s"), FIXTURE / "model", FIXTURE / "bundle")
    eager = [*FLOAT32, "--enforce-eager"]  # nothing of ours is in the graph that it would compile
    try:
        serves.start_sidecar()
        told = Rig(serves.folder, serves.model, bundle).tap(on_failure="serve")
        serves.start_engine(extra=eager, tap=told, env=ANY_CORE)
        stops.start_engine(extra=FLOAT32, env=ANY_CORE)
        yield Corrupt(stops, serves)
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Rig.stop, [stops, serves]))


def test_a_corrupt_dictionary_stops_the_engine_with_a_reason(engines: Corrupt) -> None:
    with pytest.raises(ServerError, match=r"encoder\.safetensors: .*found sha256:.*expected sha256:"):
        engines.stops.wait()


def test_told_to_serve_it_serves_blind_and_says_so(engines: Corrupt) -> None:
    rig = engines.serves
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
