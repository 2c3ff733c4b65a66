"""A real vLLM server, watched: what reaches the gRPC client is what fired, booked to whom it belongs, and all of it."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from benchmarks.bench_parity import comparison
from benchmarks.faulty import FAULTS
from benchmarks.oracle import Expected, Oracle, Reading
from benchmarks.rig import MODEL_NAME, mixed_load, send, text_tokens
from deploy.demo.collect import Collector, Seen
from saewatch.core.batch import SlotKind
from saewatch.edge.pb.saewatch.v1 import common_pb2, status_pb2
from saewatch.score import Scorer
from tests.e2e.conftest import FIXTURE, Pair, heard, told

pytestmark = pytest.mark.engine


def load(pair: Pair, prefix: str, count: int = 48, seed: int = 0) -> list[tuple[str, dict[str, object]]]:
    """Requests with ids of their own."""
    return mixed_load(text_tokens(pair.watched.model), count, seed=seed, prefix=f"{prefix}-{time.time_ns()}")


def books(state: status_pb2.GetStatusResponse) -> status_pb2.StreamStatus:
    """The one connected stream."""
    (stream,) = [one for one in state.streams if one.connected]
    return stream


def vllm_counter(port: int, name: str) -> float:
    """A counter of vLLM's own metrics page, summed over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and line[len(name)] in "{ ")


def test_firings_equal_those_of_transformers_and_saelens(pair: Pair, oracle: Oracle, collector: Collector) -> None:
    answers = send(pair.watched.port, load(pair, "parity"), at_once=48)
    collector.settled()
    heard(collector, answers)
    outcome = comparison(pair.watched, oracle, collector).compare(answers)
    assert outcome.rows > 3000
    assert outcome.tally.compared > 20_000
    assert (outcome.tally.mismatched, outcome.duplicates, outcome.missing, outcome.unknown) == (0, 0, 0, 0)
    assert outcome.excluded_wrong == 0


class Offline(Oracle):
    """`saewatch score` in the oracle's place. Of the oracle it has the distances to thresholds, for the grey band."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(FIXTURE / "model", FIXTURE / "source", Reading("model.layers.2"))
        self._scorer = Scorer.load(FIXTURE / "model", bundle)

    def expected(self, tokens: Sequence[int]) -> Expected:
        """What it fires on ``tokens``; elsewhere a value that is not above the floor."""
        found, scored = super().expected(tokens), self._scorer.score(list(tokens)).texts[0]
        table, dictionary = self._scorer.table, self._scorer.table.stream.dictionary
        assert dictionary is not None
        unit = table.unit + np.where(table.kind == SlotKind.LATENT, 0, dictionary.manifest.encoder.latents)
        floor = np.zeros(found.value.shape[1], np.float32)
        floor[unit] = table.floor
        value = np.minimum(found.value, floor)
        value[scored.position, unit[scored.slot]] = scored.value
        return replace(found, value=value)


def test_scoring_without_serving_gives_the_served_firings(pair: Pair, collector: Collector) -> None:
    answers = send(pair.watched.port, load(pair, "offline", 24, seed=7), at_once=24)
    collector.settled()
    heard(collector, answers)
    outcome = comparison(pair.watched, Offline(pair.watched.bundle), collector).compare(answers)
    assert outcome.tally.compared > 10_000
    assert (outcome.tally.mismatched, outcome.missing, outcome.unknown, outcome.excluded_wrong) == (0, 0, 0, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(pair: Pair, oracle: Oracle, collector: Collector, fault: str) -> None:
    pair.fault.write_text(fault)
    try:
        # Prompts of their own: of others it is known what fired, and that is replayed.
        answers = send(pair.watched.port, load(pair, fault, 4, seed=100 + FAULTS.index(fault)), at_once=4)
        collector.settled()
    finally:
        pair.fault.write_text("")
    outcome = comparison(pair.watched, oracle, collector).compare(answers)
    assert outcome.tally.mismatched > outcome.tally.compared / 10


def test_every_firing_is_booked_to_its_request_and_tenant(pair: Pair, collector: Collector) -> None:
    headers = {"X-Saewatch-Tenant": "acme", "X-Saewatch-Class": "test", "X-Saewatch-Conversation": "c-7"}
    answers = send(pair.watched.port, load(pair, "who", 8), at_once=8, headers=headers)
    collector.settled()
    heard(collector, answers)
    assert not collector.unattributed
    for name, answer in answers.items():
        seen = collector.seen[name, 0]
        request = seen.request
        assert (request.client_id, request.tenant, request.conversation) == (name, "acme", "c-7")
        assert request.traffic_class == common_pb2.TRAFFIC_CLASS_TEST
        assert request.key in request.engine_id
        assert request.prompt_len == len(answer.prompt)
        assert seen.fed == len(answer.prompt) + len(answer.tokens) - 1
        assert sum(map(len, seen.position)) + sum(seen.missed.values()) == seen.fed


def test_fed_is_what_vllm_counts(pair: Pair, collector: Collector) -> None:
    """Over all requests so far: none of this folder's is aborted, and each emits."""
    send(pair.watched.port, load(pair, "count", 8), at_once=8)
    state = books(collector.settled())
    port = pair.watched.port
    fed = vllm_counter(port, "vllm:prompt_tokens_total") + vllm_counter(port, "vllm:generation_tokens_total")
    fed -= vllm_counter(port, "vllm:request_success_total")
    assert state.books.fed == fed
    assert state.books.imbalance == 0
    assert state.books.in_flight == 0


def test_a_prompt_that_the_prefix_cache_knows_has_the_record_of_the_first_one(pair: Pair, collector: Collector) -> None:
    tokens = text_tokens(pair.watched.model)[1000:1300]
    body = {"model": MODEL_NAME, "prompt": tokens, "max_tokens": 2, "temperature": 0.0}
    stamp, before = time.time_ns(), books(collector.settled()).books.reused
    for name in ("first", "second"):
        send(pair.watched.port, [(f"{name}-{stamp}", body)], at_once=1)
    reused = books(collector.settled()).books.reused - before
    first, second = (told(collector, f"{name}-{stamp}") for name in ("first", "second"))
    assert (first.request.cached, second.request.cached) == (0, 256)
    assert first.missed == second.missed
    assert common_pb2.MISSED_REASON_CACHED not in second.missed
    rows = np.sort(first.columns()[0])
    assert np.array_equal(rows, np.sort(second.columns()[0]))
    assert reused == np.count_nonzero(rows < 256) > 200
    assert early(first) == early(second)


def early(seen: Seen) -> set[tuple[int, int, float]]:
    """Position, slot and value of what fired on the first 256 positions: two blocks of the CPU's prefix cache."""
    _, position, slot, value = seen.columns()
    fired = zip(position.tolist(), slot.tolist(), value.tolist(), strict=True)
    return {one for one in fired if one[0] < 256}


def test_several_answers_to_one_request_are_told_apart(pair: Pair, collector: Collector) -> None:
    body = {"model": MODEL_NAME, "prompt": [40, 41, 42, 43], "max_tokens": 6, "n": 3, "ignore_eos": True}
    name = f"many-{time.time_ns()}"
    send(pair.watched.port, [(name, body)], at_once=1)
    collector.settled()
    assert [told(collector, name, child).fed for child in range(3)] == [9, 9, 9]


def test_beams_are_requests_of_their_own(pair: Pair, collector: Collector) -> None:
    """vLLM asks its engine anew for each step of each beam, with the whole of the beam as the prompt."""
    before = books(collector.settled()).books.fed
    name, prompt, beams, steps = f"beams-{time.time_ns()}", list(range(40, 60)), 3, 4
    body = {"model": MODEL_NAME, "prompt": prompt, "use_beam_search": True, "n": beams, "max_tokens": steps}
    asked = urllib.request.Request(
        f"http://127.0.0.1:{pair.watched.port}/v1/completions",
        data=json.dumps({**body, "temperature": 0.0, "ignore_eos": True}).encode(),
        headers={"Content-Type": "application/json", "X-Request-Id": name},
    )
    with urllib.request.urlopen(asked) as answer:
        assert len(json.load(answer)["choices"]) == beams
    state = books(collector.settled())
    lengths = [len(prompt), *[len(prompt) + step for step in range(1, steps) for _ in range(beams)]]
    assert state.books.fed - before == sum(lengths)
    assert (state.books.imbalance, state.books.in_flight) == (0, 0)
    assert "-beam-" in told(collector, name).request.engine_id


def test_greedy_output_is_the_same_without_the_tap(pair: Pair) -> None:
    requests = [(name, {**body, "temperature": 0.0}) for name, body in load(pair, "greedy", 24)]
    on = send(pair.watched.port, requests, at_once=24)
    off = send(pair.plain.port, requests, at_once=24)
    assert {name: answer.tokens for name, answer in on.items()} == {name: answer.tokens for name, answer in off.items()}


def test_metrics_say_what_was_seen(pair: Pair, collector: Collector) -> None:
    send(pair.watched.port, load(pair, "metrics", 4), at_once=4)
    collector.settled()
    asked = urllib.request.Request(
        pair.watched.addresses["metrics"], headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(asked) as page:
        families = {family.name: family for family in text_string_to_metric_families(page.read().decode())}
    outcomes = {sample.labels["outcome"] for sample in families["saewatch_tokens"].samples}
    assert {"encoded", "missed"} <= outcomes
    assert families["saewatch_firings"].samples


@pytest.fixture
def stopped_sidecar(pair: Pair) -> Iterator[int]:
    assert pair.watched.sidecar is not None
    pid = pair.watched.sidecar.process.pid
    os.kill(pid, signal.SIGSTOP)
    yield pid
    os.kill(pid, signal.SIGCONT)


def test_a_stopped_sidecar_changes_nothing_and_its_losses_are_counted(
    pair: Pair, collector: Collector, stopped_sidecar: int
) -> None:
    before = collector.rows
    requests = [(name, {**body, "temperature": 0.0}) for name, body in load(pair, "stopped", 64, seed=5)]
    on = send(pair.watched.port, requests, at_once=16)
    off = send(pair.plain.port, requests, at_once=16)
    assert {name: answer.tokens for name, answer in on.items()} == {name: answer.tokens for name, answer in off.items()}
    os.kill(stopped_sidecar, signal.SIGCONT)
    state = books(collector.settled(timeout_s=30))
    assert collector.rows > before, "what lay unread was read"
    lost = {item.reason: item.tokens for item in state.books.missed}
    assert lost.get(common_pb2.MISSED_REASON_QUEUE_FULL, 0) > 0, "the load did not fill the queue"
    assert (state.books.imbalance, state.books.in_flight) == (0, 0)
    assert state.received_rows + state.received_missed == state.books.fed


def test_a_killed_sidecar_changes_nothing_and_its_losses_are_counted(pair: Pair) -> None:
    """Last: it replaces the sidecar."""
    rig = pair.watched
    assert rig.sidecar is not None
    requests = [(name, {**body, "temperature": 0.0}) for name, body in load(pair, "killed", 24, seed=6)]
    rig.sidecar.process.kill()
    rig.sidecar.process.wait()
    on = send(rig.port, requests, at_once=24)
    off = send(pair.plain.port, requests, at_once=24)
    assert {name: answer.tokens for name, answer in on.items()} == {name: answer.tokens for name, answer in off.items()}
    rig.start_sidecar()
    with Collector(rig.addresses["grpc"]) as collector:
        time.sleep(2.0)
        send(rig.port, load(pair, "back", 4), at_once=4)
        state = books(collector.settled(timeout_s=30))
    assert (state.books.imbalance, state.books.in_flight) == (0, 0)
    lost = {item.reason: item.tokens for item in state.books.missed}
    absent = sum(len(answer.prompt) + len(answer.tokens) - 1 for answer in on.values())
    assert lost[common_pb2.MISSED_REASON_GAP] + lost[common_pb2.MISSED_REASON_EXCLUDED] >= absent
