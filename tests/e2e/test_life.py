"""A real engine reads its weights anew, the same and others, sleeps and wakes: what it watches, and what not."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.bench_parity import comparison
from benchmarks.oracle import Oracle
from benchmarks.rig import MODEL_NAME, Rig, bundle_of_all, mixed_load, send, text_tokens
from deploy.demo.chat import Answer, complete
from deploy.demo.collect import Collector
from saewatch.edge.pb.saewatch.v1 import common_pb2, status_pb2
from tests.e2e.conftest import FIXTURE, FLOAT32, heard

pytestmark = [pytest.mark.engine, pytest.mark.full]

MODEL = FIXTURE / "model"
BLIND, CACHED = common_pb2.MISSED_REASON_BLIND, common_pb2.MISSED_REASON_CACHED


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("life")
    found = Rig(folder, MODEL, bundle_of_all(FIXTURE / "source", MODEL, folder / "bundle"))
    try:
        found.start_sidecar()
        found.start_engine(extra=FLOAT32, env={"VLLM_SERVER_DEV_MODE": "1"})
        found.wait()
        yield found
    finally:
        found.stop()


def post(rig: Rig, path: str, **body: Any) -> None:
    address = f"http://127.0.0.1:{rig.port}/{path}"
    asked = urllib.request.Request(
        address, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status == 200


def reload(rig: Rig, **arguments: str) -> None:
    post(rig, "collective_rpc", method="reload_weights", kwargs=arguments)


def becomes(rig: Rig, blind: str, *, ended: list[str]) -> status_pb2.StreamStatus:
    """The open stream, once it is so, and why those before it have ended."""
    with Collector(rig.addresses["grpc"]) as collector:
        deadline = time.monotonic() + 20
        while True:
            streams = collector.status().streams
            present = [one for one in streams if one.connected and not one.ended]
            over = [one.ended for one in streams if one.ended]
            if [one.books.blind for one in present] == [blind] and over == ended:
                return present[0]
            assert time.monotonic() < deadline, (present, over)
            time.sleep(0.1)


def load(rig: Rig, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The same prompts each time."""
    return mixed_load(text_tokens(rig.model), 16, seed=5, prefix=f"{name}-{time.time_ns()}")


def served(rig: Rig, oracle: Oracle, name: str) -> status_pb2.StreamStatus:
    """Serves the load; what fires is what the oracle says, on every position. The open stream then."""
    with Collector(rig.addresses["grpc"]) as collector:
        answers = send(rig.port, load(rig, name), at_once=8)
        state = collector.settled()
        heard(collector, answers)
        outcome = comparison(rig, oracle, collector).compare(answers)
    assert outcome.tally.compared > 1000
    assert (outcome.tally.mismatched, outcome.duplicates, outcome.missing, outcome.unknown) == (0, 0, 0, 0)
    assert all((one.books.imbalance, one.books.in_flight) == (0, 0) for one in state.streams)
    return present(state)


def present(state: status_pb2.GetStatusResponse) -> status_pb2.StreamStatus:
    """The open stream."""
    (found,) = [one for one in state.streams if one.connected and not one.ended]
    return found


def missed(stream: status_pb2.StreamStatus, reason: int) -> int:
    return sum(item.tokens for item in stream.books.missed if item.reason == reason)


def greedy(rig: Rig) -> list[int]:
    """What the model says of itself."""
    body = {"model": MODEL_NAME, "prompt": text_tokens(rig.model)[:40], "max_tokens": 24, "temperature": 0.0}
    answer: Answer = complete(rig.port, body, f"greedy-{time.time_ns()}")
    return list(answer.tokens)


def test_weights_that_are_read_anew_are_watched_again(rig: Rig, oracle: Oracle) -> None:
    served(rig, oracle, "first")
    before = served(rig, oracle, "cached")
    assert before.books.reused > 0
    reload(rig)
    becomes(rig, "", ended=["reload"])
    after = served(rig, oracle, "reloaded")
    assert after.stream.number > before.stream.number
    assert after.books.reused == 0, "nothing that fired before is replayed"
    assert missed(after, CACHED) > 0, "though vLLM's prefix cache knows it still"
    assert missed(after, BLIND) == 0


def test_an_engine_that_slept_is_watched_again(rig: Rig, oracle: Oracle) -> None:
    post(rig, "sleep?level=1")
    becomes(rig, "sleep", ended=["reload"])
    post(rig, "wake_up")
    becomes(rig, "", ended=["reload", "sleep"])
    after = served(rig, oracle, "awake")
    assert (missed(after, BLIND), missed(after, CACHED)) == (0, 0)
    post(rig, "sleep?level=2")
    post(rig, "wake_up")
    becomes(rig, "weights_changed", ended=["reload", "sleep"])  # on a GPU they would be gone
    reload(rig)
    becomes(rig, "", ended=["reload", "sleep", "reload"])
    served(rig, oracle, "loaded")


def test_other_weights_are_not_watched_and_the_first_ones_are(rig: Rig, oracle: Oracle, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    file = other / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    name = "model.layers.1.mlp.down_proj.weight"
    save_file({**tensors, name: -tensors[name]}, file, metadata={"format": "pt"})
    said = greedy(rig)
    ended = ["reload", "sleep", "reload"]
    reload(rig, weights_path=str(other))
    becomes(rig, "weights_changed", ended=ended)
    assert greedy(rig) != said, "the weights did change"
    with Collector(rig.addresses["grpc"]) as collector:
        before = present(collector.settled())
        rows = collector.rows
        answers = send(rig.port, load(rig, "others"), at_once=8)
        after = present(collector.settled())
    fed = sum(len(answer.prompt) + len(answer.tokens) - 1 for answer in answers.values())
    assert after.books.fed - before.books.fed == fed
    unseen = sum(missed(after, reason) - missed(before, reason) for reason in (BLIND, CACHED))
    assert unseen == fed
    assert (collector.rows - rows, after.books.imbalance, after.books.in_flight) == (0, 0, 0)
    post(rig, "reset_prefix_cache")
    reload(rig, weights_path=str(MODEL))
    becomes(rig, "", ended=[*ended, "reload"])
    assert greedy(rig) == said
    served(rig, oracle, "again")
